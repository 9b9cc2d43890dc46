//! From one vector per token to one per text.

use std::sync::Arc;

use bifocal_nn::{Tensor, fused};
use serde::{Deserialize, Serialize};

use super::TokenBatch;

/// How the vectors of a text's tokens become one. Tokens that [`TokenBatch::skip`] leaves out do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean of all tokens, special ones included.
    Mean,
    /// The mean of the caption's own tokens and the one that ends it, within the chat markup that the model was tuned with (LLM2CLIP).
    Caption,
    /// The largest value of each coordinate.
    Max,
    /// The last token.
    Last,
    /// The first token.
    Cls,
    /// The end-of-text token. Whoever prepares the tokens ends each text with it, so that it is the last.
    Eos,
}

/// One row per text.
///
/// # Shapes
/// `hidden` `[t, c]` of `tokens` → `[n, c]`.
///
/// # Panics
/// When a text has no tokens, unless pooling is a mean.
pub fn pool(hidden: Tensor<2>, tokens: &TokenBatch, pooling: Pooling) -> Tensor<2> {
    // first token that counts, and the end
    let bounds = || {
        tokens
            .offsets
            .windows(2)
            .zip(tokens.skip.iter())
            .map(|(b, skip)| (b[0] + skip, b[1]))
    };
    let pick = |hidden, at: fn(usize, usize) -> usize| {
        let rows: Vec<u32> = tokens
            .offsets
            .windows(2)
            .zip(bounds())
            .map(|(whole, (first, end))| {
                assert!(whole[0] < end, "pool: a text without tokens");
                // a batch has far fewer than 2³² tokens: its activations would not fit into memory
                at(first, end) as u32
            })
            .collect();
        fused::embedding(hidden, &rows.into())
    };
    match pooling {
        Pooling::Mean | Pooling::Caption if tokens.skip.iter().all(|&skip| skip == 0) => {
            fused::segment_mean(hidden, &tokens.offsets)
        }
        Pooling::Mean | Pooling::Caption => {
            let rows: Arc<[u32]> = bounds().flat_map(|(first, end)| first as u32..end as u32).collect();
            let mut offsets = vec![0];
            for (first, end) in bounds() {
                offsets.push(offsets[offsets.len() - 1] + end - first);
            }
            fused::segment_mean(fused::embedding(hidden, &rows), &offsets.into())
        }
        Pooling::Max => {
            let [_, width] = hidden.dims();
            let rows = bounds().map(|(first, end)| {
                assert!(first < end, "pool: a text without tokens");
                hidden.clone().slice([first..end, 0..width]).max_dim(0)
            });
            match rows.collect::<Vec<_>>() {
                rows if rows.is_empty() => hidden,
                rows => Tensor::cat(rows, 0),
            }
        }
        Pooling::Cls => pick(hidden, |first, end| first.min(end - 1)),
        Pooling::Last | Pooling::Eos => pick(hidden, |_, end| end - 1),
    }
}
