//! What all texts of a batch begin with, computed once, gives what it gives when it is computed in each text.

mod common;

use bifocal_models::open::{TextOptions, open_text};
use bifocal_models::text::{Attention, Llm, Pooling, TextTower, TokenBatch};
use bifocal_models::weights::gguf::Gguf;
use bifocal_nn::engine::values;
use common::{fixture, folder};

const POOLINGS: [Pooling; 4] = [Pooling::Mean, Pooling::Last, Pooling::Max, Pooling::Cls];

/// The largest difference between two lists, in parts of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    let size = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size
}

fn check(tower: &TextTower, batch: &TokenBatch, what: &str) {
    for pooling in POOLINGS {
        let (once, each) = (values(tower.infer(batch, pooling)), values(tower.embed(batch, pooling)));
        let furthest = distance(&once, &each);
        println!("{what}, {pooling:?}: {furthest:.1e}");
        assert!(furthest <= 2e-5, "{what}, {pooling:?}: {furthest}");
    }
}

/// Texts of some tokens of their own after the same ones.
fn texts(first: usize, own: &[usize]) -> Vec<Vec<u32>> {
    let id = |i: usize| (i * 17 % 37) as u32;
    let text = |(t, &n): (usize, &usize)| (0..first).map(id).chain((0..n).map(|i| id(3 + 5 * t + i))).collect();
    own.iter().enumerate().map(text).collect()
}

#[test]
fn tiny_models_of_all_families_give_the_same() {
    // Gemma 3's window of six tokens ends within the beginning
    for name in ["llama", "gemma3", "llama3", "qwen2", "qwen3"] {
        let gguf = Gguf::open(&fixture(&format!("tiny-{name}.gguf"))).unwrap();
        let load = |attention| TextTower::Llm(Llm::from_gguf(&gguf, attention).unwrap());
        let tower = load(Attention::Causal);
        for (first, own) in [
            (11, &[7, 3, 12][..]),
            (9, &[5; 4]),
            (20, &[1, 9]),
            (30, &[0, 0]),
            (8, &[40]),
        ] {
            let batch = TokenBatch::pack(&texts(first, own));
            check(&tower, &batch, &format!("{name}, {first} and {own:?}"));
            let mut skipping = batch.clone();
            skipping.skip = vec![first.min(3); own.len()].into();
            check(
                &tower,
                &skipping,
                &format!("{name}, {first} and {own:?}, the first left out"),
            );
        }
        // tokens that see those after them depend on the whole text
        let both = load(Attention::Bidirectional);
        let batch = TokenBatch::pack(&texts(11, &[7, 3]));
        let (once, each) = (both.infer(&batch, Pooling::Mean), both.embed(&batch, Pooling::Mean));
        assert_eq!(values(once), values(each), "{name}");
        assert!(
            distance(
                &values(tower.embed(&batch, Pooling::Mean)),
                &values(both.embed(&batch, Pooling::Mean))
            ) > 1e-3
        );
    }
}

#[test]
fn captions_in_a_prompt_are_embedded_alike_by_a_real_model() {
    let Some(models) = folder("BIFOCAL_MODELS", "captions in a prompt") else {
        return;
    };
    let encoder = open_text(&models.join("smollm2"), &TextOptions::default()).unwrap();
    let captions = [
        "a dog on the beach",
        "two children with a kite in the wind",
        "x",
        "an old red bus",
        "",
        "a dog on the beach",
    ];
    let prompted = captions.map(|caption| {
        format!("Instruct: Represent what can be seen in the photograph that this caption was written for.\nQuery: {caption}")
    });
    let tokens = encoder.tokenize(&prompted.each_ref().map(String::as_str)).unwrap();
    let batch = TokenBatch::of(tokens.iter());
    assert!(batch.common_prefix() >= 16, "{}", batch.common_prefix());
    check(&encoder.tower, &batch, "SmolLM2");
    // and what is asked of the encoder is the same whoever shares the batch
    let (rows, dim) = encoder.embed_tokens(&tokens).unwrap();
    for (caption, row) in prompted.iter().zip(rows.chunks(dim)) {
        let (alone, _) = encoder.embed(&[caption]).unwrap();
        assert!(distance(row, &alone) <= 2e-5, "{caption}");
    }
}
