//! Attention while a text grows token by token; nothing here is recorded for gradients.

use bifocal_kernels::attention::attention_cached as kernel;
use bifocal_kernels::trace;
use burn::tensor::Tensor;

use super::AttentionShape;
use crate::engine::{tensor, values};

/// Keys and values of the tokens of one sequence so far, as one layer sees them.
#[derive(Clone, Debug, Default)]
pub struct KeyValues {
    /// `[tokens, 2·kv_heads·head_dim]`, rows `k | v`.
    rows: Vec<f32>,
}

impl KeyValues {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<f32>()
    }

    /// Forgets all tokens but the first ones.
    pub fn truncate(&mut self, tokens: usize, shape: &AttentionShape) {
        self.rows.truncate(tokens * 2 * shape.kv_heads * shape.head_dim);
    }
}

/// Causal attention of new tokens over themselves and all tokens before; their keys and values join those that are kept.
///
/// # Shapes
/// `qkv` `[t, (heads + 2·kv_heads)·head_dim]`, rows `q | k | v`; `offsets` `[n + 1]`: where the new tokens of each sequence begin, then `t`; `kept`: `n`;
/// the result is `[t, heads·head_dim]`. Gradients end here. Keys and values are on the host: towers that write are opened on the CPU.
///
/// # Panics
/// When the shapes do not fit each other or attention is not causal; layers check before they call.
pub fn attention_cached(
    qkv: Tensor<2>,
    offsets: &[usize],
    kept: &mut [KeyValues],
    shape: &AttentionShape,
) -> Tensor<2> {
    let [t, width] = qkv.dims();
    let qkv = values(qkv);
    assert_eq!(kept.len() + 1, offsets.len(), "attention_cached: one cache a sequence");
    let keys = shape.heads * shape.head_dim;
    for (kept, bounds) in kept.iter_mut().zip(offsets.windows(2)) {
        for row in qkv[bounds[0] * width..bounds[1] * width].chunks_exact(width) {
            kept.rows.extend_from_slice(&row[keys..]);
        }
    }
    let caches: Vec<&[f32]> = kept.iter().map(|kept| kept.rows.as_slice()).collect();
    let _span = trace::span("CachedAttention");
    tensor(kernel(&qkv, offsets, &caches, shape), [t, keys])
}
