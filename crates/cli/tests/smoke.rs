//! The recipes that are shipped, with their smoke profiles and real encoders: each trains, and its losses are what they were.
//!
//! `golden/<recipe>.json` holds the losses; `BIFOCAL_WRITE_GOLDEN=1` writes them anew. The features of frozen towers are cached once for all.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use bifocal_align::train::metrics::Metrics;
use common::{samples, text, tiny};
use serde_json::{Value, json};

/// Processors round differently, and each step builds on the one before.
const TOLERANCE: f32 = 2e-3;
/// Photos that are learnt from, and captions of each: a language model reads them all.
const PHOTOS: usize = 16;
const CAPTIONS: usize = 2;

/// What all runs share.
struct Smoke {
    dir: tempfile::TempDir,
    wrong: Vec<String>,
}

impl Smoke {
    /// A few of the samples' photos.
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let all = fs::read_to_string(samples("photos/captions.jsonl")).expect("samples");
        let mut rows = String::new();
        for line in all.lines().take(PHOTOS) {
            let mut row: Value = serde_json::from_str(line).expect("JSON");
            let image = row["image"].as_str().expect("a name").to_owned();
            let copy = dir.path().join("photos").join(&image);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("create");
            fs::copy(samples("photos").join(&image), copy).expect("copy");
            row["captions"]["en"]
                .as_array_mut()
                .expect("captions")
                .truncate(CAPTIONS);
            rows += &format!("{row}\n");
        }
        fs::write(dir.path().join("photos/captions.jsonl"), rows).expect("write");
        Self { dir, wrong: Vec::new() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Trains a recipe with a profile as `name`, and compares its losses; gives the bundle.
    fn run(&mut self, name: &str, recipe: &str, profile: &str, sets: &[String]) -> PathBuf {
        let out = self.at(name);
        let sources = |key: &str| format!("{key}=[{{path={:?}}}]", text(&self.at("photos")));
        let mut sets = sets.to_vec();
        sets.push(sources("data.sources"));
        sets.push("run.checkpoint_every=100".to_owned()); // the disk is not what is tested here
        sets.push(format!("run.cache={:?}", text(&self.at("cache"))));
        let recipe = format!("recipes/{recipe}.toml");
        let mut args = vec!["train", &recipe, "--profile", profile, "--out", text(&out)];
        sets.iter().for_each(|set| args.extend(["--set", set]));
        let clock = std::time::Instant::now();
        let mut command = common::bifocal(&args);
        let output = command.current_dir(samples("..")).output().expect("the binary starts");
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {message}");
        let lines = fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
        let metrics = |line: &str| serde_json::from_str::<Metrics>(line).expect("a line of metrics.jsonl");
        let losses: Vec<f32> = lines.lines().map(|line| metrics(line).loss).collect();
        println!("{name}: {losses:?} in {:.1} s", clock.elapsed().as_secs_f64());
        self.compare(name, &losses);
        let bundle = out.join("model");
        assert!(bundle.join("bifocal.json").is_file(), "{name}: no bundle");
        bundle
    }

    fn compare(&mut self, name: &str, losses: &[f32]) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
        if std::env::var_os("BIFOCAL_WRITE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("create");
            fs::write(&path, format!("{:#}\n", json!({ "losses": losses }))).expect("write");
            return;
        }
        let golden = fs::read(&path).expect("a golden curve; BIFOCAL_WRITE_GOLDEN=1 writes it");
        let golden: Value = serde_json::from_slice(&golden).expect("JSON");
        let golden: Vec<f32> = serde_json::from_value(golden["losses"].clone()).expect("losses");
        let near = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * b.abs();
        if golden.len() != losses.len() || !losses.iter().zip(&golden).all(near) {
            self.wrong.push(format!("{name}: {losses:?}, not {golden:?}"));
        }
    }
}

#[test]
fn every_recipe_trains_as_it_did() {
    if std::env::var_os("BIFOCAL_MODELS").is_none() {
        println!("skipped: set BIFOCAL_MODELS (see CONTRIBUTING.md) to train the recipes with real encoders");
        return;
    }
    let mut smoke = Smoke::new();
    let clip = smoke.run("clip", "clip", "smoke", &[]);
    for recipe in ["siglip", "lit", "sharelock", "sail", "flame", "llm2clip", "lift"] {
        smoke.run(recipe, recipe, "smoke", &[]);
    }
    let captions = format!("stage.caption.data.sources=[{{path={:?}}}]", text(&smoke.at("photos")));
    smoke.run("llm2clip-tuned", "llm2clip", "smoke-tuned", &[captions]);
    for recipe in ["llava", "blip2", "flamingo"] {
        smoke.run(recipe, recipe, "smoke", &[]);
    }
    let dialogues = format!("stage.tune.data.sources=[{{path={:?}}}]", text(&smoke.at("photos")));
    smoke.run("llava-tuned", "llava", "smoke-tuned", &[dialogues]);
    smoke.run(
        "proclip",
        "proclip",
        "smoke",
        &[format!("vision.model={:?}", text(&clip))],
    );
    let codes = [
        format!("vision.codes.model={:?}", text(&tiny::write_codec(smoke.dir.path()))),
        format!("text.model={:?}", text(&clip)),
        format!("teacher.model={:?}", text(&clip)),
    ];
    let toklip = smoke.run("toklip", "toklip", "smoke", &codes);
    let tokens = [format!("vision.model={:?}", text(&toklip))];
    smoke.run("unified", "unified", "smoke", &tokens);
    let both = ["vision", "text"].map(|side| format!("{side}.model={:?}", text(&clip)));
    for recipe in ["cclip", "ewc", "zscl"] {
        smoke.run(recipe, recipe, "smoke", &both);
    }
    let former = smoke.at("ewc/importance.safetensors");
    let mut after = ["vision", "text"]
        .map(|side| format!("{side}.model={:?}", text(&smoke.at("ewc/model"))))
        .to_vec();
    after.push(format!("elastic.former={:?}", text(&former)));
    smoke.run("ewc-after", "ewc", "smoke", &after);
    assert!(smoke.wrong.is_empty(), "{:#?}", smoke.wrong);
}
