//! The lab from base to table, on a tiny model: what it runs, what it writes, and that it goes on where it was.

mod common;

use std::path::Path;
use std::process::Output;

use common::{samples, text, tiny};

/// Recipes and data that the rows of the lab fit: the tiny CLIP stands for every encoder.
fn prepare(dir: &Path) {
    let model = tiny::write_clip(dir);
    let models = dir.join("models");
    std::fs::create_dir_all(models.join("gemma3")).expect("create");
    for file in std::fs::read_dir(&model).expect("list") {
        let file = file.expect("entry");
        std::fs::copy(file.path(), models.join("gemma3").join(file.file_name())).expect("copy");
    }
    let recipes = dir.join("recipes");
    std::fs::create_dir_all(&recipes).expect("create");
    for (name, method) in [("lab-base", "clip"), ("sail", "sail")] {
        let recipe = format!(
            r#"
method = "{method}"
embed_dim = 8
vision = {{ model = {model:?} }}
text = {{ model = {model:?} }}
image_head = {{ ratio = 1 }}
text_head = {{ ratio = 1 }}
schedule = {{ steps = 2 }}
run = {{ cache = {:?} }}
[profile.tiny]
data = {{ batch = 8, sources = [{{ path = "data/flickr8k", holdout = 10 }}] }}
"#,
            dir.join("cache")
        );
        std::fs::write(recipes.join(format!("{name}.toml")), recipe).expect("write");
    }
    let photos = dir.join("data/flickr8k");
    std::fs::create_dir_all(photos.join("images")).expect("create");
    std::fs::copy(samples("photos/captions.jsonl"), photos.join("captions.jsonl")).expect("copy");
    for file in std::fs::read_dir(samples("photos/images")).expect("list") {
        let file = file.expect("entry");
        std::fs::copy(file.path(), photos.join("images").join(file.file_name())).expect("copy");
    }
}

fn lab(dir: &Path, more: &[&str]) -> Output {
    let (data, recipes, out) = (dir.join("data"), dir.join("recipes"), dir.join("lab"));
    let args = [
        "lab",
        "--data",
        text(&data),
        "--recipes",
        text(&recipes),
        "--out",
        text(&out),
    ];
    let mut command = common::bifocal(&args);
    command.args(["--profile", "tiny", "--only", "sail"]).args(more);
    command.env("BIFOCAL_MODELS", dir.join("models"));
    command.output().expect("the binary starts")
}

#[test]
fn a_lab_ends_with_a_table_and_goes_on_with_more_seeds() {
    let dir = tempfile::tempdir().expect("a folder");
    prepare(dir.path());
    let output = lab(dir.path(), &["--seeds", "1"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(printed.contains("| sail | 1 |"), "{printed}");
    let scores = dir.path().join("lab/sail-1/lab-scores.json");
    let before = std::fs::metadata(&scores).expect("scores").modified().expect("a time");
    let output = lab(dir.path(), &["--seeds", "2"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        std::fs::metadata(&scores).expect("scores").modified().expect("a time"),
        before
    );
    let table = std::fs::read_to_string(dir.path().join("lab/table.md")).expect("a table");
    assert!(
        table.contains("| base | 1 |") && table.contains("| sail | 2 |"),
        "{table}"
    );
    let json = std::fs::read_to_string(dir.path().join("lab/table.json")).expect("a table");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["rows"][1]["seeds"], serde_json::json!([1, 2]));
    let found = json["rows"][1]["scores"]["en_t2i"]["values"]
        .as_array()
        .expect("values");
    assert!(
        found
            .iter()
            .all(|v| v.as_f64().is_some_and(|v| (0.0..=1.0).contains(&v))),
        "{found:?}"
    );
    assert!(json["rows"][1]["peak_bytes"].as_u64() > Some(0), "{json}");
}

#[test]
fn explain_runs_nothing_and_an_unknown_row_is_wrong_use() {
    let dir = tempfile::tempdir().expect("a folder");
    prepare(dir.path());
    let output = lab(dir.path(), &["--explain"]);
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        printed.contains("base (one seed)") && printed.contains("sail (seed 3)"),
        "{printed}"
    );
    assert!(!dir.path().join("lab").exists());
    let output = lab(dir.path(), &["--only", "snail"]);
    assert_eq!(
        output.status.code(),
        Some(2),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
