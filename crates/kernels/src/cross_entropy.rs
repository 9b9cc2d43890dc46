//! Cross-entropy over a vocabulary that is never multiplied out: the products with all of its rows exist for a few of them at a time.
//!
//! A language model's vocabulary has 10⁵ rows, so that the logits of a batch would be its largest array by far. Here blocks of the vocabulary pass by, with a
//! running maximum and sum of each row (as attention does it); the backward pass makes the blocks once more.
use crate::gemm::{Mat, Precision, gemm};
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of the vocabulary that are multiplied at once.
const BLOCK: usize = 1024;

/// The rows of an output layer, which may be stored in any form.
pub trait Vocabulary: Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Numbers in a row.
    fn width(&self) -> usize;
    /// Puts some rows, one after the other, in place of what is in `out`.
    fn expand(&self, rows: Range<usize>, out: &mut Vec<f32>);
}

/// What the forward pass gives.
#[derive(Debug)]
pub struct TokenLoss {
    /// `[t]`: −ln p(target).
    pub loss: Vec<f32>,
    /// `[t]`: the logarithm of the sum over the vocabulary; the backward pass needs it.
    pub lse: Vec<f32>,
}

/// −ln softmax(x wᵀ) at each row's target.
///
/// # Shapes
/// `x`: `[t, width]`, `targets`: `[t]`, each below the number of rows of the vocabulary.
pub fn token_loss(x: &[f32], vocabulary: &dyn Vocabulary, targets: &[u32], precision: Precision) -> TokenLoss {
    let t = check(x, vocabulary, targets);
    let mut state = vec![(f32::NEG_INFINITY, 0f32); t];
    let mut at_target = vec![0f32; t];
    blocks(x, vocabulary, precision, t, |from, logits, _| {
        let n = logits.len() / t;
        (logits.par_chunks_exact_mut(n), &mut state, &mut at_target, targets)
            .into_par_iter()
            .for_each(|(line, (top, sum), at_target, &target)| {
                if let Some(&logit) = (target as usize).checked_sub(from).and_then(|at| line.get(at)) {
                    *at_target = logit;
                }
                let (new, more) = dispatch(Exponents { line, top: *top });
                *sum = *sum * (*top - new).exp() + more;
                *top = new;
            });
    });
    let lse: Vec<f32> = state.iter().map(|(top, sum)| top + sum.ln()).collect();
    let loss = lse.iter().zip(&at_target).map(|(lse, logit)| lse - logit).collect();
    TokenLoss { loss, lse }
}

/// The gradient of [`token_loss`] with respect to `x`; `gradient`: `[t]`, that of each loss.
///
/// # Shapes
/// → `[t, width]`.
pub fn token_loss_backward(
    gradient: &[f32],
    x: &[f32],
    vocabulary: &dyn Vocabulary,
    targets: &[u32],
    lse: &[f32],
    precision: Precision,
) -> Vec<f32> {
    let t = check(x, vocabulary, targets);
    assert!(
        gradient.len() == t && lse.len() == t,
        "token_loss_backward: a gradient and a sum a row"
    );
    let mut out = vec![0f32; x.len()];
    blocks(x, vocabulary, precision, t, |from, logits, rows| {
        let n = logits.len() / t;
        (logits.par_chunks_exact_mut(n), gradient, lse, targets)
            .into_par_iter()
            .for_each(|(line, &g, &lse, &target)| {
                dispatch(Probabilities { line, lse, factor: g });
                if let Some(p) = (target as usize).checked_sub(from).and_then(|at| line.get_mut(at)) {
                    *p -= g;
                }
            });
        let width = vocabulary.width();
        gemm(
            Mat::new(logits, t, n),
            Mat::new(rows, n, width),
            &mut out,
            true,
            precision,
        );
    });
    out
}

/// x wᵀ in full, for the few rows of which all logits are wanted.
///
/// # Shapes
/// `x`: `[t, width]` → `[t, rows]`.
pub fn logits(x: &[f32], vocabulary: &dyn Vocabulary, t: usize) -> Vec<f32> {
    assert_eq!(x.len(), t * vocabulary.width(), "logits: x must be [t, width]");
    let all = vocabulary.rows();
    let mut out = vec![0f32; t * all];
    blocks(x, vocabulary, Precision::F32, t, |from, products, _| {
        let n = products.len() / t;
        for (line, products) in out.chunks_exact_mut(all).zip(products.chunks_exact(n)) {
            line[from..from + n].copy_from_slice(products);
        }
    });
    out
}

fn check(x: &[f32], vocabulary: &dyn Vocabulary, targets: &[u32]) -> usize {
    let t = targets.len();
    assert_eq!(
        x.len(),
        t * vocabulary.width(),
        "token_loss: x must be [targets, width]"
    );
    assert!(
        targets.iter().all(|&id| (id as usize) < vocabulary.rows()),
        "token_loss: a target beyond the vocabulary"
    );
    t
}

