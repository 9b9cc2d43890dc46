//! BLIP-2: losses beside PyTorch's, what learns in which stage, and whole runs with a tiny CLIP, a tiny BERT and a tiny language model.

mod common;

use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::batch::{Batch, Images, Part, Texts, Tokens};
use bifocal_align::losses::{Positives, hard_negatives};
use bifocal_align::methods::{self, Stage};
use bifocal_align::train::plan::Plan;
use bifocal_align::train::{Options, Silent, run};
use bifocal_models::adapter::{Head, HeadConfig, HeadKind};
use bifocal_models::bundle::Model;
use bifocal_models::chat::{ChatModel, Conversation, Speech};
use bifocal_models::connector::qformer::{QFormer, QFormerConfig, QFormerText};
use bifocal_models::open::TextOptions;
use bifocal_models::text::{Bert, BertConfig, Pooling, TokenBatch};
use bifocal_models::towers::Towers;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;

/// Data: three pictures with captions in the letters of both tokenizers.
fn data(dir: &Path) -> PathBuf {
    common::captioned(
        dir,
        &[
            "a dog at the sea",
            "two men ride",
            "a red train",
            "food",
            "a cat",
            "green trees",
        ],
    )
    .0
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures")
}

fn recipe(dir: &Path, sets: &[&str]) -> Result<Recipe, String> {
    let (vision, data, cache) = (common::write_clip(dir), data(dir), dir.join("cache"));
    let (text, trunk) = (fixtures().join("tiny-qwen3.gguf"), fixtures().join("sentence/labse"));
    let toml = format!(
        r#"
        method = "blip2"
        embed_dim = 24
        vision = {{ model = {vision:?} }}
        text = {{ model = {text:?} }}
        qformer = {{ trunk = {trunk:?}, queries = 3, dim = 8, max_tokens = 12 }}
        chat = {{ max_tokens = 64 }}
        schedule = {{ steps = 3, warmup = 1 }}
        run = {{ checkpoint_every = 2, cache = {cache:?} }}
        [data]
        batch = 4
        [[data.sources]]
        path = {data:?}
        "#
    );
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(&toml, Path::new("test.toml"), None, &sets).map_err(|error| error.to_string())
}

fn train(recipe: &Recipe, out: &Path) {
    let options = Options {
        out: out.to_owned(),
        resume: false,
    };
    run(recipe, &options, &mut Silent).unwrap();
}

fn metrics(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fixture of `scripts/fixtures/blip2.py`.
fn fixture() -> SafeTensors {
    SafeTensors::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/blip2.safetensors")).unwrap()
}

const LENGTHS: [usize; 4] = [5, 3, 7, 4];

/// The fixture's Q-Former between nothing and nothing.
fn towers(source: &SafeTensors) -> Towers {
    let sizes = QFormerConfig {
        width: 24,
        layers: 2,
        heads: 3,
        mlp: 40,
        queries: 3,
        cross_every: 2,
        image_width: 20,
        text: Some(QFormerText {
            vocabulary: 40,
            positions: 16,
            dim: 12,
        }),
    };
    let config = HeadConfig {
        kind: HeadKind::QFormer,
        width: Some(8),
        qformer: Some(sizes.clone()),
        ..HeadConfig::default()
    };
    let Head::QFormer(head) = config.build(20, &mut Rng::new(1)).unwrap() else {
        panic!("a Q-Former")
    };
    let head = head.with(|_| QFormer::load(sizes, source).unwrap());
    let identity = HeadConfig::default().build(8, &mut Rng::new(2)).unwrap();
    Towers::new(None, None, Head::QFormer(head), identity, 0.0, None)
}

fn batch(source: &SafeTensors) -> Batch {
    let ids = source.load("expected.ids").unwrap().data;
    let mut ids = ids.iter().map(|&id| id as u32);
    let texts: Vec<Vec<u32>> = LENGTHS.iter().map(|&n| ids.by_ref().take(n).collect()).collect();
    let image = source.load("expected.image").unwrap();
    Batch {
        images: Some(Images::Patches {
            rows: tensor(image.data, [image.shape[0], image.shape[1]]),
            each: 6,
        }),
        texts: Texts::Tokens(Tokens {
            batch: TokenBatch::pack(&texts),
            pooling: Pooling::Mean,
            before: 0,
        }),
        positives: Positives::diagonal(4),
        queries: None,
        negatives: None,
        teacher_images: None,
        teacher_tokens: None,
        teacher_texts: None,
        reference: None,
        first: [0; 3],
    }
}

fn represent() -> (Stage, Recipe) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &[]).unwrap();
    methods::stages(&recipe).unwrap().swap_remove(0)
}

