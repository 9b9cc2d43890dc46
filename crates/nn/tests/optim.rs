//! Optimizers: PyTorch's numbers (scripts/fixtures/optim.py), storage written in place, state restored to the bit; gradients added up and exchanged.

use bifocal_nn::Param;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{LayerNorm, Linear};
use bifocal_nn::optim::{FlatError, Gradients, Moments, Optimizer, OptimizerConfig, OptimizerKind, Rate};
use bifocal_nn::params::{self, LoadError};

const CONFIG: OptimizerConfig = OptimizerConfig {
    kind: OptimizerKind::AdamW,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-6,
};

fn rate(_: &str) -> Rate {
    Rate {
        lr: 0.1,
        weight_decay: 0.2,
    }
}

fn layer() -> Linear {
    let layer = Linear::new(3, 2, true, &mut Rng::new(1));
    params::set_trainable(layer, |_| true)
}

fn gradients(layer: &Linear, step: usize) -> Gradients {
    let x = tensor(
        (0..12).map(|i| ((i * 7 + step * 5) % 11) as f32 / 11.0 - 0.4).collect(),
        [4, 3],
    );
    let loss = layer.forward(x).powi_scalar(2).sum();
    Gradients::collect(layer, loss.backward())
}

fn weights(layer: &Linear) -> Vec<f32> {
    let mut all = Vec::new();
    params::visit(layer, |_, read| all.extend(read()));
    all
}

const KINDS: [OptimizerKind; 3] = [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Lion];

/// A module of one vector, whose gradient is what the loss multiplies it by.
fn vector(values: Vec<f32>) -> LayerNorm {
    let mut norm = LayerNorm::new(values.len(), 1e-5);
    let n = values.len();
    norm.weight = Param::from_tensor(tensor(values, [n]));
    params::set_trainable(norm, |name| name == "weight")
}

#[test]
fn ten_steps_are_those_of_pytorch() {
    let text = include_str!("fixtures/optim.json");
    let fixture: serde_json::Value = serde_json::from_str(text).expect("valid JSON");
    let number = |v: &serde_json::Value| v.as_f64().expect("a number") as f32;
    let list = |v: &serde_json::Value| -> Vec<f32> { v.as_array().expect("a list").iter().map(number).collect() };
    let betas = list(&fixture["betas"]);
    for (name, kind) in ["adamw", "adam", "lion"].into_iter().zip(KINDS) {
        let case = &fixture[name];
        let mut module = vector(list(&case["start"]));
        let mut optimizer = Optimizer::new(OptimizerConfig {
            kind,
            beta1: betas[0],
            beta2: betas[1],
            eps: number(&fixture["eps"]),
        });
        let rate = |_: &str| Rate {
            lr: number(&fixture["lr"]),
            weight_decay: number(&fixture["weight_decay"]),
        };
        let steps = case["grads"].as_array().expect("a list");
        for (i, grad) in steps.iter().enumerate() {
            // clipping multiplies, here by a half
            let grad: Vec<f32> = list(grad).iter().map(|g| 2.0 * g).collect();
            let loss = (module.weight.val() * tensor(grad, [6])).sum();
            let grads = Gradients::collect(&module, loss.backward());
            module = optimizer.step(module, &grads, 0.5, rate);
            let found = values(module.weight.val());
            for (a, b) in found.iter().zip(list(&case["after"][i])) {
                assert!((a - b).abs() <= 2e-6, "{name}, step {i}: {a} against {b}");
            }
        }
        assert_eq!(optimizer.steps(), steps.len() as u64);
        let state = &optimizer.state()["weight"];
        assert_eq!((state.m.len(), state.v.len()), (6, if name == "lion" { 0 } else { 6 }));
    }
}

#[test]
fn parameters_have_rates_of_their_own() {
    for kind in KINDS {
        let config = OptimizerConfig { kind, ..CONFIG };
        let mut layer = layer();
        let before = weights(&layer);
        let grads = gradients(&layer, 0);
        let rate = |name: &str| Rate {
            lr: if name == "bias" { 0.0 } else { 0.1 },
            weight_decay: 0.0,
        };
        layer = Optimizer::new(config).step(layer, &grads, 1.0, rate);
        let after = weights(&layer);
        assert!(before[..6].iter().zip(&after).all(|(a, b)| a != b), "{kind:?}");
        assert_eq!(before[6..], after[6..], "{kind:?}");
    }
}

