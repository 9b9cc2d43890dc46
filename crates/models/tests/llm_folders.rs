//! Language models in the layout of transformers against transformers itself, on tiny folders with random weights
//! (scripts/fixtures/llm_folders.py).

mod common;

use std::path::Path;

use bifocal_models::open::{OpenError, TextEncoder, TextOptions, open_text};
use bifocal_models::text::{Attention, Pooling, TextTower, TokenBatch};
use bifocal_nn::engine::values;
use bifocal_nn::params;
use common::{Numbers, assert_close, edited, fixture, worst_cosine};
use serde_json::{Value, json};

const TEXTS: [&str; 3] = [
    "t1 t5 t9 t30 t2 t17",
    "t7",
    "t3 t3 t8 t21 t39 t0 t11 t12 t13 t14 t15 t16 t20",
];
const WIDTH: usize = 24;

fn open(folder: &Path, attention: Attention) -> Result<TextEncoder, OpenError> {
    let options = TextOptions {
        attention: Some(attention),
        ..TextOptions::default()
    };
    open_text(folder, &options)
}

fn tokens(encoder: &TextEncoder) -> TokenBatch {
    TokenBatch::of(encoder.tokenize(&TEXTS).unwrap().iter())
}

/// All layers and pooled rows of a folder against the reference's `hidden_states`, `[layers + 1, tokens, width]`.
fn check(folder: &Path, expected: &str) {
    let numbers = Numbers::open(&format!("llm/{expected}/expected.safetensors"));
    for (attention, name) in [
        (Attention::Causal, "causal"),
        (Attention::Bidirectional, "bidirectional"),
    ] {
        let encoder = open(folder, attention).unwrap();
        let expected = numbers.get(name);
        let batch = tokens(&encoder);
        let layer = batch.tokens() * WIDTH;
        assert_eq!(expected.len(), (encoder.tower.layers() + 1) * layer);
        for (i, states) in expected.chunks_exact(layer).enumerate() {
            let found = values(encoder.tower.hidden_at(&batch, i));
            assert_close(&found, states, 1e-4, &format!("{} {name} layer {i}", folder.display()));
        }
        let last = &expected[expected.len() - layer..];
        assert_close(&values(encoder.tower.hidden(&batch)), last, 1e-4, "the last layer");
        let (rows, dim) = encoder.embed(&TEXTS).unwrap();
        let means: Vec<f32> = batch
            .offsets
            .windows(2)
            .flat_map(|b| {
                let rows = &last[b[0] * WIDTH..b[1] * WIDTH];
                (0..WIDTH).map(move |c| rows.iter().skip(c).step_by(WIDTH).sum::<f32>() / (b[1] - b[0]) as f32)
            })
            .collect();
        assert_close(&rows, &means, 1e-4, "means");
        assert!(worst_cosine(&rows, &means, dim) > 0.99999);
        for (text, row) in TEXTS.iter().zip(rows.chunks_exact(dim)) {
            assert_close(&encoder.embed(&[*text]).unwrap().0, row, 1e-5, "alone and together");
        }
    }
}

#[test]
fn every_layer_equals_that_of_transformers() {
    for name in ["llama", "mistral", "qwen2", "qwen3", "gemma3"] {
        check(&fixture(&format!("llm/{name}")), name);
    }
    check(&fixture("llm/gemma3-nested"), "gemma3");
}

/// The settings that transformers before version 5 wrote.
#[test]
fn older_settings_mean_the_same() {
    let llama = edited("llm/llama", "config.json", |config| {
        let mut turns = config.as_object_mut().unwrap().remove("rope_parameters").unwrap();
        config["rope_theta"] = turns.as_object_mut().unwrap().remove("rope_theta").unwrap();
        config["rope_scaling"] = turns;
    });
    check(llama.path(), "llama");
    let gemma = edited("llm/gemma3", "config.json", |config| {
        config.as_object_mut().unwrap().remove("rope_parameters");
        config["rope_theta"] = json!(1e6);
        config["rope_local_base_freq"] = json!(1e4);
        config["rope_scaling"] = json!({"type": "linear", "factor": 8.0});
        config.as_object_mut().unwrap().remove("layer_types");
        config["sliding_window_pattern"] = json!(2);
    });
    check(gemma.path(), "gemma3");
    let plain = edited("llm/mistral", "config.json", |config| {
        config.as_object_mut().unwrap().remove("rope_parameters");
        config["rope_theta"] = json!(500.0);
        config["rope_scaling"] = Value::Null;
    });
    check(plain.path(), "mistral");
}

