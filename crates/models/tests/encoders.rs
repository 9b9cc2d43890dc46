//! The real encoders against transformers and sentence-transformers (scripts/fixtures/encoders.py). They are read from
//! the folder that BIFOCAL_MODELS names.

mod common;

use std::path::Path;

use bifocal_models::open::{TextEncoder, TextOptions, open_text};
use bifocal_models::text::{Attention, Pooling, TokenBatch};
use bifocal_nn::engine::values;
use common::{Numbers, folder, lines, worst_cosine};

fn check(name: &str) {
    let Some(models) = folder("BIFOCAL_MODELS", name) else {
        return;
    };
    let encoder = open_text(&models.join(name), &TextOptions::default()).unwrap();
    let numbers = Numbers::open(&format!("{name}.safetensors"));
    let expected = numbers.get("embeddings");
    tower_alone(&encoder, &numbers, &expected);
    whole(&encoder, &numbers, &expected);
}

/// The reference's tokens through our tower.
fn tower_alone(encoder: &TextEncoder, numbers: &Numbers, expected: &[f32]) {
    let ids: Vec<u32> = numbers.get("ids").iter().map(|&id| id as u32).collect();
    let offsets: Vec<usize> = numbers.get("offsets").iter().map(|&at| at as usize).collect();
    let texts: Vec<Vec<u32>> = offsets.windows(2).map(|b| ids[b[0]..b[1]].to_vec()).collect();
    let found = values(encoder.tower.embed(&TokenBatch::pack(&texts), Pooling::Mean));
    let dim = encoder.tower.dim();
    let worst = worst_cosine(&found, expected, dim);
    let length = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>().sqrt();
    let largest = found
        .chunks(dim)
        .zip(expected.chunks(dim))
        .flat_map(|(a, b)| {
            a.iter()
                .zip(b)
                .map(|(x, y)| (x / length(a) - y / length(b)).abs())
                .collect::<Vec<_>>()
        })
        .fold(0.0f32, f32::max);
    println!(
        "{}: tower: worst cosine {worst:.7}, largest difference of unit rows {largest:.1e}",
        encoder.name
    );
    assert!(worst >= 0.9999 && largest <= 2e-4);
}

/// Lines of text through tokenizer and tower.
fn whole(encoder: &TextEncoder, numbers: &Numbers, expected: &[f32]) {
    let lines = lines();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    let tokens: Vec<u32> = encoder
        .tokenize(&texts)
        .unwrap()
        .into_iter()
        .flat_map(|e| e.ids)
        .collect();
    let ids: Vec<u32> = numbers.get("ids").iter().map(|&id| id as u32).collect();
    assert_eq!(tokens, ids, "tokens");
    let (found, dim) = encoder.embed(&texts).unwrap();
    let worst = worst_cosine(&found, expected, dim);
    println!("{}: lines: worst cosine {worst:.7}", encoder.name);
    assert!(worst >= 0.9999);
}

#[test]
fn smollm2_equals_transformers() {
    check("smollm2");
}

#[test]
fn gemma3_equals_transformers() {
    check("gemma3");
}

#[test]
fn minilm_equals_sentence_transformers() {
    check("minilm");
}

#[test]
fn an_empty_text_has_an_embedding_and_order_is_kept() {
    let Some(models) = folder("BIFOCAL_MODELS", "empty text") else {
        return;
    };
    for (name, pooling) in [
        ("smollm2", Pooling::Mean),
        ("smollm2", Pooling::Eos),
        ("minilm", Pooling::Mean),
    ] {
        let options = TextOptions {
            pooling: Some(pooling),
            ..TextOptions::default()
        };
        let encoder = open_text(&models.join(name), &options).unwrap();
        let texts = ["one", "", "a rather longer text than the first", "", "two"];
        let (rows, dim) = encoder.embed(&texts).unwrap();
        assert!(rows.iter().all(|v| v.is_finite()));
        let row = |i: usize| &rows[i * dim..(i + 1) * dim];
        assert!(
            row(1).iter().any(|&v| v != 0.0),
            "{name}: an empty text embeds as zeros"
        );
        for (i, text) in texts.iter().enumerate() {
            let alone = encoder.embed(&[text]).unwrap().0;
            assert!(
                worst_cosine(&alone, row(i), dim) > 0.99999,
                "{name}: {text:?} changed places"
            );
        }
    }
}

#[test]
fn end_of_text_pooling_keeps_the_end_of_a_cut_text() {
    let Some(models) = folder("BIFOCAL_MODELS", "end-of-text pooling") else {
        return;
    };
    let options = TextOptions {
        pooling: Some(Pooling::Eos),
        ..TextOptions::default()
    };
    let mut encoder = open_text(&models.join("smollm2"), &options).unwrap();
    let eos = encoder.tokenizer.special().eos.expect("it has one");
    encoder.max_tokens = 8;
    encoder.tokenizer = encoder.tokenizer.clone().with_max_length(Some(8)).unwrap();
    let text = "one two three four five six seven eight nine ten";
    let encodings = encoder.tokenize(&[text, "short"]).unwrap();
    assert_eq!(encodings[0].ids.len(), 8);
    assert!(encodings[0].cut >= 3);
    assert!(encodings.iter().all(|e| e.ids.last() == Some(&eos)));
    assert_eq!(encodings[1].cut, 0);
}

#[test]
fn what_is_no_text_encoder_is_refused_with_advice() {
    let here = common::fixture("");
    let refused = |path: &Path, options: &TextOptions| open_text(path, options).map(|_| ()).unwrap_err().to_string();
    let options = TextOptions::default();
    assert!(refused(&here.join("nowhere"), &options).contains("cannot read"));
    assert!(refused(&here.join("heads.safetensors"), &options).contains("no text encoder"));
    assert!(
        refused(&here, &options).contains("no text encoder"),
        "a folder with several .gguf"
    );
    let Some(models) = folder("BIFOCAL_MODELS", "attention of a BERT") else {
        return;
    };
    let causal = TextOptions {
        attention: Some(Attention::Causal),
        ..options.clone()
    };
    assert!(refused(&models.join("minilm"), &causal).contains("causal"));
    assert!(refused(&models.join("efficientnet-lite0"), &options).contains("no text encoder"));
}
