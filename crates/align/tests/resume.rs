//! A run that is interrupted, wherever it is, ends as one that was not: the same metrics, weights and optimizer state to the bit.

mod common;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::train::watch::events;
use bifocal_align::train::{Options, Progress, StepReport, run};

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

fn to_the_end(recipe: &Recipe, out: &Path, resume: bool) -> BTreeMap<PathBuf, Vec<u8>> {
    let options = Options {
        out: out.to_owned(),
        resume,
    };
    let summary = run(
        recipe,
        &options,
        &mut Until {
            step: u64::MAX,
            kill: false,
            seen: 0,
        },
    )
    .unwrap();
    assert_eq!(summary.steps, steps(recipe));
    assert!(summary.bundle.is_some());
    let all = common::files(out).into_iter();
    let all = all.map(|(path, bytes)| (path.strip_prefix(out).unwrap().to_owned(), bytes));
    // what depends on the clock, and the note of who holds the lock
    let clocked = |path: &Path| {
        let name = path.to_string_lossy();
        ["timings.jsonl", "lock", "report.html"].contains(&&*name) || name.starts_with(events::PREFIX)
    };
    all.filter(|(path, _)| !clocked(path)).collect()
}

/// Of all stages.
fn steps(recipe: &Recipe) -> u64 {
    recipe
        .running()
        .into_iter()
        .map(|stage| recipe.of_stage(stage).schedule.steps.unwrap())
        .sum()
}

