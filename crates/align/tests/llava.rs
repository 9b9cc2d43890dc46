//! A language model of a few thousand weights learns to talk about what a tiny CLIP sees.

mod common;

use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::batch::{Batch, Dialogues, Images, Part, Texts};
use bifocal_align::losses::Positives;
use bifocal_align::methods;
use bifocal_align::train::plan::Plan;
use bifocal_align::train::{Options, Silent, overview, run};
use bifocal_models::adapter::HeadConfig;
use bifocal_models::bundle::Model;
use bifocal_models::chat::{ChatModel, Conversation, Sequence, Speech, Style};
use bifocal_models::connector;
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Llm, TextTower, TokenBatch};
use bifocal_models::towers::Towers;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine::{scalar, tensor, values};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::optim::Gradients;
use bifocal_nn::{lora, params};

/// It has a tokenizer of letters and digits inside, and room for 64 tokens.
fn language_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/tiny-qwen3.gguf")
}

/// Six photos with captions in that tokenizer's letters, and a file of dialogues about two of them.
fn data(dir: &Path) -> PathBuf {
    let (folder, names) = common::captioned(
        dir,
        &[
            "a dog at the sea",
            "two men ride",
            "a red train",
            "food on a plate",
            "a cat",
            "green trees in the sun",
        ],
    );
    let turns = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .flat_map(|(q, a)| {
                [
                    serde_json::json!({"from": "human", "value": q}),
                    serde_json::json!({"from": "gpt", "value": a}),
                ]
            })
            .collect::<Vec<_>>()
    };
    let dialogues = serde_json::json!([
        {"id": "a", "image": names[0], "conversations": turns(&[("<image>\nwhat", "a dog"), ("where", "sea")])},
        {"id": "b", "image": names[1], "conversations": turns(&[("who\n<image>", "men")])},
        {"id": "c", "image": "../escape.jpg", "conversations": turns(&[("<image>\nwhat", "no")])},
    ]);
    std::fs::write(folder.join("dialogues.json"), dialogues.to_string()).unwrap();
    folder
}

fn recipe(dir: &Path, sets: &[&str]) -> Recipe {
    let (vision, text, data, cache) = (common::write_clip(dir), language_model(), data(dir), dir.join("cache"));
    let toml = format!(
        r#"
        method = "llava"
        embed_dim = 24
        vision = {{ model = {vision:?} }}
        text = {{ model = {text:?} }}
        chat = {{ max_tokens = 64, template = "v1", system = "", questions = ["what is it", "say"] }}
        schedule = {{ steps = 3, warmup = 1 }}
        run = {{ checkpoint_every = 2, cache = {cache:?} }}
        [stage.tune]
        skip = false
        lora = {{ rank = 2, alpha = 4.0, dropout = 0.1 }}
        schedule = {{ steps = 3 }}
        data = {{ batch = 3 }}
        [data]
        batch = 4
        [[data.sources]]
        path = {data:?}
        "#
    );
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(&toml, Path::new("test.toml"), None, &sets).unwrap()
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

fn losses(out: &Path) -> Vec<f64> {
    metrics(out).iter().map(|row| row["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_connector_is_not_given_a_part_of_the_patches() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &["vision.patch_dropout=0.5"]);
    let error = overview(&recipe).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("vision.patch_dropout: a connector reads all"), "{error}");
}

#[test]
fn the_first_stage_trains_the_connector_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(
        dir.path(),
        &["stage.tune.skip=true", "schedule.steps=40", "optimizer.lr=0.01"],
    );
    let out = dir.path().join("run");
    train(&recipe, &out);
    let all = losses(&out);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&all[35..]) < 0.8 * mean(&all[..5]), "{all:?}");
    let names = SafeTensors::open(&out.join("checkpoints/step-000000000040/weights.safetensors"))
        .unwrap()
        .names();
    assert!(
        !names.is_empty() && names.iter().all(|name| name.starts_with("image_head.")),
        "{names:?}"
    );
    assert!(!out.join("model/text.safetensors").exists() && !out.join("model/vision.safetensors").exists());
    let model = ChatModel::open(&out.join("model")).unwrap();
    assert_eq!(model.template.style, Style::Plain);
    // a picture of 32 × 32 is four patches
    assert_eq!(model.eyes.as_ref().unwrap().rows(), 4);
    let pixels = vec![0.1; 32 * 32 * 3];
    let mut talk = Conversation::new(&model, Some(&pixels), None, Speech::default()).unwrap();
    let answer = talk.ask("", |_| true).unwrap();
    assert!(answer.written > 0 && answer.read == 4, "{answer:?}");
    let error = Model::open(&out.join("model"), &TextOptions::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("bifocal chat"), "{error}");
}

