//! Scaled dot-product attention on packed sequences, forward and backward, without ever holding the N×N matrix (Dao 2023, "FlashAttention-2").
//!
//! Forward: tiles of query rows walk over blocks of keys with a running maximum and sum. Backward: blocks of probabilities are recomputed from the kept
//! log-sum-exp. All products run on the register tiles of the matrix product.
mod backward;
mod cached;
mod forward;

use crate::simd::Simd;
pub use backward::attention_backward;
pub use cached::attention_cached;
pub use forward::attention;

/// What attention looks like. Queries of head `h` use key/value head `h / (heads / kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads (fewer than `heads`: grouped-query attention, Ainslie et al. 2023).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether row i sees keys up to i only.
    pub causal: bool,
    /// Sliding window, counting the row itself: causal rows see keys `i-w+1..=i`, others those with `|i - j| < w`. `Some(0)` counts as `Some(1)`.
    pub window: Option<usize>,
    /// Factor on the scores, normally 1/√head_dim.
    pub scale: f32,
}

impl AttentionShape {
    /// Numbers in a packed row q|k|v.
    pub fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Keys that row `i` of `n` sees.
    fn keys(&self, i: usize, n: usize) -> (usize, usize) {
        let w = self.window.unwrap_or(n).max(1);
        let low = (i + 1).saturating_sub(w);
        (low, if self.causal { i + 1 } else { n.min(i.saturating_add(w)) })
    }

    /// Operations of the forward pass over rows `before..n` of a sequence: a product for the scores, one for the sums, of what each row sees.
    fn operations(&self, before: usize, n: usize) -> usize {
        let seen = |i| {
            let (low, high) = self.keys(i, n);
            high - low
        };
        4 * self.heads * self.head_dim * (before..n).map(seen).sum::<usize>()
    }

    /// Checks the arguments that both passes share; returns the number of tokens.
    fn check(&self, qkv: &[f32], offsets: &[usize], who: &str) -> usize {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "{who}: {} heads cannot share {} key/value heads",
            self.heads,
            self.kv_heads
        );
        assert!(self.head_dim > 0, "{who}: head_dim is 0");
        assert!(
            offsets.first() == Some(&0) && offsets.is_sorted(),
            "{who}: offsets must start at 0 and not decrease"
        );
        let tokens = offsets[offsets.len() - 1];
        assert_eq!(
            qkv.len(),
            tokens * self.row(),
            "{who}: qkv must be [tokens, (heads + 2 kv_heads) * head_dim]"
        );
        tokens
    }
}

/// Keys per block: a tile's scores (14 × 128 × 4 bytes) and a panel of keys share the first-level cache.
const KEY_BLOCK: usize = 128;

/// Numbers in packed panels of `lines` columns and depth `k`.
fn panels_len<S: Simd>(lines: usize, k: usize) -> usize {
    lines.next_multiple_of(2 * S::LANES) * k
}

/// Packs all columns of `b` (`k × n`) into panels `[k][2·LANES]`, one after the other.
#[inline(always)]
fn pack_all<S: Simd>(s: S, b: crate::gemm::Mat, dst: &mut [f32]) {
    let stride = 2 * S::LANES * b.rows;
    crate::gemm::pack_b(s, b, (0, b.rows), (0, b.cols), dst, stride);
}

#[cfg(test)]
mod tests;
