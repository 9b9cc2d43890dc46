//! Dot products of many pairs, a tile at a time, with the same bits wherever a pair falls.
//!
//! Ranking compares scores for equality, so that two equal embeddings must get equal scores. A general matrix product
//! does not promise that: its edge tiles may add in another order. Here every pair is one sum over the dimensions in
//! their order, without fused multiply-add; [`dot`] and [`Panel::scores`] agree to the bit.

/// Columns of a panel: two SSE registers, one AVX register.
pub(crate) const PANEL: usize = 8;
/// Rows that are scored against a panel at once; `ROWS * PANEL` sums stay in registers.
pub(crate) const ROWS: usize = 4;

/// The sum of products in the order of the dimensions.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (x, y)| sum + x * y)
}

/// Up to [`PANEL`] vectors, transposed: `[dim, PANEL]`, missing ones zero.
pub(crate) struct Panel {
    data: Vec<[f32; PANEL]>,
    width: usize,
}

impl Panel {
    /// Transposes up to [`PANEL`] rows of width `dim`.
    pub(crate) fn pack(rows: &[f32], dim: usize) -> Self {
        let mut data = vec![[0.0; PANEL]; dim];
        let width = rows.len() / dim;
        for (column, row) in rows.chunks_exact(dim).take(PANEL).enumerate() {
            for (slot, &value) in data.iter_mut().zip(row) {
                slot[column] = value;
            }
        }
        Self {
            data,
            width: width.min(PANEL),
        }
    }

    /// How many vectors it holds.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Scores of up to [`ROWS`] rows against the panel; rows that are missing repeat the last one.
    pub(crate) fn scores(&self, rows: &[f32], dim: usize) -> [[f32; PANEL]; ROWS] {
        let last = (rows.len() / dim).saturating_sub(1);
        let row = |i: usize| {
            let at = i.min(last) * dim;
            &rows[at..at + dim]
        };
        let mut sums = [[0.0f32; PANEL]; ROWS];
        let quad = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
        for (column, (((&a, &b), &c), &d)) in self.data.iter().zip(quad) {
            for (sum, value) in sums.iter_mut().zip([a, b, c, d]) {
                for (s, &x) in sum.iter_mut().zip(column) {
                    *s += value * x;
                }
            }
        }
        sums
    }
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

    #[test]
    fn a_pair_has_the_same_bits_in_every_place_of_a_tile() {
        let dim = 37;
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let columns: Vec<f32> = (0..PANEL * dim).map(|_| next()).collect();
        let rows: Vec<f32> = (0..ROWS * dim).map(|_| next()).collect();
        for width in 1..=PANEL {
            for height in 1..=ROWS {
                let panel = Panel::pack(&columns[..width * dim], dim);
                assert_eq!(panel.width(), width);
                let scores = panel.scores(&rows[..height * dim], dim);
                for i in 0..height {
                    for j in 0..width {
                        let alone = dot(&rows[i * dim..][..dim], &columns[j * dim..][..dim]);
                        assert_eq!(scores[i][j].to_bits(), alone.to_bits(), "row {i} column {j}");
                    }
                }
            }
        }
    }
}
