//! What the unit tests share: reproducible numbers, comparisons, finite differences.
use crate::simd::{FORCED, available};

/// Reproducible numbers, roughly uniform in [-1, 1).
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let mixed = (state >> 33) ^ (state >> 47);
            (mixed & 0xff_ffff) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Every number within `tolerance · (1 + |truth|)`.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], truth: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), truth.len(), "{what}: length");
    for (i, (&g, &t)) in got.iter().zip(truth).enumerate() {
        let error = (f64::from(g) - t).abs();
        assert!(
            error <= tolerance * (1.0 + t.abs()),
            "{what}[{i}]: got {g}, expected {t}"
        );
    }
}

/// Gradient of `Σ gy · f(x)` by central differences; `f` is a naive `f64` forward.
pub(crate) fn numeric_gradient(x: &[f32], gy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut x = wide(x);
    let objective = |x: &[f64]| f(x).iter().zip(gy).map(|(y, &g)| y * f64::from(g)).sum::<f64>();
    (0..x.len())
        .map(|i| {
            let (h, kept) = (1e-5, x[i]);
            x[i] = kept + h;
            let up = objective(&x);
            x[i] = kept - h;
            let down = objective(&x);
            x[i] = kept;
            (up - down) / (2.0 * h)
        })
        .collect()
}

/// Runs `test` once per instruction set of this machine.
pub(crate) fn each_isa(test: impl Fn(&str)) {
    for &isa in available() {
        *FORCED.lock().unwrap() = Some(isa);
        test(crate::instruction_set());
    }
    *FORCED.lock().unwrap() = None;
}

/// The error function by its series (small arguments) or continued fraction.
pub(crate) fn erf64(x: f64) -> f64 {
    if x < 0.0 {
        return -erf64(-x);
    }
    if x < 3.0 {
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
            if n > 200.0 {
                break;
            }
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut f = 0.0;
    for k in (1..=120).rev() {
        f = f64::from(k) / 2.0 / (x + f);
    }
    1.0 - (-x * x).exp() / (std::f64::consts::PI.sqrt() * (x + f))
}
