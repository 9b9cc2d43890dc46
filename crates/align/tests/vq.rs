//! Training of a codebook on the latents of a frozen autoencoder.

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bifocal_align::recipe::{RecipeError, VqRecipe};
use bifocal_align::train::metrics::Metrics;
use bifocal_align::train::{Options, Progress, StepReport, TrainError};
use bifocal_align::vq::{VqSummary, overview, run};
use bifocal_models::vq::Codec;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;

fn recipes(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name)
}

/// A folder with a tiny autoencoder of five channels and random weights.
fn autoencoder(dir: &Path) -> PathBuf {
    let folder = dir.join("autoencoder");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["pooled_encoder.safetensors", "pooled_decoder.safetensors"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../models/tests/fixtures/vq")
            .join(name);
        std::fs::copy(from, folder.join(name)).unwrap();
    }
    folder
}

fn recipe(dir: &Path, sets: &[&str]) -> VqRecipe {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples/photos");
    let text = format!(
        "method = \"vq\"\n[autoencoder]\nmodel = {:?}\n[latent]\nwidths = [32, 32]\nz_channels = 8\n[codebook]\ncodes = 24\ndim = 4\nrevive_every = 2\n\
         [optimizer]\nlr = 3e-3\n[schedule]\nkind = \"cosine\"\nwarmup = 2.0\nsteps = 6\n[data]\nsize = 48\nwindow = 32\nbatch = 4\n\
         [[data.sources]]\npath = {photos:?}\nholdout = 9\n[run]\ncheckpoint_every = 2\nevaluate_every = 3\ncache = {:?}\n",
        autoencoder(dir),
        dir.join("cache"),
    );
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    VqRecipe::parse(&text, Path::new("test.toml"), None, &sets).unwrap()
}

/// Ends a run after some step: by asking it to stop, or as if it were killed.
struct Until {
    step: u64,
    kill: bool,
    seen: u64,
}

impl Progress for Until {
    fn step(&mut self, report: &StepReport<'_>) {
        self.seen = report.metrics.step;
        assert!(!(self.kill && self.seen == self.step), "killed");
    }

    fn stop(&mut self) -> bool {
        self.seen == self.step
    }
}

fn goes(recipe: &VqRecipe, out: &Path, resume: bool, step: u64, kill: bool) -> Result<VqSummary, TrainError> {
    let options = Options {
        out: out.to_owned(),
        resume,
    };
    run(recipe, &options, &mut Until { step, kill, seen: 0 })
}

fn to_the_end(recipe: &VqRecipe, out: &Path, resume: bool) -> BTreeMap<PathBuf, Vec<u8>> {
    let summary = goes(recipe, out, resume, u64::MAX, false).unwrap();
    assert_eq!(summary.steps, recipe.schedule.steps.unwrap());
    assert!(summary.model.is_some() && summary.evaluation.is_some());
    let all = common::files(out).into_iter();
    all.map(|(path, bytes)| (path.strip_prefix(out).unwrap().to_owned(), bytes))
        .filter(|(path, _)| !["timings.jsonl", "lock"].contains(&&*path.to_string_lossy()))
        .collect()
}

#[test]
fn an_interrupted_run_equals_an_unbroken_one() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &[]);
    let unbroken = to_the_end(&recipe, &dir.path().join("unbroken"), false);
    for name in [
        "metrics.jsonl",
        "evaluations.jsonl",
        "model/vq.json",
        "model/vq.safetensors",
    ] {
        assert!(unbroken.contains_key(Path::new(name)), "{name}");
    }
    let last = Path::new("checkpoints/step-000000000006");
    for kill in [true, false] {
        for step in 1..6 {
            let out = dir.path().join(format!("{kill}-{step}"));
            match catch_unwind(AssertUnwindSafe(|| goes(&recipe, &out, false, step, kill))) {
                Err(_) => assert!(kill),
                Ok(summary) => {
                    let summary = summary.unwrap();
                    assert!(!kill && summary.model.is_none() && summary.steps == step);
                }
            }
            let mut resumed = to_the_end(&recipe, &out, true);
            // a run that was asked to stop has a checkpoint more, and those in between are others
            let between = |path: &Path| path.starts_with("checkpoints") && !path.starts_with(last);
            resumed.retain(|path, _| !between(path));
            let mut expected = unbroken.clone();
            expected.retain(|path, _| !between(path));
            assert_eq!(resumed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (path, bytes) in &expected {
                assert!(
                    resumed[path] == *bytes,
                    "{kill} after {step}: {} differs",
                    path.display()
                );
            }
        }
    }
    // once more at its end: nothing changes
    assert_eq!(to_the_end(&recipe, &dir.path().join("unbroken"), true), unbroken);
}

