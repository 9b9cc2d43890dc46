//! Language models against transformers, on tiny GGUF files with random weights (scripts/fixtures/llm.py).

mod common;

use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Attention, Family, Llm, Pooling, TextTower, TokenBatch};
use bifocal_models::weights::gguf::Gguf;
use bifocal_nn::engine::values;
use bifocal_nn::params;
use common::{Numbers, assert_close, fixture};

fn texts() -> TokenBatch {
    let long = vec![3, 3, 8, 21, 39, 0, 11, 12, 13, 14, 15, 16, 20];
    TokenBatch::pack(&[vec![1, 5, 9, 30, 2, 17], vec![7], long])
}

fn gguf(name: &str) -> Gguf {
    Gguf::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap()
}

#[test]
fn hidden_states_equal_those_of_transformers() {
    let expected = Numbers::open("tiny-llm.safetensors");
    for name in ["llama", "gemma3", "llama3", "qwen2", "qwen3"] {
        let mut model = Llm::from_gguf(&gguf(name), Attention::Causal).unwrap();
        assert_eq!(
            model.config().family.name(),
            if name == "llama3" { "llama" } else { name }
        );
        let found = values(model.hidden(&texts()));
        assert_close(&found, &expected.get(&format!("{name}.causal")), 5e-5, name);
        model.set_attention(Attention::Bidirectional);
        let found = values(model.hidden(&texts()));
        assert_close(&found, &expected.get(&format!("{name}.bidirectional")), 5e-5, name);
        let loaded = Llm::from_gguf(&gguf(name), Attention::Bidirectional).unwrap();
        assert_eq!(
            values(loaded.hidden(&texts())),
            found,
            "{name}: chosen when loading or later"
        );
    }
}

/// As Qwen3-Embedding's files say it.
#[test]
fn a_file_says_what_is_pooled() {
    let encoder = open_text(&fixture("tiny-qwen3.gguf"), &TextOptions::default()).unwrap();
    assert_eq!((encoder.pooling, encoder.attention), (Pooling::Last, Attention::Causal));
    let ids = encoder.tokenizer.encode("abc 12", true).unwrap().ids;
    assert_eq!((ids[0], ids.len(), ids.last()), (0, 6, Some(&39)));
    let hidden = values(encoder.tower.hidden(&TokenBatch::pack(&[ids])));
    let (row, dim) = encoder.embed(&["abc 12"]).unwrap();
    assert_eq!(row, hidden[5 * dim..]);
}

#[test]
fn constants_are_those_of_the_family() {
    let llama = Llm::from_gguf(&gguf("llama"), Attention::Causal).unwrap();
    let c = llama.config();
    assert_eq!((c.family, c.heads, c.kv_heads, c.head_dim), (Family::Llama, 6, 2, 4));
    assert_eq!((c.theta, c.embedding_scale, c.query_scale), (500.0, 1.0, 0.5));
    assert!((0..c.layers).all(|layer| !c.is_local(layer)));
    let gemma = Llm::from_gguf(&gguf("gemma3"), Attention::Causal).unwrap();
    let c = gemma.config();
    assert_eq!(
        (c.theta, c.local_theta, c.embedding_scale, c.window),
        (1e6, Some(1e4), 4.0, Some(6))
    );
    let global: Vec<usize> = (0..c.layers).filter(|&layer| !c.is_local(layer)).collect();
    assert_eq!(global, [5]);
}

#[test]
fn every_parameter_gets_a_gradient() {
    for name in ["llama", "gemma3", "qwen2", "qwen3"] {
        let tower = TextTower::Llm(Llm::from_gguf(&gguf(name), Attention::Causal).unwrap());
        let tower = params::set_trainable(tower, |_| true);
        let y = tower.embed(&texts(), Pooling::Mean);
        assert_eq!(common::unreached(&tower, y), Vec::<String>::new(), "{name}");
    }
}

/// The metadata of a tiny model with one value replaced, found by its key in the file's bytes.
fn patched(name: &str, key: &str, value: &[u8]) -> Result<Llm, bifocal_models::weights::WeightsError> {
    let path = fixture(&format!("tiny-{name}.gguf"));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(key.len())
        .position(|w| w == key.as_bytes())
        .expect("the key is there");
    let at = at + key.len() + 4; // the value's type
    bytes[at..at + value.len()].copy_from_slice(value);
    Llm::from_gguf(&Gguf::from_bytes(&path, bytes)?, Attention::Causal)
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let count = |n: u32| n.to_le_bytes().to_vec();
    for (key, value) in [
        ("llama.attention.head_count", count(0)),
        ("llama.attention.head_count", count(u32::MAX)),
        ("llama.attention.head_count_kv", count(4)),
        ("llama.embedding_length", count(0)),
        ("llama.embedding_length", count(48)),
        ("llama.block_count", count(1)),
        ("llama.block_count", count(3)),
        ("llama.block_count", count(u32::MAX)),
        ("llama.feed_forward_length", count(41)),
        ("llama.rope.dimension_count", count(2)),
        ("llama.rope.freq_base", f32::NAN.to_le_bytes().to_vec()),
        ("llama.rope.freq_base", (-1f32).to_le_bytes().to_vec()),
        ("llama.attention.layer_norm_rms_epsilon", 0f32.to_le_bytes().to_vec()),
    ] {
        let error = patched("llama", key, &value).expect_err(key);
        println!("{key}: {error}");
    }
    assert!(patched("gemma3", "gemma3.attention.key_length", &count(7)).is_err());
    assert!(patched("gemma3", "gemma3.attention.value_length", &count(4)).is_err());
}

#[test]
fn another_architecture_is_refused_by_name() {
    // the value of general.architecture begins 8 bytes (its length) after its type
    let path = fixture("tiny-llama.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    let key = b"general.architecture";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4 + 8;
    bytes[at..at + 5].copy_from_slice(b"mamba");
    let error = Llm::from_gguf(&Gguf::from_bytes(&path, bytes).unwrap(), Attention::Causal).unwrap_err();
    assert!(error.to_string().contains("mamba"), "{error}");
}
