//! Connectors against transformers' BLIP-2 and open_flamingo (scripts/fixtures/connectors.py).

mod common;

use bifocal_models::connector::gated::{GatedConfig, GatedCross};
use bifocal_models::connector::qformer::{QFormer, QFormerConfig, QFormerText};
use bifocal_models::connector::resampler::{Resampler, ResamplerConfig};
use bifocal_models::text::TokenBatch;
use bifocal_models::weights::{TensorSource, WeightsError};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::{Tensor, params};
use common::{Numbers, assert_close, unreached};

const PICTURES: usize = 3;
const LENGTHS: [usize; PICTURES] = [5, 3, 7];
/// Between the libraries and us.
const TOLERANCE: f32 = 2e-5;

fn sizes() -> QFormerConfig {
    QFormerConfig {
        width: 24,
        layers: 2,
        heads: 3,
        mlp: 40,
        queries: 4,
        cross_every: 2,
        image_width: 20,
        text: Some(QFormerText {
            vocabulary: 40,
            positions: 16,
            dim: 12,
        }),
    }
}

fn rows(numbers: &Numbers, name: &str, width: usize) -> Tensor<2> {
    let data = numbers.get(&format!("expected.{name}"));
    let rows = data.len() / width;
    tensor(data, [rows, width])
}

fn texts(numbers: &Numbers) -> TokenBatch {
    let ids: Vec<u32> = numbers.get("expected.ids").iter().map(|&id| id as u32).collect();
    let mut at = 0;
    let text = |length: &usize| {
        at += length;
        ids[at - length..at].to_vec()
    };
    TokenBatch::pack(&LENGTHS.iter().map(text).collect::<Vec<_>>())
}

fn check(found: Option<Tensor<2>>, numbers: &Numbers, name: &str) {
    let expected = numbers.get(&format!("expected.{name}"));
    assert_close(&values(found.expect("it reads texts")), &expected, TOLERANCE, name);
}

#[test]
fn a_q_former_equals_that_of_transformers_in_all_three_tasks() {
    let numbers = Numbers::open("connectors/qformer.safetensors");
    let model = QFormer::load(sizes(), numbers.source()).unwrap();
    let (image, texts) = (|| rows(&numbers, "image", 20), texts(&numbers));
    check(Some(model.queries(image(), PICTURES)), &numbers, "queries");
    check(model.embed_images(image(), PICTURES), &numbers, "images");
    check(model.embed_texts(&texts), &numbers, "texts");
    check(model.matches(image(), &texts), &numbers, "matches");
    check(model.describe(image(), &texts), &numbers, "described");
    // that checkpoint has no head of words
    assert!(model.words(model.describe(image(), &texts).unwrap()).is_none());
}

#[test]
fn the_names_of_its_authors_load_too_and_bring_the_head_of_words() {
    let numbers = Numbers::open("connectors/qformer.safetensors");
    let file = Numbers::open("connectors/qformer_lavis.safetensors");
    let model = QFormer::load(sizes(), file.source()).unwrap();
    let hidden = model.describe(rows(&numbers, "image", 20), &texts(&numbers)).unwrap();
    check(model.words(hidden), &numbers, "words");
}

#[test]
fn without_texts_it_is_the_queries_alone() {
    let numbers = Numbers::open("connectors/qformer.safetensors");
    let sizes = QFormerConfig { text: None, ..sizes() };
    let model = QFormer::load(sizes, numbers.source()).unwrap();
    check(
        Some(model.queries(rows(&numbers, "image", 20), PICTURES)),
        &numbers,
        "queries",
    );
    assert!(model.embed_texts(&texts(&numbers)).is_none());
}

#[test]
fn a_token_that_is_described_sees_none_after_it() {
    let numbers = Numbers::open("connectors/qformer.safetensors");
    let model = QFormer::load(sizes(), numbers.source()).unwrap();
    let described = |texts: &[Vec<u32>]| {
        let image = rows(&numbers, "image", 20);
        values(model.describe(image, &TokenBatch::pack(texts)).unwrap())
    };
    let long = [vec![3, 4, 5, 6], vec![7], vec![8, 9]];
    let short = [vec![3, 4], vec![7], vec![8, 9]];
    let (long, short) = (described(&long), described(&short));
    assert_close(&long[..2 * 24], &short[..2 * 24], 1e-6, "the first two tokens");
    assert_close(&long[4 * 24..], &short[2 * 24..], 1e-6, "other texts");
}

