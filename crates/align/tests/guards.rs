//! Steps that go wrong: they stop the run or are left out, and say which samples were in them.

mod common;

use std::fs;
use std::path::Path;

use bifocal_align::train::metrics::Metrics;
use bifocal_align::train::{Options, Progress, Silent, StepReport, TrainError, run};
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;

/// Makes the embedding of one word so large that a layer norm overflows on it.
fn poison(model: &Path, word: &str) {
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(model.join("tokenizer.json")).unwrap()).unwrap();
    let id = tokenizer["model"]["vocab"][word].as_u64().unwrap() as usize;
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let names: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let table = &names["text_model.embeddings.token_embedding.weight"];
    let (width, start) = (
        table["shape"][1].as_u64().unwrap() as usize,
        table["data_offsets"][0].as_u64().unwrap(),
    );
    let row = 8 + header + start as usize + id * width * 4;
    bytes[row..row + width * 4].copy_from_slice(&3e38f32.to_le_bytes().repeat(width));
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_step_without_a_number_stops_the_run_or_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    poison(&model, "dog");
    let cache = dir.path().join("cache");
    let out = dir.path().join("stopping");
    let options = Options {
        out: out.clone(),
        resume: false,
    };
    let recipe = common::recipe("clip", &model, &cache, &["schedule.steps=12"]);
    let error = run(&recipe, &options, &mut Silent).unwrap_err();
    let TrainError::BadStep {
        step, samples, listed, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(samples.contains("images/"), "{error}");
    let list: serde_json::Value = serde_json::from_slice(&fs::read(listed).unwrap()).unwrap();
    assert_eq!(list["step"], *step);
    assert_eq!(list["samples"].as_array().unwrap().len(), 6);

    // left out instead, the run comes to its end and says how many
    let recipe = common::recipe("clip", &model, &cache, &["schedule.steps=12", "run.bad_step=skip"]);
    let options = Options {
        out: dir.path().join("skipping"),
        resume: false,
    };
    let summary = run(&recipe, &options, &mut Silent).unwrap();
    assert!(
        (1..12).contains(&summary.skipped_steps) && summary.steps == 12,
        "{summary:?}"
    );
    let metrics = fs::read_to_string(options.out.join("metrics.jsonl")).unwrap();
    let lines: Vec<Metrics> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 12);
    assert_eq!(lines.iter().filter(|l| l.skipped).count() as u64, summary.skipped_steps);
    assert!(lines.iter().all(|l| l.skipped != l.loss.is_finite()));
}

