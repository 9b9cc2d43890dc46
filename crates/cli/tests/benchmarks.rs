//! Miniatures of the benchmarks in their official layouts: a tiny checkpoint must get exactly the scores that transformers and numpy found
//! (scripts/fixtures/benchmark_scores.py).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_data::benchmark::{self, Benchmark, Composition, Options, Prompts, Rule, Task, Templates, TextTask};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_eval::{Direction, TemplateSet, class_weights, retrieval, zero_shot};
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
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
    copy(&fixtures().join("layouts").join(name), to);
    let places = read("pictures.json");
    for (path, picture) in places[name].as_object().into_iter().flatten() {
        let path = to.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::copy(fixtures().join(format!("pictures/{picture}.jpg")), path).expect("a picture");
    }
}

struct Scorer {
    model: Model,
    weights: HashMap<String, Vec<f32>>,
}

impl Scorer {
    fn new() -> Self {
        let model = Model::open(&fixtures().join("checkpoint"), &TextOptions::default()).expect("the checkpoint");
        Self {
            model,
            weights: HashMap::new(),
        }
    }

    fn texts<S: AsRef<str>>(&self, texts: &[S]) -> Vec<f32> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        self.model.embed_texts(&texts).expect("embeddings")
    }

    fn pictures(&self, images: &[ImageSource]) -> Vec<f32> {
        let preprocess = self.model.preprocess().expect("a vision tower");
        let loaded = load_images(images, preprocess, &Limits::default()).expect("valid settings");
        assert!(loaded.bad.is_empty(), "{:?}", loaded.bad);
        self.model
            .embed_images(&loaded.pixels, images.len())
            .expect("embeddings")
    }

    fn class_weights(&mut self, prompts: &Prompts) -> Vec<f32> {
        let set = match &prompts.templates {
            Templates::Named(name) => TemplateSet::named(name).expect("a set of that name"),
            Templates::Given { name, texts } => TemplateSet::new(name, texts).expect("templates"),
        };
        // ImageNet's 80,000 prompts are asked for several times
        let key = format!("{:?} {}", prompts.names, set.name);
        if let Some(known) = self.weights.get(&key) {
            return known.clone();
        }
        let rows = self.texts(&set.prompts(&prompts.names));
        let made = class_weights(&rows, set.templates.len(), self.model.dim()).expect("weights");
        self.weights.insert(key, made.clone());
        made
    }

    fn scores(&mut self, benchmark: &Benchmark) -> Value {
        let dim = self.model.dim();
        match &benchmark.task {
            Task::Classification(task) => {
                let prompts = &task.prompts[0];
                let asked: Vec<(usize, usize)> = (0..task.images.len())
                    .filter_map(|i| Some((i, prompts.classes.binary_search(&task.labels[i]).ok()?)))
                    .collect();
                let (rows, labels): (Vec<usize>, Vec<usize>) = asked.into_iter().unzip();
                let images: Vec<ImageSource> = rows.iter().map(|&i| task.images[i].clone()).collect();
                let weights = self.class_weights(prompts);
                let headline = match task.headline {
                    benchmark::Accuracy::Top1 => "top-1",
                    benchmark::Accuracy::MeanPerClass => "mean-per-class",
                };
                let report = zero_shot(&self.pictures(&images), &weights, dim, &labels).expect("scores");
                json!({"pictures": report.images, "classes": report.classes, "top1": report.top1, "top5": report.top5,
                       "mean_per_class": report.mean_per_class, "headline": headline})
            }
            Task::Retrieval(task) => {
                let images = self.pictures(&task.images);
                let languages = task.languages.iter().map(|l| {
                    let (texts, owners): (Vec<&str>, Vec<usize>) = l.captions.iter().map(|(t, i)| (t.as_str(), *i)).unzip();
                    let report = retrieval(&images, &self.texts(&texts), dim, &owners).expect("scores");
                    let recall = |d: &Direction| json!({"r1": d.r1, "r5": d.r5, "r10": d.r10});
                    let scores = json!({"pictures": report.images, "captions": report.texts,
                                        "text_to_image": recall(&report.text_to_image), "image_to_text": recall(&report.image_to_text)});
                    (l.language.clone(), scores)
                });
                languages.collect::<serde_json::Map<_, _>>().into()
            }
            Task::Composition(task) => self.composition(task),
            Task::Texts(TextTask::CaptionPairs(pairs)) => {
                let scores = pairs.iter().map(|pair| {
                    let owners: Vec<usize> = (0..pair.queries.len()).collect();
                    let (queries, candidates) = (self.texts(&pair.queries), self.texts(&pair.candidates));
                    let found = retrieval(&candidates, &queries, dim, &owners)
                        .expect("scores")
                        .text_to_image;
                    let scores = json!({"queries": found.queries, "r1": found.r1, "r5": found.r5, "r10": found.r10});
                    (pair.name.clone(), scores)
                });
                scores.collect::<serde_json::Map<_, _>>().into()
            }
            Task::Texts(TextTask::Similarity(rows)) => {
                let (first, second): (Vec<&str>, Vec<&str>) =
                    rows.iter().map(|(a, b, _)| (a.as_str(), b.as_str())).unzip();
                let (first, second) = (self.texts(&first), self.texts(&second));
                let cosines = first.chunks_exact(dim).zip(second.chunks_exact(dim));
                let cosines: Vec<f64> = cosines.map(|(a, b)| f64::from(dot(a, b))).collect();
                let scores: Vec<f64> = rows.iter().map(|r| r.2).collect();
                json!({"pairs": rows.len(), "spearman": spearman(&cosines, &scores)})
            }
        }
    }

    fn composition(&self, task: &Composition) -> Value {
        let dim = self.model.dim();
        let images = self.pictures(&task.images);
        let group = |group: &benchmark::Group| {
            let mut right: Vec<usize> = Vec::new();
            for item in &group.items {
                let texts = self.texts(&item.texts);
                let s = |i: usize, t: usize| dot(&images[item.images[i] * dim..][..dim], &texts[t * dim..][..dim]);
                let others = 1..item.texts.len();
                let found = match group.rule {
                    Rule::Strict => vec![others.clone().all(|t| s(0, 0) > s(0, t))],
                    Rule::FirstOfEqual => vec![others.clone().all(|t| s(0, 0) >= s(0, t))],
                    Rule::Winoground => {
                        let text = s(0, 0) > s(0, 1) && s(1, 1) > s(1, 0);
                        let image = s(0, 0) > s(1, 0) && s(1, 1) > s(0, 1);
                        vec![text, image, text && image]
                    }
                    Rule::Mmvp => vec![s(0, 0) > s(1, 0) && s(0, 1) <= s(1, 1)],
                };
                right.resize(found.len(), 0);
                right
                    .iter_mut()
                    .zip(found)
                    .for_each(|(sum, found)| *sum += usize::from(found));
            }
            let scores = json!({"part_of": group.part_of, "items": group.items.len(), "right": right});
            (group.name.clone(), scores)
        };
        task.groups.iter().map(group).collect::<serde_json::Map<_, _>>().into()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Pearson's correlation of ranks, where equals share theirs.
fn spearman(a: &[f64], b: &[f64]) -> f64 {
    let ranks = |v: &[f64]| -> Vec<f64> {
        let rank =
            |x: &f64| v.iter().filter(|y| *y < x).count() as f64 + v.iter().filter(|y| *y == x).count() as f64 / 2.0;
        v.iter().map(rank).collect()
    };
    let centred = |v: Vec<f64>| -> Vec<f64> {
        let mean = v.iter().sum::<f64>() / v.len() as f64;
        v.iter().map(|x| x - mean).collect()
    };
    let (a, b) = (centred(ranks(a)), centred(ranks(b)));
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

/// Numbers to 1e-12 (sums of fractions in another order), all else exactly.
fn same(at: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{at}");
            a.iter().for_each(|(k, v)| same(&format!("{at}.{k}"), v, &b[k]));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            assert!((a - b).abs() < 1e-12, "{at}: {a} is not {b}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

#[test]
fn every_miniature_has_the_scores_that_were_computed_independently() {
    let mut scorer = Scorer::new();
    let expected = read("expected.json");
    let options = Options {
        partial: true,
        ..Options::default()
    };
    let mut suites: Vec<&str> = Vec::new();
    for (name, expected) in expected.as_object().expect("an object") {
        let dir = tempfile::tempdir().expect("a folder");
        lay_out(name, dir.path());
        // several forms of one set are called after it
        let suite = name
            .trim_end_matches("-lines")
            .trim_end_matches("-tokens")
            .trim_end_matches("-retrieval");
        let benchmark = benchmark::open(suite, dir.path(), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(benchmark.name, suite);
        same(name, &scorer.scores(&benchmark), &expected["scores"]);
        suites.push(suite);
    }
    for suite in benchmark::list() {
        assert!(suites.contains(&suite.name), "{} has no miniature", suite.name);
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
