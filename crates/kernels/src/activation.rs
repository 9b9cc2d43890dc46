//! Activation functions and gated products (GLU variants), forward and backward.
use crate::buffer::par_rows;
use crate::math::{normal, sigmoid};
use crate::simd::{Simd, Task, dispatch, steps};
use std::mem::MaybeUninit;

/// An element-wise function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x
    #[default]
    Identity,
    /// x·Φ(x), the exact GELU (Hendrycks & Gimpel 2016).
    GeluErf,
    /// GELU's tanh approximation: ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
    GeluTanh,
    /// x·σ(1.702x), as CLIP uses it.
    QuickGelu,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x·σ(x), also called swish.
    Silu,
}

/// √(2/π)·2, the factor that turns GELU's tanh form into a sigmoid.
const TANH_SCALE: f32 = 1.595_769;
const TANH_CUBE: f32 = 0.044_715;
const QUICK: f32 = 1.702;
const INV_SQRT_2PI: f32 = 0.398_942_3;

/// act(x) on one register.
#[inline(always)]
pub(crate) fn apply<S: Simd>(s: S, act: Activation, x: S::V) -> S::V {
    match act {
        Activation::Identity => x,
        Activation::GeluErf => s.mul(x, normal(s, x).0),
        Activation::GeluTanh => {
            let u = s.mul(
                s.mul(x, s.splat(TANH_SCALE)),
                s.fma(s.mul(x, x), s.splat(TANH_CUBE), s.splat(1.0)),
            );
            s.mul(x, sigmoid(s, u))
        }
        Activation::QuickGelu => s.mul(x, sigmoid(s, s.mul(x, s.splat(QUICK)))),
        Activation::Relu => s.max(s.zero(), x),
        Activation::Relu6 => s.min(s.splat(6.0), s.max(s.zero(), x)),
        Activation::Silu => s.mul(x, sigmoid(s, x)),
    }
}

/// act(x) on one register, to 1e-4 for |x| < 20 and to 4e-6·|x| beyond: for products of rounded numbers, whose own error is larger.
/// The two GELUs do without an exponential and a division.
#[inline(always)]
pub(crate) fn apply_near<S: Simd>(s: S, act: Activation, x: S::V) -> S::V {
    match act {
        Activation::GeluErf => near_gelu(s, x, ERF_END, &NEAR_ERF),
        Activation::GeluTanh => near_gelu(s, x, TANH_END, &NEAR_TANH),
        _ => apply(s, act, x),
    }
}

/// From where on Φ is taken for 0 or 1, and ½ + x·P(x²) on the way there: minimax fits made for this file, of x times the error, with Φ complete at the ends.
const ERF_END: f32 = 4.2;
const NEAR_ERF: [f32; 8] = [
    -9.017_530_6e-10,
    7.941_338e-8,
    -3.037_931_3e-6,
    6.689_069_4e-5,
    -9.506_575e-4,
    9.298_229e-3,
    -6.552_82e-2,
    0.398_465_87,
];
const TANH_END: f32 = 4.0;
const NEAR_TANH: [f32; 8] = [
    -1.136_462_1e-9,
    9.560_824e-8,
    -3.491_719_6e-6,
    7.348_389e-5,
    -1.002_776_8e-3,
    9.507_95e-3,
    -6.585_127e-2,
    0.398_478_3,
];

#[inline(always)]
fn near_gelu<S: Simd>(s: S, x: S::V, end: f32, coefficients: &[f32; 8]) -> S::V {
    let inside = s.max(s.splat(-end), s.min(s.splat(end), x));
    let square = s.mul(inside, inside);
    let mut p = s.splat(coefficients[0]);
    for &c in &coefficients[1..] {
        p = s.fma(p, square, s.splat(c));
    }
    s.mul(x, s.fma(inside, p, s.splat(0.5)))
}

