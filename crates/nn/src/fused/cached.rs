//! Attention while a text grows token by token; nothing here is recorded for gradients.

use std::ops::Range;

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

    /// Adds the keys and values of some rows `q | k | v`.
    fn join(&mut self, qkv: &[f32], rows: Range<usize>, shape: &AttentionShape) {
        let width = shape.row();
        for row in qkv[rows.start * width..rows.end * width].chunks_exact(width) {
            self.rows.extend_from_slice(&row[shape.heads * shape.head_dim..]);
        }
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
    let qkv = values(qkv);
    assert_eq!(kept.len() + 1, offsets.len(), "attention_cached: one cache a sequence");
    for (kept, bounds) in kept.iter_mut().zip(offsets.windows(2)) {
        kept.join(&qkv, bounds[0]..bounds[1], shape);
    }
    attend(&qkv, offsets, kept, shape)
}

/// Causal attention of a packed batch in which every sequence after the first is another way to go on with that one: its tokens see all of the first, then those of their own
/// sequence up to themselves.
///
/// # Shapes
/// As [`attention_cached`], without what is kept; `offsets` `[n + 1]`, of one sequence at least. Gradients end here.
///
/// # Panics
/// As [`attention_cached`].
pub fn attention_after_first(qkv: Tensor<2>, offsets: &[usize], shape: &AttentionShape) -> Tensor<2> {
    let qkv = values(qkv);
    let first = 0..offsets[1];
    let sequences = offsets.windows(2).enumerate().map(|(i, bounds)| {
        let before = if i == 0 { 0..0 } else { first.clone() };
        let tokens = before.len() + bounds[1] - bounds[0];
        let mut all = KeyValues {
            rows: Vec::with_capacity(tokens * 2 * shape.kv_heads * shape.head_dim),
        };
        all.join(&qkv, before, shape);
        all.join(&qkv, bounds[0]..bounds[1], shape);
        all
    });
    attend(&qkv, offsets, &sequences.collect::<Vec<_>>(), shape)
}

/// Attention of new tokens, whose keys and values are among those that are kept.
fn attend(qkv: &[f32], offsets: &[usize], kept: &[KeyValues], shape: &AttentionShape) -> Tensor<2> {
    let caches: Vec<&[f32]> = kept.iter().map(|kept| kept.rows.as_slice()).collect();
    let _span = trace::span("CachedAttention");
    let y = kernel(qkv, offsets, &caches, shape);
    tensor(y, [qkv.len() / shape.row(), shape.heads * shape.head_dim])
}