/// Twelve photos that are learnt by heart, and one of them again, rarely, with what is said about another.
fn poisoned(dir: &Path) -> String {
    let all = fs::read_to_string(common::photos().join("captions.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = all.lines().take(12).map(|l| serde_json::from_str(l).unwrap()).collect();
    let mut rows = rows;
    // words that the tiny tokenizer knows
    let words = "dog cat bus street table people red green blue water plate food";
    for (row, word) in rows.iter_mut().zip(words.split(' ')) {
        row["captions"] = serde_json::json!({ "en": [word] });
    }
    let mut wrong = rows[0].clone();
    wrong["captions"] = rows[7]["captions"].clone();
    for (name, rows) in [("good", rows), ("poison", vec![wrong])] {
        for row in &rows {
            let image = row["image"].as_str().unwrap();
            let copy = dir.join(name).join(image);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(common::photos().join(image), copy).unwrap();
        }
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        fs::write(dir.join(name).join("captions.jsonl"), lines).unwrap();
    }
    let at = |name: &str| dir.join(name).display().to_string();
    format!(
        "data.sources=[{{path={:?}, weight=60}}, {{path={:?}}}]",
        at("good"),
        at("poison")
    )
}

#[test]
fn a_loss_that_explodes_stops_the_run_or_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let sources = poisoned(dir.path());
    let cache = dir.path().join("cache");
    let recipe = |more: &[&str]| {
        let sets = [
            sources.as_str(),
            "loss.kind=infonce",
            "loss.captions=1",
            "image_head={kind=\"glu\", ratio=8, standardize_input=true, dropout=0, input_dropout=0}",
            "text_head={kind=\"glu\", ratio=8, standardize_input=true, noise=0}",
            "optimizer={lr=0.003, weight_decay=0}",
            "embed_dim=64",
            "seed=2",
            "schedule={kind=\"constant\", steps=120}",
            "run.checkpoint_every=7",
        ];
        common::recipe("sail", &model, &cache, &[&sets, more].concat())
    };
    let to = |name: &str| Options {
        out: dir.path().join(name),
        resume: true,
    };
    let error = run(&recipe(&[]), &to("stopping"), &mut Silent).unwrap_err();
    let TrainError::BadStep { step, what, listed, .. } = &error else {
        panic!("{error}");
    };
    assert!(*step > 50 && what.contains("exploded"), "{error}");
    let list: serde_json::Value = serde_json::from_slice(&fs::read(listed).unwrap()).unwrap();
    let named = |key: &serde_json::Value| key.as_str().unwrap().contains("poison/images");
    assert!(list["samples"].as_array().unwrap().iter().any(named), "{list}");
    let again = run(&recipe(&[]), &to("stopping"), &mut Silent).unwrap_err();
    assert_eq!(
        again.to_string(),
        error.to_string(),
        "a resumed run stops where the first one did"
    );

    let skipping = recipe(&["run.bad_step=skip"]);
    let whole = run(&skipping, &to("whole"), &mut Silent).unwrap();
    assert_eq!((whole.skipped_steps, whole.steps), (1, 120));
    let metrics = |name: &str| fs::read_to_string(dir.path().join(name).join("metrics.jsonl")).unwrap();
    let lines: Vec<Metrics> = metrics("whole")
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let bad = &lines[*step as usize - 1];
    assert!(bad.skipped && bad.loss.is_finite() && bad.terms.is_empty(), "{bad:?}");
    // what the loss is compared with goes through checkpoints
    struct Until(u64);
    impl Progress for Until {
        fn step(&mut self, _: &StepReport<'_>) {
            self.0 -= 1;
        }
        fn stop(&mut self) -> bool {
            self.0 == 0
        }
    }
    run(&skipping, &to("twice"), &mut Until(step - 3)).unwrap();
    run(&skipping, &to("twice"), &mut Silent).unwrap();
    assert_eq!(metrics("twice"), metrics("whole"));

    let off = run(&recipe(&["run.explode=0"]), &to("off"), &mut Silent).unwrap();
    assert_eq!(off.skipped_steps, 0);
}

#[test]
fn weights_that_overflow_never_become_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    // each step multiplies weights by 1 - 10 · 10,000
    let sets = [
        "optimizer.lr=10",
        "optimizer.weight_decay=10000",
        "schedule.warmup=0",
        "schedule.kind=constant",
        "schedule.steps=20",
        "run.checkpoint_every=1",
    ];
    let out = dir.path().join("run");
    let options = Options {
        out: out.clone(),
        resume: false,
    };
    let recipe = common::recipe("sail", &model, &dir.path().join("cache"), &sets);
    let error = run(&recipe, &options, &mut Silent).unwrap_err();
    let stopped = matches!(error, TrainError::BrokenWeights { .. } | TrainError::BadStep { .. });
    assert!(stopped, "{error}");
    let mut checked = 0;
    for entry in fs::read_dir(out.join("checkpoints")).unwrap() {
        let file = entry.unwrap().path().join("weights.safetensors");
        if file.is_file() {
            let weights = SafeTensors::open(&file).unwrap();
            for name in weights.names() {
                assert!(
                    weights.load(&name).unwrap().data.iter().all(|v| v.is_finite()),
                    "{name}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 0);
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

#[test]
fn a_text_tower_from_scratch_takes_none_of_the_weights_and_has_to_learn() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    poison(&model, "dog");
    let cache = dir.path().join("cache");
    let go = |method: &str| {
        let sets = ["schedule.steps=12", "text.from_scratch=true"];
        let options = Options {
            out: dir.path().join(method),
            resume: false,
        };
        run(&common::recipe(method, &model, &cache, &sets), &options, &mut Silent)
    };
    assert_eq!(go("clip").unwrap().steps, 12);
    let error = go("sail").unwrap_err().to_string();
    assert!(error.contains("text.from_scratch"), "{error}");
}

#[test]
fn a_picture_that_is_drawn_twice_for_a_batch_is_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let model = common::write_clip(dir.path());
    let cache = dir.path().join("cache");
    // an epoch has 28 samples: the second batch, where epochs meet, has pictures of both
    let batch = "data.batch=27";
    for (method, sets) in [
        ("lift", &["loss.kind=cosine", "loss.captions=1", batch][..]),
        ("llm2clip", &["stage.caption.data.batch=27", batch]),
        ("clip", &[batch]),
    ] {
        let options = Options {
            out: dir.path().join(method),
            resume: false,
        };
        let sets = [&["schedule.steps=2"], sets].concat();
        run(&common::recipe(method, &model, &cache, &sets), &options, &mut Silent).unwrap();
    }
}
