//! Heads against PyTorch (scripts/fixtures/heads.py).

mod common;

use bifocal_models::adapter::{Head, HeadConfig, HeadError, HeadKind, normalize};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::{Tensor, params};
use common::{Numbers, assert_close};

fn head(config: &HeadConfig, prefix: &str, numbers: &Numbers) -> Head {
    let head = config.build(6, &mut Rng::new(0)).unwrap();
    params::load(head, |name, shape| {
        numbers
            .source()
            .load_shaped(&format!("{prefix}.{name}"), shape)
            .map(|t| Some(t.data))
    })
    .unwrap()
}

fn x(numbers: &Numbers) -> Tensor<2> {
    tensor(numbers.get("x"), [5, 6])
}

fn config(kind: HeadKind, ratio: usize) -> HeadConfig {
    HeadConfig {
        kind,
        ratio,
        width: Some(4),
        ..HeadConfig::default()
    }
}

#[test]
fn heads_equal_those_of_pytorch() {
    let numbers = Numbers::open("heads.safetensors");
    let residual = HeadConfig {
        blocks: 2,
        normalize_input: true,
        ..config(HeadKind::Residual, 2)
    };
    for (prefix, config) in [
        ("residual", residual),
        ("glu", config(HeadKind::Glu, 3)),
        ("linear", config(HeadKind::Linear, 1)),
    ] {
        let head = head(&config, prefix, &numbers);
        assert_eq!(head.dim(), 4);
        let expected = numbers.get(&format!("{prefix}.y"));
        let largest = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        assert_close(
            &values(head.forward(x(&numbers), false)),
            &expected,
            2e-6 * largest,
            prefix,
        );
    }
}

#[test]
fn llm2clip_adaptor_has_as_many_weights_as_the_paper_says() {
    // 4 blocks at ratio 2 and one at ratio 8 have the same: 16 D² in blocks
    for (blocks, ratio) in [(4, 2), (1, 8)] {
        let config = HeadConfig {
            blocks,
            ratio,
            width: Some(8),
            kind: HeadKind::Residual,
            ..HeadConfig::default()
        };
        let head = config.build(32, &mut Rng::new(0)).unwrap();
        let in_blocks: usize = params::list(&head)
            .iter()
            .filter(|p| p.name.contains("blocks") && p.shape.len() == 2)
            .map(|p| p.shape.iter().product::<usize>())
            .sum();
        assert_eq!(in_blocks, 16 * 32 * 32);
    }
}

#[test]
fn dropout_is_seeded_and_only_in_training() {
    let config = HeadConfig {
        dropout: 0.5,
        ..config(HeadKind::Residual, 2)
    };
    let head = config.build(6, &mut Rng::new(0)).unwrap();
    let numbers = Numbers::open("heads.safetensors");
    let forward = || values(head.forward(x(&numbers), true));
    let run = |seed: Option<u64>| match seed {
        Some(seed) => noise::scope(Noise::new(seed), forward),
        None => forward(),
    };
    assert_eq!(run(None), run(None));
    assert_eq!(run(Some(1)), run(Some(1)));
    assert_ne!(run(Some(1)), run(Some(2)));
    assert_ne!(run(Some(1)), run(None));
    // values survive with probability 1/2 and are doubled: on average nothing changes
    let mean = |seeds: std::ops::Range<u64>| {
        let n = seeds.end as f32;
        seeds.map(|s| run(Some(s))).fold(vec![0.0; 20], |sum, y| {
            sum.iter().zip(y).map(|(a, b)| a + b / n).collect()
        })
    };
    let single: f32 = run(Some(1))
        .iter()
        .zip(run(None))
        .map(|(a, b): (&f32, f32)| (a - b).abs())
        .sum();
    let average: f32 = mean(0..256)
        .iter()
        .zip(run(None))
        .map(|(a, b): (&f32, f32)| (a - b).abs())
        .sum();
    assert!(average < single / 2.0, "{average} against {single}");
}

#[test]
fn the_identity_changes_nothing_but_length() {
    let numbers = Numbers::open("heads.safetensors");
    let plain = HeadConfig::default().build(6, &mut Rng::new(0)).unwrap();
    assert_eq!(values(plain.forward(x(&numbers), false)), numbers.get("x"));
    let unit = HeadConfig {
        normalize_input: true,
        ..HeadConfig::default()
    }
    .build(6, &mut Rng::new(0))
    .unwrap();
    assert_eq!(values(unit.forward(x(&numbers), false)), values(normalize(x(&numbers))));
    assert!(params::list(&unit).is_empty());
}

#[test]
fn a_row_of_zeros_stays_finite() {
    let zeros = normalize(tensor(vec![0.0; 6], [1, 6]).autodiff().require_grad());
    assert_eq!(values(zeros), [0.0; 6]);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let build = |config: HeadConfig| config.build(6, &mut Rng::new(0)).map(|_| ());
    let base = config(HeadKind::Residual, 2);
    let missing = HeadConfig {
        width: None,
        ..base.clone()
    };
    assert_eq!(build(missing), Err(HeadError::NoWidth(HeadKind::Residual)));
    let identity = HeadConfig {
        width: Some(7),
        ..HeadConfig::default()
    };
    assert_eq!(build(identity), Err(HeadError::IdentityWidth { input: 6, width: 7 }));
    for bad in [
        HeadConfig {
            width: Some(0),
            ..base.clone()
        },
        HeadConfig {
            width: Some(usize::MAX),
            ..base.clone()
        },
        HeadConfig {
            blocks: 0,
            ..base.clone()
        },
        HeadConfig {
            ratio: 1000,
            ..base.clone()
        },
        HeadConfig {
            dropout: 1.0,
            ..base.clone()
        },
        HeadConfig {
            dropout: f32::NAN,
            ..base.clone()
        },
    ] {
        assert!(matches!(build(bad.clone()), Err(HeadError::Field { .. })), "{bad:?}");
    }
    assert!(serde_json::from_str::<HeadConfig>(r#"{"kind":"glu","widht":3}"#).is_err());
}