#[test]
fn the_second_stage_trains_the_language_model_too() {
    let dir = tempfile::tempdir().unwrap();
    let source = format!(
        "data.sources=[{{ path = {:?}, kind = \"dialogues\" }}]",
        dir.path().join("data/dialogues.json")
    );
    for (name, sets) in [
        ("lora", vec![]),
        (
            "full",
            vec![
                "stage.tune.lora.rank=0".to_owned(),
                format!("stage.tune.{source}"),
                "stage.tune.data.batch=2".to_owned(),
            ],
        ),
    ] {
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let out = dir.path().join(name);
        train(&recipe(dir.path(), &sets), &out);
        assert_eq!(losses(&out).len(), 6);
        let before = open_text(&language_model(), &TextOptions::default())
            .unwrap()
            .tower
            .tensors();
        let after = SafeTensors::open(&out.join("model/text.safetensors")).unwrap();
        let mut same: Vec<String> = Vec::new();
        for (tensor, old) in &before {
            if after.load(tensor).unwrap().data == old.data {
                same.push(tensor.clone());
            }
        }
        // adapters change the products' weights, everything learns in a whole model
        same.retain(|tensor| name == "full" || !tensor.contains("norm"));
        assert_eq!(same, Vec::<String>::new(), "{name}");
        let model = ChatModel::open(&out.join("model")).unwrap();
        assert_eq!(model.template.style, Style::V1);
        let pixels = vec![0.3; 32 * 32 * 3];
        let mut talk = Conversation::new(
            &model,
            Some(&pixels),
            None,
            Speech {
                max_tokens: 4,
                ..Speech::default()
            },
        )
        .unwrap();
        let first = talk.ask("what", |_| true).unwrap();
        let second = talk.ask("where", |_| true).unwrap();
        assert!(
            first.read > 4 && second.read < first.read + 12,
            "the picture is not read again: {first:?} {second:?}"
        );
        assert_eq!(talk.dialogue().turns.len(), 4);
    }
}

#[test]
fn a_run_that_is_killed_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    common::killed_runs_end_alike(&recipe(dir.path(), &[]), dir.path(), &[1, 3, 5]);
}

#[test]
fn pieces_and_pictures_that_pass_each_time_make_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, sets: &[&str]| {
        let out = dir.path().join(name);
        let sets: Vec<&str> = ["stage.tune.lora.dropout=0"].iter().chain(sets).copied().collect();
        train(&recipe(dir.path(), &sets), &out);
        metrics(&out)
    };
    let whole = one("whole", &[]);
    for (name, sets) in [
        ("pieces", &["compute.micro_batch=1"][..]),
        ("uncached", &["chat.cache=false"]),
        ("recomputed", &["compute.recompute=true"]),
    ] {
        for (a, b) in whole.iter().zip(one(name, sets)) {
            for key in ["loss", "grad_norm"] {
                let (a, b) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
                assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{name}: {key} {a} {b}");
            }
        }
    }
}

fn llm() -> Llm {
    let options = TextOptions {
        writes: true,
        ..TextOptions::default()
    };
    match open_text(&language_model(), &options).unwrap().tower {
        TextTower::Llm(llm) => llm,
        _ => panic!("a language model"),
    }
}

/// Three dialogues about two pictures of two patches; one of them is not about its picture.
fn batch(rng: &mut Rng) -> (Batch, Vec<Sequence>) {
    let sequence = |ids: &[u32], learnt: &[usize], image| Sequence {
        ids: ids.to_vec(),
        learnt: (0..ids.len()).map(|i| learnt.contains(&i)).collect(),
        image,
        mismatch: false,
    };
    let all = vec![
        sequence(&[3, 4, 5, 6], &[2, 3], Some(1)),
        sequence(&[7, 8, 9], &[0, 2], Some(0)),
        sequence(&[1, 2], &[0, 1], None),
    ];
    let batch = Batch {
        images: Some(Images::Patches {
            rows: Init::Normal(1.0).tensor([4, 5], rng),
            each: 2,
        }),
        texts: Texts::Dialogues(Dialogues {
            all: all.clone().into(),
            before: [0; 2],
        }),
        positives: Positives::new(2, vec![0, 1, 1]).unwrap(),
        queries: None,
        negatives: None,
        teacher_images: None,
        teacher_tokens: None,
        teacher_texts: None,
        reference: None,
        first: [0; 3],
    };
    (batch, all)
}

