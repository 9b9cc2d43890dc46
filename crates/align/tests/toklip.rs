//! Towers that read codes: built by a recipe, saved whole, and trained by TokLIP's method.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bifocal_align::Recipe;
use bifocal_align::batch::{Batch, Embeddings, Images, Part, Texts};
use bifocal_align::losses::Positives;
use bifocal_align::methods::{self, Stage};
use bifocal_align::train::metrics::Metrics;
use bifocal_align::train::plan::Plan;
use bifocal_align::train::{Options, Silent, TrainError, overview, run};
use bifocal_models::adapter::Head;
use bifocal_models::bundle::Model;
use bifocal_models::text::{ClipText, TextTower};
use bifocal_models::towers::Towers;
use bifocal_models::vision::{CodeOptions, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::vq::Codec;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;

fn trained(recipe: &Recipe, out: PathBuf) -> PathBuf {
    let options = Options { out, resume: false };
    run(recipe, &options, &mut Silent).unwrap().bundle.unwrap()
}

fn recipe(dir: &Path, method: &str, sets: &[&str]) -> Recipe {
    let model = common::write_clip(dir);
    let codes = common::on_codes(&common::write_codec(dir));
    let mut all: Vec<&str> = codes.iter().map(String::as_str).collect();
    all.extend(sets);
    common::recipe(method, &model, &dir.join("cache"), &all)
}

fn pixels(model: &Model, n: usize) -> Vec<f32> {
    let side = model.preprocess().unwrap().size as usize;
    (0..n * side * side * 3).map(|i| (i as f32 * 0.37).sin()).collect()
}

#[test]
fn a_tower_on_codes_is_saved_whole_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(
        dir.path(),
        "clip",
        &["schedule.steps=2", "freeze=[{ pattern = \"text.*\", frozen = true }]"],
    );
    let bundle = trained(&recipe, dir.path().join("run"));
    let model = Model::load(&bundle).unwrap();
    assert_eq!(model.preprocess().unwrap().mean, [0.5; 3]);
    let VisionTower::Vit(tower) = &model.vision().unwrap().tower else {
        panic!("it is no vision transformer");
    };
    // the autoencoder is in the bundle, as it was
    std::fs::remove_dir_all(dir.path().join("codec")).unwrap();
    let model = Model::load(&bundle).unwrap();
    let codes: Vec<u32> = (0..9).collect();
    let codec = tower.codec().unwrap();
    let picture = codec.decode(&codes, [3, 3]).unwrap();
    let written = bifocal_models::vq::Codec::open(&common::write_codec(dir.path())).unwrap();
    assert_eq!(picture, written.decode(&codes, [3, 3]).unwrap());
    // a run that begins with it keeps the autoencoder and moves the rest
    let (x, second) = (pixels(&model, 2), dir.path().join("second"));
    let sets = [
        format!("vision.model={bundle:?}"),
        "image_head.pretrained=true".to_owned(),
        "schedule.steps=2".to_owned(),
    ];
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let next = common::recipe(
        "clip",
        &common::write_clip(dir.path()),
        &dir.path().join("cache"),
        &sets,
    );
    let again = Model::load(&trained(&next, second)).unwrap();
    assert_ne!(model.embed_images(&x, 2).unwrap(), again.embed_images(&x, 2).unwrap());
    let VisionTower::Vit(tower) = &again.vision().unwrap().tower else {
        panic!("it is no vision transformer");
    };
    assert_eq!(picture, tower.codec().unwrap().decode(&codes, [3, 3]).unwrap());
}

#[test]
fn what_cannot_read_codes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |sets: &[&str]| match overview(&recipe(dir.path(), "clip", sets)) {
        Err(TrainError::Recipe(error)) => error.to_string(),
        other => panic!("{:?}", other.map(|_| "opened")),
    };
    let error = refused(&["freeze=[{ pattern = \"vision.*\", frozen = true }]"]);
    assert!(error.contains("vision.patches.*"), "{error}");
    // a CLIP has a class token
    let model = common::write_clip(dir.path());
    let codec = dir.path().join("codec");
    let error = refused(&[&format!(
        "vision={{ model = {model:?}, codes = {{ model = {codec:?} }} }}"
    )]);
    assert!(error.contains("take a SigLIP"), "{error}");
    // the frozen autoencoder alone has no codes
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/vq");
    let alone = dir.path().join("alone");
    std::fs::create_dir_all(&alone).unwrap();
    for part in ["pooled_encoder.safetensors", "pooled_decoder.safetensors"] {
        std::fs::copy(fixtures.join(part), alone.join(part)).unwrap();
    }
    let error = refused(&[&format!("vision.codes.model={alone:?}")]);
    assert!(error.contains("recipes/vq.toml"), "{error}");
}