#[test]
fn a_layer_can_be_chosen() {
    let numbers = Numbers::open("llm/llama/expected.safetensors");
    let expected = numbers.get("causal");
    let options = TextOptions {
        layer: Some(1),
        pooling: Some(Pooling::Last),
        ..TextOptions::default()
    };
    let encoder = open_text(&fixture("llm/llama"), &options).unwrap();
    let batch = tokens(&encoder);
    let layer = batch.tokens() * WIDTH;
    assert_close(
        &values(encoder.tower.hidden(&batch)),
        &expected[layer..2 * layer],
        1e-4,
        "layer 1",
    );
    let (rows, _) = encoder.embed(&TEXTS).unwrap();
    for (row, end) in rows.chunks_exact(WIDTH).zip(&batch.offsets[1..]) {
        assert_close(
            row,
            &expected[layer..][(end - 1) * WIDTH..end * WIDTH],
            1e-4,
            "its last token",
        );
    }
    let whole = open_text(&fixture("llm/llama"), &TextOptions::default()).unwrap();
    assert_ne!(encoder.fingerprint, whole.fingerprint);
    let too_far = TextOptions {
        layer: Some(3),
        ..TextOptions::default()
    };
    let error = open_text(&fixture("llm/llama"), &too_far).unwrap_err();
    assert!(error.to_string().contains("layer 3"), "{error}");
}

#[test]
fn the_table_stays_in_half_precision() {
    let encoder = open_text(&fixture("llm/qwen3"), &TextOptions::default()).unwrap();
    let TextTower::Llm(llm) = &encoder.tower else {
        panic!("a language model")
    };
    assert_eq!(llm.table_bytes(), 40 * WIDTH * 2);
}