fn near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 2e-4, "{what}: {worst}");
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let source = fixture();
    let (stage, recipe) = represent();
    let towers = towers(&source);
    let names = params::list(&towers);
    let plan = Plan::new(&names, &stage.rules, &recipe.optimizer).unwrap();
    let towers = params::set_trainable(towers, |name| plan.learns(name));
    let all = stage.objective.embed(&towers, &batch(&source), 9).unwrap();
    // the fixture's own draws decide which pairs are wrong
    let draws = source.load("expected.draws").unwrap();
    let all = all.with(Part::Draws, tensor(draws.data, [4, 2]));
    let terms = stage.objective.loss(&towers, &all).unwrap();
    let order: Vec<&str> = terms.terms.iter().map(|(name, _)| *name).collect();
    assert_eq!(order, ["contrast", "matching", "tokens"]);
    let found: Vec<f32> = terms.terms.iter().map(|(_, t)| scalar(t.clone())).collect();
    near(&found, &source.load("expected.losses").unwrap().data, "losses");
    assert!((scalar(terms.total.clone()) - found.iter().sum::<f32>()).abs() < 1e-5);

    let grads = Gradients::collect(&towers, terms.total.backward());
    let layout: Vec<(String, usize)> = grads
        .layout()
        .map(|(name, shape)| (name.to_owned(), shape.iter().product()))
        .collect();
    let flat = grads.flat();
    let mut at = 0;
    let mut compared = 0;
    for (name, length) in layout {
        let own = &flat[at..at + length];
        at += length;
        let theirs = match name.as_str() {
            "image_head.qformer.queries" => "expected.grad.queries",
            "image_head.qformer.text.words.weight" => "expected.grad.words",
            "image_head.temperature" => "expected.grad.temperature",
            _ => continue,
        };
        near(own, &source.load(theirs).unwrap().data, &name);
        compared += 1;
    }
    assert_eq!(compared, 3);

    // everything that learns is reached, and nothing else
    let reached: Vec<&str> = grads.reach().filter(|(_, g)| *g > 0.0).map(|(name, _)| name).collect();
    let missing: Vec<&str> = plan.names().filter(|name| !reached.contains(name)).collect();
    let wrong: Vec<&&str> = reached.iter().filter(|name| !plan.learns(name)).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "{missing:?} {wrong:?}");
    assert!(plan.names().count() > 40 && !plan.learns("image_head.out.weight"));
}

#[test]
fn the_same_step_draws_the_same_pairs() {
    let source = fixture();
    let (stage, _) = represent();
    let (towers, batch) = (towers(&source), batch(&source));
    let draws = |seed| {
        values(
            stage
                .objective
                .embed(&towers, &batch, seed)
                .unwrap()
                .get(Part::Draws)
                .unwrap(),
        )
    };
    assert_eq!(draws(9), draws(9));
    assert_ne!(draws(9), draws(10));
    // by a sample's place in the step, however the batch is taken apart
    let part = stage.objective.embed(&towers, &batch.part(2..4), 9).unwrap();
    assert_eq!(values(part.get(Part::Draws).unwrap()), draws(9)[4..]);
    let texts = values(
        stage
            .objective
            .embed(&towers, &batch, 9)
            .unwrap()
            .get(Part::Texts)
            .unwrap(),
    );
    near(&values(part.get(Part::Texts).unwrap()), &texts[24..], "texts of a part");
}