/// A run of this method with the tiny CLIP as the teacher, and the losses of its steps.
fn run_of(dir: &Path, name: &str, sets: &[&str]) -> (Model, Vec<Metrics>) {
    let model = common::write_clip(dir);
    let teacher = format!("teacher.model={model:?}");
    let mut all = vec![teacher.as_str(), "schedule.steps=4"];
    all.extend(sets);
    let out = dir.join(name);
    let bundle = trained(&recipe(dir, "toklip", &all), out.clone());
    let lines = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let metrics = lines.lines().map(|line| serde_json::from_str(line).unwrap());
    (Model::load(&bundle).unwrap(), metrics.collect())
}

fn bidirectional(model: &Model) -> bool {
    match &model.vision().unwrap().tower {
        VisionTower::Vit(tower) => tower.config().bidirectional,
        other => panic!("{other:?}"),
    }
}

#[test]
fn codes_see_ahead_for_a_share_of_the_steps() {
    let dir = tempfile::tempdir().unwrap();
    let (causal, first) = run_of(dir.path(), "causal", &[]);
    let (soft, second) = run_of(dir.path(), "soft", &["toklip.open=0.5"]);
    let (open, third) = run_of(dir.path(), "open", &["vision.codes.bidirectional=true"]);
    // open in the last step, too
    let (late, _) = run_of(dir.path(), "late", &["toklip.open=0.99"]);
    assert_eq!(
        [&causal, &soft, &late, &open].map(bidirectional),
        [false, false, false, true]
    );
    // half of the way it is the one, and then not the other's loss with the same mask
    let losses = |all: &[Metrics]| all.iter().map(|m| m.loss).collect::<Vec<_>>();
    let (causal, soft, open) = (losses(&first), losses(&second), losses(&third));
    assert_eq!(soft[..2], open[..2]);
    assert_ne!(soft[2], open[2]);
    assert_ne!(soft[0], causal[0]);
    // the total is that of its terms
    for metrics in first {
        let sum: f32 = metrics.terms.values().sum();
        assert!((sum - metrics.loss).abs() < 1e-4 * sum.abs(), "{metrics:?}");
        assert!(metrics.terms["distill"] > 0.0);
    }
}

#[test]
fn pieces_of_codes_make_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (_, whole) = run_of(dir.path(), "whole", &[]);
    let (_, pieces) = run_of(dir.path(), "pieces", &["compute.micro_batch=4"]);
    for (a, b) in whole.iter().zip(&pieces) {
        assert!((a.loss - b.loss).abs() < 1e-4 * a.loss, "{} {}", a.loss, b.loss);
    }
}

#[test]
fn tokens_are_learnt_from_a_teacher_of_the_same_size() {
    let dir = tempfile::tempdir().unwrap();
    let new = "vision={ new = { family = \"siglip\", size = 48, patch = 16, width = 16, layers = 2, heads = 2 } }";
    let teacher = trained(
        &recipe(dir.path(), "clip", &[new, "schedule.steps=2"]),
        dir.path().join("teacher"),
    );
    let codec = dir.path().join("codec");
    let tower = format!("vision={{ model = {teacher:?}, codes = {{ model = {codec:?} }} }}");
    let seen = format!("teacher.model={teacher:?}");
    let (_, metrics) = run_of(
        dir.path(),
        "tokens",
        &[&tower, &seen, "toklip.tokens=10", "toklip.weight=0"],
    );
    assert!(
        metrics
            .iter()
            .all(|m| m.terms["tokens"] > 0.0 && !m.terms.contains_key("distill"))
    );
    // one whose tokens are others is refused, and so is one of another width, and what changes pictures
    let model = common::write_clip(dir.path());
    let refused = |sets: &[&str]| {
        let options = Options {
            out: dir.path().join("refused"),
            resume: false,
        };
        match run(&recipe(dir.path(), "toklip", sets), &options, &mut Silent) {
            Err(TrainError::Recipe(error)) => {
                fs::remove_dir_all(dir.path().join("refused")).unwrap();
                error.to_string()
            }
            other => panic!("{:?}", other.map(|_| "trained")),
        }
    };
    let clip = format!("teacher.model={model:?}");
    assert!(refused(&[&clip, "toklip.tokens=10"]).contains("toklip.tokens"));
    assert!(refused(&[&seen, "embed_dim=13", "text_head={ kind = \"linear\" }"]).contains("same width"));
    assert!(refused(&[]).contains("teacher.model"));
}

