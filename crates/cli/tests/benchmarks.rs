//! Miniatures of the benchmarks in their official layouts: a tiny checkpoint must get exactly the scores that transformers and numpy found
//! (scripts/fixtures/benchmark_scores.py).

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_benchmarks::{self as benchmark, Options};
use common::{succeeds, text};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/benchmarks")
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixtures().join(name)).expect("the fixture")).expect("JSON")
}

/// Lays a miniature out: its files, and the pictures where they belong.
fn lay_out(name: &str, to: &Path) {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from)
            .expect("the fixture")
            .map(|e| e.expect("an entry").path())
        {
            let to = to.join(entry.file_name().expect("a name"));
            if entry.is_dir() {
                copy(&entry, &to);
            } else {
                fs::copy(&entry, &to).expect("a copy");
            }
        }
    }
    let files = fixtures().join("layouts").join(name);
    // some layouts are pictures alone
    if files.is_dir() {
        copy(&files, to);
    }
    let places = read("pictures.json");
    for (path, picture) in places[name].as_object().into_iter().flatten() {
        let path = to.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::copy(fixtures().join(format!("pictures/{picture}.jpg")), path).expect("a picture");
    }
}

/// Values by metric and group of a result.
fn metrics(result: &Value) -> HashMap<(String, String), f64> {
    let text = |v: &Value| v.as_str().expect("a text").to_owned();
    let one = |m: &Value| {
        (
            (text(&m["name"]), text(&m["group"])),
            m["value"].as_f64().expect("a number"),
        )
    };
    result["metrics"].as_array().expect("metrics").iter().map(one).collect()
}

