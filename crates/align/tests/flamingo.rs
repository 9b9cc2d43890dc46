//! Flamingo: closed gates, open gates token by token, what learns, and a whole run with a tiny CLIP and a tiny language model.

mod common;

use std::path::{Path, PathBuf};

use bifocal_align::Recipe;
use bifocal_align::batch::{Batch, Dialogues, Images, Texts};
use bifocal_align::losses::Positives;
use bifocal_align::methods;
use bifocal_align::train::plan::Plan;
use bifocal_align::train::{Options, Silent, run};
use bifocal_models::adapter::{Head, HeadConfig, HeadKind};
use bifocal_models::chat::{ChatModel, Conversation, Sequence, Speech};
use bifocal_models::connector::flamingo::{Flamingo, FlamingoConfig, Looks};
use bifocal_models::connector::gated::{GatedConfig, GatedCross};
use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Llm, LlmCache, TextTower, TokenBatch};
use bifocal_models::towers::Towers;
use bifocal_models::weights::TensorSource;
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine::values;
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::optim::Gradients;
use bifocal_nn::params;

fn language_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures/tiny-qwen3.gguf")
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

fn sizes(llm: &Llm) -> FlamingoConfig {
    FlamingoConfig {
        image_width: 5,
        latents: 3,
        layers: 2,
        heads: 2,
        head: 4,
        every: 1,
        text_layers: llm.config().layers,
    }
}

/// The connector for patches of five values; with open gates every parameter is random.
fn connector(llm: &Llm, open: bool) -> Flamingo {
    let flamingo = Flamingo::new(sizes(llm), llm.config().width, &mut Rng::new(1));
    let mut rng = Rng::new(2);
    let nudged = params::load(flamingo, |_, shape| {
        let random = || (0..shape.iter().product()).map(|_| 0.4 * rng.normal()).collect();
        Ok::<_, ()>(open.then(random))
    });
    nudged.unwrap()
}

#[test]
fn closed_gates_leave_the_language_model_as_it_is() {
    let llm = llm();
    let lengths = TokenBatch::of_lengths(&[4, 6]);
    let x: bifocal_nn::Tensor<2> = Init::Normal(1.0).tensor([10, llm.config().width], &mut Rng::new(3));
    let alone = values(llm.hidden_of_rows(x.clone(), &lengths));
    let hidden = |open: bool| {
        let flamingo = connector(&llm, open);
        let media = flamingo.media(Init::Normal(1.0).tensor([8, 5], &mut Rng::new(4)), 2);
        let looks = Looks::new(&flamingo, media, vec![Some(1), None]);
        values(llm.hidden_looking(x.clone(), &lengths, &looks))
    };
    assert_eq!(hidden(false), alone);
    assert_ne!(hidden(true), alone);
}

#[test]
fn a_token_sees_the_picture_from_its_mark_on() {
    let llm = llm();
    let width = llm.config().width;
    let flamingo = connector(&llm, true);
    let lengths = TokenBatch::of_lengths(&[5, 3]);
    let x: bifocal_nn::Tensor<2> = Init::Normal(1.0).tensor([8, width], &mut Rng::new(3));
    let hidden = |seed: u64| {
        let media = flamingo.media(Init::Normal(1.0).tensor([8, 5], &mut Rng::new(seed)), 2);
        let looks = Looks::new(&flamingo, media, vec![Some(2), None]);
        values(llm.hidden_looking(x.clone(), &lengths, &looks))
    };
    let (a, b) = (hidden(4), hidden(5));
    let differs = |row: usize| a[row * width..(row + 1) * width] != b[row * width..(row + 1) * width];
    let found: Vec<bool> = (0..8).map(differs).collect();
    assert_eq!(found, [false, false, true, true, true, false, false, false]);
}