/// Towers of a stage with a token encoder, the plan of what learns in them, and the stage.
fn towers(sets: &[&str], stage: &str, lookup: bool) -> (Towers, Plan, Stage) {
    let dir = tempfile::tempdir().unwrap();
    let skip = format!("stage.{stage}.skip=false");
    let mut sets = sets.to_vec();
    sets.extend([skip.as_str(), "loss.captions=1"]);
    let recipe = recipe(dir.path(), "toklip", &sets);
    let (stage, recipe) = methods::stages(&recipe)
        .unwrap()
        .into_iter()
        .find(|(found, _)| found.name == stage)
        .unwrap();
    let mut rng = Rng::new(3);
    let config = VitConfig {
        family: VitFamily::SigLip,
        ..VitConfig::clip(48, 16, 16, common::stack())
    };
    let options = CodeOptions {
        lookup,
        ..CodeOptions::default()
    };
    let codec = Codec::open(&common::write_codec(dir.path())).unwrap();
    let vision = Vit::new(config, &mut rng)
        .on_codes(Arc::new(codec), options, &mut rng)
        .unwrap();
    let text = ClipText::load(common::text_config(), &common::MadeUp::new(5)).unwrap();
    let mut head = |width| -> Head { recipe.image_head.config(12).build(width, &mut rng).unwrap() };
    let heads = [head(16), head(12)];
    let [image_head, text_head] = heads;
    let text = Some(TextTower::Clip(text));
    let towers = Towers::new(Some(VisionTower::Vit(vision)), text, image_head, text_head, 2.0, None);
    let plan = Plan::new(&params::list(&towers), &stage.rules, &recipe.optimizer).unwrap();
    (params::set_trainable(towers, |name| plan.learns(name)), plan, stage)
}

#[test]
fn gradients_reach_the_layers_over_codes_and_the_token_encoder_alone() {
    for (name, lookup) in [("codes", false), ("codes", true), ("align", false), ("align", true)] {
        let (towers, plan, stage) = towers(&["toklip.tokens=10"], name, lookup);
        let n = 4;
        let mut rng = Rng::new(9);
        let mut rows = |width: usize| Init::Normal(1.0).tensor([n, width], &mut rng);
        let batch = Batch {
            images: Some(Images::Codes {
                // each code comes up, so that the whole of a table is reached
                codes: (0..n as u32 * 9).map(|i| i % 24).collect(),
                each: 9,
            }),
            texts: Texts::Features(rows(12)),
            positives: Positives::diagonal(n),
            queries: None,
            negatives: None,
            teacher_images: Some(rows(12)),
            teacher_tokens: Some(rows(9 * 16)),
            teacher_texts: None,
            reference: None,
            first: [0; 3],
        };
        let all = stage.objective.embed(&towers, &batch, 9).unwrap();
        let terms = stage.objective.loss(&towers, &all).unwrap();
        let grads = Gradients::collect(&towers, terms.total.backward());
        let reached: BTreeSet<String> = grads
            .reach()
            .filter(|(_, largest)| *largest > 0.0)
            .map(|(name, _)| name.to_owned())
            .collect();
        let learning: BTreeSet<String> = plan.names().map(str::to_owned).collect();
        assert_eq!(reached, learning, "{name} {lookup}");
        assert_eq!(reached.contains("vision.patches.lookup.weight"), lookup);
        assert!(reached.contains("logit_scale") && !reached.iter().any(|name| name.starts_with("text")));
        let encoder = |name: &&String| name.starts_with("vision.") && !name.starts_with("vision.patches.");
        assert_eq!(reached.iter().filter(encoder).count() > 0, name == "align");
    }
}