/// act'(x) on one register. At the corners of ReLU and ReLU6 it is 0, as in PyTorch.
#[inline(always)]
pub(crate) fn derivative<S: Simd>(s: S, act: Activation, x: S::V) -> S::V {
    let one = s.splat(1.0);
    match act {
        Activation::Identity => one,
        Activation::GeluErf => {
            let (cdf, density) = normal(s, x);
            s.fma(s.mul(x, density), s.splat(INV_SQRT_2PI), cdf)
        }
        Activation::GeluTanh => {
            let x2 = s.mul(x, x);
            let g = sigmoid(
                s,
                s.mul(s.mul(x, s.splat(TANH_SCALE)), s.fma(x2, s.splat(TANH_CUBE), one)),
            );
            let slope = s.fma(x2, s.splat(3.0 * TANH_CUBE * TANH_SCALE), s.splat(TANH_SCALE));
            s.fma(s.mul(s.mul(x, slope), g), s.sub(one, g), g)
        }
        Activation::QuickGelu => {
            let u = s.mul(x, s.splat(QUICK));
            let g = sigmoid(s, u);
            s.fma(s.mul(u, g), s.sub(one, g), g)
        }
        Activation::Relu => s.select_lt(s.zero(), x, one, s.zero()),
        Activation::Relu6 => s.select_lt(s.zero(), x, s.select_lt(x, s.splat(6.0), one, s.zero()), s.zero()),
        Activation::Silu => {
            let g = sigmoid(s, x);
            s.fma(s.mul(x, g), s.sub(one, g), g)
        }
    }
}

/// Compiles `$body` once per activation with `$name` a constant, so that no loop asks which function it applies.
macro_rules! per_activation {
    ($act:expr, $name:ident => $body:expr) => {
        per_activation!(@ $act, $name, $body, Identity GeluErf GeluTanh QuickGelu Relu Relu6 Silu)
    };
    (@ $act:expr, $name:ident, $body:expr, $($variant:ident)*) => {
        match $act {
            $($crate::activation::Activation::$variant => {
                let $name = $crate::activation::Activation::$variant;
                $body
            })*
        }
    };
}
pub(crate) use per_activation;

struct Forward<'a> {
    x: &'a [f32],
    act: Activation,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { x, act, out } = self;
        per_activation!(act, act => for i in steps::<S>(x.len()) {
            s.put(&mut out[i..], apply(s, act, s.get(&x[i..])));
        });
    }
}

struct Backward<'a> {
    gy: &'a [f32],
    x: &'a [f32],
    act: Activation,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gy, x, act, out } = self;
        per_activation!(act, act => for i in steps::<S>(x.len()) {
            s.put(&mut out[i..], s.mul(s.get(&gy[i..]), derivative(s, act, s.get(&x[i..]))));
        });
    }
}

/// act(x).
///
/// # Shapes
/// `x`: any; the result has as many numbers.
pub fn activation(x: &[f32], act: Activation) -> Vec<f32> {
    // SAFETY: `Forward` writes all of its block.
    unsafe {
        par_rows(x.len(), 1, |first, out| {
            dispatch(Forward {
                x: &x[first..first + out.len()],
                act,
                out,
            })
        })
    }
}

/// gy · act'(x).
///
/// # Shapes
/// `gy`, `x` and the result have the same length.
pub fn activation_backward(gy: &[f32], x: &[f32], act: Activation) -> Vec<f32> {
    assert_eq!(gy.len(), x.len(), "activation_backward: gy and x differ in length");
    // SAFETY: `Backward` writes all of its block.
    unsafe {
        par_rows(x.len(), 1, |first, out| {
            dispatch(Backward {
                gy: &gy[first..first + out.len()],
                x: &x[first..first + out.len()],
                act,
                out,
            })
        })
    }
}

