//! Structure alignment (ProCLIP, arXiv 2510.18795, equation 3): distances between the rows of a student are held to those of a teacher.
use crate::Gradient;
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;

/// What a difference u of two distances costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Penalty {
    /// u².
    Squared,
    /// u²/2 for |u| < 1, else |u| − 1/2 (smooth L1 with β = 1).
    SmoothL1,
}

impl Penalty {
    fn value(self, u: f64) -> f64 {
        match self {
            Penalty::Squared => u * u,
            Penalty::SmoothL1 if u.abs() < 1.0 => 0.5 * u * u,
            Penalty::SmoothL1 => u.abs() - 0.5,
        }
    }

    fn slope(self, u: f32) -> f32 {
        match self {
            Penalty::Squared => 2.0 * u,
            Penalty::SmoothL1 => u.clamp(-1.0, 1.0),
        }
    }
}

/// Rows that one task compares with all others: each other row is then loaded once for all of them.
const ROWS: usize = 16;
/// Rows whose sums are in registers at the same time.
const AT_ONCE: usize = 4;

/// Σ_{i<j} penalty(‖xᵢ − xⱼ‖ − ‖yᵢ − yⱼ‖), `x` being the student and `y` the teacher, and its gradient with respect to `x` if asked for.
///
/// Distances are sums of squared differences, never differences of squares, so that close rows lose no digits; where two rows coincide the
/// gradient is 0. Memory is 16 rows of distances a thread.
///
/// # Shapes
/// `x`: `[n, d]`, `y`: `[n, e]`, of any width `e`.
pub fn structure(x: &[f32], y: &[f32], n: usize, penalty: Penalty, need: bool) -> (f64, Gradient) {
    assert!(
        n > 0 || (x.is_empty() && y.is_empty()),
        "structure: rows without number"
    );
    assert!(
        n == 0 || (x.len().is_multiple_of(n) && y.len().is_multiple_of(n)),
        "structure: x must be [n, d] and y [n, e]"
    );
    let widths = [x.len() / n.max(1), y.len() / n.max(1)];
    let mut gradient = need.then(|| vec![0.0; x.len()]);
    let block = |first: usize, out: Option<&mut [f32]>| -> f64 {
        let rows = ROWS.min(n - first);
        let [student, teacher] = [(x, widths[0]), (y, widths[1])].map(|(data, d)| {
            dispatch(Distances {
                data,
                d,
                n,
                first,
                rows,
            })
        });
        let mut loss = 0.0;
        let mut pull = student;
        for i in 0..rows {
            for j in 0..n {
                let at = i * n + j;
                let (far, u) = (pull[at], pull[at] - teacher[at]);
                if j > first + i {
                    loss += penalty.value(f64::from(u));
                }
                pull[at] = if far > 0.0 { penalty.slope(u) / far } else { far * 0.0 };
            }
        }
        if let Some(out) = out {
            dispatch(Pull {
                x,
                d: widths[0],
                first,
                rows,
                pull: &pull,
                out,
            });
        }
        loss
    };
    let losses: Vec<f64> = match &mut gradient {
        Some(gradient) if widths[0] > 0 => {
            let blocks = gradient.par_chunks_mut(ROWS * widths[0]).enumerate();
            blocks.map(|(i, out)| block(i * ROWS, Some(out))).collect()
        }
        _ => (0..n.div_ceil(ROWS))
            .into_par_iter()
            .map(|i| block(i * ROWS, None))
            .collect(),
    };
    (losses.iter().sum(), gradient)
}

/// Distances of some rows to all, `[rows, n]`.
struct Distances<'a> {
    data: &'a [f32],
    d: usize,
    n: usize,
    first: usize,
    rows: usize,
}
impl Task for Distances<'_> {
    type Out = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let Self {
            data,
            d,
            n,
            first,
            rows,
        } = self;
        let mut out = vec![0.0; rows * n];
        for (j, other) in data.chunks_exact(d.max(1)).enumerate() {
            for i0 in (0..rows).step_by(AT_ONCE) {
                // A row that is not there is replaced by the last one that is.
                let mine: [&[f32]; AT_ONCE] =
                    std::array::from_fn(|k| &data[(first + (i0 + k).min(rows - 1)) * d..][..d]);
                let mut acc = [s.zero(); AT_ONCE];
                for c in steps::<S>(d) {
                    let v = s.get(&other[c..]);
                    for k in 0..AT_ONCE {
                        let u = s.sub(s.get(&mine[k][c..]), v);
                        acc[k] = s.fma(u, u, acc[k]);
                    }
                }
                for k in 0..AT_ONCE.min(rows - i0) {
                    out[(i0 + k) * n + j] = s.sum(acc[k]).sqrt();
                }
            }
        }
        out
    }
}

/// out ← Σⱼ pull(i, j)·(xᵢ − xⱼ) for some rows i.
struct Pull<'a> {
    x: &'a [f32],
    d: usize,
    first: usize,
    rows: usize,
    pull: &'a [f32],
    out: &'a mut [f32],
}
impl Task for Pull<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self {
            x,
            d,
            first,
            rows,
            pull,
            out,
        } = self;
        let n = x.len() / d;
        let mine = &x[first * d..][..rows * d];
        for (four, others) in x.chunks(AT_ONCE * d).enumerate() {
            for (i, (mine, out)) in mine.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
                let pulls = &pull[i * n + four * AT_ONCE..(i + 1) * n];
                for c in steps::<S>(d) {
                    let v = s.get(&mine[c..]);
                    let mut acc = s.get(&out[c..]);
                    for (other, &pull) in others.chunks_exact(d).zip(pulls) {
                        acc = s.fma(s.splat(pull), s.sub(v, s.get(&other[c..])), acc);
                    }
                    s.set(&mut out[c..], acc);
                }
            }
        }
    }
}