#[test]
fn token_by_token_is_what_all_at_once_is() {
    let llm = llm();
    let flamingo = connector(&llm, true);
    let n = 9;
    let x: bifocal_nn::Tensor<2> = Init::Normal(1.0).tensor([n, llm.config().width], &mut Rng::new(3));
    let width = llm.config().width;
    let media = flamingo.media(Init::Normal(1.0).tensor([4, 5], &mut Rng::new(4)), 1);
    let looks = Looks::new(&flamingo, media, vec![Some(2)]);
    let whole = values(llm.hidden_looking(x.clone(), &TokenBatch::of_lengths(&[n]), &looks));
    let mut cache = LlmCache::new(&llm, 1);
    let mut found = Vec::new();
    for (from, to) in [(0, 1), (1, 4), (4, 5), (5, 9)] {
        let rows = x.clone().slice([from..to, 0..width]);
        let hidden = llm
            .extend_looking(rows, &[to - from], &mut cache, Some(&looks))
            .unwrap();
        found.extend(values(hidden));
    }
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(found.len() == whole.len() && near(&found, &whole));
    // beams look at the same picture
    let mut twice = cache.select(&[0, 0]);
    let more: bifocal_nn::Tensor<2> = Init::Normal(1.0).tensor([2, width], &mut Rng::new(5));
    let both = values(
        llm.extend_looking(more.clone(), &[1, 1], &mut twice, Some(&looks))
            .unwrap(),
    );
    let second = more.slice([1..2, 0..width]);
    let one = values(llm.extend_looking(second, &[1], &mut cache, Some(&looks)).unwrap());
    assert!(near(&both[width..], &one));
}

fn recipe(dir: &Path, sets: &[&str]) -> Result<Recipe, String> {
    let (folder, _) = common::captioned(dir, &["a dog at the sea", "two men ride", "a red train", "food"]);
    let (vision, text, cache) = (common::write_clip(dir), language_model(), dir.join("cache"));
    let toml = format!(
        r#"
        method = "flamingo"
        embed_dim = 24
        vision = {{ model = {vision:?} }}
        text = {{ model = {text:?} }}
        flamingo = {{ latents = 3, layers = 1, heads = 2, head = 4, every = 1 }}
        chat = {{ max_tokens = 64 }}
        optimizer = {{ lr = 0.01 }}
        schedule = {{ steps = 40 }}
        run = {{ checkpoint_every = 40, cache = {cache:?} }}
        [data]
        batch = 4
        [[data.sources]]
        path = {folder:?}
        "#
    );
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Recipe::parse(&toml, Path::new("test.toml"), None, &sets).map_err(|error| error.to_string())
}

#[test]
fn gradients_reach_the_connector_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (stage, recipe) = methods::stages(&recipe(dir.path(), &[]).unwrap())
        .unwrap()
        .swap_remove(0);
    let model = llm();
    let config = HeadConfig {
        kind: HeadKind::Flamingo,
        width: Some(24),
        flamingo: Some(sizes(&model)),
        ..HeadConfig::default()
    };
    assert!(matches!(config.build(5, &mut Rng::new(1)).unwrap(), Head::Flamingo(_)));
    let identity = HeadConfig::default().build(24, &mut Rng::new(2)).unwrap();
    let head = Head::Flamingo(connector(&model, true));
    let towers = Towers::new(None, Some(TextTower::Llm(model)), head, identity, 0.0, None);
    let plan = Plan::new(&params::list(&towers), &stage.rules, &recipe.optimizer).unwrap();
    let towers = params::set_trainable(towers, |name| plan.learns(name));
    let sequence = |ids: &[u32], image| Sequence {
        ids: ids.to_vec(),
        learnt: vec![true; ids.len()],
        image,
        mismatch: false,
    };
    let batch = Batch {
        images: Some(Images::Patches {
            rows: Init::Normal(1.0).tensor([4, 5], &mut Rng::new(4)),
            each: 2,
        }),
        texts: Texts::Dialogues(Dialogues {
            all: vec![sequence(&[3, 4, 5], Some(0)), sequence(&[7, 8, 9, 2], Some(0))].into(),
            before: [0; 2],
        }),
        positives: Positives::diagonal(2),
        queries: None,
        negatives: None,
        teacher_images: None,
        teacher_tokens: None,
        teacher_texts: None,
        reference: None,
        first: [0; 3],
    };
    let all = stage.objective.embed(&towers, &batch, 9).unwrap();
    let terms = stage.objective.loss(&towers, &all).unwrap();
    let grads = Gradients::collect(&towers, terms.total.backward());
    let reached: Vec<&str> = grads.reach().filter(|(_, g)| *g > 0.0).map(|(name, _)| name).collect();
    let missing: Vec<&str> = plan.names().filter(|name| !reached.contains(name)).collect();
    let wrong: Vec<&&str> = reached.iter().filter(|name| !plan.learns(name)).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "{missing:?} {wrong:?}");
    assert!(plan.names().all(|name| name.starts_with("image_head.")) && plan.names().count() > 20);
}

