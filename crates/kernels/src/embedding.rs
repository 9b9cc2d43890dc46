//! Rows of a table by index, and the gradient of the table.
use crate::buffer::par_rows;
use crate::linear::add;
use crate::simd::{Simd, Task, dispatch};
use rayon::prelude::*;

/// Row `ids[i]` of the table for every i.
///
/// # Shapes
/// `table`: `[v, c]`; `ids`: `[t]`, each below v; result: `[t, c]`.
pub fn gather_rows(table: &[f32], ids: &[u32], c: usize) -> Vec<f32> {
    let v = table.len().checked_div(c).unwrap_or(0);
    assert!(
        c == 0 || ids.iter().all(|&id| (id as usize) < v),
        "gather_rows: an id is outside the table of {v} rows"
    );
    // SAFETY: each row of the block is written in full.
    unsafe {
        par_rows(ids.len(), c, |first, out| {
            for (i, out) in out.chunks_exact_mut(c).enumerate() {
                let row = &table[ids[first + i] as usize * c..][..c];
                for (o, &x) in out.iter_mut().zip(row) {
                    o.write(x);
                }
            }
        })
    }
}

/// Gradient of [`gather_rows`] with respect to the table: row `ids[i]` gets the sum of all `gy[i]`, added in the order of i.
///
/// # Shapes
/// `gy`: `[t, c]`; `ids`: `[t]`, each below `v`; result: `[v, c]`.
pub fn scatter_add_rows(gy: &[f32], ids: &[u32], v: usize, c: usize) -> Vec<f32> {
    assert_eq!(gy.len(), ids.len() * c, "scatter_add_rows: gy must be [ids, c]");
    assert!(
        ids.iter().all(|&id| (id as usize) < v),
        "scatter_add_rows: an id is outside the table of {v} rows"
    );
    // Zeroed pages straight from the system: most rows of a vocabulary stay untouched.
    let mut grad = vec![0.0; v * c];
    if c == 0 || v == 0 {
        return grad;
    }
    // Every task owns a range of rows and looks through all ids: cheap beside the additions, and no two tasks meet.
    let rows = v.div_ceil(4 * rayon::current_num_threads());
    grad.par_chunks_mut(rows * c).enumerate().for_each(|(i, part)| {
        dispatch(Part {
            gy,
            ids,
            first: i * rows,
            c,
            part,
        });
    });
    grad
}

struct Part<'a> {
    gy: &'a [f32],
    ids: &'a [u32],
    first: usize,
    c: usize,
    part: &'a mut [f32],
}
impl Task for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = self.part.len() / self.c;
        for (i, &id) in self.ids.iter().enumerate() {
            let row = (id as usize).wrapping_sub(self.first);
            if row < rows {
                add(
                    s,
                    &self.gy[i * self.c..][..self.c],
                    &mut self.part[row * self.c..][..self.c],
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, each_isa, numbers, numeric_gradient, wide};

    #[test]
    fn rows_and_their_gradient() {
        each_isa(|_| {
            for (v, c, ids) in [
                (1, 1, vec![0]),
                (5, 19, vec![4, 0, 4, 4, 2]),
                (3, 4, vec![]),
                (200, 33, (0..900).map(|i| i * i % 200).collect()),
            ] {
                let (table, gy) = (numbers(v * c, 1), numbers(ids.len() * c, 2));
                let naive =
                    |t: &[f64]| -> Vec<f64> { ids.iter().flat_map(|&i| t[i as usize * c..][..c].to_vec()).collect() };
                assert_close(&gather_rows(&table, &ids, c), &naive(&wide(&table)), 0.0, "rows");
                if v < 100 {
                    assert_close(
                        &scatter_add_rows(&gy, &ids, v, c),
                        &numeric_gradient(&table, &gy, naive),
                        1e-5,
                        "gradient",
                    );
                } else {
                    let mut truth = vec![0.0; v * c];
                    ids.iter().enumerate().for_each(|(i, &id)| {
                        (0..c).for_each(|j| truth[id as usize * c + j] += f64::from(gy[i * c + j]))
                    });
                    assert_close(&scatter_add_rows(&gy, &ids, v, c), &truth, 1e-5, "gradient");
                }
            }
        });
    }

    #[test]
    #[should_panic(expected = "outside the table")]
    fn an_id_outside_the_table_is_refused() {
        gather_rows(&[0.0; 6], &[3], 2);
    }
}
