//! Optimizer steps in place: one pass over parameter, gradient and moments.
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;

/// Hyper-parameters of one step of Adam (Kingma & Ba 2015), with either kind of weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay (AdamW, Loshchilov & Hutter 2019).
    pub weight_decay: f32,
    /// Weight decay as a part of the gradient (PyTorch's `Adam`).
    pub l2: f32,
    /// Number of this step, from 1 (0 counts as 1).
    pub step: u64,
}

/// Hyper-parameters of one step of Lion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Learning rate.
    pub lr: f32,
    /// Share of the momentum in the update.
    pub beta1: f32,
    /// Decay of the momentum.
    pub beta2: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
}

/// Numbers per task: 4 streams × 64 KiB.
const CHUNK: usize = 16 * 1024;

/// One step of Adam as PyTorch does it: p ← p·(1 - lr·wd), m and v updated with `g · grad_scale + l2 · p`, p ← p - lr·m̂ / (√v̂ + eps).
///
/// # Shapes
/// `p`, `g`, `m`, `v`: the same length.
pub fn adam_step(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], h: &Adam, grad_scale: f32) {
    let n = p.len();
    assert!(
        g.len() == n && m.len() == n && v.len() == n,
        "adam_step: p, g, m and v differ in length"
    );
    let step = h.step.max(1) as f64;
    let (b1, b2) = (f64::from(h.beta1), f64::from(h.beta2));
    // lr·m̂/(√v̂ + eps) = (lr / c1)·m / (√v / √c2 + eps), with bias corrections c1 and c2 in f64: 1 - 0.999 loses digits in f32.
    let factors = Factors {
        keep: (1.0 - f64::from(h.lr) * f64::from(h.weight_decay)) as f32,
        beta1: h.beta1,
        rest1: (1.0 - b1) as f32,
        beta2: h.beta2,
        rest2: (1.0 - b2) as f32,
        rate: (f64::from(h.lr) / (1.0 - b1.powf(step))) as f32,
        root: (1.0 / (1.0 - b2.powf(step)).sqrt()) as f32,
        eps: h.eps,
        l2: h.l2,
        grad_scale,
    };
    let parts = p
        .par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK)));
    parts.for_each(|((p, g), (m, v))| {
        dispatch(Update {
            p,
            g,
            m,
            v,
            f: &factors,
        })
    });
}

struct Factors {
    keep: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    l2: f32,
    grad_scale: f32,
}

struct Update<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    f: &'a Factors,
}
impl Task for Update<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { p, g, m, v, f } = self;
        for i in steps::<S>(p.len()) {
            let old = s.get(&p[i..]);
            let grad = s.fma(old, s.splat(f.l2), s.mul(s.get(&g[i..]), s.splat(f.grad_scale)));
            let first = s.fma(s.get(&m[i..]), s.splat(f.beta1), s.mul(grad, s.splat(f.rest1)));
            let second = s.fma(
                s.get(&v[i..]),
                s.splat(f.beta2),
                s.mul(s.mul(grad, grad), s.splat(f.rest2)),
            );
            let slope = s.div(first, s.fma(s.sqrt(second), s.splat(f.root), s.splat(f.eps)));
            let new = s.sub(s.mul(old, s.splat(f.keep)), s.mul(slope, s.splat(f.rate)));
            s.set(&mut m[i..], first);
            s.set(&mut v[i..], second);
            s.set(&mut p[i..], new);
        }
    }
}

/// One step of Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms"): with `g · grad_scale` as g,
/// p ← p·(1 - lr·wd) - lr·sign(β₁·m + (1 - β₁)·g), then m ← β₂·m + (1 - β₂)·g. The sign of 0 is 0.
///
/// # Shapes
/// `p`, `g`, `m`: the same length.
pub fn lion_step(p: &mut [f32], g: &[f32], m: &mut [f32], h: &Lion, grad_scale: f32) {
    let n = p.len();
    assert!(g.len() == n && m.len() == n, "lion_step: p, g and m differ in length");
    let rest = |beta: f32| (1.0 - f64::from(beta)) as f32;
    let keep = (1.0 - f64::from(h.lr) * f64::from(h.weight_decay)) as f32;
    let parts = p
        .par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(m.par_chunks_mut(CHUNK));
    parts.for_each(|((p, g), m)| {
        dispatch(Signed {
            p,
            g,
            m,
            h,
            keep,
            rests: [rest(h.beta1), rest(h.beta2)],
            grad_scale,
        })
    });
}

