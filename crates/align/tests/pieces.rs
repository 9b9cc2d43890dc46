//! A batch in pieces, or with activations that are computed again, gives what the whole batch gives: the same loss and the same weights, temperature and dropout included.

mod common;
#[path = "common/ran.rs"]
mod ran;

use std::path::Path;

use bifocal_align::train::{Options, Silent, run};
use ran::Ran;

fn ran(method: &str, model: &Path, dir: &Path, sets: &[&str]) -> Ran {
    let recipe = common::recipe(method, model, &dir.join("cache"), sets);
    let out = tempfile::tempdir_in(dir).unwrap();
    let options = Options {
        out: out.path().join("run"),
        resume: false,
    };
    run(&recipe, &options, &mut Silent).unwrap();
    Ran::read(&options.out)
}

#[test]
fn pieces_make_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    // plain momentum-free steps would hide nothing; AdamW's first steps are signs, so that the smallest gradients count in full
    let common = ["schedule.steps=3", "optimizer.eps=1e-3", "text_head.dropout=0.2"];
    let lora = [
        "lora.rank=2",
        "lora.dropout=0.3",
        "lora.targets=[\"text.*\", \"vision.*\"]",
    ];
    let leaving = [&lora[..], &["vision.patch_dropout=0.5"]].concat();
    let former = format!(
        "elastic.former={:?}",
        common::importance(&model, dir.path()).display().to_string()
    );
    let ewc = [former.as_str(), "elastic.weight=1e3", "elastic.batches=2"];
    for (method, sets) in [
        ("ewc", &ewc[..]),
        ("zscl", &["reference.batch=5", "merge.average_every=2"]),
        ("clip", &lora[..]),
        ("siglip", &["loss.captions=3"]),
        ("clip", &leaving[..]),
        (
            "flame",
            &[
                "text.facets=[\"a {}\"]",
                "vision.patch_dropout=0.5",
                "image_head.dropout=0.2",
            ],
        ),
        ("llm2clip", &["stage.caption.data.batch=6"]),
        ("proclip", &["distill.lambda=0.1", "distill.ema=0.9"]),
        ("flame", &["text.facets=[\"a {}\", \"the {}\"]"]),
        ("lift", &["loss.kind=cosine", "loss.captions=1"]),
        ("cclip", &["lora.rank=2"]),
        (
            "cclip",
            &[
                "lora.rank=0",
                "consolidate.kind=similarities",
                "consolidate.temperature=2",
            ],
        ),
    ] {
        let sets: Vec<&str> = common.iter().chain(sets).copied().collect();
        let whole = ran(method, &model, dir.path(), &sets);
        for pieces in [
            "compute.micro_batch=1",
            "compute.micro_batch=4",
            "compute.recompute=true",
        ] {
            let sets: Vec<&str> = sets.iter().copied().chain([pieces]).collect();
            let pieced = ran(method, &model, dir.path(), &sets);
            for (a, b) in whole.losses().zip(pieced.losses()) {
                assert!((a - b).abs() <= 2e-6 * a.abs().max(1.0), "{method} {pieces}: {a} {b}");
            }
            assert_eq!(
                whole.weights.keys().collect::<Vec<_>>(),
                pieced.weights.keys().collect::<Vec<_>>()
            );
            for (name, a) in &whole.weights {
                let b = &pieced.weights[name];
                let furthest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
                assert!(furthest < 2e-5, "{method} {pieces}: {name} differs by {furthest}");
            }
        }
    }
}