/// What `bifocal eval` found, in the shape of what was expected.
fn found(result: &Value, expected: &Value) -> Value {
    let metrics = metrics(result);
    let of = |name: &str, group: &str| metrics.get(&(name.to_owned(), group.to_owned())).copied();
    let groups = || expected["scores"].as_object().expect("groups").iter();
    let shares = |names: &[(&str, &str)], group: &str| -> Value {
        names
            .iter()
            .map(|(ours, theirs)| ((*theirs).to_owned(), json!(of(ours, group))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    match expected["task"].as_str().expect("a task") {
        "classification" => {
            let group = metrics
                .keys()
                .find(|(name, _)| name == "top1")
                .expect("top-1")
                .1
                .clone();
            let mut scores = shares(
                &[("top1", "top1"), ("top5", "top5"), ("mean_per_class", "mean_per_class")],
                &group,
            );
            let headline = if result["headline"] == "top1" {
                "top-1"
            } else {
                "mean-per-class"
            };
            scores["headline"] = json!(headline);
            scores["pictures"] = result["units"][format!("top1/{group}")]["sum"]
                .as_array()
                .expect("units")
                .len()
                .into();
            scores
        }
        "retrieval" => groups()
            .map(|(language, _)| {
                let recall = |way: &str| {
                    let names = [1, 5, 10].map(|k| (format!("{way}_r{k}"), format!("r{k}")));
                    shares(&names.each_ref().map(|(a, b)| (a.as_str(), b.as_str())), language)
                };
                (
                    language.clone(),
                    json!({"text_to_image": recall("t2i"), "image_to_text": recall("i2t")}),
                )
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        "composition" => groups()
            .map(|(group, expected)| {
                let items = expected["items"].as_f64().expect("a number");
                let names: &[&str] = match expected["right"].as_array().map(Vec::len) {
                    Some(3) => &["text_score", "image_score", "group_score"],
                    _ => &["accuracy"],
                };
                let right = names
                    .iter()
                    .map(|name| (of(name, group).expect("a score") * items).round() as u64);
                (group.clone(), json!({"right": right.collect::<Vec<u64>>()}))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        "caption-pairs" => groups()
            .map(|(name, _)| {
                (
                    name.clone(),
                    shares(&[("r1", "r1"), ("r5", "r5"), ("r10", "r10")], name),
                )
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        "similarity" => json!({"spearman": of("spearman", "")}),
        other => panic!("{other}"),
    }
}

/// Everything that was found is what was expected; numbers to `within` (sums of fractions in another order).
fn same(at: &str, ours: &Value, theirs: &Value, within: f64) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(_)) => {
            a.iter()
                .for_each(|(k, v)| same(&format!("{at}.{k}"), v, &theirs[k], within));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            assert!((a - b).abs() < within, "{at}: {a} is not {b}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

/// All miniatures through the binary, one folder each.
#[test]
fn every_miniature_has_the_scores_that_were_computed_independently() {
    let dir = tempfile::tempdir().expect("a folder");
    let expected = read("expected.json");
    let expected = expected.as_object().expect("an object");
    // several forms of one set are called after it
    let suite_of = |name: &str| {
        name.trim_end_matches("-lines")
            .trim_end_matches("-tokens")
            .trim_end_matches("-retrieval")
            .to_owned()
    };
    let targets: Vec<String> = expected
        .keys()
        .map(|name| format!("{}={name}", suite_of(name)))
        .collect();
    for name in expected.keys() {
        lay_out(name, &dir.path().join(name));
    }
    for suite in benchmark::list() {
        assert!(
            expected.keys().any(|name| suite_of(name) == suite.name),
            "{} has no miniature",
            suite.name
        );
    }
    let model = format!("tiny={}", text(&fixtures().join("checkpoint")));
    let out = dir.path().join("out");
    let mut arguments = vec![
        "eval",
        "--partial",
        "--model",
        &model,
        "--data",
        text(dir.path()),
        "--out",
        text(&out),
    ];
    arguments.extend(targets.iter().map(String::as_str));
    succeeds(&arguments);
    for (name, expected) in expected {
        let path = out.join(format!("results/tiny/{}={name}.json", suite_of(name)));
        let result: Value = serde_json::from_slice(&fs::read(&path).expect(name)).expect("JSON");
        // means that are rounded to f32 on the way
        let within = if expected["task"] == "similarity" { 1e-6 } else { 1e-9 };
        same(name, &found(&result, expected), &expected["scores"], within);
    }
    // what is put together from groups: MMVP's and SugarCrepe's means of groups, Winoground's items as they are, ARO's four tasks
    let overall = |name: &str, metric: &str| {
        let result: Value =
            serde_json::from_slice(&fs::read(out.join(format!("results/tiny/{name}={name}.json"))).expect(name))
                .expect("JSON");
        metrics(&result)[&(metric.to_owned(), String::new())]
    };
    let share = |name: &str, group: &str, k: usize| {
        let group = &expected[name]["scores"][group];
        group["right"][k].as_f64().expect("a number") / group["items"].as_f64().expect("a number")
    };
    let names = |name: &str| {
        expected[name]["scores"]
            .as_object()
            .expect("groups")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    for name in ["sugarcrepe", "mmvp-vlm"] {
        let all: Vec<f64> = names(name).iter().map(|group| share(name, group, 0)).collect();
        assert!((overall(name, "accuracy") - mean(&all)).abs() < 1e-9, "{name}");
    }
    let (relation, attribution) = (
        [share("aro", "eating", 0), share("aro", "on", 0)],
        share("aro", "black_white", 0),
    );
    let aro = [mean(&relation), attribution, share("aro", "coco_order", 0)];
    assert!((overall("aro", "accuracy") - mean(&aro)).abs() < 1e-9);
    for (k, metric) in ["text_score", "image_score", "group_score"].into_iter().enumerate() {
        let sum = |what: &dyn Fn(&Value) -> f64| -> f64 {
            expected["winoground"]["scores"]
                .as_object()
                .expect("groups")
                .values()
                .map(what)
                .sum()
        };
        let right = sum(&|group| group["right"][k].as_f64().expect("a number"));
        let items = sum(&|group| group["items"].as_f64().expect("a number"));
        assert!((overall("winoground", metric) - right / items).abs() < 1e-9, "{metric}");
    }
}

#[test]
fn a_part_of_a_set_is_refused_unless_it_is_asked_for() {
    for suite in benchmark::list() {
        let dir = tempfile::tempdir().expect("a folder");
        let empty = benchmark::open(suite.name, dir.path(), &Options::default())
            .expect_err("an empty folder")
            .to_string();
        assert!(
            empty.contains(suite.name) || empty.contains("has no pictures"),
            "{empty}"
        );
        lay_out(suite.name, dir.path());
        // sets of the user's own have no size that they should have
        let own = ["zero-shot", "webdataset", "retrieval", "tux-stamps", "caption-pairs"].contains(&suite.name);
        match benchmark::open(suite.name, dir.path(), &Options::default()) {
            Ok(_) => assert!(own, "{}", suite.name),
            Err(e) => assert!(
                !own && e.to_string().contains(&dir.path().display().to_string()),
                "{}: {e}",
                suite.name
            ),
        }
        if !own {
            let partial = Options {
                partial: true,
                ..Options::default()
            };
            let protocol = benchmark::open(suite.name, dir.path(), &partial)
                .expect("a part")
                .protocol;
            assert!(protocol.contains("Only a part:"), "{protocol}");
        }
    }
}