#[test]
fn the_loss_is_the_mean_over_all_learnt_tokens_and_reaches_what_learns() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(dir.path(), &[]);
    let mut rng = Rng::new(4);
    let (batch, sequences) = batch(&mut rng);
    for (stage, recipe) in methods::stages(&recipe).unwrap() {
        let model = llm();
        let head = connector::config("mlp2x_gelu", 24)
            .unwrap()
            .build(5, &mut Rng::new(1))
            .unwrap();
        let identity = HeadConfig::default().build(24, &mut Rng::new(2)).unwrap();
        let mut text = TextTower::Llm(model.clone());
        if recipe.lora.rank > 0 {
            let config = lora::LoraConfig {
                rank: 2,
                alpha: 4.0,
                dropout: 0.0,
            };
            text = lora::attach(text, &config, |_| true, 1).unwrap().0;
        }
        let towers = Towers::new(None, Some(text), head.clone(), identity, 0.0, None);
        // by its definition, dialogue by dialogue
        let Some(Images::Patches { rows, .. }) = &batch.images else {
            panic!("patches")
        };
        let pictures = values(head.forward(rows.clone(), false));
        let (mut sum, mut count) = (0.0, 0.0);
        for (sequence, owner) in sequences.iter().zip([0, 1, 1]) {
            let words = values(model.rows_of(&sequence.ids));
            let at = sequence.image.map_or(0, |at| at * 24);
            let seen = &pictures[owner * 48..(owner + 1) * 48];
            let x = match sequence.image {
                Some(_) => [&words[..at], seen, &words[at..]].concat(),
                None => words,
            };
            let n = x.len() / 24;
            let hidden = model.hidden_of_rows(tensor(x, [n, 24]), &TokenBatch::of_lengths(&[n]));
            let logits = model.logits(hidden).unwrap();
            for (row, target) in sequence.targets(2) {
                let line = &logits[row * 40..(row + 1) * 40];
                let all: f64 = line.iter().map(|&l| f64::from(l).exp()).sum();
                sum += all.ln() - f64::from(line[target as usize]);
                count += 1.0;
            }
        }
        let names = params::list(&towers);
        let plan = Plan::new(&names, &stage.rules, &recipe.optimizer).unwrap();
        let towers = params::set_trainable(towers, |name| plan.learns(name));
        let all = stage.objective.embed(&towers, &batch, 9).unwrap();
        assert_eq!(all.get(Part::Answers).unwrap().dims(), [3, 2]);
        let terms = stage.objective.loss(&towers, &all).unwrap();
        let found = f64::from(scalar(terms.total.clone()));
        assert_eq!(count, 5.0, "the first token of a text has nothing before it");
        assert!(
            (found - sum / count).abs() < 1e-5,
            "{}: {found} {}",
            stage.name,
            sum / count
        );
        let grads = Gradients::collect(&towers, terms.total.backward());
        let reached: Vec<String> = grads
            .reach()
            .filter(|(_, g)| *g > 0.0)
            .map(|(name, _)| name.to_owned())
            .collect();
        // of adapters that add nothing yet, the second matrices alone are reached
        let meant = |name: &&str| !(name.ends_with("lora.a") || name.contains(".lora.") && name.ends_with(".a"));
        let missing: Vec<&str> = plan
            .names()
            .filter(meant)
            .filter(|name| !reached.iter().any(|r| r == name))
            .collect();
        assert_eq!(missing, Vec::<&str>::new(), "{}", stage.name);
        assert!(reached.iter().all(|name| plan.learns(name)), "{reached:?}");
    }
}

#[test]
fn contradictions_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |sets: &[&str]| {
        let options = Options {
            out: dir.path().join("refused"),
            resume: false,
        };
        run(&recipe(dir.path(), sets), &options, &mut Silent)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&["embed_dim=12"]).contains("24"));
    let clip = format!("text.model={:?}", common::write_clip(dir.path()));
    assert!(refused(&[&clip]).contains("no language model"));
    assert!(refused(&["chat.layer=9"]).contains("layer"));
}
