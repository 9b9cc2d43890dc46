//! Steps that go wrong: they stop the run or are left out, and say which samples were in them.

mod common;

use std::fs;

use bifocal_align::train::metrics::Metrics;
use bifocal_align::train::{Options, Silent, TrainError, run};

#[test]
fn a_loss_that_explodes_stops_the_run_and_names_the_samples() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    // a huge step makes weights overflow, and the step after it finds no number
    let sets = [
        "optimizer.lr=10",
        "optimizer.betas=[0.0, 0.0]",
        "optimizer.weight_decay=10000",
        "schedule.warmup=0",
    ];
    let out = dir.path().join("run");
    let options = Options {
        out: out.clone(),
        resume: false,
    };
    let recipe = common::recipe("sail", &model, &dir.path().join("cache"), &sets);
    let error = run(&recipe, &options, &mut Silent).unwrap_err();
    let TrainError::NotFinite {
        step, samples, listed, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(*step > 1 && samples.contains("images/"), "{error}");
    let list: serde_json::Value = serde_json::from_slice(&fs::read(listed).unwrap()).unwrap();
    assert!((3..=6).contains(&list["samples"].as_array().unwrap().len()));

    // left out instead, the run comes to its end and says how many
    let sets: Vec<&str> = sets.into_iter().chain(["run.bad_step=skip"]).collect();
    let recipe = common::recipe("sail", &model, &dir.path().join("cache"), &sets);
    let options = Options {
        out: dir.path().join("skipping"),
        resume: false,
    };
    let summary = run(&recipe, &options, &mut Silent).unwrap();
    assert!(summary.skipped_steps > 0 && summary.steps == 7);
    let metrics = fs::read_to_string(options.out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Metrics> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 7);
    assert_eq!(lines.iter().filter(|l| l.skipped).count() as u64, summary.skipped_steps);
}

#[test]
fn damaged_pictures_are_left_out_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let photos = dir.path().join("photos");
    fs::create_dir_all(photos.join("images")).unwrap();
    for entry in fs::read_dir(common::photos().join("images")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, photos.join("images").join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(common::photos().join("captions.jsonl"), photos.join("captions.jsonl")).unwrap();
    let mut all: Vec<_> = fs::read_dir(photos.join("images"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    all.sort();
    fs::write(&all[0], b"").unwrap();
    fs::write(&all[1], b"not a picture").unwrap();
    let whole = fs::read(&all[2]).unwrap();
    fs::write(&all[2], &whole[..whole.len() / 2]).unwrap();

    #[derive(Default)]
    struct Warnings(Vec<String>);
    impl bifocal_align::train::Progress for Warnings {
        fn warning(&mut self, message: &str) {
            self.0.push(message.to_owned());
        }
    }
    for method in ["sail", "clip"] {
        let path = format!("data.sources.0.path={:?}", photos.display().to_string());
        let sets = [
            path.as_str(),
            "data.sources.0.holdout=0",
            "data.batch=25",
            "schedule.steps=4",
        ];
        let recipe = common::recipe(method, &model, &dir.path().join("cache"), &sets);
        let options = Options {
            out: dir.path().join(method),
            resume: false,
        };
        let mut warnings = Warnings::default();
        let summary = run(&recipe, &options, &mut warnings).unwrap();
        assert_eq!(summary.steps, 4);
        for bad in &all[..2] {
            let name = bad.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                warnings.0.iter().any(|w| w.contains(&name)),
                "{method}: {name} in {:?}",
                warnings.0
            );
        }
    }
}
