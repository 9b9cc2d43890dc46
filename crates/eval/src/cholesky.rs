//! Cholesky factorisation and triangular solves in f64, blocked by columns and parallel over rows.

use rayon::prelude::*;

/// Columns that are finished together; their rows are shared by all tasks.
const BLOCK: usize = 48;
/// A pivot below this part of its diagonal element is what rounding leaves of zero.
const RELATIVE_PIVOT: f64 = 1e-13;

/// Replaces the lower triangle of the symmetric matrix `a` `[n, n]` by L with `L Lᵀ = a`; the upper one is not read.
/// The error is the column at which the matrix is not positive definite.
pub(crate) fn factor(a: &mut [f64], n: usize) -> Result<(), usize> {
    let least: Vec<f64> = a.iter().step_by(n + 1).map(|v| v * RELATIVE_PIVOT).collect();
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        // Left-looking: subtract what the finished columns contribute to this block of columns.
        let finished: Vec<f64> = a[start * n..end * n].to_vec();
        a[start * n..].par_chunks_mut(n).for_each(|row| {
            let (done, open) = row.split_at_mut(start);
            for (value, other) in open[..end - start].iter_mut().zip(finished.chunks_exact(n)) {
                *value -= dot(done, &other[..start]);
            }
        });
        // The diagonal block, one column after the other.
        for j in start..end {
            let row = &a[j * n..j * n + j];
            let pivot = a[j * n + j] - dot(&row[start..], &row[start..]);
            // Not `pivot <= least`: NaN has to stop here as well.
            if !(pivot > least[j] && pivot > 0.0 && pivot.is_finite()) {
                return Err(j);
            }
            let pivot = pivot.sqrt();
            a[j * n + j] = pivot;
            for i in j + 1..end {
                let sum = dot(&a[i * n + start..i * n + j], &a[j * n + start..j * n + j]);
                a[i * n + j] = (a[i * n + j] - sum) / pivot;
            }
        }
        // The rows below it.
        let diagonal: Vec<f64> = a[start * n..end * n].to_vec();
        a[end * n..].par_chunks_mut(n).for_each(|row| {
            for (j, l) in (start..end).zip(diagonal.chunks_exact(n)) {
                row[j] = (row[j] - dot(&row[start..j], &l[start..j])) / l[j];
            }
        });
    }
    Ok(())
}

/// Solves `L Lᵀ x = b` for every row `b` of `rhs` `[k, n]`, in place.
pub(crate) fn solve_rows(l: &[f64], n: usize, rhs: &mut [f64]) {
    rhs.par_chunks_mut(n).for_each(|b| {
        for i in 0..n {
            b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
        }
        for i in (0..n).rev() {
            let (before, at) = b.split_at_mut(i);
            at[0] /= l[i * n + i];
            for (v, &c) in before.iter_mut().zip(&l[i * n..i * n + i]) {
                *v -= at[0] * c;
            }
        }
    });
}

/// Dot product with eight partial sums, which the compiler turns into vector instructions.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0f64; 8];
    let (blocks_a, rest_a) = a.as_chunks::<8>();
    let (blocks_b, rest_b) = b.as_chunks::<8>();
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f64>() + rest_a.iter().zip(rest_b).map(|(x, y)| x * y).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_and_solve_give_back_the_right_hand_side() {
        for n in [1, 7, 47, 48, 49, 130] {
            let mut state = 7u64;
            let m: Vec<f64> = (0..n * n)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
                })
                .collect();
            let mut a = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    a[i * n + j] = dot(&m[i * n..][..n], &m[j * n..][..n]) + f64::from(u8::from(i == j));
                }
            }
            let mut l = a.clone();
            factor(&mut l, n).unwrap();
            let b: Vec<f64> = m[..n].to_vec();
            let mut x = b.clone();
            solve_rows(&l, n, &mut x);
            for i in 0..n {
                let back = dot(&a[i * n..][..n], &x);
                assert!((back - b[i]).abs() < 1e-9, "n {n} row {i}: {back} for {}", b[i]);
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_an_error() {
        assert_eq!(factor(&mut [1.0, 1.0, 1.0, 1.0], 2), Err(1));
        assert_eq!(factor(&mut [f64::NAN], 1), Err(0));
    }
}
