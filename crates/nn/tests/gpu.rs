//! What is not an operation, on a graphics card beside the CPU: optimizers and their state, gradients by name, a teacher that follows, adapters, dropout. `tests/fused.rs`
//! compares the operations. `scripts/check-gpu.sh` runs both.

mod card;

use std::convert::Infallible;

use bifocal_nn::engine::{self, tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::lora::{self, LoraConfig};
use bifocal_nn::noise::{self, Noise};
use bifocal_nn::optim::{Gradients, Optimizer, OptimizerConfig, OptimizerKind, Rate};
use bifocal_nn::{Module, Tensor, ema, params};

/// On the CPU and on the card, if there is one.
fn both<R>(compute: impl Fn() -> R) -> Option<(R, R)> {
    let device = card::card()?;
    Some((compute(), engine::scope(device, compute)))
}

fn all<M: Module>(module: &M) -> Vec<f32> {
    let mut all = Vec::new();
    params::visit(module, |_, read| all.extend(read()));
    all
}

/// The same weights on any device.
fn layer(seed: u64) -> Linear {
    let mut rng = Rng::new(seed);
    let layer = params::load(Linear::empty(7, 5, true), |_, shape| {
        Ok::<_, Infallible>(Some((0..shape.iter().product()).map(|_| rng.normal()).collect()))
    });
    params::set_trainable(layer.expect("shapes fit"), |_| true)
}

fn rows(step: usize) -> Tensor<2> {
    tensor(
        (0..42).map(|i| ((i * 7 + step * 5) % 11) as f32 / 11.0 - 0.4).collect(),
        [6, 7],
    )
}

fn gradients(layer: &Linear, step: usize) -> Gradients {
    let loss = layer.forward(rows(step)).powi_scalar(2).sum();
    Gradients::collect(layer, loss.backward())
}

fn rate(name: &str) -> Rate {
    Rate {
        lr: if name == "bias" { 0.05 } else { 0.1 },
        weight_decay: 0.2,
    }
}

#[test]
fn optimizers_take_the_same_steps() {
    for kind in [OptimizerKind::AdamW, OptimizerKind::Adam, OptimizerKind::Lion] {
        let config = OptimizerConfig {
            kind,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-3,
        };
        let learn = |stop: Option<usize>| {
            let (mut layer, mut optimizer) = (layer(1), Optimizer::new(config));
            assert!(optimizer.is_fresh());
            for step in 0..6 {
                if stop == Some(step) {
                    optimizer = Optimizer::restore(config, optimizer.steps(), optimizer.state());
                }
                let grads = gradients(&layer, step);
                layer = optimizer.step(layer, &grads, 0.5, rate);
            }
            assert!(!optimizer.is_fresh());
            let state = optimizer.state();
            let moments = state.values().flat_map(|one| one.m.iter().chain(&one.v).copied());
            (all(&layer), moments.collect::<Vec<f32>>())
        };
        let Some((here, there)) = both(|| learn(None)) else {
            return;
        };
        card::distance(&format!("{kind:?}"), &there.0, &here.0);
        card::distance(&format!("state of {kind:?}"), &there.1, &here.1);
        let moved = all(&layer(1)).iter().zip(&here.0).any(|(a, b)| (a - b).abs() > 0.1);
        assert!(moved, "{kind:?} learns");
        // state that is read and put back is the same
        let (_, again) = both(|| learn(Some(3))).expect("there is a card");
        assert_eq!(again, there, "{kind:?}");
    }
}

#[test]
fn gradients_add_up_and_are_exchanged() {
    let found = both(|| {
        let layer = layer(2);
        let mut sum = gradients(&layer, 0);
        sum.accumulate(gradients(&layer, 1));
        sum.scale(0.5);
        let (norm, flat) = (sum.norm(), sum.flat());
        let largest: Vec<f32> = sum.reach().map(|(_, largest)| largest).collect();
        let layout: Vec<(String, Vec<usize>)> = sum.layout().map(|(name, shape)| (name.to_owned(), shape)).collect();
        let own = sum.get("bias").expect("it learns").into_owned();
        let doubled: Vec<f32> = flat.iter().map(|g| 2.0 * g).collect();
        sum.set_flat(&doubled).expect("as many");
        assert_eq!(sum.flat(), doubled);
        // what another process lacks comes from the host
        let mut others = Gradients::default();
        layout.iter().for_each(|(name, shape)| others.complete(name, shape));
        others.accumulate(sum);
        assert_eq!(others.flat(), doubled);
        let config = OptimizerConfig {
            kind: OptimizerKind::AdamW,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-3,
        };
        let moved = Optimizer::new(config).step(layer, &others, 1.0, rate);
        (norm, [flat, largest, own, all(&moved)], layout)
    });
    let Some((here, there)) = found else { return };
    assert!((here.0 - there.0).abs() <= 1e-5 * here.0, "{} {}", here.0, there.0);
    assert_eq!(here.2, there.2);
    for (a, b) in there.1.iter().zip(&here.1) {
        card::distance("gradients", a, b);
    }
}

#[test]
fn a_teacher_follows_and_adapters_fold_in() {
    let found = both(|| {
        let teacher = params::set_trainable(layer(3), |_| false);
        let teacher = ema::update(teacher, &layer(4), 0.75, |name| Some(name.to_owned())).expect("names fit");
        let config = LoraConfig {
            rank: 2,
            alpha: 4.0,
            dropout: 0.3,
        };
        let (layer, _) = lora::attach(layer(5), &config, |_| true, 1).expect("fine");
        let mut rng = Rng::new(9);
        let layer = params::load(layer, |name, shape| {
            let random = || (0..shape.iter().product()).map(|_| rng.normal()).collect();
            Ok::<_, Infallible>(name.contains("lora").then(random))
        });
        let layer = params::set_trainable(layer.expect("shapes fit"), |name| name.contains("lora"));
        let y = noise::scope(Noise::new(4).after(3, 0), || layer.forward(rows(0)));
        let grads = Gradients::collect(&layer, y.clone().powi_scalar(2).sum().backward());
        let (merged, _) = lora::merge(layer, lora::Fold::default());
        [all(&teacher), values(y), grads.flat(), all(&merged)]
    });
    let Some((here, there)) = found else { return };
    for (name, (a, b)) in ["teacher", "rows", "gradients", "merged"]
        .iter()
        .zip(there.iter().zip(&here))
    {
        card::distance(name, a, b);
    }
}
