//! SigLIP's text side against transformers and open_clip (scripts/fixtures: siglip.py, timm_towers.py).

mod common;

use bifocal_models::open::{OpenError, TextEncoder, TextOptions, open_text};
use bifocal_models::text::{TextTower, TokenBatch, TokensError};
use bifocal_nn::engine::values;
use common::{Numbers, assert_close, fixture};

fn encoder(folder: &str) -> TextEncoder {
    open_text(&fixture(folder), &TextOptions::default()).unwrap()
}

/// Texts and their ids, padded to seven.
fn expected(folder: &str) -> (Vec<String>, Vec<Vec<u32>>) {
    let file = std::fs::read(fixture(folder).join("expected_tokens.json")).unwrap();
    let tokens: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let read = |key: &str| tokens[key].clone();
    (
        serde_json::from_value(read("texts")).unwrap(),
        serde_json::from_value(read("ids")).unwrap(),
    )
}

#[test]
fn texts_are_padded_to_the_full_length_and_embed_as_in_the_library() {
    for (folder, numbers) in [
        ("siglip", "siglip/expected.safetensors"),
        ("siglip2", "siglip2/expected.safetensors"),
        ("siglip-open-clip", "siglip-open-clip/expected_text.safetensors"),
    ] {
        let encoder = encoder(folder);
        let (texts, ids) = expected(folder);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let found: Vec<Vec<u32>> = encoder.tokenize(&texts).unwrap().into_iter().map(|e| e.ids).collect();
        assert_eq!(found, ids, "{folder}");
        let (rows, dim) = encoder.embed(&texts).unwrap();
        assert_eq!(dim, 24);
        assert_close(&rows, &Numbers::open(numbers).get("text_embeddings"), 2e-5, folder);
        for (text, row) in texts.iter().zip(rows.chunks(dim)) {
            assert_close(&encoder.embed(&[text]).unwrap().0, row, 1e-5, "a text alone");
        }
    }
}

/// Padding is seen by every token: a shorter text would embed as something else, without an error.
#[test]
fn texts_without_their_padding_are_refused() {
    let tower = encoder("siglip").tower;
    assert_eq!(tower.full_length(), Some(7));
    let short = TokenBatch::pack(&[vec![3, 4, 1, 0, 0, 0, 0], vec![3, 4, 1]]);
    assert_eq!(
        tower.check(&short),
        Err(TokensError::NotPadded { tokens: 3, length: 7 })
    );
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    let tower = encoder("siglip").tower;
    let config = tower.config().expect("not a language model");
    let again = TextTower::from_tensors(&config, &tower.tensors()).unwrap();
    let tokens = TokenBatch::pack(&expected("siglip").1);
    let pooling = encoder("siglip").pooling;
    assert_eq!(
        values(tower.embed(&tokens, pooling)),
        values(again.embed(&tokens, pooling))
    );
}

#[test]
fn without_a_token_that_pads_nothing_is_guessed() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["model.safetensors", "tokenizer.json", "config.json"] {
        std::fs::copy(fixture("siglip").join(file), dir.path().join(file)).unwrap();
    }
    let config = dir.path().join("config.json");
    let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    settings["text_config"].as_object_mut().unwrap().remove("pad_token_id");
    std::fs::write(&config, settings.to_string()).unwrap();
    let error = open_text(dir.path(), &TextOptions::default()).map(|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Unsupported { .. }), "{error}");
    println!("{error}");
}