fn interrupted_equals_unbroken(method: &str, sets: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let recipe = common::recipe(method, &model, &dir.path().join("cache"), sets);
    let last = steps(&recipe);
    let unbroken = to_the_end(&recipe, &dir.path().join("unbroken"), false);
    assert!(unbroken.contains_key(Path::new("metrics.jsonl")));
    assert!(unbroken.contains_key(Path::new("model/bifocal.json")));
    let checkpoint = format!("checkpoints/step-{last:012}");
    assert!(unbroken.contains_key(&Path::new(&checkpoint).join("optimizer.safetensors")));
    for kill in [true, false] {
        for step in 1..last {
            let out = dir.path().join(format!("{kill}-{step}"));
            let options = Options {
                out: out.clone(),
                resume: false,
            };
            let mut until = Until { step, kill, seen: 0 };
            let first = catch_unwind(AssertUnwindSafe(|| run(&recipe, &options, &mut until)));
            match first {
                Err(_) => assert!(kill),
                Ok(summary) => {
                    let summary = summary.unwrap();
                    assert!(!kill && summary.bundle.is_none() && summary.steps == step);
                }
            }
            let mut resumed = to_the_end(&recipe, &out, true);
            // a run that was asked to stop has a checkpoint more, and those in between are others
            let between = |path: &Path| path.starts_with("checkpoints") && !path.starts_with(&checkpoint);
            resumed.retain(|path, _| !between(path));
            let mut expected = unbroken.clone();
            expected.retain(|path, _| !between(path));
            assert_eq!(resumed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
            for (path, bytes) in &expected {
                assert!(
                    resumed[path] == *bytes,
                    "{method}, {kill} after {step}: {} differs",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn sail_from_cached_features() {
    interrupted_equals_unbroken("sail", &[]);
}

#[test]
fn sharelock_with_running_statistics_and_accumulated_batches() {
    interrupted_equals_unbroken("sharelock", &["data.accumulate=3", "data.batch=3"]);
}

#[test]
fn llm2clip_over_both_stages() {
    interrupted_equals_unbroken("llm2clip", &[]);
}

#[test]
fn proclip_over_both_stages_with_its_moving_teacher() {
    interrupted_equals_unbroken("proclip", &["distill.ema=0.5", "distill.lambda=0.01"]);
}

#[test]
fn clip_in_pieces_from_pixels_and_tokens() {
    interrupted_equals_unbroken(
        "clip",
        &[
            "compute.micro_batch=4",
            "optimizer.kind=lion",
            "optimizer.layer_decay.vision=0.5",
        ],
    );
}

#[test]
fn clip_that_leaves_patches_out() {
    interrupted_equals_unbroken("clip", &["vision.patch_dropout=0.5", "compute.micro_batch=4"]);
}

#[test]
fn zscl_with_its_average() {
    let reference = format!("reference.sources=[{{path={:?}, take=9}}]", common::photos());
    interrupted_equals_unbroken("zscl", &[&reference, "reference.batch=5", "merge.average_every=3"]);
}

#[test]
fn toklip_over_both_stages_whose_codes_see_ahead_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let mut sets = common::on_codes(&common::write_codec(dir.path()));
    sets.extend([
        format!("teacher.model={model:?}"),
        "toklip.open=0.5".to_owned(),
        "stage.codes={ skip = false, schedule = { steps = 1 } }".to_owned(),
        "schedule.steps=3".to_owned(),
        "run.evaluate_on=1".to_owned(),
    ]);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    interrupted_equals_unbroken("toklip", &sets);
}

#[test]
fn ewc_with_what_it_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let former = common::importance(&common::write_clip(dir.path()), dir.path());
    let former = format!("elastic.former={:?}", former.display().to_string());
    let sets = [
        former.as_str(),
        "elastic.weight=100",
        "elastic.batches=2",
        "schedule.steps=4",
    ];
    interrupted_equals_unbroken("ewc", &sets);
}

/// After the last step, while the importance of weights is measured.
#[test]
fn ewc_that_ends_while_it_measures() {
    struct Measuring {
        kill: bool,
        seen: bool,
    }
    impl Progress for Measuring {
        fn features(&mut self, what: &str, done: usize, _total: usize) {
            self.seen |= what.contains("importance") && done == 1;
            assert!(!(self.kill && self.seen), "killed");
        }

        fn stop(&mut self) -> bool {
            self.seen
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let sets = ["elastic.batches=3", "schedule.steps=2"];
    let recipe = common::recipe("ewc", &model, &dir.path().join("cache"), &sets);
    let unbroken = to_the_end(&recipe, &dir.path().join("unbroken"), false);
    assert!(unbroken.contains_key(Path::new("importance.safetensors")));
    for kill in [true, false] {
        let out = dir.path().join(format!("{kill}"));
        let options = Options {
            out: out.clone(),
            resume: false,
        };
        let mut measuring = Measuring { kill, seen: false };
        match catch_unwind(AssertUnwindSafe(|| run(&recipe, &options, &mut measuring))) {
            Err(_) => assert!(kill),
            Ok(summary) => {
                let summary = summary.unwrap();
                assert!(!kill && summary.bundle.is_none() && summary.steps == 2);
            }
        }
        assert!(!out.join("importance.safetensors").exists() && !out.join("model").exists());
        assert!(to_the_end(&recipe, &out, true) == unbroken, "{kill}");
    }
}

#[test]
fn siglip_lit_flame_and_lift() {
    for (method, sets) in [
        ("siglip", &["schedule.steps=3"][..]),
        ("lit", &["schedule.steps=3"]),
        ("lift", &["schedule.steps=3", "loss.kind=cosine", "loss.captions=1"]),
        ("flame", &["schedule.steps=3", "text.facets=[\"a {}\", \"the {}\"]"]),
    ] {
        interrupted_equals_unbroken(method, sets);
    }
}

#[test]
fn lift_with_a_vision_tower_from_scratch() {
    let new = "vision={new={size=32,patch=16,width=24,layers=1,heads=2}}";
    interrupted_equals_unbroken("lift", &[new, "schedule.steps=3", "data.augment={}"]);
}

#[test]
fn clip_with_both_towers_from_scratch() {
    let new = "vision={new={size=32,patch=16,width=24,layers=1,heads=2}}";
    interrupted_equals_unbroken("clip", &[new, "text.from_scratch=true", "schedule.steps=3"]);
}

#[test]
fn a_run_that_is_over_can_be_resumed_and_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let recipe = common::recipe("sail", &model, &dir.path().join("cache"), &[]);
    let out = dir.path().join("run");
    let once = to_the_end(&recipe, &out, false);
    let twice = to_the_end(&recipe, &out, true);
    assert_eq!(once, twice);
}

#[test]
fn features_that_were_computed_before_a_stop_are_not_computed_again() {
    /// Asks for an end when so many pictures are there.
    struct AtPictures {
        limit: usize,
        first: Option<usize>,
        there: usize,
    }
    impl Progress for AtPictures {
        fn features(&mut self, what: &str, done: usize, _total: usize) {
            if what == "pictures" {
                self.first.get_or_insert(done);
                self.there = done;
            }
        }

        fn stop(&mut self) -> bool {
            self.there >= self.limit
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let emoji = common::photos().join("../emoji");
    let path = format!(
        "data.sources=[{{path={:?}, languages=[\"en\"]}}]",
        emoji.display().to_string()
    );
    let recipe = common::recipe("sail", &model, &dir.path().join("cache"), &[&path, "schedule.steps=2"]);
    let options = Options {
        out: dir.path().join("run"),
        resume: true,
    };
    let go = |limit| {
        let mut progress = AtPictures {
            limit,
            first: None,
            there: 0,
        };
        let summary = run(&recipe, &options, &mut progress).unwrap();
        (summary, progress.first)
    };
    let (summary, first) = go(128);
    assert_eq!((summary.steps, summary.bundle, first), (0, None, Some(0)));
    let (summary, first) = go(usize::MAX);
    assert_eq!((summary.steps, first), (2, Some(128)));
    assert!(summary.bundle.is_some());
}

#[test]
fn another_recipe_or_other_data_do_not_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let cache = dir.path().join("cache");
    let recipe = common::recipe("sail", &model, &cache, &[]);
    let out = dir.path().join("run");
    to_the_end(&recipe, &out, false);
    let go = |recipe: &Recipe, resume| {
        let options = Options {
            out: out.clone(),
            resume,
        };
        run(recipe, &options, &mut bifocal_align::train::Silent)
            .unwrap_err()
            .to_string()
    };
    assert!(go(&recipe, false).contains("--resume"));
    let other = common::recipe("sail", &model, &cache, &["optimizer.lr=0.5"]);
    let error = go(&other, true);
    assert!(error.contains("optimizer.lr: 0.5 here, 0.001 there"), "{error}");
    // knobs of [run] may change
    let faster = common::recipe("sail", &model, &cache, &["run.keep=1"]);
    let options = Options {
        out: out.clone(),
        resume: true,
    };
    run(&faster, &options, &mut bifocal_align::train::Silent).unwrap();
    // another tower under the same name
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = go(&recipe, true);
    assert!(error.contains("pretrained tower is not what it was"), "{error}");
}
