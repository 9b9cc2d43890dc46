//! Ridge regression from one embedding space to another: the baseline that a trained adaptor has to beat.
//!
//! With centred `X` and `Y` the weights minimise `‖Y − X W‖² + λ‖W‖²` (Hoerl and Kennard, 1970): `W = (XᵀX + λI)⁻¹ XᵀY`;
//! the bias `ȳ − x̄ W` is not penalised. λ is absolute, as `alpha` in scikit-learn.
//!
//! Sums are f64 throughout. Cost: n·d²/2 for the products and d³/6 per λ, memory 8·d·(2d + dout) bytes.

use rayon::prelude::*;

use crate::cholesky;
use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::normalise_rows;

/// The penalties that validation tries, times the mean variance sum of a column, so that scale and number of rows do not matter.
const GRID: [f64; 8] = [1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0, 10.0];
/// One row (or group of rows) in this many is kept back to choose λ.
const HOLD_OUT: u64 = 5;
/// Rows per partial product: bounds the f64 copies.
const CHUNK: usize = 512;

/// How the penalty is found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Lambda<'a> {
    /// This value.
    Fixed(f64),
    /// Chosen on a fifth of the rows, which are kept back for that and then used to fit again.
    /// Rows with the same group (captions of one picture) stay on one side; `None`: every row is its own group.
    Validated(Option<&'a [usize]>),
}

/// A fitted linear map with bias.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    din: usize,
    dout: usize,
    lambda: f64,
    /// `[dout, din]`, as the weight of a linear layer.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Ridge {
    /// Fits `y ≈ x Wᵀ + b`.
    ///
    /// # Shapes
    /// `x` `[n, din]`, `y` `[n, dout]`, row-major; groups of [`Lambda::Validated`] `[n]`.
    ///
    /// # Errors
    /// Empty input, lengths that do not fit, values that are not finite, a λ that is negative, a system that is singular
    /// (λ of 0 with columns that depend on each other), and fewer than two groups to validate with.
    pub fn fit(x: &[f32], y: &[f32], din: usize, dout: usize, lambda: Lambda) -> Result<Self, EvalError> {
        let n = rows_of("the ridge input", x, din)?;
        check_matrix("the ridge target", y, n, dout)?;
        let all = Moments::of(x, y, din, dout, |_| true);
        let lambda = match lambda {
            Lambda::Fixed(value) if value >= 0.0 && value.is_finite() => value,
            Lambda::Fixed(value) => {
                return Err(EvalError::Parameter {
                    what: "lambda",
                    value,
                    expected: "give a number of at least 0",
                });
            }
            Lambda::Validated(groups) => choose(x, y, din, dout, n, groups)? * all.scale() * n as f64,
        };
        all.solve(lambda)
    }

    /// The penalty that was used.
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// The weight, `[dout, din]`.
    pub fn weight(&self) -> &[f32] {
        &self.weight
    }

    /// The bias, `[dout]`.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// Predictions, each row divided by its length. `x` `[n, din]`; returns `[n, dout]`.
    ///
    /// # Errors
    /// Empty input, a length that does not fit, values that are not finite, and predictions without direction.
    pub fn predict(&self, x: &[f32]) -> Result<Vec<f32>, EvalError> {
        let mut out = self.predict_raw(x)?;
        normalise_rows(&mut out, self.dout).map_err(|row| EvalError::ZeroVector {
            what: "the ridge prediction",
            row,
        })?;
        Ok(out)
    }

    /// Predictions as the map gives them, not normalised. `x` `[n, din]`; returns `[n, dout]`.
    ///
    /// # Errors
    /// Empty input, a length that does not fit and values that are not finite.
    pub fn predict_raw(&self, x: &[f32]) -> Result<Vec<f32>, EvalError> {
        rows_of("the ridge input", x, self.din)?;
        Ok(x.par_chunks_exact(self.din)
            .flat_map_iter(|row| {
                let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
                self.weight.chunks_exact(self.din).zip(&self.bias).map(move |(w, &b)| {
                    let sum: f64 = w.iter().zip(&row).map(|(&w, v)| f64::from(w) * v).sum();
                    (sum + f64::from(b)) as f32
                })
            })
            .collect())
    }
}

/// Centred second moments of the rows that were chosen.
struct Moments {
    din: usize,
    dout: usize,
    rows: usize,
    mean_x: Vec<f64>,
    mean_y: Vec<f64>,
    /// `XᵀX` `[din, din]`.
    xx: Vec<f64>,
    /// `YᵀX` `[dout, din]`.
    yx: Vec<f64>,
}

