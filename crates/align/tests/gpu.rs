//! One step of every stage of every method on a graphics card beside the same on the CPU: loss, gradient and what has learnt. `scripts/check-gpu.sh` runs it.
//!
//! The optimizer is AdamW with a large `eps` for all methods: an update is then a smooth function of the gradient, where a small `eps`, and Lion's sign, would blow
//! rounding of a gradient near 0 up to whole steps. `crates/nn/tests/gpu.rs` compares the optimizers themselves.

mod common;
#[path = "common/ran.rs"]
mod ran;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use bifocal_align::Recipe;
use bifocal_align::methods::METHODS;
use bifocal_align::recipe::VqRecipe;
use bifocal_align::train::{Options, Overview, Progress, Silent, run};
use bifocal_align::vq;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine;
use ran::Ran;

/// Of losses and gradients in parts of their size, of weights as they are.
const TOLERANCE: f64 = 1e-3;

/// Whether there is a card; says so, once, where there is none.
fn card() -> bool {
    static CARD: OnceLock<bool> = OnceLock::new();
    *CARD.get_or_init(|| match engine::gpu() {
        Ok(device) => {
            println!("computing on {}", engine::name(&device));
            true
        }
        Err(error) => {
            println!("SKIPPED: {error}");
            false
        }
    })
}

/// Where a run says that it computes.
#[derive(Default)]
struct Place(String);

impl Progress for Place {
    fn started(&mut self, overview: &Overview) {
        self.0.clone_from(&overview.device);
    }
}

/// A step of every stage.
const ONE: [&str; 6] = [
    "schedule={ kind = \"constant\", steps = 1 }",
    "optimizer.kind=adamw",
    "optimizer.lr=0.05",
    "optimizer.eps=0.01",
    "optimizer.weight_decay=0.1",
    "run.checkpoint_every=1",
];

/// Runs a recipe on both and compares what they leave.
fn same(name: &str, recipe: impl Fn(&[&str]) -> Recipe, dir: &Path) {
    let ran = |device: &str| {
        let device_set = format!("compute.device={device}");
        let sets: Vec<&str> = ONE.into_iter().chain([device_set.as_str()]).collect();
        let mut recipe = recipe(&sets);
        for stage in recipe.stage.values_mut() {
            stage.schedule.steps = Some(1);
            stage.schedule.warmup = 0.0;
            stage.optimizer = recipe.optimizer.clone();
        }
        let options = Options {
            out: dir.join(format!("{name}-{device}")),
            resume: false,
        };
        let (mut place, clock) = (Place::default(), Instant::now());
        run(&recipe, &options, &mut place).unwrap_or_else(|error| panic!("{name} on the {device}: {error}"));
        assert_eq!(place.0 == "cpu", device == "cpu", "{name}: {}", place.0);
        (Ran::read(&options.out), clock.elapsed())
    };
    let ((here, _), (there, took)) = (ran("cpu"), ran("gpu"));
    let steps = here.metrics.len();
    assert!(
        steps > 0 && here.moments.values().flatten().any(|&g| g != 0.0),
        "{name}"
    );
    let distance = here.distance(&there);
    let furthest = furthest(&here.weights, &there.weights);
    println!(
        "{name}: {steps} steps in {:.1} s; from the CPU: loss and size of the gradient {:.1e}, gradient {:.1e}, weights {furthest:.1e}",
        took.as_secs_f64(),
        distance.later,
        distance.gradient,
    );
    assert!(distance.later <= TOLERANCE, "{name}: {distance:?}");
    assert!(distance.gradient <= TOLERANCE, "{name}: {distance:?}");
    assert!(furthest <= TOLERANCE, "{name}: a weight is {furthest} away");
}

/// The largest difference of two values.
fn furthest(a: &BTreeMap<String, Vec<f32>>, b: &BTreeMap<String, Vec<f32>>) -> f64 {
    assert!(a.keys().eq(b.keys()));
    let pairs = a.iter().flat_map(|(name, a)| a.iter().zip(&b[name]));
    pairs.map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max)
}