/// Pixels and a discriminator from the third step on.
const SEES: [&str; 4] = [
    "loss.latents=0.1",
    "loss.pixels=1",
    "loss.adversarial=0.5",
    "loss.adversarial_after=2",
];

#[test]
fn a_discriminator_is_interrupted_and_goes_on_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &SEES);
    let unbroken = to_the_end(&recipe, &dir.path().join("unbroken"), false);
    let all = metrics(&dir.path().join("unbroken"));
    let has = |name: &str| all.iter().map(|m| m.terms.contains_key(name)).collect::<Vec<_>>();
    assert_eq!(has("pixels"), [true; 6]);
    assert_eq!(has("adversarial"), [false, false, true, true, true, true]);
    assert_eq!(has("adversarial"), has("discriminator"));
    let last = dir.path().join("unbroken/checkpoints/step-000000000006");
    let moments = SafeTensors::open(&last.join("optimizer.safetensors")).unwrap();
    let judges = SafeTensors::open(&last.join("weights.safetensors")).unwrap().names();
    let judges: Vec<&String> = judges
        .iter()
        .filter(|name| name.starts_with("discriminator."))
        .collect();
    // five convolutions, three of them with a norm in place of a bias
    assert_eq!(judges.len(), 5 + 2 + 3 * 2);
    for name in judges {
        let m = moments.load(&format!("m.{name}")).expect("it learns").data;
        assert!(m.iter().any(|v| *v != 0.0), "nothing reaches {name}");
    }
    for step in [1, 3, 5] {
        let out = dir.path().join(step.to_string());
        assert!(catch_unwind(AssertUnwindSafe(|| goes(&recipe, &out, false, step, true))).is_err());
        let resumed = to_the_end(&recipe, &out, true);
        for name in [
            "metrics.jsonl",
            "model/vq.safetensors",
            "checkpoints/step-000000000006/weights.safetensors",
        ] {
            assert!(
                resumed[Path::new(name)] == unbroken[Path::new(name)],
                "killed after {step}: {name}"
            );
        }
    }
    // the finished model has none of it
    let names = SafeTensors::open(&dir.path().join("unbroken/model/vq.safetensors"))
        .unwrap()
        .names();
    assert!(names.iter().all(|name| !name.contains("discriminator")));
}

#[test]
fn pixels_and_features_of_what_is_made_come_nearer() {
    let dir = tempfile::tempdir().unwrap();
    let mut sets = vec![
        "schedule.steps=60",
        "codebook.revive_every=10",
        "loss.latents=0",
        "loss.pixels=10",
        "optimizer.lr=3e-3",
    ];
    let model = std::env::var_os("BIFOCAL_MODELS").map(|folder| Path::new(&folder).join("efficientnet-lite0"));
    let perceptual = match model.filter(|model| model.is_dir()) {
        Some(model) => format!("loss.perceptual_model={}", model.display()),
        None => {
            eprintln!("perceptual loss skipped: BIFOCAL_MODELS has no efficientnet-lite0");
            String::new()
        }
    };
    if !perceptual.is_empty() {
        sets.extend(["loss.perceptual=1", perceptual.as_str()]);
    }
    let out = dir.path().join("run");
    to_the_end(&recipe(dir.path(), &sets), &out, false);
    let all = metrics(&out);
    for name in ["pixels", "perceptual"] {
        let Some(first) = all[0].terms.get(name) else {
            continue;
        };
        let mean =
            |range: std::ops::Range<usize>| range.clone().map(|i| all[i].terms[name]).sum::<f32>() / range.len() as f32;
        let last = mean(50..60);
        assert!(
            *first > 0.0 && last < 0.95 * mean(0..5),
            "{name}: {first} at first, {last} at last"
        );
    }
    let mut nowhere = recipe(dir.path(), &["loss.perceptual=1"]);
    nowhere.loss.perceptual_model = "nowhere/eye".into();
    let error = overview(&nowhere).unwrap_err().to_string();
    assert!(error.contains("loss.perceptual_model"), "{error}");
}

