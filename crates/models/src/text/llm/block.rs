//! One block of a decoder-only language model.

use std::sync::Arc;

use bifocal_nn::fused::{self, Activation, AttentionShape, KeyValues, Rope};
use bifocal_nn::layers::{Before, Linear, RmsNorm};
use bifocal_nn::{Module, Tensor, checkpoint, precision, trace};

use super::names::Tensors;
use super::{Family, LlmConfig};
use crate::blocks::{gate_up_parts, qkv_parts};
use crate::text::{Attention, TokenBatch};
use crate::weights::WeightsError;

/// x ← x + attention(norm(x)); x ← x + mlp(norm(x)). Gemma 3 and Qwen 3 normalise queries and keys head by head, Gemma 3 also what
/// each half adds.
#[derive(Module, Debug)]
pub struct LlmBlock {
    attn_norm: RmsNorm,
    /// `[(heads + 2·kv_heads)·head_dim, c]`: queries, keys, values.
    qkv: Linear,
    /// `[head_dim]`.
    q_norm: Option<RmsNorm>,
    /// `[head_dim]`.
    k_norm: Option<RmsNorm>,
    /// `[c, heads·head_dim]`.
    out: Linear,
    post_attn_norm: Option<RmsNorm>,
    mlp_norm: RmsNorm,
    /// `[2·mlp, c]`: gate, up.
    gate_up: Linear,
    /// `[c, mlp]`.
    down: Linear,
    post_mlp_norm: Option<RmsNorm>,
    #[module(skip)]
    shape: BlockShape,
}

/// What a block needs besides its parameters.
#[derive(Clone, Debug)]
struct BlockShape {
    attention: AttentionShape,
    /// The layer's window when attention is causal, and when it is not.
    windows: [Option<usize>; 2],
    rope: Rope,
    gate: Activation,
    eps: f32,
}

impl LlmBlock {
    pub(super) fn load(c: &LlmConfig, t: Tensors, layer: usize, attention: Attention) -> Result<Self, WeightsError> {
        let norm = |part: &str, width| t.norm(&t.name(layer, part), width);
        let of_heads = |part: &str| c.family.norms_heads().then(|| norm(part, c.head_dim)).transpose();
        let after = |part: &str| (c.family == Family::Gemma3).then(|| norm(part, c.width)).transpose();
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let qkv = [("attn_q", q), ("attn_k", kv), ("attn_v", kv)];
        let gate_up = [("ffn_gate", c.mlp), ("ffn_up", c.mlp)];
        let mut block = Self {
            attn_norm: norm("attn_norm", c.width)?,
            qkv: (t.stacked(layer, &qkv, c.width, c.qkv_bias)?).with_parts(&qkv_parts(q, kv)),
            q_norm: of_heads("attn_q_norm")?,
            k_norm: of_heads("attn_k_norm")?,
            out: t.stacked(layer, &[("attn_output", c.width)], q, c.out_bias)?,
            post_attn_norm: after("post_attention_norm")?,
            mlp_norm: norm("ffn_norm", c.width)?,
            gate_up: (t.stacked(layer, &gate_up, c.width, c.mlp_bias)?).with_parts(&gate_up_parts(c.mlp)),
            down: t.stacked(layer, &[("ffn_down", c.width)], c.mlp, c.mlp_bias)?,
            post_mlp_norm: after("post_ffw_norm")?,
            shape: BlockShape {
                attention: AttentionShape {
                    heads: c.heads,
                    kv_heads: c.kv_heads,
                    head_dim: c.head_dim,
                    causal: true,
                    window: None,
                    scale: c.query_scale,
                },
                windows: [Attention::Causal, Attention::Bidirectional].map(|kind| c.window_of(layer, kind)),
                rope: c.rope(layer),
                gate: c.gate(),
                eps: c.eps,
            },
        };
        block.set_attention(attention);
        Ok(block)
    }

    pub(super) fn set_attention(&mut self, attention: Attention) {
        let shape = &mut self.shape;
        shape.attention.causal = attention == Attention::Causal;
        shape.attention.window = shape.windows[usize::from(!shape.attention.causal)];
    }

    pub(super) fn forward(&self, x: Tensor<2>, tokens: &TokenBatch) -> Tensor<2> {
        let tokens = tokens.clone();
        checkpoint::block(self, x, move |block, x| {
            let x = block.attend(x, &tokens.positions, |qkv, shape| {
                fused::attention(qkv, &tokens.offsets, shape)
            });
            block.feed_forward(x)
        })
    }

    /// As [`LlmBlock::forward`] for the tokens that come next in each sequence, which see those before through what is kept of them. Nothing is
    /// recorded for gradients.
    pub(super) fn extend(
        &self,
        x: Tensor<2>,
        positions: &Arc<[u32]>,
        offsets: &[usize],
        kept: &mut [KeyValues],
    ) -> Tensor<2> {
        let _span = trace::span("LlmBlock");
        let x = self.attend(x, positions, |qkv, shape| {
            fused::attention_cached(qkv, offsets, kept, shape)
        });
        self.feed_forward(x)
    }

    /// As [`LlmBlock::forward`], of sequences that all go on with the first of them. Nothing is recorded for gradients.
    pub(super) fn forward_after_first(&self, x: Tensor<2>, sequences: &TokenBatch) -> Tensor<2> {
        let _span = trace::span("LlmBlock");
        let x = self.attend(x, &sequences.positions, |qkv, shape| {
            fused::attention_after_first(qkv, &sequences.offsets, shape)
        });
        self.feed_forward(x)
    }

    /// Forgets all but the first tokens of a sequence.
    pub(super) fn truncate(&self, kept: &mut KeyValues, tokens: usize) {
        kept.truncate(tokens, &self.shape.attention);
    }

    fn feed_forward(&self, x: Tensor<2>) -> Tensor<2> {
        let h = self.gate_up.after(Before::RmsNorm(&self.mlp_norm), x.clone(), None);
        let gate = Before::Gated(self.shape.gate);
        precision::careful(|| match &self.post_mlp_norm {
            Some(norm) => x + norm.forward(self.down.after(gate, h, None)),
            None => self.down.after(gate, h, Some(x)),
        })
    }

    fn attend(
        &self,
        x: Tensor<2>,
        positions: &Arc<[u32]>,
        attention: impl FnOnce(Tensor<2>, &AttentionShape) -> Tensor<2>,
    ) -> Tensor<2> {
        let shape = &self.shape;
        let a = &shape.attention;
        let mut qkv = self.qkv.after(Before::RmsNorm(&self.attn_norm), x.clone(), None);
        if let (Some(q), Some(k)) = (&self.q_norm, &self.k_norm) {
            let (q, k) = (q.weight.val(), k.weight.val());
            qkv = fused::head_rms_norm(qkv, q, k, shape.eps, a.heads, a.kv_heads);
        }
        let qkv = fused::rope(qkv, positions, &shape.rope);
        let mixed = attention(qkv, a);
        match &self.post_attn_norm {
            Some(norm) => x + norm.forward(self.out.forward(mixed)),
            None => self.out.fused(mixed, Activation::Identity, Some(x)),
        }
    }
}