/// A run of a method on the tiny CLIP, with more settings.
fn on_clip(name: &str, method: &str, more: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let recipe = |sets: &[&str]| {
        let sets: Vec<&str> = more.iter().chain(sets).copied().collect();
        common::recipe(method, &model, &dir.path().join("cache"), &sets)
    };
    same(name, recipe, dir.path());
}

/// Those that have a test of their own below.
const OTHERS: [&str; 6] = ["llava", "blip2", "flamingo", "unified", "toklip", "ewc"];

#[test]
fn methods_of_two_towers() {
    if !card() {
        return;
    }
    for method in METHODS.iter().filter(|method| !OTHERS.contains(&method.name)) {
        on_clip(method.name, method.name, &[]);
    }
}

#[test]
fn pieces_sums_and_averages() {
    if !card() {
        return;
    }
    let sets = ["compute.micro_batch=2", "data.accumulate=2", "merge.average_every=1"];
    on_clip("clip in pieces", "clip", &sets);
}

#[test]
fn what_former_tasks_need() {
    if !card() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let former = format!("elastic.former={:?}", common::importance(&model, dir.path()));
    let recipe = |sets: &[&str]| {
        let sets: Vec<&str> = [former.as_str(), "elastic.batches=2"]
            .into_iter()
            .chain(sets.iter().copied())
            .collect();
        common::recipe("ewc", &model, &dir.path().join("cache"), &sets)
    };
    same("ewc", recipe, dir.path());
    // and what it leaves for the next
    let left = |device: &str| {
        let path = dir.path().join(format!("ewc-{device}/importance.safetensors"));
        let tensors = SafeTensors::open(&path).unwrap();
        let load = |name: String| (name.clone(), tensors.load(&name).unwrap().data);
        tensors.names().into_iter().map(load).collect::<BTreeMap<_, _>>()
    };
    let (here, there) = (left("cpu"), left("gpu"));
    let largest = here.values().flatten().fold(1.0f32, |most, v| most.max(v.abs()));
    let furthest = furthest(&here, &there) / f64::from(largest);
    println!("importance: {furthest:.1e} from the CPU, in parts of the largest");
    assert!(furthest <= TOLERANCE, "importance is {furthest} away");
}

/// Where tiny models are; the language model has a tokenizer of letters and digits inside, and room for 64 tokens.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures")
}

/// A method with a language model that writes.
fn writes(method: &str, vision: &dyn Fn(&Path) -> PathBuf, settings: &str) {
    let dir = tempfile::tempdir().unwrap();
    let captions = ["a dog at the sea", "two men ride", "a red train", "food"];
    let (data, _) = common::captioned(dir.path(), &captions);
    let (vision, text) = (vision(dir.path()), fixtures().join("tiny-qwen3.gguf"));
    let recipe = |sets: &[&str]| {
        let toml = format!(
            "method = {method:?}\nembed_dim = 24\nvision = {{ model = {vision:?} }}\ntext = {{ model = {text:?} }}\nchat.max_tokens = 64\n\
             run.cache = {:?}\n{settings}\n[data]\nbatch = 4\n[[data.sources]]\npath = {data:?}\n",
            dir.path().join("cache")
        );
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Recipe::parse(&toml, Path::new("test.toml"), None, &sets).unwrap()
    };
    same(method, recipe, dir.path());
}

#[test]
fn methods_that_write() {
    if !card() {
        return;
    }
    let clip = |dir: &Path| common::write_clip(dir);
    writes(
        "llava",
        &clip,
        "chat.template = \"v1\"\nchat.system = \"\"\nstage.tune = { skip = false, lora = { rank = 2, alpha = 4.0, dropout = 0.1 } }",
    );
    writes(
        "flamingo",
        &clip,
        "flamingo = { latents = 3, layers = 1, heads = 2, head = 4, every = 1 }",
    );
    let trunk = fixtures().join("sentence/labse");
    writes(
        "blip2",
        &clip,
        &format!("qformer = {{ trunk = {trunk:?}, queries = 3, dim = 8, max_tokens = 12 }}"),
    );
}

