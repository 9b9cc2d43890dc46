//! Elementary functions on vector registers.
//!
//! The coefficients are minimax fits made for this file (relative error: `exp` 3e-9, `erfc` 2e-8 before rounding); after `f32` rounding both stay below 1e-6 of the
//! `f64` value wherever that is a normal number, which the tests sweep.
use crate::simd::Simd;

/// Below this, e^x is not a normal `f32`: the result is exactly 0.
const EXP_LOW: f32 = -87.336_54;
/// Above this (127.5·ln 2, where 2^n would overflow), e^x is held at its value here, 2.4e38, instead of growing to infinity.
const EXP_HIGH: f32 = 88.376;

/// e^x. NaN stays NaN; -∞ gives 0.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let clamped = s.max(s.splat(EXP_LOW), s.min(s.splat(EXP_HIGH), x));
    let n = s.round(s.mul(clamped, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts: the first has few enough bits for n·LN2_HIGH to be exact.
    let r = s.fma(n, s.splat(-0.693_359_4), clamped);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(0.001_381_453_8);
    for c in [0.008_368_745, 0.041_668_39, 0.166_665_21, 0.499_999_94] {
        p = s.fma(p, r, s.splat(c));
    }
    let p = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.select_lt(x, s.splat(EXP_LOW), s.zero(), s.mul(p, s.pow2(n)))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.zero(), x))))
}

/// ln(1 + x) for 0 ≤ x ≤ 1: 2·artanh(x / (2 + x)) by its series, which loses no digits of a small x.
#[inline(always)]
pub(crate) fn ln_1p<S: Simd>(s: S, x: S::V) -> S::V {
    let u = s.div(x, s.add(x, s.splat(2.0)));
    let square = s.mul(u, u);
    let mut p = s.splat(1.0 / 15.0);
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        p = s.fma(p, square, s.splat(1.0 / odd));
    }
    s.mul(s.add(u, u), s.fma(p, square, s.splat(1.0)))
}

/// The standard normal distribution: (Φ(x), φ(x)·√(2π)), that is (½·erfc(-x/√2), e^(-x²/2)).
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let z = s.mul(s.max(x, s.sub(s.zero(), x)), s.splat(std::f32::consts::FRAC_1_SQRT_2));
    let e = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    // erfc(z) = e^(-z²) · t · P(t) with t = 1 / (1 + 0.38 z)
    let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.38), s.splat(1.0)));
    let mut p = s.splat(0.058_849_078);
    for c in [
        -0.261_682_54,
        0.362_562_87,
        -0.159_891_52,
        0.228_876,
        0.139_172_33,
        0.203_763_22,
        0.213_941_02,
        0.214_409_59,
    ] {
        p = s.fma(p, t, s.splat(c));
    }
    let half_erfc = s.mul(s.mul(s.mul(e, t), p), s.splat(0.5));
    (s.select_lt(x, s.zero(), half_erfc, s.sub(s.splat(1.0), half_erfc)), e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Task, dispatch};
    use crate::testing::{each_isa, erf64};

    struct Apply<'a>(&'a [f32], u8);
    impl Task for Apply<'_> {
        type Out = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.0.len()];
            for i in crate::simd::steps::<S>(out.len()) {
                let x = s.get(&self.0[i..]);
                let y = match self.1 {
                    0 => exp(s, x),
                    1 => sigmoid(s, x),
                    3 => ln_1p(s, x),
                    _ => normal(s, x).0,
                };
                s.set(&mut out[i..], y);
            }
            out
        }
    }

    fn worst(kind: u8, low: f64, high: f64, truth: impl Fn(f64) -> f64) -> f64 {
        let xs: Vec<f32> = (0..200_001)
            .map(|i| (low + (high - low) * f64::from(i) / 200_000.0) as f32)
            .collect();
        let ys = dispatch(Apply(&xs, kind));
        xs.iter()
            .zip(&ys)
            .map(|(&x, &y)| (f64::from(y) / truth(f64::from(x)) - 1.0).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn relative_errors_stay_below_one_in_a_million() {
        each_isa(|isa| {
            let e = worst(0, -87.3, 88.37, f64::exp);
            assert!(e < 4e-7, "{isa}: exp {e:e}");
            let e = worst(1, -87.0, 40.0, |x| 1.0 / (1.0 + (-x).exp()));
            assert!(e < 5e-7, "{isa}: sigmoid {e:e}");
            let e = worst(2, -4.0, 9.0, |x| {
                0.5 * (1.0 - erf64(-x * std::f64::consts::FRAC_1_SQRT_2))
            });
            assert!(e < 1e-6, "{isa}: normal {e:e}");
            let e = worst(3, 1e-9, 1.0, f64::ln_1p).max(worst(3, 1e-20, 1e-6, f64::ln_1p));
            assert!(e < 3e-7, "{isa}: ln_1p {e:e}");
        });
    }

    #[test]
    fn the_ends_of_the_range_are_sane() {
        each_isa(|isa| {
            let x = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -1e30, 1e30];
            let e = dispatch(Apply(&x, 0));
            assert!(
                e[0] == 0.0 && e[1] > 2e38 && e[1].is_finite() && e[2].is_nan() && e[3] == 1.0 && e[4] == 0.0,
                "{isa}: {e:?}"
            );
            let g = dispatch(Apply(&x, 1));
            assert!(
                g[0] < 1e-38 && g[1] == 1.0 && g[2].is_nan() && g[3] == 0.5,
                "{isa}: {g:?}"
            );
            let n = dispatch(Apply(&x, 2));
            assert!(
                n[2].is_nan() && n[3] == 0.5 && n[4] == 0.0 && n[5] == 1.0,
                "{isa}: {n:?}"
            );
        });
    }
}
