//! The precision of products: which operations follow the switch of the thread, forward and backward.

use bifocal_kernels::linear as kernel;
use bifocal_nn::Tensor;
use bifocal_nn::engine::{tensor, values};
use bifocal_nn::fused::{self, Activation, ConvShape};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Linear;
use bifocal_nn::params;
use bifocal_nn::precision::{Precision, careful, current, scope};

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.normal()).collect()
}

#[test]
fn scopes_nest_and_end_with_a_panic() {
    assert_eq!(current(), Precision::F32);
    scope(Precision::Bf16, || {
        scope(Precision::F32, || assert_eq!(current(), Precision::F32));
        assert_eq!(current(), Precision::Bf16);
    });
    let caught = std::panic::catch_unwind(|| scope(Precision::Bf16, || panic!("on purpose")));
    assert!(caught.is_err() && current() == Precision::F32);
}

/// The backward pass runs outside of the scope, and is the kernel's in bf16 all the same.
#[test]
fn an_operation_keeps_its_precision() {
    let (t, din, dout) = (20, 40, 30);
    let (x, w, gy) = (numbers(t * din, 1), numbers(dout * din, 2), numbers(t * dout, 3));
    let leaf = |data: &[f32], shape| tensor::<2>(data.to_vec(), shape).autodiff().require_grad();
    let (lx, lw) = (leaf(&x, [t, din]), leaf(&w, [dout, din]));
    let (act, need) = (Activation::Identity, [true, true, false]);
    for precision in [Precision::Bf16, Precision::F32, Precision::Int8] {
        let y = scope(precision, || fused::linear(lx.clone(), lw.clone(), None, act, None));
        // eight-bit integers have no gradients: what is recorded is f32
        let precision = precision.recorded();
        let expected = kernel::linear(&x, &w, None, act, None, t, din, dout, false, precision);
        assert_eq!(values(y.clone()), expected.y);
        let mut grads = (y * tensor(gy.clone(), [t, dout])).sum().backward();
        let expected = kernel::linear_backward(&gy, &x, &w, None, act, t, din, dout, need, precision);
        assert_eq!(Some(values(lx.grad_remove(&mut grads).unwrap())), expected.x);
        assert_eq!(Some(values(lw.grad_remove(&mut grads).unwrap())), expected.w);
    }
}

#[test]
fn convolutions_follow() {
    let shape = ConvShape {
        n: 2,
        h: 8,
        w: 8,
        c: 3,
        kh: 4,
        kw: 4,
        stride: 4,
        pad: [0; 4],
    };
    let (x, w) = (
        tensor(numbers(2 * 64 * 3, 1), [128, 3]),
        tensor(numbers(10 * 48, 2), [10, 48]),
    );
    let run = |precision| {
        let y = scope(precision, || {
            fused::conv2d(x.clone(), w.clone(), None, Activation::Identity, &shape)
        });
        values(y)
    };
    let exact = run(Precision::F32);
    for rounded in [run(Precision::Bf16), run(Precision::Int8)] {
        assert!(exact != rounded);
        assert!(exact.iter().zip(&rounded).all(|(e, r)| (e - r).abs() < 0.2));
    }
}

/// Without anything that learns, products are of eight-bit integers, near those of f32 and of the same bits each time, for any number of rows.
#[test]
fn eight_bits_are_multiplied_where_nothing_learns() {
    let layer = params::set_trainable(Linear::new(300, 70, true, &mut Rng::new(1)), |_| false);
    for rows in [1, 20] {
        let x: Tensor<2> = tensor(numbers(rows * 300, 4), [rows, 300]);
        let run = |precision| scope(precision, || values(layer.forward(x.clone())));
        let (exact, first) = (run(Precision::F32), run(Precision::Int8));
        assert!(exact != first);
        assert!(exact.iter().zip(&first).all(|(e, r)| (e - r).abs() < 0.02));
        for _ in 0..3 {
            assert_eq!(run(Precision::Int8), first);
        }
        let spared = scope(Precision::Int8, || careful(|| values(layer.forward(x.clone()))));
        assert_eq!(spared, run(Precision::Bf16));
        assert_eq!(careful(|| values(layer.forward(x.clone()))), exact);
    }
}

/// A constant weight is packed for the precision that reads it.
#[test]
fn packed_weights_follow() {
    let layer = params::set_trainable(Linear::new(40, 70, true, &mut Rng::new(1)), |_| false);
    let x: Tensor<2> = tensor(numbers(20 * 40, 4), [20, 40]);
    let run = |precision| scope(precision, || values(layer.forward(x.clone())));
    let first = [Precision::F32, Precision::Bf16].map(run);
    assert!(first[0] != first[1]);
    for _ in 0..3 {
        assert_eq!([Precision::F32, Precision::Bf16].map(run), first);
    }
    for precision in [Precision::Bf16, Precision::F32] {
        assert_eq!(
            [precision; 3].map(run),
            [precision; 3].map(|p| first[usize::from(p == Precision::Bf16)].clone())
        );
    }
}