#[test]
fn negatives_are_pytorchs_for_the_same_draws_and_never_the_own() {
    let expected = |name: &str| -> Vec<u32> {
        let data = fixture().load(name).unwrap().data;
        data.iter().map(|&i| i as u32).collect()
    };
    let source = fixture();
    let (stage, _) = represent();
    let towers = towers(&source);
    let all = stage.objective.embed(&towers, &batch(&source), 9).unwrap();
    let (images, texts) = (all.get(Part::Images).unwrap(), all.get(Part::Texts).unwrap());
    let logits: Vec<f32> = values(bifocal_align::losses::query_similarities(images, texts, 3))
        .iter()
        .map(|s| s / 0.07)
        .collect();
    let draws = source.load("expected.draws").unwrap().data;
    let (pictures, others) = hard_negatives(&logits, &draws);
    assert_eq!(
        (pictures, others),
        (expected("expected.pictures"), expected("expected.others"))
    );
}

#[test]
fn both_stages_train_what_they_should_and_the_bundle_talks() {
    let dir = tempfile::tempdir().unwrap();
    let sets = ["schedule.steps=40", "optimizer.lr=0.01"];
    let recipe = recipe(dir.path(), &sets).unwrap();
    let out = dir.path().join("run");
    train(&recipe, &out);
    let all = metrics(&out);
    assert_eq!(all.len(), 80);
    let mean = |rows: &[serde_json::Value], key: &str| {
        rows.iter().map(|row| row[key].as_f64().unwrap()).sum::<f64>() / rows.len() as f64
    };
    assert!(mean(&all[35..40], "loss") < 0.9 * mean(&all[..5], "loss"), "{all:?}");
    assert!(mean(&all[75..], "loss") < 0.9 * mean(&all[40..45], "loss"), "{all:?}");
    let weights = |step: u64| {
        let path = out.join(format!("checkpoints/step-{step:012}/weights.safetensors"));
        SafeTensors::open(&path).unwrap()
    };
    let last = weights(80);
    assert!(last.names().iter().all(|name| name.starts_with("image_head.")));
    assert!(!out.join("model/text.safetensors").exists() && !out.join("model/vision.safetensors").exists());
    let model = ChatModel::open(&out.join("model")).unwrap();
    assert_eq!(model.eyes.as_ref().unwrap().rows(), 3, "a row for each query");
    let pixels = vec![0.1; 32 * 32 * 3];
    let mut talk = Conversation::new(&model, Some(&pixels), None, Speech::default()).unwrap();
    let answer = talk.ask("", |_| true).unwrap();
    assert!(answer.written > 0 && answer.read == 3, "{answer:?}");
    let error = Model::open(&out.join("model"), &TextOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("bifocal chat"), "{error}");
}

#[test]
fn the_second_stage_moves_what_makes_rows_and_nothing_that_reads_texts() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &["stage.represent.skip=true"]).unwrap();
    let (stage, own) = methods::stages(&recipe).unwrap().swap_remove(0);
    assert_eq!(stage.name, "generate");
    let towers = towers(&fixture());
    let plan = Plan::new(&params::list(&towers), &stage.rules, &own.optimizer).unwrap();
    for (name, learns) in [
        ("image_head.out.weight", true),
        ("image_head.norm.weight", true),
        ("image_head.qformer.queries", true),
        ("image_head.qformer.layers.0.own.query.weight", true),
        ("image_head.qformer.layers.1.query_mlp.fc.weight", true),
        ("image_head.qformer.layers.1.text_mlp.fc.weight", false),
        ("image_head.qformer.text.words.weight", false),
        ("image_head.qformer.text.matching.weight", false),
        ("image_head.temperature", false),
        ("logit_scale", false),
    ] {
        assert_eq!(plan.learns(name), learns, "{name}");
    }
    let out = dir.path().join("run");
    train(&recipe, &out);
    // every one of them has a gradient: it moved
    let first = {
        let none = self::recipe(dir.path(), &["stage.represent.skip=true", "optimizer.lr=1e-12"]).unwrap();
        let out = dir.path().join("still");
        train(&none, &out);
        SafeTensors::open(&out.join("model/heads.safetensors")).unwrap()
    };
    let last = SafeTensors::open(&out.join("model/heads.safetensors")).unwrap();
    for name in last.names() {
        let moved = |a: &[f32], b: &[f32]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-7);
        let moved = moved(&first.load(&name).unwrap().data, &last.load(&name).unwrap().data);
        // a constant added to all keys changes no softmax: only values' half of that bias is felt
        assert_eq!(moved, plan.learns(&name), "{name}");
    }
}

