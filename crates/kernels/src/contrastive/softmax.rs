//! Cross-entropy of softmaxed similarities over rows, over columns, or both (InfoNCE).
use super::{Contrast, Gradients, RUN, RowLse, Sides, Stream, Targets, chunk_rows, sum_rows};
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};

/// What is counted: Σᵢ aᵢ·CE(row i) + Σⱼ wⱼ·CE(column j).
///
/// The label of a row is uniform over its targets, and so is the label of a column over the rows that it is a target of. What has no target counts with weight 0, but
/// stands in the other side's softmax all the same: a hard negative is a column without a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Softmax {
    targets: Targets,
    rows: Vec<f32>,
    cols: Vec<f32>,
    /// For each target: what its similarity is multiplied by in the loss, negated.
    pulls: Vec<f64>,
}

impl Softmax {
    /// Weights `rows` and `cols` of the cross-entropies; the weight of a row or column without a target is taken as 0.
    ///
    /// # Panics
    /// If there is not one weight for each row and column.
    pub fn new(targets: Targets, mut rows: Vec<f32>, mut cols: Vec<f32>) -> Self {
        assert_eq!(rows.len(), targets.rows(), "softmax: one weight for each row");
        assert_eq!(cols.len(), targets.cols(), "softmax: one weight for each column");
        let mut owners = vec![0usize; cols.len()];
        targets.cols.iter().for_each(|&j| owners[j] += 1);
        let mut pulls = Vec::with_capacity(targets.pairs());
        for (i, weight) in rows.iter_mut().enumerate() {
            let own = targets.of_row(i);
            if own.is_empty() {
                *weight = 0.0;
            }
            let by_row = f64::from(*weight) / own.len() as f64;
            pulls.extend(own.iter().map(|&j| by_row + f64::from(cols[j]) / owners[j] as f64));
        }
        for (weight, &owners) in cols.iter_mut().zip(&owners) {
            if owners == 0 {
                *weight = 0.0;
            }
        }
        Self {
            targets,
            rows,
            cols,
            pulls,
        }
    }

    /// Which columns each row belongs with.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Weight of each row's cross-entropy.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Weight of each column's cross-entropy.
    pub fn cols(&self) -> &[f32] {
        &self.cols
    }

    /// Targets of a row, each with the factor that its similarity has in the loss, negated.
    pub fn pulls(&self, row: usize) -> impl Iterator<Item = (usize, f64)> {
        let pulls = &self.pulls[self.targets.offsets[row]..];
        self.targets.of_row(row).iter().copied().zip(pulls.iter().copied())
    }
}

/// [`Softmax`] of scale·⟨x, y⟩; `need` says which of the gradients of `x` and `y` are computed, `rows` overrides the size of a chunk.
///
/// Without weights on columns the similarities are computed once, with them twice.
///
/// # Shapes
/// `what`: `n` rows and `m` columns.
pub fn softmax(sides: Sides, scale: f32, what: &Softmax, need: [bool; 2], rows: Option<usize>) -> Contrast {
    sides.check("softmax");
    let size = (what.targets.rows(), what.targets.cols());
    assert_eq!(size, (sides.n, sides.m), "softmax: weights must fit [n, m]");
    let stream = Stream::new(sides, chunk_rows(sides.n, sides.m, rows));
    let mut buffer = stream.buffer();
    let mut loss = 0.0;
    let column_lse = what.cols.iter().any(|&w| w != 0.0).then(|| {
        let lse = stream.column_lse(scale, &mut buffer);
        let counted = lse.iter().zip(&what.cols).filter(|&(_, &w)| w != 0.0);
        loss += counted.map(|(&lse, &w)| f64::from(w) * f64::from(lse)).sum::<f64>();
        lse
    });
    let mut gradients = Gradients::new(sides, need);
    let mut totals = [0.0; 2];
    for range in stream.chunks() {
        let z = stream.products(range.clone(), &mut buffer);
        sum_rows(z, sides.m, range.start, &mut totals, |i, z| {
            row(z, scale, what, i, column_lse.as_deref())
        });
        gradients.push(range, z);
    }
    let (x, y) = gradients.finish();
    Contrast {
        loss: loss + totals[0],
        x,
        y,
        scale: totals[1],
        bias: 0.0,
    }
}

/// Turns a row of ⟨x, y⟩ into the derivative with respect to it; returns what the row adds to the loss and to the derivative of the scale.
fn row(z: &mut [f32], scale: f32, what: &Softmax, i: usize, column_lse: Option<&[f32]>) -> [f64; 2] {
    let weight = what.rows[i];
    let lse = if weight == 0.0 {
        0.0
    } else {
        dispatch(RowLse { z, scale })
    };
    let mut loss = f64::from(weight) * lse;
    let mut by_scale = 0.0;
    for (j, pull) in what.pulls(i) {
        loss -= pull * f64::from(scale) * f64::from(z[j]);
        by_scale -= pull * f64::from(z[j]);
    }
    by_scale += dispatch(Derive {
        z,
        scale,
        weight,
        lse: lse as f32,
        columns: column_lse.map(|lse| (&what.cols[..], lse)),
    });
    for (j, pull) in what.pulls(i) {
        z[j] -= (pull * f64::from(scale)) as f32;
    }
    [loss, by_scale]
}

/// z ← scale·(weight·p + w·q), with p the softmax over the row and q those over the columns; returns Σ (weight·p + w·q)·z.
struct Derive<'a> {
    z: &'a mut [f32],
    scale: f32,
    weight: f32,
    lse: f32,
    /// Weights and log-sum-exps.
    columns: Option<(&'a [f32], &'a [f32])>,
}
impl Task for Derive<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let (scale, weight, lse) = (s.splat(self.scale), s.splat(self.weight), s.splat(self.lse));
        let mut total = 0.0;
        for (at, run) in self.z.chunks_mut(RUN).enumerate() {
            let mut acc = s.zero();
            for i in steps::<S>(run.len()) {
                let dot = s.get(&run[i..]);
                let z = s.mul(dot, scale);
                let mut g = if self.weight == 0.0 {
                    s.zero()
                } else {
                    s.mul(weight, exp(s, s.sub(z, lse)))
                };
                if let Some((w, lse)) = self.columns {
                    let j = at * RUN + i;
                    let q = exp(s, s.sub(z, s.get(&lse[j..])));
                    g = s.fma(s.get(&w[j..]), q, g);
                }
                acc = s.fma(s.head(g, run.len() - i), dot, acc);
                s.set(&mut run[i..], s.mul(g, scale));
            }
            total += f64::from(s.sum(acc));
        }
        total
    }
}
