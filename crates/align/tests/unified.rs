//! A language model of a few thousand weights learns to read the codes of a tiny TokLIP and to draw them.

mod common;

use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::batch::{Batch, Dialogues, Images, Part, Texts};
use bifocal_align::losses::Positives;
use bifocal_align::methods;
use bifocal_align::train::plan::Plan;
use bifocal_align::train::{Options, Silent, run};
use bifocal_models::adapter::HeadConfig;
use bifocal_models::chat::{ChatModel, Conversation, Sequence, Speech, Style};
use bifocal_models::connector;
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Llm, TextTower, TokenBatch};
use bifocal_models::towers::Towers;
use bifocal_models::unified::{self, Brush, Drawing};
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

fn train(recipe: &Recipe, out: &Path) {
    let options = Options {
        out: out.to_owned(),
        resume: false,
    };
    run(recipe, &options, &mut Silent).unwrap();
}

/// A bundle whose tower reads nine codes out of 24.
fn toklip(dir: &Path) -> PathBuf {
    let out = dir.join("toklip");
    if !out.exists() {
        let codes = common::on_codes(&common::write_codec(dir));
        let sets = ["schedule.steps=2", "freeze=[{ pattern = \"text.*\", frozen = true }]"];
        let sets: Vec<&str> = codes.iter().map(String::as_str).chain(sets).collect();
        let model = common::write_clip(dir);
        train(&common::recipe("clip", &model, &dir.join("cache"), &sets), &out);
    }
    out.join("model")
}

/// Six photos with captions in the tokenizer's letters.
fn data(dir: &Path) -> PathBuf {
    common::captioned(
        dir,
        &[
            "a dog",
            "two men ride",
            "a red train",
            "food on a plate",
            "a cat",
            "green trees",
        ],
    )
    .0
}