#[test]
fn a_run_that_is_killed_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    common::killed_runs_end_alike(&recipe(dir.path(), &[]).unwrap(), dir.path(), &[1, 3, 5]);
}

#[test]
fn pieces_and_pictures_that_pass_each_time_make_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, sets: &[&str]| {
        let out = dir.path().join(name);
        train(&recipe(dir.path(), sets).unwrap(), &out);
        metrics(&out)
    };
    let whole = one("whole", &[]);
    for (name, sets) in [
        ("pieces", &["compute.micro_batch=1"][..]),
        ("uncached", &["chat.cache=false"]),
    ] {
        for (a, b) in whole.iter().zip(one(name, sets)) {
            for key in ["loss", "grad_norm"] {
                let (a, b) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
                assert!((a - b).abs() < 1e-3 * a.abs().max(1.0), "{name}: {key} {a} {b}");
            }
        }
    }
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (sets, expected) in [
        (&["qformer.trunk=\"\""][..], "qformer.trunk"),
        (&["qformer.queries=0"], "qformer.queries"),
        (&["stage.generate.skip=true"], "stage.generate.skip"),
        (&["image_head.kind=\"mlp\""], "llava"),
        (&["method=\"clip\"", "image_head.kind=\"qformer\""], "blip2 or llava"),
    ] {
        let error = recipe(dir.path(), sets).unwrap_err();
        assert!(error.contains(expected), "{sets:?}: {error}");
    }
    let refused = |sets: &[&str]| {
        let recipe = recipe(dir.path(), sets).unwrap();
        let options = Options {
            out: dir.path().join("refused"),
            resume: false,
        };
        run(&recipe, &options, &mut Silent).unwrap_err().to_string()
    };
    let model = fixtures().join("tiny-qwen3.gguf");
    let error = refused(&[&format!("qformer.trunk={model:?}")]);
    assert!(error.contains("is none"), "{error}");
    let error = refused(&["qformer.max_tokens=64"]);
    assert!(error.contains("positions"), "{error}");
}

#[test]
fn texts_alone_are_what_they_are_to_the_bert_that_it_began_as() {
    let mut rng = Rng::new(3);
    let sizes = BertConfig {
        vocabulary: 30,
        positions: 12,
        token_types: 2,
        width: 12,
        layers: 2,
        heads: 3,
        mlp: 20,
        eps: 1e-12,
    };
    // norms and biases that are not what they begin as
    let bert = params::load(Bert::new(sizes, &mut Rng::new(2)), |_, shape| {
        Ok::<_, ()>(Some((0..shape.iter().product()).map(|_| 0.5 * rng.normal()).collect()))
    })
    .unwrap();
    let config = QFormerConfig::over(bert.config(), 4, 2, 8, 12);
    assert_eq!(
        config.text.as_ref().unwrap().vocabulary,
        31,
        "one more than the BERT has"
    );
    // a projection that changes nothing
    let same: Vec<f32> = (0..144).map(|i| f32::from(u8::from(i % 13 == 0))).collect();
    let qformer = params::load(QFormer::new(config, &mut Rng::new(4)).over(&bert), |name, _| {
        Ok::<_, ()>((name == "text.text.weight").then(|| same.clone()))
    })
    .unwrap();
    let texts = TokenBatch::pack(&[vec![1, 5, 7, 2], vec![1, 29, 2, 8, 3]]);
    let found = values(qformer.embed_texts(&texts).unwrap());
    let hidden = values(bert.hidden(&texts));
    let mut expected = Vec::new();
    for first in [0, 4] {
        let row = &hidden[first * 12..(first + 1) * 12];
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        expected.extend(row.iter().map(|v| v / norm));
    }
    near(&found, &expected, "first tokens");
}
