//! What holds a model near what it was while it learns a task: EWC and ZSCL, over whole runs.

mod common;
#[path = "common/ran.rs"]
mod ran;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bifocal_align::train::{Options, Silent, overview, run};
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use ran::Ran;

fn ran(method: &str, model: &Path, out: &Path, sets: &[&str]) -> Ran {
    let recipe = common::recipe(method, model, &out.parent().unwrap().join("cache"), sets);
    let options = Options {
        out: out.to_owned(),
        resume: false,
    };
    run(&recipe, &options, &mut Silent).unwrap();
    Ran::read(out)
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let tensors = SafeTensors::open(path).unwrap();
    let load = |name: String| (name.clone(), tensors.load(&name).unwrap().data);
    tensors.names().into_iter().map(load).collect()
}

fn former(path: &Path) -> String {
    format!("elastic.former={:?}", path.display().to_string())
}

/// What a recipe of `clip` has to say to be the task of the others.
const AS_TASK: [&str; 8] = [
    "image_head.kind=identity",
    "text_head.kind=identity",
    "loss.scale_pretrained=true",
    "optimizer.weight_decay=0",
    "optimizer.betas=[0.9, 0.99]",
    "optimizer.eps=1e-8",
    "optimizer.clip_norm=1",
    "merge.average_every=0",
];

fn same(a: &Ran, b: &Ran) {
    assert!(a.losses().eq(b.losses()));
    assert!(a.weights == b.weights && a.moments == b.moments);
}

#[test]
fn without_weight_both_are_clip_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let clip = ran("clip", &model, &dir.path().join("clip"), &AS_TASK);
    // the first task has nothing to hold on to
    let first = ran("ewc", &model, &dir.path().join("first"), &AS_TASK);
    same(&clip, &first);
    let file = dir.path().join("first/importance.safetensors");
    let sets: Vec<&str> = AS_TASK.into_iter().chain(["elastic.weight=0"]).collect();
    let path = former(&file);
    let sets: Vec<&str> = sets.into_iter().chain([path.as_str()]).collect();
    same(&clip, &ran("ewc", &model, &dir.path().join("second"), &sets));
    // it hands on what it was given all the same
    let (before, after) = (
        tensors(&file),
        tensors(&dir.path().join("second/importance.safetensors")),
    );
    assert!(before.keys().eq(after.keys()));
    for (name, a) in before.iter().filter(|(name, _)| name.starts_with("importance.")) {
        assert!(a.iter().zip(&after[name]).all(|(a, b)| b >= a), "{name}");
    }
    let frozen = "freeze=[{pattern=\"logit_scale\", frozen=true}]";
    let task: Vec<&str> = AS_TASK.into_iter().chain([frozen]).collect();
    let clip = ran("clip", &model, &dir.path().join("clip-frozen"), &task);
    let sets: Vec<&str> = AS_TASK
        .into_iter()
        .chain(["reference.weight=0", "loss.smoothing=0"])
        .collect();
    same(&clip, &ran("zscl", &model, &dir.path().join("zscl"), &sets));
}

/// The squared gradient of the batch that would come next, at the weights that the run ends with.
#[test]
fn importance_is_the_squared_gradient_at_the_finished_weights() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let common = [
        "schedule.kind=constant",
        "schedule.warmup=0",
        "run.checkpoint_every=1",
        "run.keep=9",
        "optimizer={lr=1e-3, weight_decay=0, betas=[0.5, 0.9], clip_norm=1e9}",
    ];
    let sets = |more: &[&'static str]| common.into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
    let short = ran(
        "ewc",
        &model,
        &dir.path().join("short"),
        &sets(&["schedule.steps=3", "elastic.batches=1"]),
    );
    let long = ran(
        "ewc",
        &model,
        &dir.path().join("long"),
        &sets(&["schedule.steps=4", "elastic.batches=1"]),
    );
    let found = tensors(&dir.path().join("short/importance.safetensors"));
    let before = tensors(
        &dir.path()
            .join("long/checkpoints/step-000000000003/optimizer.safetensors"),
    );
    assert_eq!(found.len(), 2 * short.weights.len());
    for (name, weights) in &short.weights {
        assert_eq!(found[&format!("center.{name}")], *weights, "{name}");
        let key = format!("m.{name}");
        // m₄ = m₃ / 2 + g / 2
        let slopes: Vec<f32> = before[&key]
            .iter()
            .zip(&long.moments[&key])
            .map(|(m, n)| 2.0 * n - m)
            .collect();
        let largest = slopes.iter().fold(0.0f32, |most, g| most.max(g.abs()));
        assert!(largest > 0.0, "{name}");
        for (g, f) in slopes.iter().zip(&found[&format!("importance.{name}")]) {
            assert!((g * g - f).abs() <= 1e-4 * largest * largest, "{name}: {g}² is not {f}");
        }
    }
}

