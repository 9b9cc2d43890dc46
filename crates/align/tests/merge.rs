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
