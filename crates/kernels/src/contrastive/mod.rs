//! Losses over all pairs of two sets of rows, without the matrix of pairs: value and gradients in one or two passes over chunks of rows.
//!
//! A chunk of similarities z = scale·⟨x, y⟩ is computed, turned in place into the derivative of the loss with respect to it, and multiplied into the gradients
//! of both sides; then its memory serves the next chunk. Where a loss normalises over columns, a pass before finds the log-sum-exp of each.
//! Values, and sums over rows and columns, are kept in `f64`; a run gives the same bits on any number of threads.
mod distill;
mod sigmoid;
mod softmax;
mod structure;
#[cfg(test)]
mod tests;

pub use distill::{Divergence, Teacher, distill};
pub use sigmoid::sigmoid;
pub use softmax::{Softmax, softmax};
pub use structure::{Penalty, structure};

use crate::Gradient;
use crate::buffer::Shared;
use crate::gemm::{Epilogue, Mat, On, Packed, Precision, Rhs, gemm_into};
use crate::math::exp;
use crate::simd::{Simd, Task, dispatch, steps};
use rayon::prelude::*;
use std::ops::Range;

/// Similarities in one chunk (32 MiB), as long as it has no more than [`MOST_ROWS`].
const CHUNK: usize = 8 << 20;
/// Rows of a chunk: as long as a pass of the products over k, so that the gradient of the columns is read and written seldom.
const MOST_ROWS: usize = 768;
/// Columns that are summed in `f32` before the sum goes on in `f64`.
const RUN: usize = 512;

/// Two sets of rows, whose products are the similarities.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// `[n, d]`.
    pub x: &'a [f32],
    /// `[m, d]`.
    pub y: &'a [f32],
    /// Rows of `x`.
    pub n: usize,
    /// Rows of `y`.
    pub m: usize,
    /// Numbers of a row.
    pub d: usize,
}

impl Sides<'_> {
    fn check(&self, name: &str) {
        assert_eq!(self.x.len(), self.n * self.d, "{name}: x must be [n, d]");
        assert_eq!(self.y.len(), self.m * self.d, "{name}: y must be [m, d]");
    }
}

/// A loss over pairs, and its gradients.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contrast {
    /// The loss.
    pub loss: f64,
    /// Its gradient with respect to `x`, if asked for.
    pub x: Gradient,
    /// Its gradient with respect to `y`, if asked for.
    pub y: Gradient,
    /// Its derivative with respect to the scale.
    pub scale: f64,
    /// Its derivative with respect to the bias; 0 for losses without one.
    pub bias: f64,
}

/// Which columns each row belongs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Where each row's columns begin; `[rows + 1]`.
    offsets: Vec<usize>,
    /// Columns of all rows, rising within a row.
    cols: Vec<usize>,
    width: usize,
}