#[test]
fn state_of_another_optimizer_is_noticed() {
    let lion = OptimizerConfig {
        kind: OptimizerKind::Lion,
        ..CONFIG
    };
    let moments = |m: usize, v: usize| Moments {
        m: vec![1.0; m],
        v: vec![1.0; v],
    };
    assert!(CONFIG.fits(&moments(6, 6), 6) && lion.fits(&moments(6, 0), 6));
    assert!(!CONFIG.fits(&moments(6, 0), 6) && !lion.fits(&moments(6, 6), 6) && !lion.fits(&moments(5, 0), 6));
    // whoever did not ask gets a fresh start, and no panic
    let state = [("weight".to_owned(), moments(2, 9))].into();
    let mut optimizer = Optimizer::restore(CONFIG, 0, state);
    let grads = gradients(&layer(), 0);
    let found = optimizer.step(layer(), &grads, 1.0, rate);
    let expected = Optimizer::new(CONFIG).step(layer(), &grads, 1.0, rate);
    assert_eq!(weights(&found), weights(&expected));
}

#[test]
fn micro_batches_add_up() {
    let part = |rows: std::ops::Range<usize>| {
        let layer = layer();
        let x = tensor((0..12).map(|i| (i % 5) as f32 - 1.5).collect(), [4, 3]);
        let loss = layer.forward(x.slice([rows, 0..3])).powi_scalar(2).sum();
        Gradients::collect(&layer, loss.backward())
    };
    let whole = part(0..4);
    let mut sum = Gradients::default();
    sum.accumulate(part(0..1));
    sum.accumulate(part(1..4));
    let layout: Vec<_> = sum
        .layout()
        .map(|(name, shape)| (name.to_owned(), shape.iter().product::<usize>()))
        .collect();
    assert_eq!(layout, [("bias".to_owned(), 2), ("weight".to_owned(), 6)]);
    let mut none = Gradients::default();
    for (name, shape) in sum.layout() {
        none.complete(name, &shape);
    }
    assert!(none.layout().eq(sum.layout()));
    assert_eq!(none.flat(), [0.0; 8]);
    for (a, b) in sum.flat().iter().zip(whole.flat()) {
        assert!((a - b).abs() < 1e-5, "{a} against {b}");
    }
    let flat = sum.flat();
    assert_eq!(flat[2..], *sum.get("weight").expect("it learns"));
    sum.scale(0.5);
    assert_eq!(sum.flat(), flat.iter().map(|g| g * 0.5).collect::<Vec<_>>());
    let numbers: Vec<f32> = (0..8).map(|i| i as f32).collect();
    sum.set_flat(&numbers).expect("as many");
    assert_eq!(*sum.get("bias").expect("it learns"), numbers[..2]);
    let error = sum.set_flat(&numbers[1..]).expect_err("one is missing");
    assert_eq!(error, FlatError { expected: 8, found: 7 });
    assert_eq!(sum.flat(), numbers);
}

#[test]
fn restored_state_continues_to_the_bit() {
    let run = |kind: OptimizerKind, stop: Option<usize>| {
        let config = OptimizerConfig { kind, ..CONFIG };
        let mut layer = layer();
        let mut optimizer = Optimizer::new(config);
        for step in 0..6 {
            if stop == Some(step) {
                let saved = weights(&layer);
                optimizer = Optimizer::restore(config, optimizer.steps(), optimizer.state());
                let mut rest = saved.as_slice();
                let loaded: Result<_, LoadError<()>> = params::load(Linear::empty(3, 2, true), |_, shape| {
                    let (head, tail) = rest.split_at(shape.iter().product());
                    rest = tail;
                    Ok(Some(head.to_vec()))
                });
                layer = params::set_trainable(loaded.expect("shapes fit"), |_| true);
            }
            let grads = gradients(&layer, step);
            layer = optimizer.step(layer, &grads, 1.0, rate);
        }
        weights(&layer).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    for kind in KINDS {
        assert_eq!(run(kind, None), run(kind, Some(3)), "{kind:?}");
    }
}

#[test]
fn frozen_parameters_have_no_gradient_and_stay() {
    let layer = params::set_trainable(layer(), |name| name == "weight");
    let before = values(layer.bias.as_ref().expect("has a bias").val());
    let grads = gradients(&layer, 0);
    assert_eq!(
        grads.reach().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(),
        ["weight"]
    );
    let layer = Optimizer::new(CONFIG).step(layer, &grads, 1.0, rate);
    assert_eq!(before, values(layer.bias.as_ref().expect("has a bias").val()));
}

#[test]
fn values_of_the_wrong_length_are_refused() {
    let result: Result<_, LoadError<std::fmt::Error>> = params::load(layer(), |_, _| Ok(Some(vec![0.0; 5])));
    let message = result.expect_err("five values fit nothing here").to_string();
    assert!(message.contains("weight") && message.contains("[2, 3]"), "{message}");
}
