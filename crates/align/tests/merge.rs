//! How much of what was learnt is in the bundle: `[merge]`.

mod common;
#[path = "common/ran.rs"]
mod ran;

use std::collections::BTreeMap;
use std::path::Path;

use bifocal_align::train::{Options, Silent, run};
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use ran::Ran;

/// The tensors of a bundle's vision tower, under the names that they have in checkpoints, and what the run left.
fn ran(method: &str, dir: &Path, sets: &[&str]) -> (BTreeMap<String, Vec<f32>>, Ran) {
    let model = common::write_clip(dir);
    let recipe = common::recipe(method, &model, &dir.join("cache"), sets);
    let out = tempfile::tempdir_in(dir).unwrap();
    let options = Options {
        out: out.path().join("run"),
        resume: false,
    };
    let bundle = run(&recipe, &options, &mut Silent).unwrap().bundle.unwrap();
    let tensors = SafeTensors::open(&bundle.join("vision.safetensors")).unwrap();
    let load = |name: String| (format!("vision.{name}"), tensors.load(&name).unwrap().data);
    (tensors.names().into_iter().map(load).collect(), Ran::read(&options.out))
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let furthest = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(furthest < 1e-6, "{what} differs by {furthest}");
}

/// C-CLIP, eq. 2, with both readings of the update's scale.
#[test]
fn a_part_of_what_lora_adds_is_in_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let sets = |keep: &'static str, scaled: &'static str| {
        let all = [
            "lora.rank=2",
            "lora.alpha=6",
            "optimizer.lr=0.01",
            "schedule.steps=4",
            keep,
            scaled,
        ];
        ran("cclip", dir.path(), &all)
    };
    let (none, _) = sets("merge.keep=0", "merge.scaled=true");
    for (scaled, factor) in [("merge.scaled=true", 0.25 * 6.0 / 2.0), ("merge.scaled=false", 0.25)] {
        let (merged, left) = sets("merge.keep=0.25", scaled);
        for layer in ["vision.blocks.0.out", "vision.blocks.1.fc", "vision.blocks.1.proj"] {
            let (a, b) = (
                &left.weights[&format!("{layer}.lora.a")],
                &left.weights[&format!("{layer}.lora.b")],
            );
            let (rank, before) = (2, &none[&format!("{layer}.weight")]);
            let width = a.len() / rank;
            let update = |i: usize| {
                (0..rank)
                    .map(|r| b[i / width * rank + r] * a[r * width + i % width])
                    .sum::<f32>()
            };
            assert!((0..before.len()).any(|i| update(i).abs() > 1e-3), "{layer} has learnt");
            let expected: Vec<f32> = before.iter().enumerate().map(|(i, w)| w + factor * update(i)).collect();
            close(&merged[&format!("{layer}.weight")], &expected, layer);
        }
    }
}

/// WiSE-FT: between what the tower was and what it has become.
#[test]
fn a_part_of_what_was_learnt_is_in_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let keep = |keep: &'static str| ran("clip", dir.path(), &["optimizer.lr=0.01", "schedule.steps=3", keep]).0;
    let [none, half, all] = ["merge.keep=0", "merge.keep=0.5", "merge.keep=1"].map(keep);
    let mut moved = 0;
    for (name, before) in &none {
        let after = &all[name];
        let middle: Vec<f32> = before.iter().zip(after).map(|(a, b)| (a + b) / 2.0).collect();
        close(&half[name], &middle, name);
        moved += usize::from(before.iter().zip(after).any(|(a, b)| (a - b).abs() > 1e-3));
    }
    assert!(moved > 10, "{moved} of {} tensors have moved", none.len());
}

