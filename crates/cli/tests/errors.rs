//! Every mistake gets one clear message and the right exit code.

mod common;

use common::{fails, run, samples, succeeds, text};

#[test]
fn a_missing_model_is_told_with_what_to_do() {
    let message = fails(1, &["info", "nowhere/model"]);
    assert!(
        message.contains("nowhere/model") && message.contains("fetch-encoders"),
        "{message}"
    );
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("r.toml");
    std::fs::write(&path, "method = \"sail\"\n[optimizer]\nweigth_decay = 1\n").expect("write");
    let message = fails(1, &["train", text(&path)]);
    for part in ["r.toml", "3", "weigth_decay", "weight_decay"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn an_empty_folder_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 2);
    succeeds(&["train", text(&recipe), "--out", text(&dir.path().join("run"))]);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("create");
    let (model, store) = (dir.path().join("run/model"), dir.path().join("store"));
    let message = fails(
        1,
        &["index", "--model", text(&model), "--store", text(&store), text(&empty)],
    );
    assert!(message.contains("empty"), "{message}");
}

#[test]
fn damaged_pictures_are_left_out_and_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 2);
    succeeds(&["train", text(&recipe), "--out", text(&dir.path().join("run"))]);
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).expect("create");
    let good = samples("photos/images/000000012280.jpg");
    let bytes = std::fs::read(&good).expect("a sample");
    std::fs::write(photos.join("good.jpg"), &bytes).expect("write");
    std::fs::write(photos.join("cut.jpg"), &bytes[..300]).expect("write");
    std::fs::write(
        photos.join("text.jpg"),
        "this is no picture at all, but a line of text\n",
    )
    .expect("write");
    let (model, store) = (dir.path().join("run/model"), dir.path().join("store"));
    let output = run(&[
        "index",
        "--model",
        text(&model),
        "--store",
        text(&store),
        text(&photos),
        "--json",
    ]);
    assert!(output.status.success());
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(
        told.contains("cut.jpg") && told.contains("text.jpg") && told.contains("text"),
        "{told}"
    );
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let counted = ["added", "failed", "items"].map(|name| summary[name].as_u64());
    assert_eq!(counted, [Some(1), Some(2), Some(1)]);
    // By itself a damaged picture is an error, since its row would be missing.
    let message = fails(
        1,
        &[
            "embed",
            "--model",
            text(&model),
            "--images",
            text(&photos.join("cut.jpg")),
            "--out",
            "x.npy",
        ],
    );
    assert!(message.contains("cut.jpg"), "{message}");
}

#[test]
fn wrong_use_has_its_own_code() {
    fails(2, &["embed", "--model", "m", "--out", "x.npy"]);
    let message = fails(2, &["embed", "--model", "m", "--text", "a", "--out", "x.csv"]);
    assert!(message.contains(".npy"), "{message}");
    fails(2, &["eval", "no-such-suite"]);
    fails(2, &["search", "--store", "s"]);
    fails(2, &["no-such-command"]);
}