impl Targets {
    /// `pairs` of (row, column) in any order. `None` if one is out of range or comes twice.
    pub fn new(rows: usize, cols: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Option<Self> {
        let mut pairs: Vec<(usize, usize)> = pairs.into_iter().collect();
        pairs.sort_unstable();
        let sound = pairs.iter().all(|&(i, j)| i < rows && j < cols) && pairs.windows(2).all(|w| w[0] != w[1]);
        sound.then(|| {
            let mut offsets = vec![0; rows + 1];
            pairs.iter().for_each(|&(i, _)| offsets[i + 1] += 1);
            (0..rows).for_each(|i| offsets[i + 1] += offsets[i]);
            Self {
                offsets,
                cols: pairs.into_iter().map(|(_, j)| j).collect(),
                width: cols,
            }
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.width
    }

    /// Number of pairs.
    pub fn pairs(&self) -> usize {
        self.cols.len()
    }

    /// Columns of a row, rising.
    pub fn of_row(&self, row: usize) -> &[usize] {
        &self.cols[self.offsets[row]..self.offsets[row + 1]]
    }
}

/// Rows of each chunk; `wanted` overrides what memory and caches suggest.
fn chunk_rows(n: usize, m: usize, wanted: Option<usize>) -> usize {
    let most = wanted.unwrap_or_else(|| (CHUNK / m.max(1)).min(MOST_ROWS)).max(1);
    // Chunks of equal size: the last one is then not a remainder that keeps few threads busy.
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

fn chunks(n: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(rows).map(move |i| i..(i + rows).min(n))
}

/// The products of a loss over pairs, chunk by chunk.
struct Stream<'a> {
    sides: Sides<'a>,
    columns: Packed,
    rows: usize,
}

impl<'a> Stream<'a> {
    fn new(sides: Sides<'a>, rows: usize) -> Self {
        let columns = Packed::new(Mat::new(sides.y, sides.m, sides.d).t(), Precision::F32);
        Self { sides, columns, rows }
    }

    /// ⟨x, y⟩ of the chunk's rows with all columns, into the first numbers of `z`.
    fn products<'z>(&self, range: Range<usize>, z: &'z mut [f32]) -> &'z mut [f32] {
        let Sides { x, y, m, d, .. } = self.sides;
        let z = &mut z[..range.len() * m];
        let rhs = Rhs {
            mat: Mat::new(y, m, d).t(),
            packed: Some(&self.columns),
            grid: None,
        };
        let x = Mat::new(&x[range.start * d..range.end * d], range.len(), d);
        // SAFETY: `z` has one number for each row and column.
        unsafe {
            gemm_into(
                x,
                rhs,
                Shared::of(z),
                false,
                &Epilogue::default(),
                Precision::F32,
                On::Pool,
            )
        };
        z
    }

    /// Memory for a chunk of similarities.
    fn buffer(&self) -> Vec<f32> {
        vec![0.0; self.rows.min(self.sides.n) * self.sides.m]
    }

    fn chunks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        chunks(self.sides.n, self.rows)
    }

    /// Log-sum-exp of each column of scale·⟨x, y⟩.
    fn column_lse(&self, scale: f32, z: &mut [f32]) -> Vec<f32> {
        let m = self.sides.m;
        let (mut largest, mut sum) = (vec![f32::NEG_INFINITY; m], vec![0f64; m]);
        for range in self.chunks() {
            let z = &*self.products(range, z);
            let strips = largest.par_chunks_mut(STRIP).zip(sum.par_chunks_mut(STRIP));
            strips.enumerate().for_each(|(i, (largest, sum))| {
                dispatch(Strip {
                    z,
                    m,
                    first: i * STRIP,
                    scale,
                    largest,
                    sum,
                })
            });
        }
        let lse = largest
            .iter()
            .zip(&sum)
            .map(|(&top, &sum)| (f64::from(top) + sum.ln()) as f32);
        lse.collect()
    }
}

/// The gradients of both sides as chunks of derivatives come in.
struct Gradients<'a> {
    sides: Sides<'a>,
    rows: Option<Packed>,
    x: Gradient,
    y: Gradient,
}

impl<'a> Gradients<'a> {
    fn new(sides: Sides<'a>, need: [bool; 2]) -> Self {
        Self {
            sides,
            rows: need[0].then(|| Packed::new(Mat::new(sides.y, sides.m, sides.d), Precision::F32)),
            x: need[0].then(|| vec![0.0; sides.x.len()]),
            y: need[1].then(|| vec![0.0; sides.y.len()]),
        }
    }