struct Signed<'a> {
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    h: &'a Lion,
    keep: f32,
    rests: [f32; 2],
    grad_scale: f32,
}
impl Task for Signed<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            p,
            g,
            m,
            h,
            keep,
            rests,
            grad_scale,
        } = self;
        let (up, down) = (s.splat(-h.lr), s.splat(h.lr));
        for i in steps::<S>(p.len()) {
            let grad = s.mul(s.get(&g[i..]), s.splat(grad_scale));
            let momentum = s.get(&m[i..]);
            let mixed = |beta: f32, rest: f32| s.fma(momentum, s.splat(beta), s.mul(grad, s.splat(rest)));
            let update = mixed(h.beta1, rests[0]);
            let negative = s.select_lt(update, s.zero(), down, s.zero());
            let step = s.select_lt(s.zero(), update, up, negative);
            // what is not a number is not a direction: it must not pass for 0
            let step = s.add(step, s.mul(update, s.zero()));
            let new = s.fma(s.get(&p[i..]), s.splat(keep), step);
            s.set(&mut m[i..], mixed(h.beta2, rests[1]));
            s.set(&mut p[i..], new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, wide};

    #[test]
    fn ten_steps_agree_with_f64() {
        each_isa(|isa| {
            for n in [0, 1, 17, CHUNK + 5] {
                let (mut p, mut m, mut v) = (numbers(n, 1), vec![0.0; n], vec![0.0; n]);
                let (mut p64, mut m64, mut v64) = (wide(&p), vec![0.0; n], vec![0.0; n]);
                for step in 1..=10 {
                    let g = numbers(n, 10 + step);
                    let h = Adam {
                        lr: 0.01,
                        beta1: 0.9,
                        beta2: 0.98,
                        eps: 1e-6,
                        weight_decay: 0.2,
                        l2: 0.1,
                        step,
                    };
                    adam_step(&mut p, &g, &mut m, &mut v, &h, 0.5);
                    let (lr, b1, b2) = (f64::from(h.lr), f64::from(h.beta1), f64::from(h.beta2));
                    for i in 0..n {
                        let g = f64::from(g[i]) * 0.5 + f64::from(h.l2) * p64[i];
                        m64[i] = b1 * m64[i] + (1.0 - b1) * g;
                        v64[i] = b2 * v64[i] + (1.0 - b2) * g * g;
                        let (mh, vh) = (
                            m64[i] / (1.0 - b1.powi(step as i32)),
                            v64[i] / (1.0 - b2.powi(step as i32)),
                        );
                        p64[i] =
                            p64[i] * (1.0 - lr * f64::from(h.weight_decay)) - lr * mh / (vh.sqrt() + f64::from(h.eps));
                    }
                }
                assert_close(&p, &p64, 2e-6, isa);
                assert_close(&v, &v64, 1e-6, isa);
            }
        });
    }

    #[test]
    fn a_zero_gradient_only_decays() {
        let mut p = vec![2.0f32; 20];
        let h = Adam {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.5,
            l2: 0.0,
            step: 1,
        };
        adam_step(&mut p, &[0.0; 20], &mut [0.0; 20], &mut [0.0; 20], &h, 1.0);
        assert!(p.iter().all(|&x| (x - 1.9).abs() < 1e-6));
    }

    #[test]
    fn lion_agrees_with_f64() {
        let h = Lion {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.2,
        };
        each_isa(|isa| {
            for n in [0, 1, 17, CHUNK + 5] {
                let (mut p, mut m) = (numbers(n, 1), vec![0.0; n]);
                let (mut p64, mut m64) = (wide(&p), vec![0.0; n]);
                for step in 1..=10 {
                    let mut g = numbers(n, 10 + step);
                    // no direction at all
                    g.iter_mut().step_by(5).for_each(|g| *g = 0.0);
                    lion_step(&mut p, &g, &mut m, &h, 0.5);
                    let (lr, b1, b2) = (f64::from(h.lr), f64::from(h.beta1), f64::from(h.beta2));
                    for i in 0..n {
                        let g = f64::from(g[i]) * 0.5;
                        let update: f64 = b1 * m64[i] + (1.0 - b1) * g;
                        let sign = if update == 0.0 { 0.0 } else { update.signum() };
                        p64[i] = p64[i] * (1.0 - lr * f64::from(h.weight_decay)) - lr * sign;
                        m64[i] = b2 * m64[i] + (1.0 - b2) * g;
                    }
                }
                assert_close(&p, &p64, 2e-6, isa);
                assert_close(&m, &m64, 1e-6, isa);
            }
        });
    }

    #[test]
    fn lion_lets_what_is_no_number_show() {
        let h = Lion {
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.0,
        };
        each_isa(|isa| {
            let mut p = [1.0f32; 20];
            lion_step(&mut p, &[f32::NAN; 20], &mut [0.0; 20], &h, 1.0);
            assert!(p.iter().all(|p| p.is_nan()), "{isa}");
        });
    }
}
