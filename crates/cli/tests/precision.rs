//! `--precision`: rows of towers that multiply bf16 or eight-bit integers are near those in f32, and serve the same stores.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{fails, samples, succeeds, text, tiny};
use serde_json::Value;

/// What each precision must reach: the cosine of any row with that in f32, and of all on average.
const NEAR: [(&str, f64, f64); 2] = [("bf16", 0.999, 0.9995), ("int8", 0.998, 0.999)];
/// The same of a small model: its random weights make attention choose among a few tokens, and some choices are close.
const NEAR_SMALL: [(&str, f64, f64); 2] = [("bf16", 0.999, 0.9995), ("int8", 0.99, 0.999)];

/// What `bifocal embed --out F.jsonl` writes, in a precision.
fn embed(dir: &Path, model: &Path, precision: &str, what: &[&str]) -> Vec<Vec<f64>> {
    let out = dir.join("rows.jsonl");
    let options = ["--precision", precision, "--out", text(&out)];
    succeeds(&[&["embed", "--model", text(model)], &options[..], what].concat());
    let rows = fs::read_to_string(&out).expect("rows");
    let row = |line: &str| serde_json::from_str::<BTreeMap<String, Value>>(line).expect("JSON");
    rows.lines()
        .map(|line| serde_json::from_value(row(line)["embedding"].clone()).expect("numbers"))
        .collect()
}

/// The lowest cosine and the mean one, of rows of unit length.
fn cosines(a: &[Vec<f64>], b: &[Vec<f64>]) -> (f64, f64) {
    assert_eq!(a.len(), b.len());
    let all: Vec<f64> = a
        .iter()
        .zip(b)
        .map(|(a, b)| a.iter().zip(b).map(|(x, y)| x * y).sum())
        .collect();
    let lowest = all.iter().copied().fold(f64::INFINITY, f64::min);
    (lowest, all.iter().sum::<f64>() / all.len() as f64)
}

/// Rows in both precisions against those in f32.
fn check(dir: &Path, model: &Path, name: &str, near: [(&str, f64, f64); 2], what: &[&str]) {
    let exact = embed(dir, model, "f32", what);
    for (precision, least, mean) in near {
        let rows = embed(dir, model, precision, what);
        assert!(rows != exact, "{name} {precision}: nothing was rounded");
        let (lowest, average) = cosines(&rows, &exact);
        println!(
            "{name} {precision}: {average:.5} on average, lowest of {} rows {lowest:.5}",
            rows.len()
        );
        assert!(
            lowest >= least && average >= mean,
            "{name} {precision}: {average} {lowest}"
        );
    }
}

/// English captions of the samples' photos, one of each, as a file of lines.
fn captions(dir: &Path) -> PathBuf {
    let all = fs::read_to_string(samples("photos/captions.jsonl")).expect("captions");
    let mut lines = String::new();
    for line in all.lines() {
        let row: Value = serde_json::from_str(line).expect("JSON");
        lines += row["captions"]["en"][0].as_str().expect("a caption");
        lines.push('\n');
    }
    let path = dir.join("captions.txt");
    fs::write(&path, lines).expect("write");
    path
}

#[test]
fn rows_of_a_small_model_stay_near() {
    let dir = tempfile::tempdir().expect("a folder");
    // narrower layers are not multiplied in eight bits
    let model = tiny::write_clip_of_width(dir.path(), 160);
    let (photos, lines) = (samples("photos"), captions(dir.path()));
    check(dir.path(), &model, "photos", NEAR_SMALL, &["--images", text(&photos)]);
    check(dir.path(), &model, "captions", NEAR_SMALL, &["--texts", text(&lines)]);
    let one = ["--text", "a dog"];
    let rows = embed(dir.path(), &model, "int8", &one);
    assert_eq!(rows, embed(dir.path(), &model, "int8", &one), "the same bits again");
    assert!(cosines(&rows, &embed(dir.path(), &model, "f32", &one)).0 > 0.99);
    let message = fails(
        2,
        &[
            "embed",
            "--model",
            "m",
            "--precision",
            "f16",
            "--text",
            "a",
            "--out",
            "a.npy",
        ],
    );
    assert!(message.contains("f32, bf16 or int8"), "{message}");
}

#[test]
fn a_store_is_of_the_same_model_in_any_precision() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = tiny::write_clip(dir.path());
    let (photos, store) = (samples("photos"), dir.path().join("store"));
    let index = |precision| {
        let place = ["--model", text(&model), "--store", text(&store)];
        let told = succeeds(
            &[
                &["index", "--precision", precision, "--json"],
                &place[..],
                &[text(&photos)],
            ]
            .concat(),
        );
        serde_json::from_str::<Value>(&told).expect("JSON")["added"].clone()
    };
    assert_eq!(index("int8"), 50);
    assert_eq!(index("bf16"), 0);
    let photo = photos.join("images/000000012280.jpg");
    for precision in ["f32", "int8"] {
        let found = succeeds(&[
            "search",
            "--store",
            text(&store),
            "--precision",
            precision,
            "--image",
            text(&photo),
            "-k",
            "1",
        ]);
        assert!(found.contains("000000012280.jpg"), "{found}");
        let labels = [
            "classify",
            "--model",
            text(&model),
            "--labels",
            "cat,dog",
            "--precision",
            precision,
        ];
        assert!(succeeds(&[&labels[..], &[text(&photo)]].concat()).contains("cat"));
    }
}