impl Moments {
    fn of(x: &[f32], y: &[f32], din: usize, dout: usize, keep: impl Fn(usize) -> bool) -> Self {
        let chosen: Vec<usize> = (0..x.len() / din).filter(|&row| keep(row)).collect();
        let mean_x = mean(x, din, &chosen);
        let mean_y = mean(y, dout, &chosen);
        let mut xx = vec![0.0; din * din];
        let mut yx = vec![0.0; dout * din];
        for rows in chosen.chunks(CHUNK) {
            // Transposed, so that every sum runs over neighbours.
            let xt = centred_columns(x, din, rows, &mean_x);
            let yt = centred_columns(y, dout, rows, &mean_y);
            // Four rows of the product at a time: a column of `xt` is read from memory once for all of them.
            accumulate(&mut xx, &xt, &xt, din, rows.len());
            accumulate(&mut yx, &yt, &xt, din, rows.len());
        }
        Self {
            din,
            dout,
            rows: chosen.len(),
            mean_x,
            mean_y,
            xx,
            yx,
        }
    }

    /// Mean variance of a column of X.
    fn scale(&self) -> f64 {
        let trace: f64 = self.xx.iter().step_by(self.din + 1).sum();
        trace / (self.din * self.rows) as f64
    }

    fn solve(&self, lambda: f64) -> Result<Ridge, EvalError> {
        let (din, dout) = (self.din, self.dout);
        let mut l = self.xx.clone();
        l.iter_mut().step_by(din + 1).for_each(|v| *v += lambda);
        cholesky::factor(&mut l, din).map_err(|column| EvalError::Singular { column, lambda })?;
        let mut weight = self.yx.clone();
        cholesky::solve_rows(&l, din, &mut weight);
        let bias = weight
            .chunks_exact(din)
            .zip(&self.mean_y)
            .map(|(w, y)| (y - cholesky::dot(w, &self.mean_x)) as f32)
            .collect();
        Ok(Ridge {
            din,
            dout,
            lambda,
            weight: weight.iter().map(|&v| v as f32).collect(),
            bias,
        })
    }
}

/// `out[i, j] += Σ a[i, :] b[j, :]` for `a` `[?, rows]` and `b` `[width, rows]`.
fn accumulate(out: &mut [f64], a: &[f64], b: &[f64], width: usize, rows: usize) {
    const GROUP: usize = 8;
    out.par_chunks_mut(GROUP * width)
        .zip(a.par_chunks(GROUP * rows))
        .for_each(|(out, a)| {
            for (j, column) in b.chunks_exact(rows).enumerate() {
                for (out, a) in out.chunks_exact_mut(width).zip(a.chunks_exact(rows)) {
                    out[j] += cholesky::dot(a, column);
                }
            }
        });
}

fn mean(data: &[f32], dim: usize, rows: &[usize]) -> Vec<f64> {
    let mut sum = vec![0.0; dim];
    for &row in rows {
        for (s, &v) in sum.iter_mut().zip(&data[row * dim..][..dim]) {
            *s += f64::from(v);
        }
    }
    sum.iter_mut().for_each(|s| *s /= rows.len() as f64);
    sum
}

/// The chosen rows without their mean, transposed: `[dim, rows]`.
fn centred_columns(data: &[f32], dim: usize, rows: &[usize], mean: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; dim * rows.len()];
    out.par_chunks_mut(rows.len()).enumerate().for_each(|(column, out)| {
        for (v, &row) in out.iter_mut().zip(rows) {
            *v = f64::from(data[row * dim + column]) - mean[column];
        }
    });
    out
}

/// The relative penalty with the smallest squared error on the rows kept back.
fn choose(x: &[f32], y: &[f32], din: usize, dout: usize, n: usize, groups: Option<&[usize]>) -> Result<f64, EvalError> {
    if let Some(groups) = groups
        && groups.len() != n
    {
        let shape = format!("one group per row, {n} rows");
        return Err(EvalError::Shape {
            what: "the list of groups",
            len: groups.len(),
            expected: n,
            shape,
        });
    }
    let group = |row: usize| groups.map_or(row, |g| g[row]);
    let mut order: Vec<usize> = (0..n).map(group).collect();
    order.sort_unstable();
    order.dedup();
    if order.len() < 2 {
        return Err(EvalError::Parameter {
            what: "the number of groups to choose lambda with",
            value: order.len() as f64,
            expected: "at least 2 are needed; give lambda instead",
        });
    }
    // In the order of a hash, so that files sorted by class do not lose whole classes.
    order.sort_by_cached_key(|&g| mix(g as u64));
    let held: std::collections::HashSet<usize> = order
        .iter()
        .copied()
        .take(order.len().div_ceil(HOLD_OUT as usize))
        .collect();
    let kept_back: Vec<usize> = (0..n).filter(|&row| held.contains(&group(row))).collect();
    let gather = |data: &[f32], dim: usize| -> Vec<f32> {
        kept_back
            .iter()
            .flat_map(|&row| data[row * dim..][..dim].iter().copied())
            .collect()
    };
    let (x_held, y_held) = (gather(x, din), gather(y, dout));
    let train = Moments::of(x, y, din, dout, |row| !held.contains(&group(row)));
    let mut best = None;
    for relative in GRID {
        let Ok(map) = train.solve(relative * train.scale() * train.rows as f64) else {
            continue;
        };
        let predicted = map.predict_raw(&x_held)?;
        let error: f64 = predicted
            .iter()
            .zip(&y_held)
            .map(|(p, t)| (f64::from(*p) - f64::from(*t)).powi(2))
            .sum();
        if best.is_none_or(|(least, _)| error < least) {
            best = Some((error, relative));
        }
    }
    best.map(|(_, relative)| relative)
        .ok_or(EvalError::Singular { column: 0, lambda: 0.0 })
}

