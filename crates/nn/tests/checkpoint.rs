//! Blocks that drop their activations give the bits of blocks that keep them.

use bifocal_nn::checkpoint::{block, enabled, scope};
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::{Activation, layer_norm};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{LayerNorm, Linear};
use bifocal_nn::optim::Gradients;
use bifocal_nn::precision::{self, Precision};
use bifocal_nn::{Module, Tensor, params};

#[derive(Module, Debug)]
struct Half {
    norm: LayerNorm,
    wide: Linear,
    narrow: Linear,
    unused: Linear,
}

fn forward(half: &Half, x: Tensor<2>) -> Tensor<2> {
    let norm = &half.norm;
    let h = layer_norm(x.clone(), norm.weight.val(), norm.bias.val(), 1e-5);
    half.narrow.fused(
        half.wide.fused(h, Activation::GeluErf, None),
        Activation::Identity,
        Some(x),
    )
}

fn half(seed: u64, learns: impl Fn(&str) -> bool) -> Half {
    let mut rng = Rng::new(seed);
    let half = Half {
        norm: LayerNorm::new(12, 1e-5),
        wide: Linear::new(12, 40, true, &mut rng),
        narrow: Linear::new(40, 12, true, &mut rng),
        unused: Linear::new(3, 3, true, &mut rng),
    };
    params::set_trainable(half, learns)
}

fn numbers(n: usize) -> Vec<f32> {
    let mut rng = Rng::new(5);
    (0..n).map(|_| rng.normal()).collect()
}

type Outcome = (Vec<f32>, Option<Vec<f32>>, Vec<(String, Vec<f32>)>);

/// Output, gradient of the input, gradients of two halves, one of which is used twice.
fn step(halves: &[Half; 2], x_learns: bool, dropping: bool) -> Outcome {
    let leaf: Tensor<2> = tensor(numbers(7 * 12), [7, 12]);
    let leaf = if x_learns { leaf.autodiff().require_grad() } else { leaf };
    let y = scope(dropping, || {
        let order = [&halves[0], &halves[1], &halves[0]];
        order.into_iter().fold(leaf.clone(), |x, half| block(half, x, forward))
    });
    let mut recorded = (y.clone() * tensor(numbers(7 * 12), [7, 12])).sum().backward();
    let of_x = leaf.grad_remove(&mut recorded).map(values);
    let found = Gradients::collect(&halves.to_vec(), recorded);
    let names: Vec<String> = found.reach().map(|(name, _)| name.to_owned()).collect();
    let grads = names
        .into_iter()
        .map(|name| (name.clone(), found.get(&name).unwrap().to_vec()));
    (values(y), of_x, grads.collect())
}

#[test]
fn the_same_bits_whatever_learns() {
    type Learns = fn(&str) -> bool;
    let cases: [(Learns, usize); 4] = [
        (|_| true, 12),
        (|name| name.starts_with("narrow"), 4),
        (|name| name == "wide.weight", 2),
        (|_| false, 0),
    ];
    for (learns, count) in cases {
        for x_learns in [true, false] {
            if count == 0 && !x_learns {
                continue;
            }
            let halves = [half(1, learns), half(2, learns)];
            let plain = step(&halves, x_learns, false);
            assert_eq!(plain.1.is_some(), x_learns);
            assert_eq!(plain.2.len(), count);
            assert_eq!(step(&halves, x_learns, true), plain);
        }
    }
}

#[test]
fn the_second_run_is_of_the_precision_of_the_first() {
    let halves = [half(1, |_| true), half(2, |_| true)];
    let run = |precision, dropping| {
        let leaf: Tensor<2> = tensor(numbers(7 * 12), [7, 12]).autodiff().require_grad();
        let y = precision::scope(precision, || {
            scope(dropping, || block(&halves[0], leaf.clone(), forward))
        });
        let mut recorded = y.sum().backward();
        values(leaf.grad_remove(&mut recorded).unwrap())
    };
    let plain = run(Precision::Bf16, false);
    assert!(plain != run(Precision::F32, false));
    assert_eq!(run(Precision::Bf16, true), plain);
    // eight-bit integers have no gradients: both runs are f32
    assert_eq!(run(Precision::Int8, true), run(Precision::F32, false));
}

#[test]
fn without_a_scope_or_anything_to_learn_nothing_is_recorded() {
    let constant = half(1, |_| false);
    let x: Tensor<2> = tensor(numbers(24), [2, 12]);
    assert!(!enabled());
    let y = scope(true, || block(&constant, x.clone(), forward));
    assert!(!y.is_tracked());
    assert_eq!(values(y), values(forward(&constant, x)));
}
