//! Recipes of several tasks through the binary: what they write, that they go on, and what they say when something is wrong.

mod common;

use std::path::Path;

use common::{fails, succeeds, text};
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON")
}

#[test]
fn tasks_are_learnt_in_order_and_measured_after_each() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = dir.path().join("cache");
    let recipe = common::chain(dir.path(), text(&cache), 3);
    let out = dir.path().join("out");
    let args = ["train", text(&recipe), "--out", text(&out)];

    let told = succeeds(&["train", text(&recipe), "--out", text(&out), "--explain"]);
    assert!(
        told.contains("task 2, second") && told.contains("measured after each: first, second"),
        "{told}"
    );
    assert!(!out.exists());

    let printed = succeeds(&args);
    assert!(printed.contains("| after second |"), "{printed}");
    let matrix = json(&out.join("matrix.json"));
    assert_eq!(matrix["tasks"], serde_json::json!(["first", "second"]));
    assert_eq!(matrix["rows"].as_array().map(Vec::len), Some(3));
    assert_eq!(matrix["rows"][0]["tests"]["first"]["pictures"], 8);
    assert!(matrix["sums"]["i2t"]["forgetting"].is_number() && matrix["sums"]["merged_t2i"]["average"].is_number());
    assert!(matrix["lost"].as_object().is_some_and(|lost| lost.len() == 1));
    // one pool is never easier than two
    for row in matrix["rows"].as_array().expect("rows") {
        for test in ["first", "second"] {
            let of = |name: &str| row["tests"][test][name].as_f64().expect("a share");
            assert!(of("merged_i2t") <= of("i2t") && of("merged_t2i") <= of("t2i"), "{row}");
        }
    }
    // the second task began with what the first has made, under its own settings
    let second = std::fs::read_to_string(out.join("2-second/recipe.toml")).expect("a recipe");
    assert!(
        second.contains("1-first/model") && second.contains("lr = 0.002"),
        "{second}"
    );
    let page = std::fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("Task after task") && page.contains("after second"));
    assert!(!out.join("1-first/checkpoints").exists() && !out.join("features").exists());

    // what has ended stays
    let bundle = out.join("2-second/model/bifocal.json");
    let written = || {
        std::fs::metadata(&bundle)
            .expect("a bundle")
            .modified()
            .expect("a time")
    };
    let before = written();
    let message = fails(2, &args);
    assert!(message.contains("--resume"), "{message}");
    succeeds(&["train", text(&recipe), "--out", text(&out), "--resume"]);
    assert_eq!(written(), before);
    // another recipe does not go on with it
    let message = fails(
        1,
        &[
            "train",
            text(&recipe),
            "--out",
            text(&out),
            "--resume",
            "--set",
            "seed=7",
        ],
    );
    assert!(message.contains("1-first") && message.contains("seed"), "{message}");
}

#[test]
fn a_third_task_can_be_added_to_two_that_were_learnt() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = dir.path().join("cache");
    let recipe = common::chain(dir.path(), text(&cache), 2);
    let out = dir.path().join("out");
    succeeds(&["train", text(&recipe), "--out", text(&out)]);
    let first = std::fs::metadata(out.join("1-first/model/bifocal.json")).expect("a bundle");
    let more = std::fs::read_to_string(&recipe).expect("a recipe");
    let path = dir.path().join("b");
    let more = format!("{more}\n[task.third.data]\nsources = [{{ path = {path:?}, holdout = 5 }}]\n");
    std::fs::write(&recipe, more.replace("\"second\"]", "\"second\", \"third\"]")).expect("write");
    let printed = succeeds(&["train", text(&recipe), "--out", text(&out), "--resume"]);
    assert!(printed.contains("| after third |"), "{printed}");
    let again = std::fs::metadata(out.join("1-first/model/bifocal.json")).expect("a bundle");
    assert_eq!(first.modified().expect("a time"), again.modified().expect("a time"));
    // a new test: all models were asked again
    assert_eq!(
        json(&out.join("measured-0.json"))["tests"]
            .as_object()
            .map(serde_json::Map::len),
        Some(3)
    );
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let cache = dir.path().join("cache");
    let recipe = common::chain(dir.path(), text(&cache), 2);
    let out = dir.path().join("out");
    let fails = |sets: &[&str], parts: &[&str]| {
        let mut args = vec!["train", text(&recipe), "--out", text(&out)];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        let message = common::run(&args);
        assert!(!message.status.success());
        let message = String::from_utf8_lossy(&message.stderr).into_owned();
        assert!(
            parts.iter().all(|part| message.contains(part)) && !message.contains("panicked"),
            "{message}"
        );
    };
    fails(
        &["continual.tasks=[\"first\", \"third\"]"],
        &["[task.third]", "first, second"],
    );
    fails(&["continual.tasks=[\"first\", \"first\"]"], &["each name once"]);
    fails(&["continual.tests=[\"x/y\"]"], &["[task.x/y]"]);
    fails(&["continual.task=[\"first\"]"], &["did you mean \"tasks\""]);
    fails(&["continual.keeps=[\"zero-shots=here\"]"], &["no suite \"zero-shots\""]);
    fails(&["continual.replay=-1"], &["continual.replay"]);
    fails(&["task.second.data.sources.0.holdout=0"], &["\"second\"", "holdout"]);
    fails(&["vision.model=nowhere"], &["nowhere"]);
    assert!(!out.join("recipe.toml").exists(), "what could not begin is no run");
    let message = common::fails(2, &["cache", text(&recipe)]);
    assert!(
        message.contains("several tasks") && message.contains("bifocal train"),
        "{message}"
    );
}