#[test]
fn a_run_learns_and_its_bundle_talks() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let options = Options {
        out: out.clone(),
        resume: false,
    };
    run(&recipe(dir.path(), &[]).unwrap(), &options, &mut Silent).unwrap();
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let losses: Vec<f64> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"]
                .as_f64()
                .unwrap()
        })
        .collect();
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    assert!(mean(&losses[35..]) < 0.8 * mean(&losses[..5]), "{losses:?}");
    assert!(!out.join("model/text.safetensors").exists() && !out.join("model/vision.safetensors").exists());
    let names = SafeTensors::open(&out.join("model/heads.safetensors")).unwrap().names();
    assert!(names.iter().any(|name| name.contains("gate")), "{names:?}");
    let model = ChatModel::open(&out.join("model")).unwrap();
    assert_eq!(model.eyes.as_ref().unwrap().rows(), 1, "the mark");
    let pixels = vec![0.1; 32 * 32 * 3];
    let say = |beams: usize| {
        let speech = Speech {
            beams,
            max_tokens: 8,
            ..Speech::default()
        };
        let mut talk = Conversation::new(&model, Some(&pixels), None, speech).unwrap();
        talk.ask("", |_| true).unwrap()
    };
    let answer = say(1);
    assert!(answer.written > 0 && answer.read == 1, "{answer:?}");
    assert!(say(2).written > 0);
    // what is said first is what the whole model says of mark and picture at once
    let eyes = model.eyes.as_ref().unwrap();
    let seen = eyes.look(&pixels).unwrap();
    let Head::Flamingo(flamingo) = &eyes.connector else {
        panic!("a Flamingo")
    };
    let looks = Looks::new(flamingo, seen.media.unwrap(), vec![Some(0)]);
    let llm = model.llm().unwrap();
    let hidden = llm.hidden_looking(seen.rows, &TokenBatch::of_lengths(&[1]), &looks);
    let logits = llm.logits(hidden).unwrap();
    let best = (0..logits.len())
        .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
        .unwrap();
    let mut talk = Conversation::new(
        &model,
        Some(&pixels),
        None,
        Speech {
            max_tokens: 1,
            sampling: bifocal_models::generate::Sampling::default(),
            ..Speech::default()
        },
    )
    .unwrap();
    let first = talk.ask("", |_| true).unwrap();
    let expected = model.text.tokenizer.decode(&[best as u32]).unwrap();
    assert!(
        expected.trim().starts_with(first.text.as_str()),
        "{first:?} {expected:?}"
    );
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (sets, expected) in [
        (&["flamingo.every=0"][..], "flamingo.every"),
        (&["image_head.kind=\"mlp\""], "belong together"),
        (&["method=\"llava\"", "image_head.kind=\"flamingo\""], "belong together"),
    ] {
        let error = recipe(dir.path(), sets).unwrap_err();
        assert!(error.contains(expected), "{sets:?}: {error}");
    }
    let deep = recipe(dir.path(), &["flamingo.every=99"]).unwrap();
    let options = Options {
        out: dir.path().join("refused"),
        resume: false,
    };
    let error = run(&deep, &options, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("layers"), "{error}");
}

#[test]
fn packed_texts_look_as_each_does_alone() {
    let sizes = GatedConfig {
        width: 12,
        media: 5,
        heads: 2,
        head: 4,
    };
    let mut rng = Rng::new(7);
    let layer = params::load(GatedCross::new(sizes, &mut Rng::new(6)), |_, shape| {
        Ok::<_, ()>(Some((0..shape.iter().product()).map(|_| 0.4 * rng.normal()).collect()))
    })
    .unwrap();
    let x: bifocal_nn::Tensor<2> = Init::Normal(1.0).tensor([7, 12], &mut rng);
    let media: bifocal_nn::Tensor<2> = Init::Normal(1.0).tensor([6, 5], &mut rng);
    let sees = [false, true, true, true, true, true, true];
    let packed = values(layer.look(x.clone(), media.clone(), &[0, 5, 7], &sees));
    let mut alone = Vec::new();
    for (rows, picture) in [(0..5, 0..3), (5..7, 3..6)] {
        let pictures: Vec<usize> = sees[rows.clone()].iter().map(|&sees| usize::from(sees)).collect();
        let x = x.clone().slice([rows, 0..12]);
        alone.extend(values(layer.forward(
            x,
            media.clone().slice([picture, 0..5]),
            1,
            3,
            &pictures,
        )));
    }
    let worst = packed
        .iter()
        .zip(&alone)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(packed.len() == alone.len() && worst < 1e-5, "{worst}");
}