struct GatedForward<'a> {
    gate_up: &'a [f32],
    act: Activation,
    h: usize,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for GatedForward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { gate_up, act, h, out } = self;
        per_activation!(act, act => for (row, out) in gate_up.chunks_exact(2 * h).zip(out.chunks_exact_mut(h)) {
            let (gate, up) = row.split_at(h);
            for i in steps::<S>(h) {
                s.put(&mut out[i..], s.mul(apply(s, act, s.get(&gate[i..])), s.get(&up[i..])));
            }
        });
    }
}

struct GatedBackward<'a> {
    gy: &'a [f32],
    gate_up: &'a [f32],
    act: Activation,
    h: usize,
    out: &'a mut [MaybeUninit<f32>],
}
impl Task for GatedBackward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            gy,
            gate_up,
            act,
            h,
            out,
        } = self;
        per_activation!(act, act => for ((row, gy), out) in gate_up.chunks_exact(2 * h).zip(gy.chunks_exact(h)).zip(out.chunks_exact_mut(2 * h)) {
            let (gate, up) = row.split_at(h);
            let (out_gate, out_up) = out.split_at_mut(h);
            for i in steps::<S>(h) {
                let (x, u, g) = (s.get(&gate[i..]), s.get(&up[i..]), s.get(&gy[i..]));
                s.put(&mut out_gate[i..], s.mul(s.mul(g, u), derivative(s, act, x)));
                s.put(&mut out_up[i..], s.mul(g, apply(s, act, x)));
            }
        });
    }
}

/// act(gate) · up, for a packed product of both projections (SwiGLU, GeGLU: Shazeer 2020).
///
/// # Shapes
/// `gate_up`: `[t, 2h]`, gate first; result: `[t, h]`.
pub fn gated(gate_up: &[f32], act: Activation, t: usize, h: usize) -> Vec<f32> {
    assert_eq!(gate_up.len(), t * 2 * h, "gated: gate_up must be [t, 2h]");
    // SAFETY: `GatedForward` writes all rows of its block.
    unsafe {
        par_rows(t, h, |first, out| {
            let rows = out.len() / h;
            dispatch(GatedForward {
                gate_up: &gate_up[first * 2 * h..(first + rows) * 2 * h],
                act,
                h,
                out,
            });
        })
    }
}

/// Gradient of [`gated`].
///
/// # Shapes
/// `gy`: `[t, h]`; `gate_up` and the result: `[t, 2h]`.
pub fn gated_backward(gy: &[f32], gate_up: &[f32], act: Activation, t: usize, h: usize) -> Vec<f32> {
    assert_eq!(gate_up.len(), t * 2 * h, "gated_backward: gate_up must be [t, 2h]");
    assert_eq!(gy.len(), t * h, "gated_backward: gy must be [t, h]");
    // SAFETY: `GatedBackward` writes all rows of its block.
    unsafe {
        par_rows(t, 2 * h, |first, out| {
            let rows = out.len() / (2 * h);
            dispatch(GatedBackward {
                gy: &gy[first * h..(first + rows) * h],
                gate_up: &gate_up[first * 2 * h..(first + rows) * 2 * h],
                act,
                h,
                out,
            });
        })
    }
}

