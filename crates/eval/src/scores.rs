//! Dot products of many pairs, with the same bits wherever a pair falls.
//!
//! Ranking compares scores for equality, so that two equal embeddings must get equal scores. A product of matrices from
//! `bifocal-kernels` sums every number over the dimensions in one order; only its path for a few rows has another, which is why [`block`]
//! never asks for so few.

use bifocal_kernels::gemm::{Mat, Precision, gemm};

/// From so many rows on a product is summed in one order.
const ROWS: usize = 8;
/// Pairs that [`pairs`] scores at once.
const PAIRS: usize = 64;

/// The sum of products in the order of the dimensions.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (x, y)| sum + x * y)
}

/// All scores of some rows with others, computed on all threads.
///
/// # Shapes
/// `rows` `[n, dim]`, `others` `[m, dim]`; `out` becomes `[n, m]`.
pub(crate) fn block(rows: &[f32], others: &[f32], dim: usize, out: &mut Vec<f32>) {
    let (n, m) = (rows.len() / dim, others.len() / dim);
    let padded;
    let (rows, height) = match n < ROWS {
        true => {
            padded = [rows, &vec![0.0; (ROWS - n) * dim]].concat();
            (&padded[..], ROWS)
        }
        false => (rows, n),
    };
    out.resize(height * m, 0.0);
    let (a, b) = (Mat::new(rows, height, dim), Mat::new(others, m, dim));
    gemm(a, b.t(), out, false, Precision::F32);
    out.truncate(n * m);
}

/// The score of each row with one other row; the same bits as in [`block`].
///
/// # Shapes
/// `rows` `[n, dim]`, `others` `[m, dim]`, `other_of` `[n]`; → `[n]`.
pub(crate) fn pairs(rows: &[f32], others: &[f32], dim: usize, other_of: &[usize]) -> Vec<f32> {
    let (mut scores, mut gathered, mut square) = (Vec::with_capacity(other_of.len()), Vec::new(), Vec::new());
    for (rows, chosen) in rows.chunks(PAIRS * dim).zip(other_of.chunks(PAIRS)) {
        gathered.clear();
        for &other in chosen {
            gathered.extend_from_slice(&others[other * dim..][..dim]);
        }
        block(rows, &gathered, dim, &mut square);
        scores.extend((0..chosen.len()).map(|i| square[i * chosen.len() + i]));
    }
    scores
}

/// Divides every row by its length; the index of a row without direction is the error.
pub(crate) fn normalise_rows(data: &mut [f32], dim: usize) -> Result<(), usize> {
    for (index, row) in data.chunks_exact_mut(dim).enumerate() {
        let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
        if length == 0.0 {
            return Err(index);
        }
        for value in row {
            *value = (f64::from(*value) / length) as f32;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, mut state: u32) -> Vec<f32> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn a_pair_has_the_same_bits_in_every_block() {
        // the widest needs several passes over the dimensions
        for dim in [1, 37, 512, 1700] {
            let (rows, others) = (numbers(300 * dim, 1), numbers(200 * dim, 2));
            let mut whole = Vec::new();
            block(&rows, &others, dim, &mut whole);
            let mut part = Vec::new();
            for (height, width, r, o) in [
                (1, 1, 7, 3),
                (3, 5, 40, 9),
                (64, 64, 100, 100),
                (9, 200, 5, 0),
                (200, 1, 0, 77),
            ] {
                block(
                    &rows[r * dim..][..height * dim],
                    &others[o * dim..][..width * dim],
                    dim,
                    &mut part,
                );
                assert_eq!(part.len(), height * width);
                for i in 0..height {
                    for j in 0..width {
                        let expected = whole[(r + i) * 200 + o + j];
                        assert_eq!(
                            part[i * width + j].to_bits(),
                            expected.to_bits(),
                            "{dim}: {height}×{width} {i} {j}"
                        );
                    }
                }
            }
            let chosen: Vec<usize> = (0..300).map(|i| i * 7 % 200).collect();
            for (i, score) in pairs(&rows, &others, dim, &chosen).iter().enumerate() {
                assert_eq!(score.to_bits(), whole[i * 200 + chosen[i]].to_bits(), "{dim}: pair {i}");
            }
        }
    }
}