/// A bundle whose tower reads nine codes out of 24.
fn reads_codes(dir: &Path) -> PathBuf {
    let codes = common::on_codes(&common::write_codec(dir));
    let sets = ["schedule.steps=2", "freeze=[{ pattern = \"text.*\", frozen = true }]"];
    let sets: Vec<&str> = codes.iter().map(String::as_str).chain(sets).collect();
    let options = Options {
        out: dir.join("reads-codes"),
        resume: false,
    };
    let model = common::write_clip(dir);
    run(
        &common::recipe("clip", &model, &dir.join("cache"), &sets),
        &options,
        &mut Silent,
    )
    .unwrap();
    options.out.join("model")
}

#[test]
fn methods_of_codes() {
    if !card() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (model, codec) = (common::write_clip(dir.path()), common::write_codec(dir.path()));
    let (codes, teacher) = (common::on_codes(&codec), format!("teacher.model={model:?}"));
    let recipe = |sets: &[&str]| {
        let all = codes.iter().map(String::as_str).chain([teacher.as_str()]);
        let sets: Vec<&str> = all.chain(sets.iter().copied()).collect();
        common::recipe("toklip", &model, &dir.path().join("cache"), &sets)
    };
    same("toklip", recipe, dir.path());
    writes(
        "unified",
        &reads_codes,
        "lora = { rank = 2, alpha = 4.0 }\nunified = { drop = 0.3 }",
    );
}

#[test]
fn an_autoencoder_with_a_codebook() {
    if !card() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let autoencoder = dir.path().join("autoencoder");
    std::fs::create_dir_all(&autoencoder).unwrap();
    for part in ["pooled_encoder.safetensors", "pooled_decoder.safetensors"] {
        std::fs::copy(fixtures().join("vq").join(part), autoencoder.join(part)).unwrap();
    }
    let photos = common::photos();
    let ran = |device: &str| {
        let text = format!(
            "method = \"vq\"\ncompute.device = {device:?}\n[autoencoder]\nmodel = {autoencoder:?}\n[latent]\nwidths = [32, 32]\nz_channels = 8\n\
             [codebook]\ncodes = 24\ndim = 4\n[loss]\nlatents = 0.1\npixels = 1.0\nadversarial = 0.5\nadversarial_after = 0\n[optimizer]\nlr = 0.01\n\
             eps = 0.01\n[schedule]\nkind = \"constant\"\nwarmup = 0.0\nsteps = 1\n[data]\nsize = 48\nwindow = 32\nbatch = 4\n[[data.sources]]\n\
             path = {photos:?}\nholdout = 9\n[run]\ncheckpoint_every = 1\ncache = {:?}\n",
            dir.path().join("cache"),
        );
        let recipe = VqRecipe::parse(&text, Path::new("test.toml"), None, &[]).unwrap();
        let options = Options {
            out: dir.path().join(device),
            resume: false,
        };
        let clock = Instant::now();
        vq::run(&recipe, &options, &mut Silent).unwrap_or_else(|error| panic!("vq on the {device}: {error}"));
        (Ran::read(&options.out), clock.elapsed())
    };
    let ((here, _), (there, took)) = (ran("cpu"), ran("gpu"));
    let (distance, furthest) = (here.distance(&there), furthest(&here.weights, &there.weights));
    println!(
        "vq: a step in {:.1} s; from the CPU: loss and size of the gradient {:.1e}, gradient {:.1e}, weights {furthest:.1e}",
        took.as_secs_f64(),
        distance.later,
        distance.gradient,
    );
    assert!(
        distance.later <= TOLERANCE && distance.gradient <= TOLERANCE,
        "{distance:?}"
    );
    assert!(furthest <= TOLERANCE, "a weight is {furthest} away");
}