#[test]
fn all_of_the_network_learns_and_the_autoencoder_stays() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &[]);
    let planned = overview(&recipe).unwrap();
    assert_eq!(
        (planned.pictures, planned.held_out, planned.steps, planned.factor),
        (41, 9, 6, 16)
    );
    let out = dir.path().join("run");
    let files = to_the_end(&recipe, &out, false);
    let moments = SafeTensors::open(&out.join("checkpoints/step-000000000006/optimizer.safetensors")).unwrap();
    let weights = SafeTensors::open(&out.join("checkpoints/step-000000000006/weights.safetensors")).unwrap();
    let mut learns = 0;
    for name in weights.names().into_iter().filter(|name| name != "codes.chosen") {
        let m = moments.load(&format!("m.{name}")).expect("it learns").data;
        assert!(m.iter().any(|v| *v != 0.0), "nothing reaches {name}");
        learns += m.len();
    }
    assert_eq!(learns, planned.learns);
    assert_eq!(moments.names().len(), 2 * (weights.names().len() - 1));
    for part in ["encoder", "decoder"] {
        let before = std::fs::read(autoencoder(dir.path()).join(format!("pooled_{part}.safetensors"))).unwrap();
        assert!(files[Path::new(&format!("model/frozen_{part}.safetensors"))] == before);
    }
    let codec = Codec::open(&out.join("model")).unwrap();
    assert_eq!((codec.codes(), codec.factor(), codec.size()), (Some(24), 16, 48));
    let held: Vec<bifocal_align::vq::HeldOut> = serde_json::from_slice(&files[Path::new("holdout.json")]).unwrap();
    assert_eq!(held.len(), 9);
}

fn metrics(out: &Path) -> Vec<Metrics> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn it_learns() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &["schedule.steps=60", "codebook.revive_every=10"]);
    let out = dir.path().join("run");
    to_the_end(&recipe, &out, false);
    let all = metrics(&out);
    let mean = |range: std::ops::Range<usize>| {
        let some = &all[range];
        some.iter().map(|m| m.terms["latents"]).sum::<f32>() / some.len() as f32
    };
    let (first, last) = (mean(0..5), mean(55..60));
    assert!(last < 0.8 * first, "{first} at first, {last} at last");
    assert!(all.iter().all(|m| m.terms["codes"] >= 1.0));
}

/// Before the first step all codes become latents of the pictures: those are nearer than random ones.
#[test]
fn codes_begin_as_latents() {
    let dir = tempfile::tempdir().unwrap();
    let first = |sets: &[&str], name: &str| {
        let out = dir.path().join(name);
        to_the_end(&recipe(dir.path(), sets), &out, false);
        metrics(&out)[0].terms["commitment"]
    };
    let (revived, random) = (
        first(&["schedule.steps=1"], "a"),
        first(&["schedule.steps=1", "codebook.revive_every=0"], "b"),
    );
    assert!(revived < 0.5 * random, "{revived} {random}");
}

