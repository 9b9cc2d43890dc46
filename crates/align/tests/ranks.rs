//! Several ranks give what one process gives, whatever their number, and end together.

mod common;
#[path = "common/ran.rs"]
mod ran;
#[path = "common/threads.rs"]
mod threads;

use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::train::collective::{Alone, RankError, Ranks};
use bifocal_align::train::{
    Options, Progress, RunSummary, Silent, StepReport, TrainError, pairs, pairs_among, run_among,
};
use ran::Ran;
use threads::threads;

fn options(out: &Path, resume: bool) -> Options {
    Options {
        out: out.to_owned(),
        resume,
    }
}

/// Runs a recipe to its end at `n` ranks.
fn ran(recipe: &Recipe, out: &Path, n: usize, resume: bool) -> Ran {
    let options = options(out, resume);
    let summaries = threads(n, |ranks| run_among(recipe, &options, &mut Silent, ranks).unwrap());
    assert!(summaries.iter().all(|s| s.bundle.is_some()));
    let fingerprints: Vec<_> = summaries.iter().map(|s| s.fingerprint.is_some()).collect();
    assert_eq!(fingerprints.iter().position(|&there| there), Some(0));
    Ran::read(out)
}

/// As [`ran`], alone.
fn ran_alone(recipe: &Recipe, out: &Path) -> Ran {
    run_among(recipe, &options(out, false), &mut Silent, &Alone).unwrap();
    Ran::read(out)
}

/// A recipe with a cache of its own, so that ranks share the computing of features too.
fn recipe(method: &str, model: &Path, dir: &Path, name: &str, sets: &[&str]) -> Recipe {
    // AdamW's first steps are signs, so that the smallest gradients count in full without this
    let sets: Vec<&str> = ["optimizer.eps=1e-3"].iter().chain(sets).copied().collect();
    common::recipe(method, model, &dir.join(name), &sets)
}

fn equal_to_one(method: &str, sets: &[&str], ranks: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let one = ran_alone(
        &recipe(method, &model, dir.path(), "cache-1", sets),
        &dir.path().join("run-1"),
    );
    for &n in ranks {
        let recipe = recipe(method, &model, dir.path(), &format!("cache-{n}"), sets);
        let several = ran(&recipe, &dir.path().join(format!("run-{n}")), n, false);
        let distance = one.distance(&several);
        println!("{method} {sets:?} at {n} ranks: {distance:?}");
        assert!(distance.is_rounding(), "{method} {sets:?} at {n} ranks: {distance:?}");
    }
}

#[test]
fn clip_with_adapters() {
    let lora = [
        "lora.rank=2",
        "lora.dropout=0.3",
        "lora.targets=[\"text.*\", \"vision.*\"]",
        "text_head.dropout=0.2",
    ];
    equal_to_one("clip", &lora, &[2, 4]);
}

#[test]
fn clip_that_leaves_patches_out() {
    equal_to_one("clip", &["vision.patch_dropout=0.5", "data.batch=7"], &[2, 3]);
}

#[test]
fn clip_of_seven_over_four() {
    equal_to_one("clip", &["data.batch=7"], &[2, 4]);
}

#[test]
fn fewer_samples_than_ranks() {
    equal_to_one("siglip", &["data.batch=3", "data.accumulate=2"], &[4]);
}

#[test]
fn siglip_with_several_captions() {
    equal_to_one("siglip", &["loss.captions=3", "data.batch=7"], &[2, 4]);
}

#[test]
fn clip_in_pieces_of_a_rank() {
    equal_to_one("clip", &["compute.micro_batch=2", "data.batch=7"], &[2]);
}

#[test]
fn llm2clip_over_both_stages() {
    equal_to_one("llm2clip", &[], &[2, 4]);
}

#[test]
fn proclip_over_both_stages() {
    // its sums over the batch are large, and so is what rounding leaves of gradients that should be zero
    let sets = ["distill.lambda=0.1", "distill.ema=0.9", "optimizer.eps=1e-2"];
    equal_to_one("proclip", &sets, &[2, 4]);
}