/// Heads that a run takes over from a bundle are part of what it learns.
#[test]
fn a_part_of_what_pretrained_heads_learnt_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let trained = |name: &str, model: &Path, sets: &[&str]| {
        let sets: Vec<&str> = sets
            .iter()
            .copied()
            .chain(["optimizer.lr=0.01", "schedule.steps=3"])
            .collect();
        let recipe = common::recipe("clip", model, &dir.path().join("cache"), &sets);
        let options = Options {
            out: dir.path().join(name),
            resume: false,
        };
        run(&recipe, &options, &mut Silent).unwrap().bundle.unwrap()
    };
    let heads = |bundle: &Path| {
        let tensors = SafeTensors::open(&bundle.join("heads.safetensors")).unwrap();
        let load = |name: String| (name.clone(), tensors.load(&name).unwrap().data);
        tensors.names().into_iter().map(load).collect::<BTreeMap<_, _>>()
    };
    let first = trained("first", &common::write_clip(dir.path()), &[]);
    let next = |keep: &str| {
        let pretrained = ["image_head.pretrained=true", "text_head.pretrained=true"];
        heads(&trained(keep, &first, &[pretrained[0], pretrained[1], keep]))
    };
    let [none, half, all] = ["merge.keep=0", "merge.keep=0.5", "merge.keep=1"].map(next);
    assert_ne!(none, all);
    for (name, before) in &heads(&first) {
        close(&none[name], before, name);
        let middle: Vec<f32> = before.iter().zip(&all[name]).map(|(a, b)| (a + b) / 2.0).collect();
        close(&half[name], &middle, name);
    }
}

/// ZSCL's weight ensemble: an even average that began with what the model was.
#[test]
fn the_average_along_the_way_is_in_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let common = ["optimizer.lr=0.01", "schedule.steps=7", "run.keep=9"];
    let tensors = |path: &Path| {
        let tensors = SafeTensors::open(path).unwrap();
        let load = |name: String| (name.clone(), tensors.load(&name).unwrap().data);
        tensors.names().into_iter().map(load).collect::<BTreeMap<_, _>>()
    };
    let model = common::write_clip(dir.path());
    let ran = |name: &str, more: &[&str]| {
        let sets: Vec<&str> = common.iter().chain(more).copied().collect();
        let recipe = common::recipe("clip", &model, &dir.path().join("cache"), &sets);
        let options = Options {
            out: dir.path().join(name),
            resume: false,
        };
        run(&recipe, &options, &mut Silent).unwrap();
        let at = |step: u64| {
            tensors(
                &options
                    .out
                    .join(format!("checkpoints/step-{step:012}/weights.safetensors")),
            )
        };
        let vision = tensors(&options.out.join("model/vision.safetensors"));
        (vision, [2, 4, 6, 7].map(at), Ran::read(&options.out))
    };
    let (begin, _, _) = ran("none", &["merge.keep=0"]);
    let (last, plain, way) = ran("last", &[]);
    let (averaged, kept, other) = ran("averaged", &["merge.average_every=2"]);
    // what learns goes its way all the same
    assert!(way.losses().eq(other.losses()));
    for (name, first) in &begin {
        let name = &format!("vision.{name}");
        let [two, four, six, _] = &plain;
        let mean = |i: usize| {
            let sum = [first, &two[name], &four[name], &six[name]]
                .iter()
                .map(|all| f64::from(all[i]))
                .sum::<f64>();
            (sum / 4.0) as f32
        };
        let expected: Vec<f32> = (0..first.len()).map(mean).collect();
        let name = name.trim_start_matches("vision.");
        close(&averaged[name], &expected, name);
        assert_eq!(last[name], plain[3][&format!("vision.{name}")], "{name}");
    }
    // heads and scale, too: checkpoints hold the average of all that learns
    let mut heads = 0;
    for (name, after) in &plain[1] {
        let of = |at: usize| &kept[at][&format!("average.{name}")];
        let step = |i: usize| of(0)[i] + (after[i] - of(0)[i]) / 3.0;
        let expected: Vec<f32> = (0..after.len()).map(step).collect();
        close(of(1), &expected, name);
        assert_eq!(kept[1][name], *after, "{name}");
        assert_eq!(of(2), of(3), "step 7 is none of every second");
        heads += usize::from(name.contains("_head."));
    }
    assert!(heads > 1);
}
