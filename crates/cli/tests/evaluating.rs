//! `bifocal eval` on several benchmarks and models: what is measured, what is left alone, and a training that is watched.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{bifocal, fails, run, samples, succeeds, text, tiny};
use serde_json::Value;

fn json(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// Value of a metric in a result.
fn value(result: &Value, name: &str, group: &str) -> f64 {
    let metrics = result["metrics"].as_array().expect("metrics");
    let found = metrics.iter().find(|m| m["name"] == name && m["group"] == group);
    found
        .and_then(|m| m["value"].as_f64())
        .unwrap_or_else(|| panic!("no {name}/{group} in {result}"))
}

/// The bytes of all result files.
fn results(out: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    tiny::files(&out.join("results")).into_iter().collect()
}

#[test]
fn a_matrix_is_measured_once_and_says_how() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let out = dir.path().join("out");
    let data = samples("");
    let model_b = format!("second={}", text(&model));
    let model_a = format!("first={}", text(&model));
    let mut arguments = vec!["eval", "retrieval=photos", "caption-pairs=photos"];
    arguments.extend([
        "--model",
        &model_a,
        "--model",
        &model_b,
        "--data",
        text(&data),
        "--out",
        text(&out),
    ]);
    let table = succeeds(&arguments);
    assert!(table.contains("| first |") && table.contains("| *chance* |"), "{table}");
    let first = json(&out.join("results/first/retrieval=photos.json"));
    assert_eq!(first["counts"]["pictures"], 50);
    assert!(
        first["what"]["protocol"].as_str().is_some_and(|p| !p.is_empty()),
        "{first}"
    );
    // the same numbers as the table of one model on one folder
    let single = succeeds(&[
        "eval",
        "retrieval",
        "--model",
        text(&model),
        "--data",
        text(&samples("photos")),
        "--json",
    ]);
    let single: Value = serde_json::from_str(&single).expect("JSON");
    let row = &single["rows"][0];
    for (ours, way, theirs) in [
        ("t2i_r5", "text_to_image", "r5"),
        ("i2t_r10", "image_to_text", "r10"),
        ("t2i_map", "text_to_image", "map"),
    ] {
        let language = row["name"].as_str().expect("a language");
        let expected = row["report"][way][theirs].as_f64().expect("a number");
        assert!(
            (value(&first, ours, language) - expected).abs() < 1e-9,
            "{ours}: {first} {single}"
        );
    }
    for file in [
        "report.html",
        "results.csv",
        "results.md",
        "clip_benchmark/retrieval=photos_first_en_zeroshot_retrieval.json",
    ] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let page = std::fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("class=protocol") && page.contains("data:image/jpeg;base64,") && !page.contains("http://"));

    // nothing is measured twice; what is damaged, or of other settings, is
    let before = results(&out);
    let again = run(&arguments);
    assert!(
        !String::from_utf8_lossy(&again.stderr).contains("first, retrieval"),
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(before, results(&out));
    std::fs::write(out.join("results/first/caption-pairs=photos.json"), b"{").expect("write");
    succeeds(&arguments);
    assert_eq!(before, results(&out));

    let same = succeeds(&[
        "eval",
        "compare",
        text(&out.join("results/first")),
        text(&out.join("results/second")),
    ]);
    assert!(
        same.contains("retrieval=photos") && same.contains("+0.0") && same.contains("1.000"),
        "{same}"
    );
}

#[test]
fn corruptions_change_pictures_and_keep_the_clean_column() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let out = dir.path().join("out");
    let mut arguments = vec!["eval", "retrieval=photos", "--model", text(&model), "--data"];
    let data = samples("");
    arguments.extend([text(&data), "--out", text(&out), "--corrupt", "noise-5,brightness-1"]);
    succeeds(&arguments);
    let name = model.file_name().expect("a name").to_string_lossy().into_owned();
    let of = |column: &str| json(&out.join(format!("results/{name}/retrieval=photos{column}.json")));
    let (clean, noisy) = (of(""), of("+noise-5"));
    assert!(
        noisy["what"]["protocol"]
            .as_str()
            .is_some_and(|p| p.contains("noise, level 5 of 5")),
        "{noisy}"
    );
    assert_ne!(clean["units"], noisy["units"]);
    let page = std::fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("Robustness") && page.contains("brightness-1"));
}