#[test]
fn zscl_with_reference_pictures_of_two() {
    let reference = format!("reference.sources=[{{path={:?}, take=9}}]", common::photos());
    let sets = [
        reference.as_str(),
        "reference.batch=5",
        "reference.weight=0.5",
        "merge.average_every=3",
    ];
    equal_to_one("zscl", &sets, &[2, 4]);
}

#[test]
fn ewc_whose_penalty_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let former = common::importance(&common::write_clip(dir.path()), dir.path());
    let former = format!("elastic.former={:?}", former.display().to_string());
    equal_to_one("ewc", &[&former, "elastic.weight=100", "elastic.batches=2"], &[2, 4]);
}

#[test]
fn sail_lift_and_flame() {
    equal_to_one("sail", &[], &[3]);
    equal_to_one("lift", &["loss.kind=cosine", "loss.captions=1"], &[2]);
    equal_to_one("flame", &["text.facets=[\"a {}\", \"the {}\"]"], &[2]);
}

/// A copy of the photos of which some cannot be read.
fn damaged_photos(dir: &Path) -> PathBuf {
    let photos = dir.join("photos");
    std::fs::create_dir_all(&photos).unwrap();
    let mut count = 0;
    for (path, bytes) in common::files(&common::photos()) {
        let to = photos.join(path.strip_prefix(common::photos()).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let picture = path.extension().is_some_and(|e| e == "jpg");
        count += usize::from(picture);
        std::fs::write(
            to,
            if picture && count % 3 == 0 {
                &b"no picture"[..]
            } else {
                &bytes[..]
            },
        )
        .unwrap();
    }
    assert!(count >= 30);
    photos
}

#[derive(Default)]
struct Warned(Vec<String>);

impl Progress for Warned {
    fn warning(&mut self, message: &str) {
        self.0.push(message.to_owned());
    }
}

/// A picture that one rank cannot read is left out by all, and what comes after it moves up.
#[test]
fn pictures_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let source = format!("data.sources=[{{path={:?}}}]", damaged_photos(dir.path()));
    for method in ["clip", "sail"] {
        let run = |n: usize| {
            let out = dir.path().join(format!("{method}-{n}"));
            let recipe = recipe(method, &model, dir.path(), &format!("cache-{method}-{n}"), &[&source]);
            let go = |ranks: &dyn Ranks| {
                let mut warned = Warned::default();
                run_among(&recipe, &options(&out, false), &mut warned, ranks).unwrap();
                warned.0
            };
            let warned = match n {
                1 => vec![go(&Alone)],
                _ => threads(n, go),
            };
            assert!(warned.iter().all(|w| *w == warned[0]), "{warned:?}");
            let mut warned = warned[0].clone();
            warned.sort_unstable();
            (Ran::read(&out), warned)
        };
        let (one, warned) = run(1);
        assert!(!warned.is_empty());
        for n in [2, 4] {
            let (several, also) = run(n);
            assert_eq!(warned, also);
            let distance = one.distance(&several);
            assert!(distance.is_rounding(), "{method} at {n} ranks: {distance:?}");
        }
    }
}

/// Asks to stop after a step, or breaks.
struct At {
    step: u64,
    breaks: bool,
    seen: u64,
}

impl Progress for At {
    fn step(&mut self, report: &StepReport<'_>) {
        self.seen = report.metrics.step;
    }

    fn stop(&mut self) -> bool {
        assert!(!(self.breaks && self.seen == self.step), "as a broken machine would");
        self.seen == self.step
    }
}

fn stopped_at(step: u64, rank: usize, breaks: bool) -> impl Fn(&dyn Ranks) -> At {
    move |ranks| At {
        step: if ranks.rank() == rank { step } else { u64::MAX },
        breaks,
        seen: 0,
    }
}

#[test]
fn a_run_of_two_goes_on_with_three() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    for method in ["clip", "llm2clip"] {
        let recipe = recipe(method, &model, dir.path(), "cache", &[]);
        let one = ran_alone(&recipe, &dir.path().join(format!("{method}-1")));
        let out = dir.path().join(method);
        // the signal reaches the second rank alone
        let progress = stopped_at(4, 1, false);
        let first: Vec<RunSummary> = threads(2, |ranks| {
            run_among(&recipe, &options(&out, false), &mut progress(ranks), ranks).unwrap()
        });
        assert!(first.iter().all(|s| s.steps == 4 && s.bundle.is_none()));
        let several = ran(&recipe, &out, 3, true);
        let distance = one.distance(&several);
        assert!(distance.is_rounding(), "{method}: {distance:?}");
    }
}