/// The functions in `f64`, for the tests of every kernel that fuses one.
#[cfg(test)]
pub(crate) fn naive(act: Activation, x: f64) -> f64 {
    let sigma = |z: f64| 1.0 / (1.0 + (-z).exp());
    match act {
        Activation::Identity => x,
        Activation::GeluErf => 0.5 * x * (1.0 + crate::testing::erf64(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::QuickGelu => x * sigma(1.702 * x),
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Silu => x * sigma(x),
    }
}

/// All of them, for tests.
#[cfg(test)]
pub(crate) const ALL: [Activation; 7] = [
    Activation::Identity,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Relu6,
    Activation::Silu,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    #[test]
    fn forward_and_backward_agree_with_f64() {
        each_isa(|isa| {
            for n in [0, 1, 15, 16, 33, 40_000] {
                let x: Vec<f32> = numbers(n, 1).iter().map(|v| v * 9.0).collect();
                let gy = numbers(n, 2);
                for act in ALL {
                    let truth: Vec<f64> = wide(&x).iter().map(|&v| naive(act, v)).collect();
                    assert_close(&activation(&x, act), &truth, 1e-6, &format!("{isa} {act:?}"));
                    let h = 1e-5;
                    let slope: Vec<f64> = wide(&x)
                        .iter()
                        .zip(&gy)
                        .map(|(&v, &g)| f64::from(g) * (naive(act, v + h) - naive(act, v - h)) / (2.0 * h))
                        .collect();
                    assert_close(
                        &activation_backward(&gy, &x, act),
                        &slope,
                        2e-6,
                        &format!("{isa} {act:?}'"),
                    );
                }
            }
        });
    }

    #[test]
    fn nan_is_never_hidden() {
        for act in ALL {
            assert!(activation(&[f32::NAN], act)[0].is_nan(), "{act:?}");
            assert!(near(&[f32::NAN], act)[0].is_nan(), "near {act:?}");
        }
    }

    fn near(x: &[f32], act: Activation) -> Vec<f32> {
        struct Near<'a>(&'a [f32], Activation, Vec<f32>);
        impl Task for Near<'_> {
            type Out = Vec<f32>;
            #[inline(always)]
            fn run<S: Simd>(self, s: S) -> Vec<f32> {
                let Self(x, act, mut out) = self;
                for i in steps::<S>(x.len()) {
                    s.set(&mut out[i..], apply_near(s, act, s.get(&x[i..])));
                }
                out
            }
        }
        dispatch(Near(x, act, vec![0.0; x.len()]))
    }

    #[test]
    fn what_is_near_is_within_what_it_says() {
        each_isa(|isa| {
            let x: Vec<f32> = (-200_000..=200_000).map(|i| i as f32 * 1e-4).collect();
            for act in ALL {
                for (&x, y) in x.iter().zip(near(&x, act)) {
                    let error = (f64::from(y) - naive(act, f64::from(x))).abs();
                    assert!(error < 1e-4, "{isa} {act:?}({x}): {error:e}");
                }
                // far out at most four millionths of x are left over
                let [low, high] = near(&[-1e4, 1e4], act)[..] else {
                    unreachable!()
                };
                let (low, high) = (f64::from(low) - naive(act, -1e4), f64::from(high) - naive(act, 1e4));
                assert!(low.abs() < 0.04 && high.abs() < 0.04, "{isa} {act:?}: {low}, {high}");
            }
        });
    }

    #[test]
    fn large_inputs_stay_finite() {
        for act in ALL {
            for x in [-1e4f32, 1e4, -90.0, 90.0] {
                assert!(activation(&[x], act)[0].is_finite(), "{act:?}({x})");
                assert!(activation_backward(&[1.0], &[x], act)[0].is_finite(), "{act:?}'({x})");
            }
        }
    }

    #[test]
    fn gated_agrees_with_f64_and_finite_differences() {
        for (t, h) in [(0, 4), (1, 1), (3, 17), (5, 32), (300, 70)] {
            let x: Vec<f32> = numbers(t * 2 * h, 3).iter().map(|v| v * 3.0).collect();
            let gy = numbers(t * h, 4);
            for act in ALL {
                let f = |x: &[f64]| -> Vec<f64> {
                    (0..t * h)
                        .map(|i| naive(act, x[i / h * 2 * h + i % h]) * x[i / h * 2 * h + h + i % h])
                        .collect()
                };
                assert_close(&gated(&x, act, t, h), &f(&wide(&x)), 2e-6, "gated");
                if t * h < 200 {
                    assert_close(
                        &gated_backward(&gy, &x, act, t, h),
                        &numeric_gradient(&x, &gy, f),
                        2e-5,
                        "gated_backward",
                    );
                }
            }
        }
    }
}