/// Gives each block of the vocabulary to `each`: its first row, the products `[t, n]` with `x`, and the rows.
fn blocks(
    x: &[f32],
    vocabulary: &dyn Vocabulary,
    precision: Precision,
    t: usize,
    mut each: impl FnMut(usize, &mut [f32], &[f32]),
) {
    if t == 0 {
        return;
    }
    let (mut rows, mut logits) = (Vec::new(), Vec::new());
    for from in (0..vocabulary.rows()).step_by(BLOCK) {
        let n = BLOCK.min(vocabulary.rows() - from);
        vocabulary.expand(from..from + n, &mut rows);
        logits.resize(t * n, 0.0);
        let w = Mat::new(&rows, n, vocabulary.width()).t();
        gemm(Mat::new(x, t, vocabulary.width()), w, &mut logits, false, precision);
        each(from, &mut logits, &rows);
    }
}

/// The larger of `top` and the line's maximum, and Σ e^(x − that).
struct Exponents<'a> {
    line: &'a [f32],
    top: f32,
}

impl Task for Exponents<'_> {
    type Out = (f32, f32);
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let Self { line, top } = self;
        let new = line.iter().copied().fold(top, f32::max);
        let (base, mut sum) = (s.splat(new), s.zero());
        for j in steps::<S>(line.len()) {
            let p = exp(s, s.sub(s.get(&line[j..]), base));
            sum = s.add(sum, s.head(p, line.len() - j));
        }
        (new, s.sum(sum))
    }
}

/// x → factor · e^(x − lse).
struct Probabilities<'a> {
    line: &'a mut [f32],
    lse: f32,
    factor: f32,
}

impl Task for Probabilities<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { line, lse, factor } = self;
        let (lse, factor) = (s.splat(lse), s.splat(factor));
        for j in steps::<S>(line.len()) {
            let p = exp(s, s.sub(s.get(&line[j..]), lse));
            s.set(&mut line[j..], s.mul(factor, p));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, numbers};

    struct Dense(Vec<f32>, usize);

    impl Vocabulary for Dense {
        fn rows(&self) -> usize {
            self.0.len() / self.1
        }
        fn width(&self) -> usize {
            self.1
        }
        fn expand(&self, rows: Range<usize>, out: &mut Vec<f32>) {
            out.clear();
            out.extend_from_slice(&self.0[rows.start * self.1..rows.end * self.1]);
        }
    }

    fn naive(x: &[f64], w: &[f32], width: usize, targets: &[u32]) -> Vec<f64> {
        let logit = |row: &[f64], v: usize| (0..width).map(|i| row[i] * f64::from(w[v * width + i])).sum::<f64>();
        x.chunks(width)
            .zip(targets)
            .map(|(row, &target)| {
                let all: Vec<f64> = (0..w.len() / width).map(|v| logit(row, v)).collect();
                let top = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                top + all.iter().map(|l| (l - top).exp()).sum::<f64>().ln() - all[target as usize]
            })
            .collect()
    }

    #[test]
    fn value_and_gradient_agree_with_f64() {
        each_isa(|isa| {
            for (t, width, rows) in [(1, 3, 1), (3, 8, 70), (5, 20, 2100)] {
                let x = numbers(t * width, 1);
                let w = Dense(numbers(rows * width, 2), width);
                let targets: Vec<u32> = (0..t).map(|i| ((i * 977) % rows) as u32).collect();
                let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
                let expected = naive(&wide, &w.0, width, &targets);
                let found = token_loss(&x, &w, &targets, Precision::F32);
                for (a, b) in found.loss.iter().zip(&expected) {
                    assert!((f64::from(*a) - b).abs() < 1e-5 * b.abs().max(1.0), "{isa:?}: {a} {b}");
                }
                let g: Vec<f32> = (0..t).map(|i| 0.5 - i as f32).collect();
                let gx = token_loss_backward(&g, &x, &w, &targets, &found.lse, Precision::F32);
                let total = |x: &[f64]| {
                    let all = naive(x, &w.0, width, &targets);
                    all.iter().zip(&g).map(|(l, &g)| l * f64::from(g)).sum::<f64>()
                };
                for i in 0..x.len() {
                    let step = 1e-5;
                    let (mut up, mut down) = (wide.clone(), wide.clone());
                    up[i] += step;
                    down[i] -= step;
                    let slope = (total(&up) - total(&down)) / (2.0 * step);
                    assert!((f64::from(gx[i]) - slope).abs() < 2e-4, "{isa:?}: {} {slope}", gx[i]);
                }
            }
        });
    }

    #[test]
    fn large_logits_stay_finite() {
        let w = Dense(vec![1e4, -1e4, 0.0], 1);
        let found = token_loss(&[1.0, -1.0], &w, &[0, 0], Precision::F32);
        assert_eq!(found.loss, [0.0, 2e4]);
        let gradient = token_loss_backward(&[1.0, 1.0], &[1.0, -1.0], &w, &[0, 0], &found.lse, Precision::F32);
        assert_eq!(gradient, [0.0, -2e4]);
    }
}