#[test]
fn a_rank_that_breaks_ends_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let recipe = recipe("sail", &model, dir.path(), "cache", &[]);
    let out = dir.path().join("run");
    let progress = stopped_at(3, 1, true);
    let ended = threads(3, |ranks| {
        // as a process that ends; its rank is dropped on the way
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run_among(&recipe, &options(&out, false), &mut progress(ranks), ranks).map(|s| s.steps)
        }))
        .unwrap_or(Err(TrainError::Ranks(RankError::Ended { rank: 1 })))
    });
    for (rank, ended) in ended.into_iter().enumerate() {
        let error = ended.unwrap_err();
        assert!(
            matches!(error, TrainError::Ranks(RankError::Ended { rank: r }) if r == rank),
            "{error}"
        );
    }
}

#[test]
fn ranks_that_were_started_differently_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let out = dir.path().join("run");
    let errors = threads(3, |ranks| {
        let lr = format!("optimizer.lr=1e-{}", 3 + usize::from(ranks.rank() == 2));
        let recipe = recipe("sail", &model, dir.path(), "cache", &[&lr]);
        run_among(&recipe, &options(&out, false), &mut Silent, ranks)
            .unwrap_err()
            .to_string()
    });
    for error in errors {
        assert!(
            error.starts_with("the recipe of rank 2 is not that of rank 0"),
            "{error}"
        );
    }
    let sharelock = recipe("sharelock", &model, dir.path(), "cache", &[]);
    let errors = threads(2, |ranks| {
        let result = run_among(&sharelock, &options(&out, false), &mut Silent, ranks);
        result.unwrap_err().to_string()
    });
    for error in errors {
        assert!(error.contains("batch_norm needs the whole batch"), "{error}");
    }
    assert!(!out.join("recipe.toml").exists());
}

#[test]
fn features_are_computed_once_among_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let alone = pairs(&recipe("sail", &model, dir.path(), "cache-1", &[]), &mut Silent).unwrap();
    let split = recipe("sail", &model, dir.path(), "cache-3", &[]);
    let all = threads(3, |ranks| {
        let pairs = pairs_among(&split, &mut Silent, ranks).unwrap();
        (pairs.images, pairs.texts)
    });
    for (images, texts) in &all {
        assert!(*images == all[0].0 && *texts == all[0].1);
        assert_eq!(images.len(), alone.images.len());
        for (a, b) in images.iter().chain(texts).zip(alone.images.iter().chain(&alone.texts)) {
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} {b}");
        }
    }
    // each item is in one shard
    let size = |name: &str| {
        let all = common::files(&dir.path().join(name));
        let shards = all
            .into_iter()
            .filter(|(path, _)| path.extension().is_some_and(|e| e != "json"));
        shards.map(|(_, bytes)| bytes.len()).sum::<usize>()
    };
    let (one, three) = (size("cache-1"), size("cache-3"));
    assert!(three > one && three < one + one / 2, "{one} {three}");
}

#[test]
fn sums_are_those_of_the_order_of_ranks() {
    let value = |rank: usize, i: usize| ((rank * 31 + i * 7) % 13) as f32 * 0.37 - 1.9;
    for (n, length) in [(1, 5), (2, 7), (3, 1), (4, 4_200_001)] {
        let expected: Vec<f32> = (0..length)
            .map(|i| (1..n).fold(value(0, i), |sum, rank| sum + value(rank, i)))
            .collect();
        let sums = threads(n, |ranks| {
            let mut values: Vec<f32> = (0..length).map(|i| value(ranks.rank(), i)).collect();
            ranks.sum(&mut values).unwrap();
            values
        });
        assert!(sums.iter().all(|sum| *sum == expected), "{n} ranks");
    }
    let shares = threads(4, |ranks| ranks.share(7));
    assert_eq!(shares, [0..1, 1..3, 3..5, 5..7]);
}