#[test]
fn damaged_pictures_are_counted_and_what_is_missing_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let photos = dir.path().join("few");
    std::fs::create_dir_all(photos.join("images")).expect("a folder");
    let mut rows = String::new();
    for (i, name) in ["000000012280.jpg", "bad.jpg", "000000020247.jpg"].iter().enumerate() {
        match *name {
            "bad.jpg" => std::fs::write(photos.join("images/bad.jpg"), b"\xff\xd8\xff no picture").expect("write"),
            name => drop(
                std::fs::copy(samples("photos/images").join(name), photos.join("images").join(name)).expect("copy"),
            ),
        }
        rows.push_str(&format!(
            "{{\"image\": \"images/{name}\", \"captions\": {{\"en\": [\"picture {i}\"]}}}}\n"
        ));
    }
    std::fs::write(photos.join("captions.jsonl"), rows).expect("write");
    let out = dir.path().join("out");
    let at = text(dir.path());
    succeeds(&[
        "eval",
        "retrieval=few",
        "--captions",
        "1",
        "--model",
        &format!("m={}", text(&model)),
        "--data",
        at,
        "--out",
        text(&out),
    ]);
    let result = json(&out.join("results/m/retrieval=few.json"));
    assert_eq!(
        (&result["counts"]["pictures"], &result["counts"]["left_out"]),
        (&2.into(), &1.into()),
        "{result}"
    );
    assert!(
        result["counts"]["reasons"][0]
            .as_str()
            .is_some_and(|r| r.contains("bad.jpg")),
        "{result}"
    );

    let model = text(&model);
    let missing = fails(
        1,
        &[
            "eval",
            "winoground",
            "--model",
            model,
            "--data",
            at,
            "--out",
            text(&out),
        ],
    );
    assert!(missing.contains("examples.jsonl"), "{missing}");
    fails(
        2,
        &[
            "eval",
            "no-such-suite",
            "retrieval",
            "--model",
            model,
            "--data",
            at,
            "--out",
            text(&out),
        ],
    );
    fails(
        2,
        &[
            "eval",
            "retrieval=few",
            "--corrupt",
            "fog-1",
            "--model",
            model,
            "--data",
            at,
            "--out",
            text(&out),
        ],
    );
    fails(2, &["eval", "compare", "one"]);
    let list = succeeds(&["eval", "list", "--data", at]);
    assert!(
        list.contains("imagenet-family") && list.contains("[not there: "),
        "{list}"
    );
}

#[test]
fn a_training_is_measured_while_it_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let recipe = common::recipe(dir.path(), 20);
    let (folder, out) = (dir.path().join("run"), dir.path().join("out"));
    succeeds(&["train", text(&recipe), "--out", text(&folder)]);
    // as it is before its last moment: a checkpoint, and no bundle yet
    let (bundle, away) = (folder.join("model"), dir.path().join("away"));
    std::fs::rename(&bundle, &away).expect("rename");
    let data = samples("");
    let arguments = [
        "eval",
        "retrieval=photos",
        "--watch",
        text(&folder),
        "--data",
        text(&data),
        "--out",
        text(&out),
    ];
    let mut watching = bifocal(&arguments)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the binary starts");
    let checkpoint = out.join("results/run@000020/retrieval=photos.json");
    let began = Instant::now();
    while !checkpoint.is_file() {
        assert!(
            watching.try_wait().expect("a child").is_none(),
            "it ended before the bundle was there"
        );
        assert!(began.elapsed() < Duration::from_secs(300), "no checkpoint was measured");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::rename(&away, &bundle).expect("rename");
    assert!(watching.wait().expect("a child").success());
    // the last checkpoint is the bundle
    let (during, after) = (json(&checkpoint), json(&out.join("results/run/retrieval=photos.json")));
    assert_eq!(during["metrics"], after["metrics"]);
    assert_eq!(during["what"]["fingerprint"], after["what"]["fingerprint"]);
}