#[test]
fn another_run_in_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    to_the_end(&recipe(dir.path(), &[]), &out, false);
    let refused = |recipe: &VqRecipe, resume: bool, part: &str| {
        let error = goes(recipe, &out, resume, u64::MAX, false).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&recipe(dir.path(), &[]), false, "--resume");
    refused(&recipe(dir.path(), &["codebook.codes=25"]), true, "codebook.codes");
    let mut other = recipe(dir.path(), &[]);
    other.autoencoder.model = "nowhere/taef2".into();
    let error = goes(&other, &dir.path().join("other"), false, u64::MAX, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("autoencoder.model"), "{error}");
}

#[test]
fn a_step_that_explodes_is_left_out_or_ends_the_run() {
    let dir = tempfile::tempdir().unwrap();
    // after fifty steps, any loss is more than a millionth of what is usual
    let sets = [
        "run.explode=1e-6",
        "schedule.steps=52",
        "data.size=16",
        "data.window=16",
        "data.batch=2",
    ];
    match goes(
        &recipe(dir.path(), &sets),
        &dir.path().join("stops"),
        false,
        u64::MAX,
        false,
    ) {
        Err(TrainError::BadStep { step, listed, .. }) => assert!(step == 51 && listed.is_file()),
        other => panic!("it went well: {other:?}"),
    }
    let skips = recipe(dir.path(), &[&sets[..], &["run.bad_step=skip"]].concat());
    let out = dir.path().join("skips");
    let summary = goes(&skips, &out, false, u64::MAX, false).unwrap();
    assert_eq!((summary.steps, summary.skipped_steps), (52, 2));
    assert!(metrics(&out)[49..].iter().map(|m| m.skipped).eq([false, true, true]));
}

#[test]
fn the_projects_recipe_holds_in_every_profile() {
    assert!(VqRecipe::is(&recipes("vq.toml")) && !VqRecipe::is(&recipes("clip.toml")));
    for profile in [None, Some("smoke"), Some("lab"), Some("paper")] {
        let recipe = VqRecipe::load(&recipes("vq.toml"), profile, &[]).unwrap_or_else(|e| panic!("{profile:?}: {e}"));
        // what is written beside a run is the recipe
        let again = VqRecipe::parse(&recipe.to_toml(), Path::new("again.toml"), None, &[]).unwrap();
        assert_eq!(again.differences(&recipe), Vec::<String>::new());
    }
    let source = "[[data.sources]]\npath = \"p\"\n";
    let wrong = |text: &str, part: &str| {
        let text = format!("method = \"vq\"\n{text}\n{source}");
        let error = VqRecipe::parse(&text, Path::new("w.toml"), None, &[])
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{text}: {error}");
    };
    wrong("schedule.steps = 3\n[latent]\nwidth = [32]", "did you mean \"widths\"");
    wrong("[latent]\nwidths = [32]", "schedule.steps");
    wrong("schedule.steps = 3\nlatent.widths = [33]", "multiple of 32");
    wrong("schedule.steps = 3\ndata.window = 40", "data.window");
    wrong("schedule.steps = 3\ndata.window = 512", "data.window");
    wrong(
        "schedule.steps = 3\noptimizer.layer_decay = { vision = 0.5 }",
        "layer_decay",
    );
    wrong("schedule.steps = 3\ncompute.micro_batch = 2", "micro_batch");
    wrong("schedule.steps = 3\nloss.latents = 0", "how like the picture");
    wrong(
        "schedule.steps = 3\ndata.window = 16\nloss.adversarial = 1",
        "32 pixels",
    );
    let file = recipes("vq.toml");
    let set = |set: &str| VqRecipe::load(&file, None, &[set.to_owned()]);
    assert!(matches!(set("codebook.code=3").unwrap_err(), RecipeError::Set { .. }));
    assert_eq!(set("codebook.codes=512").unwrap().codebook.codes, 512);
    let profile = VqRecipe::load(&file, Some("none"), &[]).unwrap_err().to_string();
    assert!(profile.contains("smoke"), "{profile}");
}