/// What the error says when one setting is another.
fn refused(folder: &str, change: impl FnOnce(&mut Value)) -> String {
    let dir = edited(&format!("llm/{folder}"), "config.json", change);
    match open_text(dir.path(), &TextOptions::default()) {
        Ok(_) => panic!("{folder} was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn settings_that_would_change_the_numbers_are_refused() {
    let cases: [(&str, &str, Value, &str); 18] = [
        ("llama", "/rope_parameters/rope_type", json!("yarn"), "yarn"),
        (
            "llama",
            "/rope_parameters/attention_factor",
            json!(2.0),
            "attention_factor",
        ),
        (
            "llama",
            "/rope_parameters/low_freq_factor",
            json!(8.0),
            "rotary scaling",
        ),
        ("llama", "/rope_parameters/factor", json!(0.0), "rotary scaling"),
        ("llama", "/partial_rotary_factor", json!(0.5), "partial_rotary_factor"),
        ("llama", "/hidden_act", json!("gelu"), "hidden_act"),
        (
            "llama",
            "/quantization_config",
            json!({"bits": 4}),
            "quantization_config",
        ),
        (
            "llama",
            "/auto_map",
            json!({"AutoModel": "x.Y"}),
            "attention causal or bidirectional",
        ),
        ("llama", "/attention_bias", json!(false), "bias"),
        ("llama", "/num_hidden_layers", json!(1), "layers.1"),
        ("llama", "/num_hidden_layers", json!(1_000_000_000), "num_hidden_layers"),
        ("llama", "/num_attention_heads", json!(0), "heads"),
        ("llama", "/head_dim", json!(7), "not even"),
        ("llama", "/vocab_size", json!(41), "embed_tokens"),
        ("llama", "/rms_norm_eps", json!(-1.0), "norms"),
        (
            "mistral",
            "/layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types",
        ),
        ("qwen2", "/layer_types", json!(["sliding_attention"]), "layer_types"),
        (
            "gemma3",
            "/attn_logit_softcapping",
            json!(50.0),
            "attn_logit_softcapping",
        ),
    ];
    for (folder, pointer, value, expected) in cases {
        let error = refused(folder, |config| {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
        });
        assert!(error.contains(expected), "{pointer}: {error}");
    }
}

/// Code that came with a model is never run; whoever knows what it does may say so.
#[test]
fn a_model_with_code_of_its_own_needs_a_choice_of_attention() {
    let dir = edited("llm/llama", "config.json", |config| {
        config["auto_map"] = json!({"AutoModel": "x.Y"})
    });
    assert_eq!(
        open(dir.path(), Attention::Bidirectional).unwrap().attention,
        Attention::Bidirectional
    );
}

#[test]
fn attention_follows_the_settings() {
    let dir = edited("llm/gemma3", "config.json", |config| {
        config["use_bidirectional_attention"] = json!(true)
    });
    let encoder = open_text(dir.path(), &TextOptions::default()).unwrap();
    assert_eq!(encoder.attention, Attention::Bidirectional);
    let expected = Numbers::open("llm/gemma3/expected.safetensors").get("bidirectional");
    let batch = tokens(&encoder);
    let last = &expected[expected.len() - batch.tokens() * WIDTH..];
    assert_close(&values(encoder.tower.hidden(&batch)), last, 1e-4, "as the settings say");
}

/// LLM2CLIP's pooling: within the chat's markup, the caption's own tokens and the one that ends it.
#[test]
fn captions_are_pooled_without_what_surrounds_them() {
    let captions: Vec<String> =
        serde_json::from_str(&std::fs::read_to_string(fixture("llm/captions/captions.json")).unwrap()).unwrap();
    let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
    let numbers = Numbers::open("llm/captions/expected.safetensors");
    let mut fingerprints = Vec::new();
    for (prompt, expected) in [(None, "plain"), (Some("retrieve"), "retrieve")] {
        let options = TextOptions {
            pooling: Some(Pooling::Caption),
            attention: Some(Attention::Bidirectional),
            prompt: prompt.map(str::to_owned),
            ..TextOptions::default()
        };
        let mut encoder = open_text(&fixture("llm/captions"), &options).unwrap();
        let (rows, dim) = encoder.embed(&captions).unwrap();
        assert_close(&rows, &numbers.get(expected), 1e-4, expected);
        assert!(worst_cosine(&rows, &numbers.get(expected), dim) > 0.9999);
        // a caption that is cut keeps the token that ends it, and its header is not pooled
        let whole = encoder.tokenize(&captions).unwrap().remove(4);
        let length = whole.ids.len() - 5;
        encoder.tokenizer = encoder.tokenizer.clone().with_max_length(Some(length)).unwrap();
        let cut = encoder.tokenize(&captions).unwrap().remove(4);
        assert_eq!((cut.skip, cut.cut), (whole.skip, 6));
        assert_eq!(cut.ids[..length - 1], whole.ids[..length - 1]);
        assert_eq!(cut.ids.last(), whole.ids.last());
        fingerprints.push(encoder.fingerprint);
    }
    assert_ne!(fingerprints[0], fingerprints[1]);
}

/// Tokens that attend to learnt vectors before they are pooled, without those of the prompt.
#[test]
fn nv_embed_equals_its_description() {
    let numbers = Numbers::open("llm/nv-embed/expected.safetensors");
    for (prompt, expected) in [(None, "plain"), (Some("task"), "task")] {
        let options = TextOptions {
            prompt: prompt.map(str::to_owned),
            ..TextOptions::default()
        };
        let encoder = open_text(&fixture("llm/nv-embed"), &options).unwrap();
        assert_eq!(
            (encoder.attention, encoder.pooling),
            (Attention::Bidirectional, Pooling::Mean)
        );
        let (rows, dim) = encoder.embed(&TEXTS).unwrap();
        assert_close(&rows, &numbers.get(expected), 1e-4, expected);
        assert!(worst_cosine(&rows, &numbers.get(expected), dim) > 0.9999);
    }
    for (pointer, value) in [
        ("/latent_attention_config/num_latents_value", json!(7)),
        ("/latent_attention_config/cross_dim_head", json!(usize::MAX)),
        ("/latent_attention_config/latent_dim", json!(25)),
        ("/padding_side", json!("left")),
        ("/text_config/model_type", json!("mistral")),
    ] {
        let error = refused("nv-embed", |config| *config.pointer_mut(pointer).unwrap() = value);
        println!("{pointer}: {error}");
    }
}

/// Learnt vectors, biases and norms of heads included; and through every pooling that sees all tokens.
#[test]
fn every_parameter_gets_a_gradient() {
    for (name, pooling) in [
        ("nv-embed", Pooling::Mean),
        ("llama", Pooling::Max),
        ("qwen2", Pooling::Caption),
    ] {
        let encoder = open_text(&fixture(&format!("llm/{name}")), &TextOptions::default()).unwrap();
        let mut texts = encoder.tokenize(&TEXTS).unwrap();
        texts.iter_mut().for_each(|text| text.skip = text.ids.len() / 3);
        let batch = TokenBatch::of(texts.iter());
        let tower = params::set_trainable(encoder.tower, |_| true);
        let y = tower.embed(&batch, pooling);
        assert_eq!(common::unreached(&tower, y), Vec::<String>::new(), "{name}");
    }
}