    /// Takes the derivatives `g` `[range, m]` with respect to ⟨x, y⟩.
    fn push(&mut self, range: Range<usize>, g: &[f32]) {
        let Sides { x, y, m, d, .. } = self.sides;
        let part = range.start * d..range.end * d;
        let g = Mat::new(g, range.len(), m);
        if let Some(gx) = &mut self.x {
            let rhs = Rhs {
                mat: Mat::new(y, m, d),
                packed: self.rows.as_ref(),
                grid: None,
            };
            // SAFETY: `gx` has `d` numbers for each row of the chunk.
            unsafe {
                gemm_into(
                    g,
                    rhs,
                    Shared::of(&mut gx[part.clone()]),
                    false,
                    &Epilogue::default(),
                    Precision::F32,
                    On::Pool,
                )
            };
        }
        if let Some(gy) = &mut self.y {
            crate::gemm::gemm(g.t(), Mat::new(&x[part], range.len(), d), gy, true, Precision::F32);
        }
    }

    fn finish(self) -> (Gradient, Gradient) {
        (self.x, self.y)
    }
}

/// Adds up what each row of a chunk gives, in the order of the rows.
fn sum_rows<const N: usize>(
    z: &mut [f32],
    m: usize,
    first: usize,
    totals: &mut [f64; N],
    row: impl Fn(usize, &mut [f32]) -> [f64; N] + Sync,
) {
    if m == 0 {
        return;
    }
    let parts: Vec<[f64; N]> = z
        .par_chunks_mut(m)
        .enumerate()
        .map(|(i, z)| row(first + i, z))
        .collect();
    for part in parts {
        totals.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
}

/// Log-sum-exp of a row of scale·z.
struct RowLse<'a> {
    z: &'a [f32],
    scale: f32,
}
impl Task for RowLse<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let scale = s.splat(self.scale);
        let mut top = s.splat(f32::NEG_INFINITY);
        let mut lines = self.z.chunks_exact(S::LANES);
        for line in &mut lines {
            top = s.max(top, s.mul(s.get(line), scale));
        }
        let rest = lines.remainder().iter().map(|&z| z * self.scale);
        let top = rest.fold(s.max_lane(top), f32::max);
        let shift = s.splat(top);
        let mut sum = 0.0;
        for run in self.z.chunks(RUN) {
            let mut acc = s.zero();
            for i in steps::<S>(run.len()) {
                let e = exp(s, s.sub(s.mul(s.get(&run[i..]), scale), shift));
                acc = s.add(acc, s.head(e, run.len() - i));
            }
            sum += f64::from(s.sum(acc));
        }
        f64::from(top) + sum.ln()
    }
}

/// Columns that one task follows down a chunk.
const STRIP: usize = 512;
/// Rows of a strip that stay in a first-level cache between being read for the largest and being read for the sum.
const STRIP_ROWS: usize = 16;

/// Some columns of a chunk: the largest of scale·z so far, and Σ exp(scale·z − largest) so far.
struct Strip<'a> {
    z: &'a [f32],
    m: usize,
    first: usize,
    scale: f32,
    largest: &'a mut [f32],
    sum: &'a mut [f64],
}
impl Task for Strip<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.largest.len();
        let scale = s.splat(self.scale);
        for rows in self.z.chunks(STRIP_ROWS * self.m) {
            let lines = || rows.chunks_exact(self.m).map(|row| &row[self.first..][..width]);
            let (mut tops, mut sums) = ([0f32; STRIP], [0f32; STRIP]);
            tops[..width].copy_from_slice(self.largest);
            for line in lines() {
                for i in steps::<S>(width) {
                    let top = s.max(s.get(&tops[i..width]), s.mul(s.get(&line[i..]), scale));
                    s.set(&mut tops[i..width], top);
                }
            }
            for line in lines() {
                for i in steps::<S>(width) {
                    let e = exp(s, s.sub(s.mul(s.get(&line[i..]), scale), s.get(&tops[i..width])));
                    let sum = s.add(s.get(&sums[i..width]), e);
                    s.set(&mut sums[i..width], sum);
                }
            }
            for j in 0..width {
                if self.largest[j] != tops[j] {
                    self.sum[j] *= (f64::from(self.largest[j]) - f64::from(tops[j])).exp();
                    self.largest[j] = tops[j];
                }
                self.sum[j] += f64::from(sums[j]);
            }
        }
    }
}