#[test]
fn gradients_reach_what_each_task_uses() {
    let numbers = Numbers::open("connectors/qformer.safetensors");
    let model = || QFormer::new(sizes(), &mut Rng::new(5));
    let image = || rows(&numbers, "image", 20);
    let texts = texts(&numbers);
    let outside = |found: Vec<String>, parts: &[&str]| -> Vec<String> {
        found
            .into_iter()
            .filter(|name| !parts.iter().any(|part| name.contains(part)))
            .collect()
    };
    let model = params::set_trainable(model(), |_| true);
    let tasks: [(&str, Tensor<2>, &[&str]); 4] = [
        ("images", model.embed_images(image(), PICTURES).unwrap(), &["text"]),
        // texts alone pass neither queries nor what looks at pictures
        (
            "texts",
            model.embed_texts(&texts).unwrap(),
            &[
                "queries",
                "cross",
                "query_mlp",
                "text.image",
                "text.matching",
                "text.language",
            ],
        ),
        (
            "matches",
            model.matches(image(), &texts).unwrap(),
            &["text.image", "text.text", "text.language", "layers.1.text_mlp"],
        ),
        (
            "words",
            model.words(model.describe(image(), &texts).unwrap()).unwrap(),
            &[
                "text.image",
                "text.text",
                "text.matching",
                "layers.1.cross",
                "layers.1.query_mlp",
            ],
        ),
    ];
    for (task, y, not) in tasks {
        // a key's bias moves all scores of a query alike
        let missing = outside(unreached(&model, y), not);
        assert_eq!(missing, Vec::<String>::new(), "{task}");
    }
}

#[test]
fn a_resampler_and_gated_layers_equal_those_of_open_flamingo() {
    let numbers = Numbers::open("connectors/flamingo.safetensors");
    let sizes = ResamplerConfig {
        width: 16,
        latents: 5,
        layers: 2,
        heads: 3,
        head: 8,
    };
    let resampler = Resampler::load(sizes, numbers.source(), "perceiver.").unwrap();
    let media = resampler.forward(rows(&numbers, "patches", 16), 4);
    check(Some(media.clone()), &numbers, "media");
    let sizes = GatedConfig {
        width: 20,
        media: 16,
        heads: 3,
        head: 8,
    };
    let gated = GatedCross::load(sizes, numbers.source(), "gated_cross_attn_layer.").unwrap();
    let pictures: Vec<usize> = numbers.get("expected.pictures").iter().map(|&n| n as usize).collect();
    assert!(pictures.contains(&0), "a token before the first picture");
    let x = rows(&numbers, "x", 20);
    check(
        Some(gated.forward(x.clone(), media.clone(), 2, 5, &pictures)),
        &numbers,
        "looked",
    );
    let new = GatedCross::new(sizes, &mut Rng::new(1));
    let same = new.forward(x.clone(), media, 2, 5, &pictures);
    assert_eq!(values(same), values(x), "closed gates change nothing");
}

#[test]
fn sizes_that_cannot_be_and_missing_tensors_are_refused() {
    let numbers = Numbers::open("connectors/qformer.safetensors");
    let refused = |sizes: QFormerConfig| QFormer::load(sizes, numbers.source() as &dyn TensorSource).unwrap_err();
    let error = refused(QFormerConfig {
        cross_every: 0,
        ..sizes()
    });
    assert!(error.to_string().contains("cross_attention_frequency"), "{error}");
    let error = refused(QFormerConfig { queries: 5, ..sizes() });
    assert!(matches!(error, WeightsError::ShapeMismatch { .. }), "{error}");
    let error = refused(QFormerConfig { layers: 3, ..sizes() });
    assert!(matches!(error, WeightsError::MissingTensor { .. }), "{error}");
}
