//! BERT against transformers, on a checkpoint with random weights that it wrote (scripts/fixtures/bert.py).

mod common;

use bifocal_models::text::{Bert, BertConfig, Pooling, TextConfig, TextTower, TokenBatch};
use bifocal_models::weights::safetensors::SafeTensors;
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;
use common::{Numbers, assert_close, fixture};

fn config() -> BertConfig {
    BertConfig {
        vocabulary: 40,
        positions: 16,
        token_types: 2,
        width: 24,
        layers: 2,
        heads: 3,
        mlp: 40,
        eps: 1e-12,
    }
}

fn texts() -> [Vec<u32>; 3] {
    [
        vec![2, 5, 9, 30, 3],
        vec![7],
        vec![2, 3, 8, 21, 39, 0, 11, 12, 13, 14, 3],
    ]
}

#[test]
fn hidden_states_equal_those_of_transformers() {
    let source = SafeTensors::open(&fixture("tiny-bert/model.safetensors")).unwrap();
    let bert = Bert::load(config(), &source).unwrap();
    let found = values(bert.hidden(&TokenBatch::pack(&texts())));
    assert_close(
        &found,
        &Numbers::open("tiny-bert/expected.safetensors").get("hidden"),
        2e-5,
        "bert",
    );
}

#[test]
fn pooling_takes_the_rows_that_it_says() {
    let tower = TextTower::Bert(Bert::new(config(), &mut Rng::new(1)));
    let batch = TokenBatch::pack(&texts());
    let hidden = values(tower.hidden(&batch));
    let row = |i: usize| &hidden[i * 24..(i + 1) * 24];
    for (pooling, at) in [
        (Pooling::Cls, [0, 5, 6]),
        (Pooling::Last, [4, 5, 16]),
        (Pooling::Eos, [4, 5, 16]),
    ] {
        let found = values(tower.embed(&batch, pooling));
        assert_eq!(found, [row(at[0]), row(at[1]), row(at[2])].concat(), "{pooling:?}");
    }
    let found = values(tower.embed(&batch, Pooling::Mean));
    let mean: Vec<f32> = (0..24).map(|c| (0..5).map(|i| row(i)[c]).sum::<f32>() / 5.0).collect();
    assert_close(&found[..24], &mean, 1e-6, "mean");
}

#[test]
fn a_text_is_embedded_alike_in_any_company() {
    let tower = TextTower::Bert(Bert::new(config(), &mut Rng::new(1)));
    let together = values(tower.embed(&TokenBatch::pack(&texts()), Pooling::Mean));
    for (i, text) in texts().into_iter().enumerate() {
        let alone = values(tower.embed(&TokenBatch::pack(&[text]), Pooling::Mean));
        assert_close(&alone, &together[i * 24..(i + 1) * 24], 1e-6, "alone and together");
    }
}

#[test]
fn a_tower_is_the_same_after_it_was_saved() {
    let tower = TextTower::Bert(Bert::new(config(), &mut Rng::new(9)));
    let config = tower.config().expect("not a language model");
    let json = serde_json::to_string(&config).unwrap();
    let config: TextConfig = serde_json::from_str(&json).unwrap();
    let again = TextTower::from_tensors(&config, &tower.tensors()).unwrap();
    let batch = TokenBatch::pack(&texts());
    assert_eq!(values(tower.hidden(&batch)), values(again.hidden(&batch)));
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let source = SafeTensors::open(&fixture("tiny-bert/model.safetensors")).unwrap();
    for (what, config) in [
        ("heads that do not divide", BertConfig { heads: 5, ..config() }),
        ("no width", BertConfig { width: 0, ..config() }),
        (
            "no words",
            BertConfig {
                vocabulary: 0,
                ..config()
            },
        ),
        (
            "too many words",
            BertConfig {
                vocabulary: usize::MAX,
                ..config()
            },
        ),
        (
            "more positions than there are",
            BertConfig {
                positions: 17,
                ..config()
            },
        ),
        ("more layers than there are", BertConfig { layers: 3, ..config() }),
    ] {
        let error = Bert::load(config, &source).expect_err(what);
        println!("{what}: {error}");
    }
}