fn parsed(dir: &Path, sets: &[&str]) -> Result<Recipe, String> {
    let (vision, text, data, cache) = (toklip(dir), language_model(), data(dir), dir.join("cache"));
    let toml = format!(
        r#"
        method = "unified"
        embed_dim = 24
        vision = {{ model = {vision:?} }}
        text = {{ model = {text:?} }}
        chat = {{ max_tokens = 64 }}
        lora = {{ rank = 2, alpha = 4.0 }}
        unified = {{ drop = 0.3 }}
        schedule = {{ steps = 5, warmup = 1 }}
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

fn recipe(dir: &Path, sets: &[&str]) -> Recipe {
    parsed(dir, sets).unwrap()
}

fn metrics(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn it_learns_to_read_and_to_draw_and_is_saved_whole() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(
        dir.path(),
        &["schedule.steps=60", "optimizer.lr=0.02", "unified.drop=0.1"],
    );
    let out = dir.path().join("run");
    train(&recipe, &out);
    let all = metrics(&out);
    for term in ["captions", "codes"] {
        let of = |row: &serde_json::Value| row["terms"][term].as_f64().unwrap_or_else(|| panic!("{row}"));
        let mean = |part: &[serde_json::Value]| part.iter().map(of).sum::<f64>() / part.len() as f64;
        assert!(
            mean(&all[55..]) < 0.9 * mean(&all[..5]),
            "{term}: {} {}",
            mean(&all[..5]),
            mean(&all[55..])
        );
    }
    let names = SafeTensors::open(&out.join("checkpoints/step-000000000060/weights.safetensors"))
        .unwrap()
        .names();
    let learns =
        |name: &String| name.starts_with("image_head.") || name.starts_with("drawing.") || name.contains(".lora.");
    assert!(names.iter().all(learns), "{names:?}");
    for part in ["image_head.", "drawing.marks", "drawing.head.weight", "text."] {
        assert!(names.iter().any(|name| name.starts_with(part)), "{part}: {names:?}");
    }
    assert!(out.join("model/text.safetensors").exists() && !out.join("model/vision.safetensors").exists());
    let model = ChatModel::open(&out.join("model")).unwrap();
    assert_eq!(model.template.style, Style::Plain);
    let eyes = model.eyes.as_ref().unwrap();
    assert_eq!(eyes.rows(), 9 + 2);
    let pixels = vec![0.1; 48 * 48 * 3];
    let mut talk = Conversation::new(&model, Some(&pixels), None, Speech::default()).unwrap();
    let answer = talk.ask("", |_| true).unwrap();
    assert!(answer.written > 0 && answer.read == 11, "{answer:?}");
    let brush = Brush {
        guidance: 2.0,
        ..Brush::default()
    };
    let drawn = unified::draw(&model, "a dog", &brush, |_| true).unwrap().unwrap();
    assert_eq!((drawn.codes.len(), drawn.grid), (9, 3));
    let codec = eyes.vision.tower.token_encoder().unwrap().codec().unwrap();
    assert_eq!(codec.decode(&drawn.codes, [3, 3]).unwrap().len(), 48 * 48 * 3);
}

#[test]
fn a_run_that_is_killed_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    common::killed_runs_end_alike(&recipe(dir.path(), &[]), dir.path(), &[1, 3]);
}

#[test]
fn pieces_leave_out_the_captions_that_the_whole_would() {
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, sets: &[&str]| {
        let out = dir.path().join(name);
        train(&recipe(dir.path(), sets), &out);
        metrics(&out)
    };
    let whole = one("whole", &["unified.drop=0.5"]);
    for (a, b) in whole
        .iter()
        .zip(one("pieces", &["unified.drop=0.5", "compute.micro_batch=1"]))
    {
        for key in ["loss", "grad_norm"] {
            let (a, b) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
            assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{key} {a} {b}");
        }
    }
    // and it does matter which
    let kept = one("kept", &["unified.drop=0"]);
    assert_ne!(whole[0]["loss"], kept[0]["loss"]);
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

const EACH: usize = 3;
const KNOWN: usize = 7;

/// Three captions of two pictures of three codes.
fn batch(rng: &mut Rng) -> (Batch, Vec<Sequence>) {
    let sequence = |ids: &[u32]| Sequence {
        ids: ids.to_vec(),
        learnt: (0..ids.len()).map(|i| i > 0).collect(),
        image: Some(1),
        mismatch: false,
    };
    let all = vec![sequence(&[1, 3, 4, 5]), sequence(&[1, 7, 8]), sequence(&[1, 2])];
    let batch = Batch {
        images: Some(Images::Drawn {
            codes: [3, 0, 6, 1, 1, 5].into(),
            looks: Init::Normal(1.0).tensor([2 * EACH, 5], rng),
            each: EACH,
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

/// −ln p of the target in a row of numbers.
fn surprise(line: &[f32], target: u32) -> f64 {
    let all: f64 = line.iter().map(|&l| f64::from(l).exp()).sum();
    all.ln() - f64::from(line[target as usize])
}

#[test]
fn the_loss_is_that_of_captions_and_of_codes_and_reaches_what_learns() {
    let dir = tempfile::tempdir().unwrap();
    for drop in [0.0, 1.0] {
        let recipe = recipe(
            dir.path(),
            &[
                &format!("unified.drop={drop:.1}"),
                "unified.read=0.5",
                "unified.draw=2.0",
            ],
        );
        let (stage, recipe) = methods::stages(&recipe).unwrap().remove(0);
        let mut rng = Rng::new(4);
        let (batch, sequences) = batch(&mut rng);
        let model = llm();
        let head = connector::config("linear", 24)
            .unwrap()
            .build(5, &mut Rng::new(1))
            .unwrap();
        let drawing = Drawing::new(24, KNOWN, &mut Rng::new(3));
        let config = lora::LoraConfig {
            rank: 2,
            alpha: 4.0,
            dropout: 0.0,
        };
        let text = lora::attach(TextTower::Llm(model.clone()), &config, |_| true, 1)
            .unwrap()
            .0;
        let identity = HeadConfig::default().build(24, &mut Rng::new(2)).unwrap();
        let mut towers = Towers::new(None, Some(text), head.clone(), identity, 0.0, None);
        towers.drawing = Some(drawing.clone());
        // by its definition, text by text
        let Some(Images::Drawn { looks, codes, .. }) = &batch.images else {
            panic!("codes")
        };
        let rows = values(head.forward(looks.clone(), false));
        let marks = values(drawing.framed(tensor(vec![0.0; 24], [1, 24]), 1));
        let (begin, end) = (&marks[..24], &marks[48..]);
        let hidden = |x: Vec<f32>| {
            let n = x.len() / 24;
            model.hidden_of_rows(tensor(x, [n, 24]), &TokenBatch::of_lengths(&[n]))
        };
        let (mut captions, mut words, mut drawn) = (0.0, 0.0, 0.0);
        for (sequence, owner) in sequences.iter().zip([0, 1, 1]) {
            let seen = &rows[owner * EACH * 24..(owner + 1) * EACH * 24];
            let text = values(model.rows_of(&sequence.ids));
            let logits = model
                .logits(hidden([&text[..24], begin, seen, end, &text[24..]].concat()))
                .unwrap();
            for (i, &id) in sequence.ids.iter().enumerate().skip(1) {
                // the row before: a token, the picture with its marks, tokens
                let row = 1 + EACH + 2 + i - 2;
                captions += surprise(&logits[row * 40..(row + 1) * 40], id);
                words += 1.0;
            }
            let before = if drop == 0.0 { &text[..] } else { &text[..24] };
            let found = hidden([before, begin, &seen[..(EACH - 1) * 24]].concat());
            let logits = values(drawing.logits(found));
            let lines = logits.chunks_exact(KNOWN).skip(before.len() / 24);
            for (line, &code) in lines.zip(&codes[owner * EACH..]) {
                drawn += surprise(line, code);
            }
        }
        let expected = 0.5 * captions / words + 2.0 * drawn / 9.0;
        let names = params::list(&towers);
        let plan = Plan::new(&names, &stage.rules, &recipe.optimizer).unwrap();
        let towers = params::set_trainable(towers, |name| plan.learns(name));
        let all = stage.objective.embed(&towers, &batch, 9).unwrap();
        assert_eq!(all.get(Part::Drawn).unwrap().dims(), [3, 2]);
        let terms = stage.objective.loss(&towers, &all).unwrap();
        let found = f64::from(scalar(terms.total.clone()));
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        let grads = Gradients::collect(&towers, terms.total.backward());
        let reached: Vec<String> = grads
            .reach()
            .filter(|(_, g)| *g > 0.0)
            .map(|(name, _)| name.to_owned())
            .collect();
        // of adapters that add nothing yet, the second matrices alone are reached
        let meant = |name: &&str| !(name.contains(".lora.") && name.ends_with(".a"));
        let missing: Vec<&str> = plan
            .names()
            .filter(meant)
            .filter(|name| !reached.iter().any(|r| r == name))
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
        assert!(reached.iter().all(|name| plan.learns(name)), "{reached:?}");
        assert!(reached.iter().any(|name| name == "drawing.marks"), "{reached:?}");
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
        match parsed(dir.path(), sets) {
            Err(error) => error,
            Ok(recipe) => run(&recipe, &options, &mut Silent).unwrap_err().to_string(),
        }
    };
    let clip = format!("vision.model={:?}", common::write_clip(dir.path()));
    assert!(refused(&[&clip]).contains("recipes/toklip.toml"));
    assert!(refused(&["lora.dropout=0.1"]).contains("unified.drop"));
    assert!(refused(&["freeze=[{ pattern = \"vision.*\", frozen = false }]"]).contains("freeze vision.*"));
    assert!(refused(&["unified.read=0", "unified.draw=0"]).contains("nothing to learn"));
    assert!(refused(&["unified.drop=1.5"]).contains("unified.drop"));
    assert!(refused(&["embed_dim=12"]).contains("24"));
}