#[test]
fn the_distillation_is_what_it_is_by_hand() {
    let term = |sets: &[&str], of: &str| {
        let (towers, _, stage) = towers(sets, "align", false);
        let square = |values: Vec<f32>| tensor(values, [2, 2]);
        let all = Embeddings {
            positives: Positives::diagonal(2),
            rows: [
                (Part::Images, square(vec![1.0, 0.0, 0.0, 1.0])),
                (Part::Texts, square(vec![1.0, 0.0, 0.0, 1.0])),
                // one at a right angle, one the same: squared distances 2 and 0, cosines 0 and 1
                (Part::TeacherImages, square(vec![0.0, 1.0, 0.0, 1.0])),
                (Part::Tokens, square(vec![1.0, 2.0, 3.0, 4.0])),
                (Part::TeacherTokens, square(vec![1.0, 2.0, 1.0, 5.0])),
            ]
            .into(),
        };
        let terms = stage.objective.loss(&towers, &all).unwrap();
        let found = terms.terms.into_iter().find(|(name, _)| *name == of);
        found.map(|(_, term)| scalar(term))
    };
    // 1000 · (2 + 0) / (2 · 2), and 1.7 · (1 + 0) / 2
    assert_eq!(term(&[], "distill"), Some(500.0));
    let cosine = term(&["toklip.weight=1.7", "toklip.per=picture"], "distill").unwrap();
    assert!((cosine - 0.85).abs() < 1e-6, "{cosine}");
    // 10 · (4 + 1) / 4
    assert_eq!(term(&["toklip.tokens=10"], "tokens"), Some(12.5));
    assert_eq!(term(&["toklip.weight=0"], "distill"), None);
    // scale e², cosines 1 on the diagonal and 0 beside it: ln(1 + e^(−e²)) in both directions
    let expected = (-(2f64.exp())).exp().ln_1p();
    let infonce = f64::from(term(&[], "infonce").unwrap());
    assert!((infonce - expected).abs() < 1e-6, "{infonce} {expected}");
}

#[test]
fn it_equals_the_loss_of_its_authors() {
    let text = include_str!("fixtures/toklip.json");
    let numbers: serde_json::Value = serde_json::from_str(text).unwrap();
    let rows = |name: &str| {
        let values: Vec<f32> = serde_json::from_value(numbers[name].clone()).unwrap();
        let width = values.len() / 5;
        tensor(values, [5, width])
    };
    let (towers, _, stage) = towers(&["toklip.tokens=10"], "align", false);
    let learn = |name: &str| rows(name).autodiff().require_grad();
    let (images, tokens) = (learn("images"), learn("tokens"));
    let all = Embeddings {
        positives: Positives::diagonal(5),
        rows: [
            (Part::Images, images.clone()),
            (Part::Texts, rows("texts")),
            (Part::TeacherImages, rows("teacher")),
            (Part::Tokens, tokens.clone()),
            (Part::TeacherTokens, rows("seen")),
        ]
        .into(),
    };
    let terms = stage.objective.loss(&towers, &all).unwrap();
    let near = |found: f32, expected: f64, what: &str| {
        let found = f64::from(found);
        assert!(
            (found - expected).abs() < 1e-4 * expected.abs().max(1.0),
            "{what}: {found}, not {expected}"
        );
    };
    let names = [
        ("infonce", "contrastive_loss"),
        ("distill", "distill_loss"),
        ("tokens", "token_distill_loss"),
    ];
    for (name, theirs) in names {
        let found = terms.terms.iter().find(|(found, _)| *found == name);
        near(
            scalar(found.unwrap().1.clone()),
            numbers[theirs].as_f64().unwrap(),
            name,
        );
    }
    let grads = terms.total.backward();
    for (name, leaf) in [("images_gradient", images), ("tokens_gradient", tokens)] {
        let expected: Vec<f64> = serde_json::from_value(numbers[name].clone()).unwrap();
        for (found, expected) in values(leaf.grad(&grads).unwrap()).into_iter().zip(expected) {
            near(found, expected, name);
        }
    }
}
