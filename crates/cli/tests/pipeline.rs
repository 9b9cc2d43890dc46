//! From a recipe to a search through the binary; indexing and caching under SIGKILL (`kills.rs` is that for training).

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{killed_after, samples, succeeds, text};

#[test]
fn train_eval_index_search_classify_embed() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    let recipe = common::recipe(dir.path(), 4);
    let printed = succeeds(&["train", text(&recipe), "--out", &at("run")]);
    assert!(
        printed.contains("ridge (baseline)") && printed.contains("chance"),
        "{printed}"
    );
    let photos = samples("photos");
    let table = succeeds(&[
        "eval",
        "retrieval",
        "--model",
        &at("run/model"),
        "--data",
        text(&photos),
        "--out",
        &at("report"),
    ]);
    assert!(table.contains("50 pictures, 250 captions"), "{table}");
    assert!(dir.path().join("report/retrieval.json").is_file());
    let index = || {
        let json = succeeds(&[
            "index",
            "--model",
            &at("run/model"),
            "--store",
            &at("store"),
            text(&photos),
            "--json",
        ]);
        serde_json::from_str::<serde_json::Value>(&json).expect("JSON")
    };
    assert_eq!(index()["added"], 50);
    assert_eq!(index()["unchanged"], 50);
    let json = succeeds(&["search", "--store", &at("store"), "a dog", "-k", "3", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(found["hits"].as_array().map(Vec::len), Some(3));
    // A picture finds itself with a cosine of 1.
    let photo = photos.join("images/000000012280.jpg");
    let json = succeeds(&[
        "search",
        "--store",
        &at("store"),
        "--image",
        text(&photo),
        "-k",
        "1",
        "--json",
    ]);
    let found: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        found["hits"][0]["key"]
            .as_str()
            .is_some_and(|k| k.ends_with("000000012280.jpg")),
        "{found}"
    );
    assert!(found["hits"][0]["score"].as_f64().is_some_and(|s| s > 0.999), "{found}");
    let labels = succeeds(&[
        "classify",
        "--model",
        &at("run/model"),
        "--labels",
        "cat,dog",
        text(&photo),
    ]);
    assert!(labels.contains("cat") && labels.contains("dog"), "{labels}");
    std::fs::write(dir.path().join("lines.txt"), "a dog\na dog\n  a cat \n").expect("write");
    succeeds(&[
        "embed",
        "--model",
        &at("run/model"),
        "--texts",
        &at("lines.txt"),
        "--out",
        &at("rows.npy"),
    ]);
    let npy = std::fs::read(dir.path().join("rows.npy")).expect("rows.npy");
    assert!(
        npy.starts_with(b"\x93NUMPY") && npy.len() % 64 == 3 * 8 * 4 % 64,
        "three lines, eight wide"
    );
}

#[test]
fn explain_tells_what_a_run_would_take_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 400);
    let out = dir.path().join("run");
    let printed = succeeds(&["train", text(&recipe), "--out", text(&out), "--explain"]);
    for part in [
        "400 steps of 8",
        "frozen",
        "image_head",
        "estimate of stage heads",
        "MiB",
        "checkpoint_every = 20",
    ] {
        assert!(printed.contains(part), "{part} is not in: {printed}");
    }
    assert!(!out.exists() && !dir.path().join("cache").exists());
}

/// Ten kills while indexing: the next call goes on, every picture is there once.
#[test]
fn a_killed_index_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| text(&dir.path().join(name)).to_owned();
    let recipe = common::recipe(dir.path(), 2);
    succeeds(&["train", text(&recipe), "--out", &at("run")]);
    let emoji = samples("emoji/images");
    let args = [
        "index",
        "--model",
        &at("run/model"),
        "--store",
        &at("store"),
        text(&emoji),
    ];
    for kill in 1..=10u64 {
        killed_after(&args, Duration::from_millis(30 + 23 * kill));
    }
    succeeds(&args);
    let files = std::fs::read_dir(&emoji).expect("samples").count();
    let k = files.to_string();
    let json = succeeds(&["search", "--store", &at("store"), "a", "-k", &k, "--json"]);
    let found: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let keys: BTreeSet<&str> = found["hits"]
        .as_array()
        .expect("hits")
        .iter()
        .filter_map(|h| h["key"].as_str())
        .collect();
    assert_eq!((keys.len(), &found["items"]), (files, &files.into()));
}

/// Ten kills while filling the cache: what is there is kept, and the next call computes only the rest.
#[test]
fn a_killed_cache_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 2);
    for kill in 1..=10u64 {
        killed_after(&["cache", text(&recipe)], Duration::from_millis(10 + 11 * kill));
    }
    let printed = succeeds(&["cache", text(&recipe)]);
    assert!(printed.contains("40 pictures"), "{printed}");
    let before = common::tiny::files(&dir.path().join("cache"));
    succeeds(&["cache", text(&recipe)]);
    assert!(
        before == common::tiny::files(&dir.path().join("cache")),
        "a full cache is not written again"
    );
}
