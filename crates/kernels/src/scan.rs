//! Exact search over half-precision rows: their dot products with a query.
use crate::simd::{Simd, Task, dispatch};
use half::f16;
use rayon::prelude::*;

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

/// Rows that one task scans: about a megabyte.
fn per_task(dim: usize) -> usize {
    (512 * 1024 / dim).max(1)
}

/// The dot product of each row and the query.
///
/// # Shapes
/// `rows`: `[n, dim]`; `query`: `[dim]`; `scores`: `[n]`.
pub fn scan_scores(rows: &[f16], dim: usize, query: &[f32], scores: &mut [f32]) {
    assert_eq!(query.len(), dim, "scan_scores: query must be [dim]");
    assert!(
        dim > 0 && rows.len() == dim * scores.len(),
        "scan_scores: rows must be [n, dim]"
    );
    scores
        .par_chunks_mut(per_task(dim))
        .zip(rows.par_chunks(per_task(dim) * dim))
        .for_each(|(scores, rows)| dispatch(Scores { rows, query, scores }));
}

struct Scores<'a> {
    rows: &'a [f16],
    query: &'a [f32],
    scores: &'a mut [f32],
}
impl Task for Scores<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (row, score) in self.rows.chunks_exact(self.query.len()).zip(self.scores) {
            *score = dot(s, row, self.query);
        }
    }
}

/// As [`scan_scores`], for some of the rows only.
///
/// # Shapes
/// `rows`: `[n, dim]`; `query`: `[dim]`; `chosen`: numbers of rows, best ascending; `scores`: as long as `chosen`.
pub fn scan_chosen(rows: &[f16], dim: usize, query: &[f32], chosen: &[usize], scores: &mut [f32]) {
    assert_eq!(query.len(), dim, "scan_chosen: query must be [dim]");
    assert_eq!(chosen.len(), scores.len(), "scan_chosen: a score for each chosen row");
    scores
        .par_chunks_mut(per_task(dim))
        .zip(chosen.par_chunks(per_task(dim)))
        .for_each(|(scores, chosen)| {
            dispatch(Chosen {
                rows,
                query,
                chosen,
                scores,
            });
        });
}

struct Chosen<'a> {
    rows: &'a [f16],
    query: &'a [f32],
    chosen: &'a [usize],
    scores: &'a mut [f32],
}
impl Task for Chosen<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let dim = self.query.len();
        for (&row, score) in self.chosen.iter().zip(self.scores) {
            *score = dot(s, &self.rows[row * dim..(row + 1) * dim], self.query);
        }
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
    fn every_row_gets_its_dot() {
        each_isa(|_| {
            for (n, dim) in [(0, 4), (1, 1), (100, 3), (5000, 20), (3, 300_000)] {
                let (rows, query) = (halves(n * dim, 1), numbers(dim, 99));
                let truth: Vec<f32> = rows.chunks(dim).map(|r| dot_f16(r, &query)).collect();
                let mut scores = vec![f32::NAN; n];
                scan_scores(&rows, dim, &query, &mut scores);
                assert_eq!(scores, truth);
                let chosen: Vec<usize> = (0..n).filter(|i| i % 3 != 1).rev().collect();
                let mut scores = vec![f32::NAN; chosen.len()];
                scan_chosen(&rows, dim, &query, &chosen, &mut scores);
                assert_eq!(scores, chosen.iter().map(|&i| truth[i]).collect::<Vec<_>>());
            }
        });
    }
}
