//! Rows of a table by index.

use std::sync::Arc;

use bifocal_kernels::embedding as kernel;
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

#[derive(Clone, Debug)]
struct Embedding {
    ids: Arc<[u32]>,
    rows: usize,
    width: usize,
}

impl Fused<1> for Embedding {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, [table]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let y = kernel::gather_rows(table, &self.ids, self.width);
        (y, vec![self.ids.len(), self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(kernel::scatter_add_rows(grad, &self.ids, self.rows, self.width))]
    }
}

/// Looks rows up; the backward pass adds up the gradients of rows that were used more than once.
///
/// # Shapes
/// `table` `[v, c]`, `ids` `[t]`, each below `v` → `[t, c]`.
///
/// # Panics
/// When an id is not below `v`; tokenizers check this where text comes in.
pub fn embedding(table: Tensor<2>, ids: &Arc<[u32]>) -> Tensor<2> {
    let [rows, width] = table.dims();
    assert!(
        ids.iter().all(|&id| (id as usize) < rows),
        "embedding: an id is beyond the table's {rows} rows"
    );
    if !on_cpu(&table) {
        return composed::embedding(table, ids);
    }
    let op = Embedding {
        ids: Arc::clone(ids),
        rows,
        width,
    };
    apply(op, [table.into()])
}
