//! R1: whatever the moment of a SIGKILL, a run of any method ends with the bits of the unbroken one.
//!
//! Three kills a method, or as many as `BIFOCAL_KILLS` says (`scripts/kill-runs.sh`: 20). They come at random moments of runs that write a
//! checkpoint at every step, so that many fall into the writing of one. `BIFOCAL_KILL_SEED` repeats them as far as a clock allows.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use bifocal_nn::init::Rng;
use common::{text, tiny};

/// A number out of the environment.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Goes on with the run in `folder`; features are cached beside it, so that kills hit their computing too.
fn train(recipe: &Path, folder: &Path) -> Command {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut command = common::bifocal(&["train", text(recipe), "--out", "run", "--resume"]);
    command.current_dir(folder);
    command
}

fn to_the_end(recipe: &Path, folder: &Path) {
    let output = train(recipe, folder).output().expect("the binary starts");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {message}", folder.display());
}

/// Everything that a run leaves, apart from what depends on the clock and what killed writers of other files left.
fn result(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let run = folder.join("run");
    let clocked = |path: &Path| {
        let name = path
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        ["timings.jsonl", "lock", "report.html"].contains(&&*name)
            || name.starts_with("events.out.")
            || (name.starts_with('.') && name.ends_with(".tmp"))
    };
    let all = tiny::files(&run).into_iter();
    let all = all.map(|(path, bytes)| (path.strip_prefix(&run).expect("below").to_owned(), bytes));
    all.filter(|(path, _)| !clocked(path)).collect()
}

/// Whether a checkpoint was being written.
fn unfinished(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder.join("run/checkpoints")).into_iter().flatten();
    let mut names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.any(|name| name.starts_with(".unfinished-") || name == "LATEST.new")
}

/// Waits; whether the child was still running then.
fn runs_for(child: &mut Child, time: Duration) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if child.try_wait().expect("a child of ours").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1).min(until - Instant::now()));
    }
    child.try_wait().expect("a child of ours").is_none()
}

fn survives(method: &str, sets: &[&str]) {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let every = ["run.checkpoint_every=1", "run.evaluate_every=4", "schedule.steps=20"];
    let sets: Vec<&str> = every.iter().chain(sets).copied().collect();
    let recipe = dir.path().join("recipe.toml");
    let resolved = tiny::recipe(method, &model, Path::new("cache"), &sets);
    std::fs::write(&recipe, resolved.to_toml()).expect("write");
    let files = [
        "metrics.jsonl",
        "evaluations.jsonl",
        "model/bifocal.json",
        "checkpoints/best/state.json",
    ];
    killed_and_resumed(method, dir.path(), &recipe, &files);
}

/// Compares what killed and resumed runs leave with what an unbroken one does, in which `files` have to be.
fn killed_and_resumed(method: &str, dir: &Path, recipe: &Path, files: &[&str]) {
    let kills = number("BIFOCAL_KILLS").unwrap_or(3);
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos().into());
    let seed = number("BIFOCAL_KILL_SEED").unwrap_or_else(clock);
    let (whole, clock) = (dir.join("whole"), Instant::now());
    to_the_end(recipe, &whole);
    let lasts = clock.elapsed();
    let expected = result(&whole);
    for file in files {
        assert!(expected.contains_key(Path::new(file)), "{method}: no {file}");
    }

    let mut rng = Rng::new(seed);
    let (mut killed, mut writing, mut compared) = (0, 0, 0);
    while killed < kills {
        let folder = dir.join(format!("broken-{compared}"));
        let mut over = false;
        while killed < kills && !over {
            let quiet = || Stdio::null();
            let child = train(recipe, &folder).stdout(quiet()).stderr(quiet()).spawn();
            let mut child = child.expect("the binary starts");
            let moment = lasts.mul_f64(rng.below(1000) as f64 / 1000.0);
            over = !runs_for(&mut child, moment);
            child.kill().expect("a child of ours");
            let status = child.wait().expect("a child of ours");
            if over {
                assert!(status.success(), "{method}: {status}");
            } else {
                killed += 1;
                writing += u64::from(unfinished(&folder));
            }
        }
        to_the_end(recipe, &folder);
        let found = result(&folder);
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            expected.keys().collect::<Vec<_>>(),
            "{method}, seed {seed}"
        );
        for (path, bytes) in &expected {
            assert!(
                found[path] == *bytes,
                "{method}, seed {seed}: {} differs",
                path.display()
            );
        }
        compared += 1;
    }
    println!(
        "{method}: {killed} kills, {writing} of them while a checkpoint was written, {compared} runs with the bits of the unbroken one \
         ({} files each; it lasts {:.1} s; seed {seed})",
        expected.len(),
        lasts.as_secs_f64()
    );
}

#[test]
fn clip() {
    survives("clip", &["optimizer.kind=lion"]);
}

#[test]
fn siglip() {
    survives("siglip", &["compute.micro_batch=4"]);
}

#[test]
fn lit() {
    survives("lit", &[]);
}

#[test]
fn sharelock() {
    survives("sharelock", &["data.accumulate=2"]);
}

#[test]
fn sail() {
    survives("sail", &[]);
}

#[test]
fn flame() {
    survives("flame", &["text.facets=[\"a {}\", \"the {}\"]"]);
}

#[test]
fn llm2clip() {
    survives("llm2clip", &[]);
}

#[test]
fn lift() {
    survives("lift", &[]);
}

#[test]
fn cclip() {
    survives("cclip", &["lora.rank=2"]);
}

#[test]
fn ewc() {
    let dir = tempfile::tempdir().expect("a folder");
    let former = tiny::importance(&tiny::write_clip(dir.path()), dir.path());
    let former = format!("elastic.former={:?}", text(&former));
    survives("ewc", &[&former, "elastic.weight=100", "elastic.batches=6"]);
}

#[test]
fn zscl() {
    survives("zscl", &["reference.batch=4", "merge.average_every=2"]);
}

#[test]
fn proclip() {
    survives("proclip", &["distill.ema=0.5", "distill.lambda=0.01"]);
}

#[test]
fn toklip() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut sets = tiny::on_codes(&tiny::write_codec(dir.path()));
    let teacher = tiny::write_clip(dir.path());
    sets.extend([
        format!("teacher.model={:?}", text(&teacher)),
        "toklip.open=0.5".to_owned(),
        "run.evaluate_on=1".to_owned(),
    ]);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    survives("toklip", &sets);
}

/// Also between tasks, and while what a task has done is measured.
#[test]
fn task_after_task() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::chain(dir.path(), "cache", 6);
    let files = [
        "matrix.json",
        "measured-0.json",
        "measured-2.json",
        "1-first/metrics.jsonl",
        "1-first/model/bifocal.json",
        "2-second/model/vision.safetensors",
    ];
    killed_and_resumed("task after task", dir.path(), &recipe, &files);
}