#[test]
fn rows_of_real_encoders_stay_near() {
    let Some(models) = std::env::var_os("BIFOCAL_MODELS").map(PathBuf::from) else {
        println!("skipped: set BIFOCAL_MODELS (see CONTRIBUTING.md) to compare the rows of real encoders");
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let lines = captions(dir.path());
    let photos = samples("photos");
    check(
        dir.path(),
        &models.join("efficientnet-lite0"),
        "efficientnet-lite0",
        NEAR,
        &["--images", text(&photos)],
    );
    for name in ["minilm", "smollm2", "gemma3"] {
        check(dir.path(), &models.join(name), name, NEAR, &["--texts", text(&lines)]);
    }
}

/// Of a trained model on photos that it has not seen: recall in both directions, R@1, 5 and 10.
#[test]
fn retrieval_stays_where_it_was() {
    let (Some(models), Some(data)) = (std::env::var_os("BIFOCAL_MODELS"), std::env::var_os("BIFOCAL_DATA")) else {
        println!(
            "skipped: set BIFOCAL_MODELS and BIFOCAL_DATA (see CONTRIBUTING.md) to train on Flickr8k's photos and retrieve them"
        );
        return;
    };
    let dir = tempfile::tempdir().expect("a folder");
    let (models, data) = (PathBuf::from(models), PathBuf::from(data).join("flickr8k"));
    let lines = fs::read_to_string(data.join("captions.jsonl")).expect("captions");
    let lines: Vec<&str> = lines.lines().collect();
    let part = |name: &str, lines: &[&str]| {
        let folder = dir.path().join(name);
        fs::create_dir_all(folder.join("images")).expect("create");
        let mut kept = String::new();
        for line in lines {
            let mut row: Value = serde_json::from_str(line).expect("JSON");
            let image = row["image"].as_str().expect("a name").to_owned();
            fs::copy(data.join(&image), folder.join(&image)).expect("copy");
            row["captions"] = serde_json::json!({ "en": row["captions"]["en"] });
            kept += &format!("{row}\n");
        }
        fs::write(folder.join("captions.jsonl"), kept).expect("write");
        folder
    };
    let (seen, held_out) = (part("seen", &lines[..400]), part("held-out", &lines[400..]));
    let (run, repository) = (dir.path().join("run"), samples(".."));
    let sets = [
        format!("vision.model={:?}", text(&models.join("efficientnet-lite0"))),
        format!("text.model={:?}", text(&models.join("minilm"))),
        format!("data.sources=[{{path={:?}, languages=[\"en\"]}}]", text(&seen)),
        "schedule.steps=100".to_owned(),
        format!("run.cache={:?}", text(&dir.path().join("cache"))),
    ];
    let recipe = repository.join("recipes/flickr8k.toml");
    let mut args = vec!["train", text(&recipe), "--out", text(&run)];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    succeeds(&args);
    let recall = |precision: &str| -> Vec<f64> {
        let (model, out) = (run.join("model"), dir.path().join(precision));
        succeeds(&[
            "eval",
            "retrieval",
            "--model",
            text(&model),
            "--data",
            text(&held_out),
            "--precision",
            precision,
            "--out",
            text(&out),
        ]);
        let report = fs::read_to_string(out.join("retrieval.json")).expect("a report");
        let report: Value = serde_json::from_str(&report).expect("JSON");
        recalls(&report)
    };
    let exact = recall("f32");
    for precision in ["bf16", "int8"] {
        let found = recall(precision);
        let mean = |all: &[f64]| 100.0 * all.iter().sum::<f64>() / all.len() as f64;
        println!(
            "{precision}: mean recall {:.2}, {:.2} in f32; {found:.3?}, {exact:.3?}",
            mean(&found),
            mean(&exact)
        );
        assert!(mean(&exact) > 20.0, "the model has learnt something");
        assert!((mean(&found) - mean(&exact)).abs() <= 0.5, "{precision}");
    }
}

/// R@1, 5, 10 of both directions.
fn recalls(report: &Value) -> Vec<f64> {
    let of = |direction: &str| {
        let direction = &report["rows"][0]["report"][direction];
        ["r1", "r5", "r10"].map(|at| direction[at].as_f64().expect("a fraction"))
    };
    [of("text_to_image"), of("image_to_text")].concat()
}