/// SplitMix64's finaliser (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        (0..n)
            .map(|i| (mix(seed ^ mix(i as u64)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect()
    }

    #[test]
    fn validation_prefers_little_penalty_for_a_linear_map_and_much_for_noise() {
        let (n, din, dout) = (200, 20, 3);
        let x = noise(n * din, 1);
        let map = noise(din * dout, 2);
        let linear: Vec<f32> = x
            .chunks_exact(din)
            .flat_map(|row| {
                map.chunks_exact(din)
                    .map(move |w| 0.7 + row.iter().zip(w).map(|(a, b)| a * b).sum::<f32>())
            })
            .collect();
        let fit = Ridge::fit(&x, &linear, din, dout, Lambda::Validated(None)).unwrap();
        for (w, m) in fit.weight().iter().zip(&map) {
            assert!((w - m).abs() < 1e-3, "{w} for {m}");
        }
        for b in fit.bias() {
            assert!((b - 0.7).abs() < 1e-3, "{b} for 0.7");
        }
        let unrelated = Ridge::fit(&x, &noise(n * dout, 3), din, dout, Lambda::Validated(None)).unwrap();
        assert!(
            unrelated.lambda() > 1e3 * fit.lambda(),
            "{} and {}",
            unrelated.lambda(),
            fit.lambda()
        );
    }

    #[test]
    fn groups_stay_on_one_side() {
        // Each picture's row occurs four times with four targets. Were its copies split, memorising would look like
        // generalising, and the penalty would be small.
        let (pictures, din, dout) = (40, 60, 4);
        let base = noise(pictures * din, 5);
        let targets = noise(pictures * dout, 6);
        let copies = |data: &[f32], dim: usize| -> Vec<f32> {
            (0..4 * pictures)
                .flat_map(|row| data[row / 4 * dim..][..dim].to_vec())
                .collect()
        };
        let (x, y) = (copies(&base, din), copies(&targets, dout));
        let groups: Vec<usize> = (0..4 * pictures).map(|row| row / 4).collect();
        let grouped = Ridge::fit(&x, &y, din, dout, Lambda::Validated(Some(&groups))).unwrap();
        let leaky = Ridge::fit(&x, &y, din, dout, Lambda::Validated(None)).unwrap();
        assert!(
            grouped.lambda() > 100.0 * leaky.lambda(),
            "{} and {}",
            grouped.lambda(),
            leaky.lambda()
        );
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        let x = [1.0, 2.0, 2.0, 4.0, 3.0, 6.0];
        let y = [1.0, 2.0, 3.0];
        assert!(matches!(
            Ridge::fit(&x, &y, 2, 1, Lambda::Fixed(0.0)),
            Err(EvalError::Singular { .. })
        ));
        assert!(matches!(
            Ridge::fit(&x, &y, 2, 1, Lambda::Fixed(-1.0)),
            Err(EvalError::Parameter { .. })
        ));
        assert!(matches!(
            Ridge::fit(&x, &y, 2, 1, Lambda::Fixed(f64::NAN)),
            Err(EvalError::Parameter { .. })
        ));
        assert!(matches!(
            Ridge::fit(&x, &y[..2], 2, 1, Lambda::Fixed(1.0)),
            Err(EvalError::Shape { .. })
        ));
        assert!(matches!(
            Ridge::fit(&x, &y, 2, 1, Lambda::Validated(Some(&[0, 0, 0]))),
            Err(EvalError::Parameter { .. })
        ));
        assert!(matches!(
            Ridge::fit(&x, &y, 2, 1, Lambda::Validated(Some(&[0]))),
            Err(EvalError::Shape { .. })
        ));
        let fit = Ridge::fit(&x, &y, 2, 1, Lambda::Fixed(1.0)).unwrap();
        assert!(matches!(fit.predict(&[1.0]), Err(EvalError::Shape { .. })));
        let unit = fit.predict(&x).unwrap();
        assert_eq!(unit, [1.0, 1.0, 1.0]);
    }
}
