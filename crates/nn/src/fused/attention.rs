//! Attention over packed sequences; scores never exist as an N×N matrix.

use std::sync::Arc;

use bifocal_kernels::attention as kernel;
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

pub use bifocal_kernels::attention::AttentionShape;

#[derive(Clone, Debug)]
struct Attention {
    shape: AttentionShape,
    offsets: Arc<[usize]>,
}

impl Fused<1> for Attention {
    /// The log-sum-exp of each row of scores.
    type Saved = Vec<f32>;
    const READS: [bool; 1] = [true];
    const READS_OUTPUT: bool = true;

    fn forward(&self, [qkv]: [&[f32]; 1], keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved) {
        let (out, lse) = kernel::attention(qkv, &self.offsets, &self.shape, keep);
        let width = self.shape.heads * self.shape.head_dim;
        let shape = vec![out.len() / width.max(1), width];
        (out, shape, lse.unwrap_or_default())
    }

    fn backward(
        &self,
        grad: &[f32],
        [qkv]: [&[f32]; 1],
        output: &[f32],
        lse: Self::Saved,
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(kernel::attention_backward(
            grad,
            qkv,
            output,
            &lse,
            &self.offsets,
            &self.shape,
        ))]
    }
}

/// Softmax attention within each sequence of a packed batch (Vaswani et al. 2017; memory as Dao et al. 2022).
///
/// # Shapes
/// `qkv` `[t, (heads + 2·kv_heads)·head_dim]`, rows `q | k | v`; `offsets` `[n + 1]`: where each sequence begins, then `t`;
/// the result is `[t, heads·head_dim]`.
pub fn attention(qkv: Tensor<2>, offsets: &Arc<[usize]>, shape: &AttentionShape) -> Tensor<2> {
    let [t, width] = qkv.dims();
    assert_eq!(
        width,
        (shape.heads + 2 * shape.kv_heads) * shape.head_dim,
        "attention: heads do not fit the row"
    );
    assert_eq!(
        offsets.last().copied(),
        Some(t),
        "attention: offsets do not end at the number of tokens"
    );
    if !on_cpu(&qkv) {
        return composed::attention(qkv, offsets, shape);
    }
    let op = Attention {
        shape: *shape,
        offsets: Arc::clone(offsets),
    };
    apply(op, [qkv.into()])
}
