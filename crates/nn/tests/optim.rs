//! AdamW: PyTorch's numbers, storage written in place, state restored to the bit.

use bifocal_nn::engine::{tensor, values};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::optim::{AdamW, AdamWConfig, Gradients, Rate};
use bifocal_nn::params::{self, LoadError};

const CONFIG: AdamWConfig = AdamWConfig {
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

/// The rule written out in f64 (PyTorch's documentation of AdamW) for one parameter.
#[test]
fn three_steps_follow_the_rule() {
    let mut layer = layer();
    let mut optimizer = AdamW::new(CONFIG);
    let mut p: Vec<f64> = values(layer.weight.val()).iter().map(|&x| f64::from(x)).collect();
    let (mut m, mut v) = (vec![0.0; 6], vec![0.0; 6]);
    for step in 1..=3 {
        let grads = gradients(&layer, step);
        let g = grads.get("weight").expect("weight learns").to_vec();
        for i in 0..6 {
            let g = f64::from(g[i]) * 0.5;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.98 * v[i] + 0.02 * g * g;
            let (mh, vh) = (
                m[i] / (1.0 - 0.9f64.powi(step as i32)),
                v[i] / (1.0 - 0.98f64.powi(step as i32)),
            );
            p[i] = p[i] * (1.0 - 0.1 * 0.2) - 0.1 * mh / (vh.sqrt() + 1e-6);
        }
        layer = optimizer.step(layer, &grads, 0.5, rate);
        for (a, b) in values(layer.weight.val()).iter().zip(&p) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "step {step}: {a} against {b}");
        }
    }
    assert_eq!(optimizer.steps(), 3);
}

#[test]
fn restored_state_continues_to_the_bit() {
    let run = |stop: Option<usize>| {
        let mut layer = layer();
        let mut optimizer = AdamW::new(CONFIG);
        for step in 0..6 {
            if stop == Some(step) {
                let saved = weights(&layer);
                optimizer = AdamW::restore(CONFIG, optimizer.steps(), optimizer.state().clone());
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
    assert_eq!(run(None), run(Some(3)));
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
    let layer = AdamW::new(CONFIG).step(layer, &grads, 1.0, rate);
    assert_eq!(before, values(layer.bias.as_ref().expect("has a bias").val()));
}

#[test]
fn values_of_the_wrong_length_are_refused() {
    let result: Result<_, LoadError<std::fmt::Error>> = params::load(layer(), |_, _| Ok(Some(vec![0.0; 5])));
    let message = result.expect_err("five values fit nothing here").to_string();
    assert!(message.contains("weight") && message.contains("[2, 3]"), "{message}");
}
