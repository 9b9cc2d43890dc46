//! The binary on a tiny model: two towers of random weights, the samples' photos.
#![allow(dead_code)] // each test uses its part

#[path = "../../../align/tests/common/mod.rs"]
pub mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// The samples of the repository.
pub fn samples(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples").join(name)
}

pub fn bifocal(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bifocal"));
    command.args(args);
    command
}

pub fn run(args: &[&str]) -> Output {
    bifocal(args).output().expect("the binary starts")
}

/// Runs and checks that it succeeds; returns what it printed.
pub fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs and checks that it fails with this code; returns the message.
pub fn fails(code: i32, args: &[&str]) -> String {
    let output = run(args);
    let message = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// Kills the command after a while, as a power cut would, and says whether it was still running.
pub fn killed_after(args: &[&str], time: Duration) -> bool {
    let mut child = bifocal(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(time);
    let running = child.try_wait().expect("a child of ours").is_none();
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    running
}

/// A recipe file that trains heads on the tiny model.
pub fn recipe(dir: &Path, steps: u64) -> PathBuf {
    let model = tiny::write_clip(dir);
    let photos = samples("photos");
    let cache = dir.join("cache");
    let path = dir.join("recipe.toml");
    let text = format!(
        r#"
method = "sail"
embed_dim = 8
vision = {{ model = {model:?} }}
text = {{ model = {model:?} }}
image_head = {{ ratio = 1 }}
text_head = {{ ratio = 1 }}
schedule = {{ steps = {steps} }}
data = {{ batch = 8, sources = [{{ path = {photos:?}, holdout = 10 }}] }}
run = {{ checkpoint_every = 20, cache = {cache:?} }}
"#
    );
    std::fs::write(&path, text).expect("write");
    path
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A recipe of two tasks on halves of the samples' photos; C-CLIP on the tiny model.
pub fn chain(dir: &Path, cache: &str, steps: u64) -> PathBuf {
    let model = tiny::write_clip(dir);
    let lines = std::fs::read_to_string(samples("photos/captions.jsonl")).expect("captions");
    let lines: Vec<&str> = lines.lines().collect();
    let half = |name: &str, lines: &[&str]| {
        let folder = dir.join(name);
        std::fs::create_dir_all(folder.join("images")).expect("create");
        std::fs::write(folder.join("captions.jsonl"), lines.join("\n")).expect("write");
        for line in lines {
            let (_, rest) = line.split_once("images/").expect("a picture");
            let name = rest.split('"').next().expect("a name");
            std::fs::copy(samples("photos/images").join(name), folder.join("images").join(name)).expect("copy");
        }
        folder
    };
    let (a, b) = lines.split_at(lines.len() / 2);
    let (a, b) = (half("a", a), half("b", b));
    let labelled = dir.join("labelled");
    let photos = std::fs::read_dir(samples("photos/images")).expect("list");
    for (file, class) in photos.take(4).zip(["thing", "scene"].iter().cycle()) {
        let file = file.expect("entry");
        std::fs::create_dir_all(labelled.join(class)).expect("create");
        std::fs::copy(file.path(), labelled.join(class).join(file.file_name())).expect("copy");
    }
    let path = dir.join("chain.toml");
    let keeps = format!("zero-shot={}", labelled.display());
    let text = format!(
        r#"
method = "cclip"
embed_dim = 12
vision = {{ model = {model:?} }}
text = {{ model = {model:?} }}
lora = {{ rank = 2 }}
optimizer = {{ lr = 1e-3 }}
schedule = {{ steps = {steps} }}
data = {{ batch = 6 }}
run = {{ checkpoint_every = 1, cache = {cache:?} }}
[continual]
tasks = ["first", "second"]
keeps = [{keeps:?}]
[task.first.data]
sources = [{{ path = {a:?}, holdout = 8 }}]
[task.second]
optimizer = {{ lr = 2e-3 }}
data = {{ sources = [{{ path = {b:?}, holdout = 8 }}] }}
"#
    );
    std::fs::write(&path, text).expect("write");
    path
}
