//! Exact search over half-precision rows: dot products and the k largest.
use crate::simd::{Simd, Task, dispatch};
use half::f16;
use rayon::prelude::*;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Σ a·b, with `a` widened to `f32`.
///
/// # Shapes
/// `a`, `b`: the same length.
pub fn dot_f16(a: &[f16], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "dot_f16: a and b differ in length");
    dispatch(Dot { a, b })
}

struct Dot<'a> {
    a: &'a [f16],
    b: &'a [f32],
}
impl Task for Dot<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        dot(s, self.a, self.b)
    }
}

#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f16], b: &[f32]) -> f32 {
    let mut acc = [s.zero(); 4];
    let (mut a_blocks, mut b_blocks) = (a.chunks_exact(4 * S::LANES), b.chunks_exact(4 * S::LANES));
    for (a, b) in a_blocks.by_ref().zip(b_blocks.by_ref()) {
        for i in 0..4 {
            // SAFETY: the blocks hold 4·LANES numbers.
            let a = unsafe { s.load_f16(a.as_ptr().add(i * S::LANES)) };
            acc[i] = s.fma(a, s.get(&b[i * S::LANES..]), acc[i]);
        }
    }
    let (mut a, mut b) = (a_blocks.remainder(), b_blocks.remainder());
    while a.len() >= S::LANES {
        // SAFETY: at least LANES numbers are left.
        acc[0] = s.fma(unsafe { s.load_f16(a.as_ptr()) }, s.get(b), acc[0]);
        (a, b) = (&a[S::LANES..], &b[S::LANES..]);
    }
    let mut rest = 0.0;
    for (a, b) in a.iter().zip(b) {
        rest += a.to_f32() * b;
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]))) + rest
}

/// A row and its score; the order puts the worst first in a max-heap: lower score, then higher row.
#[derive(PartialEq)]
struct Hit(f32, usize);
impl Eq for Hit {}
impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.total_cmp(&self.0).then(self.1.cmp(&other.1))
    }
}

/// The `k` rows with the largest dot products, best first; equal scores in the order of the rows. Rows whose score is NaN are left out.
///
/// # Shapes
/// `rows`: `[n, dim]`; `query`: `[dim]`.
pub fn scan_top_k(rows: &[f16], dim: usize, query: &[f32], k: usize) -> Vec<(usize, f32)> {
    assert_eq!(query.len(), dim, "scan_top_k: query must be [dim]");
    assert!(
        dim > 0 && rows.len().is_multiple_of(dim),
        "scan_top_k: rows must be [n, dim]"
    );
    let n = rows.len() / dim;
    let keep = k.min(n);
    if keep == 0 {
        return Vec::new();
    }
    // At least a megabyte per task, and few tasks: each brings up to k candidates.
    let per_task = (512 * 1024 / dim)
        .max(n.div_ceil(8 * rayon::current_num_threads()))
        .max(1);
    let best: Vec<Vec<Hit>> = rows
        .par_chunks(per_task * dim)
        .enumerate()
        .map(|(i, rows)| {
            dispatch(Best {
                rows,
                query,
                keep,
                first: i * per_task,
            })
        })
        .collect();
    let mut all: Vec<Hit> = best.into_iter().flatten().collect();
    all.sort_unstable();
    all.truncate(keep);
    all.into_iter().map(|Hit(score, row)| (row, score)).collect()
}

struct Best<'a> {
    rows: &'a [f16],
    query: &'a [f32],
    keep: usize,
    first: usize,
}
impl Task for Best<'_> {
    type Out = Vec<Hit>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<Hit> {
        let mut heap = BinaryHeap::with_capacity(self.keep.min(self.rows.len() / self.query.len()) + 1);
        let mut bar = f32::NEG_INFINITY;
        for (i, row) in self.rows.chunks_exact(self.query.len()).enumerate() {
            let score = dot(s, row, self.query);
            let full = heap.len() == self.keep;
            if score.is_nan() || (full && score <= bar) {
                continue;
            }
            if full {
                heap.pop();
            }
            heap.push(Hit(score, self.first + i));
            if let Some(worst) = heap.peek() {
                bar = worst.0;
            }
        }
        heap.into_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{each_isa, numbers};

    fn halves(n: usize, seed: u64) -> Vec<f16> {
        numbers(n, seed).into_iter().map(f16::from_f32).collect()
    }

    #[test]
    fn dots_agree_with_f64() {
        each_isa(|isa| {
            for n in [0, 1, 7, 16, 63, 64, 65, 768, 1001] {
                let (a, b) = (halves(n, 1), numbers(n, 2));
                let truth: f64 = a.iter().zip(&b).map(|(a, &b)| a.to_f64() * f64::from(b)).sum();
                assert!(
                    (f64::from(dot_f16(&a, &b)) - truth).abs() < 1e-5 * (1.0 + n as f64).sqrt(),
                    "{isa} {n}"
                );
            }
        });
    }

    #[test]
    fn the_same_rows_as_sorting_everything() {
        each_isa(|_| {
            for (n, dim) in [(0, 4), (1, 1), (100, 3), (5000, 20)] {
                // Few distinct rows: many ties.
                let rows: Vec<f16> = (0..n).flat_map(|i| halves(dim, i as u64 % 50)).collect();
                let query = numbers(dim, 99);
                let mut truth: Vec<(usize, f32)> = rows.chunks(dim).map(|r| dot_f16(r, &query)).enumerate().collect();
                truth.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                for k in [0, 1, 7, n, n + 3] {
                    assert_eq!(scan_top_k(&rows, dim, &query, k), truth[..k.min(n)]);
                }
            }
        });
    }

    #[test]
    fn nan_is_left_out() {
        let rows: Vec<f16> = [1.0, f32::NAN, 3.0].map(f16::from_f32).to_vec();
        assert_eq!(scan_top_k(&rows, 1, &[1.0], 5), vec![(2, 3.0), (0, 1.0)]);
    }
}