/// The further a weight is from where former tasks need it, as they need it.
fn strain(weights: &BTreeMap<String, Vec<f32>>, held: &BTreeMap<String, Vec<f32>>) -> f64 {
    let of = |(name, x): (&String, &Vec<f32>)| {
        let (a, c) = (&held[&format!("importance.{name}")], &held[&format!("center.{name}")]);
        let term = |i: usize| f64::from(a[i]) * f64::from(x[i] - c[i]).powi(2);
        (0..x.len()).map(term).sum::<f64>()
    };
    weights.iter().map(of).sum()
}

#[test]
fn a_task_moves_less_of_what_former_ones_need() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let sets = ["optimizer.lr=3e-3", "elastic.batches=8", "schedule.steps=6"];
    ran("ewc", &model, &dir.path().join("first"), &sets);
    let file = dir.path().join("first/importance.safetensors");
    let held = tensors(&file);
    let bundle = dir.path().join("first/model");
    let path = former(&file);
    let emoji = common::photos().join("../emoji").display().to_string();
    let other = format!("data.sources=[{{path={emoji:?}, languages=[\"en\"]}}]");
    let mut strains = Vec::new();
    for weight in ["elastic.weight=0", "elastic.weight=1e4", "elastic.weight=1e7"] {
        let out = dir.path().join(weight);
        let sets = [
            "optimizer.lr=3e-3",
            "schedule.steps=40",
            "run.explode=0",
            "seed=7",
            other.as_str(),
            weight,
            path.as_str(),
        ];
        let ran = ran("ewc", &bundle, &out, &sets);
        let names = |m: &bifocal_align::train::metrics::Metrics| m.terms.keys().cloned().collect::<Vec<_>>();
        let expected: &[&str] = if strains.is_empty() {
            &["infonce"]
        } else {
            &["elastic", "infonce"]
        };
        assert_eq!(names(&ran.metrics[0]), expected);
        strains.push(strain(&ran.weights, &held));
    }
    println!("{strains:?}");
    assert!(strains[0] > 2.0 * strains[1] && strains[1] > strains[2], "{strains:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let path = former(&common::importance(&model, dir.path()));
    let refused = |sets: &[&str]| {
        let recipe = common::recipe("ewc", &model, &dir.path().join("cache"), sets);
        overview(&recipe).unwrap_err().to_string()
    };
    let new = "vision={new={size=32,patch=16,width=12,layers=1,heads=2}}";
    let error = refused(&[&path, new]);
    assert!(
        error.contains("elastic.former") && error.contains("another one"),
        "{error}"
    );
    let error = refused(&["elastic.former=\"nowhere\""]);
    assert!(error.contains("elastic.former: nowhere"), "{error}");
    let weights: PathBuf = model.join("model.safetensors");
    let error = refused(&[&former(&weights)]);
    assert!(error.contains("is no importance"), "{error}");
}

#[test]
fn a_teacher_by_name_is_the_model_itself_when_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let sets = ["schedule.steps=4", "reference.batch=5"];
    let own = ran("zscl", &model, &dir.path().join("own"), &sets);
    let teacher = format!("reference.teacher={:?}", model.display().to_string());
    let sets: Vec<&str> = sets.into_iter().chain([teacher.as_str()]).collect();
    same(&own, &ran("zscl", &model, &dir.path().join("named"), &sets));
    let names: Vec<&String> = own.metrics[0].terms.keys().collect();
    assert_eq!(names, ["infonce", "reference"]);
    // at first the model is its own teacher, and the loss is the entropy of what it says: the least there is
    let later = own
        .metrics
        .iter()
        .map(|m| m.terms["reference"])
        .fold(f32::MIN, f32::max);
    assert!(later.is_finite() && later > 0.0);
}

/// How far pictures of no task have moved away from what they were.
#[test]
fn reference_pictures_stay_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let common = [
        "optimizer.lr=3e-3",
        "schedule.steps=30",
        "merge.average_every=0",
        "image_head.input_dropout=0",
        "reference.batch=16",
        "run.explode=0",
    ];
    let moved = |weight: &'static str| {
        let sets: Vec<&str> = common.into_iter().chain([weight]).collect();
        let ran = ran("zscl", &model, &dir.path().join(weight), &sets);
        let terms: Vec<f32> = ran.metrics.iter().map(|m| m.terms["reference"]).collect();
        let weight: f32 = weight.trim_start_matches("reference.weight=").parse().unwrap();
        let last = terms[terms.len() - 8..].iter().sum::<f32>() / 8.0;
        let first = terms[..2].iter().sum::<f32>() / 2.0;
        (last - first) / weight
    };
    let (free, held) = (moved("reference.weight=1e-4"), moved("reference.weight=10"));
    println!("{free} {held}");
    assert!(free > 2.0 * held.max(0.0), "{free} {held}");
}
