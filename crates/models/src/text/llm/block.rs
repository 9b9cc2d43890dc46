//! One block of a decoder-only language model.

use bifocal_nn::fused::{self, Activation, AttentionShape, Rope};
use bifocal_nn::layers::{Linear, RmsNorm};
use bifocal_nn::{Module, Tensor};

use super::LlmConfig;
use super::config::Family;
use crate::load::Loader;
use crate::text::TokenBatch;
use crate::weights::WeightsError;

/// x ← x + attention(norm(x)); x ← x + mlp(norm(x)). Gemma 3 normalises queries and keys head by head, and what each half
/// adds.
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
    /// The window of a layer that has one, when attention is causal.
    window: Option<usize>,
    rope: Rope,
    gate: Activation,
    eps: f32,
}

impl LlmBlock {
    pub(super) fn load(c: &LlmConfig, loader: Loader, layer: usize, causal: bool) -> Result<Self, WeightsError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let gemma = c.family == Family::Gemma3;
        // Gemma's norms multiply by 1 + w; the converter to GGUF has added the 1 already
        let norm = |part: &str, width| loader.rms_norm(&name(part), width, c.eps);
        let optional = |part: &str, width| gemma.then(|| norm(part, width)).transpose();
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let names = ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"].map(name);
        let [query, key, value, gate, up] = names.each_ref().map(String::as_str);
        let window = c.window.filter(|_| c.is_local(layer));
        let mut block = Self {
            attn_norm: norm("attn_norm", c.width)?,
            qkv: loader.stacked(&[(query, q), (key, kv), (value, kv)], c.width, false)?,
            q_norm: optional("attn_q_norm", c.head_dim)?,
            k_norm: optional("attn_k_norm", c.head_dim)?,
            out: loader.linear(&name("attn_output"), q, c.width, false)?,
            post_attn_norm: optional("post_attention_norm", c.width)?,
            mlp_norm: norm("ffn_norm", c.width)?,
            gate_up: loader.stacked(&[(gate, c.mlp), (up, c.mlp)], c.width, false)?,
            down: loader.linear(&name("ffn_down"), c.mlp, c.width, false)?,
            post_mlp_norm: optional("post_ffw_norm", c.width)?,
            shape: BlockShape {
                attention: AttentionShape {
                    heads: c.heads,
                    kv_heads: c.kv_heads,
                    head_dim: c.head_dim,
                    causal,
                    window,
                    scale: c.query_scale,
                },
                window,
                rope: c.rope(layer),
                gate: c.gate(),
                eps: c.eps,
            },
        };
        block.set_causal(causal);
        Ok(block)
    }

    /// Without causality a window reaches to both sides. The reference (transformers' Gemma 3) then sees |i − j| ≤ ⌊window / 2⌋, so
    /// that a window holds as many tokens as before, and one.
    pub(super) fn set_causal(&mut self, causal: bool) {
        self.shape.attention.causal = causal;
        self.shape.attention.window = match self.shape.window {
            Some(window) if !causal => Some(window / 2 + 1),
            window => window,
        };
    }

    pub(super) fn forward(&self, x: Tensor<2>, tokens: &TokenBatch) -> Tensor<2> {
        let x = self.attend(x, tokens);
        let h = self.gate_up.forward(self.mlp_norm.forward(x.clone()));
        let h = fused::gated(h, self.shape.gate);
        add(x, h, &self.down, self.post_mlp_norm.as_ref())
    }

    fn attend(&self, x: Tensor<2>, tokens: &TokenBatch) -> Tensor<2> {
        let shape = &self.shape;
        let a = &shape.attention;
        let mut qkv = self.qkv.forward(self.attn_norm.forward(x.clone()));
        if let (Some(q), Some(k)) = (&self.q_norm, &self.k_norm) {
            let (q, k) = (q.weight.val(), k.weight.val());
            qkv = fused::head_rms_norm(qkv, q, k, shape.eps, a.heads, a.kv_heads);
        }
        let qkv = fused::rope(qkv, &tokens.positions, shape.rope);
        let mixed = fused::attention(qkv, &tokens.offsets, a);
        add(x, mixed, &self.out, self.post_attn_norm.as_ref())
    }
}

/// x + norm(layer(h)), the norm where there is one.
fn add(x: Tensor<2>, h: Tensor<2>, layer: &Linear, norm: Option<&RmsNorm>) -> Tensor<2> {
    match norm {
        Some(norm) => x + norm.forward(layer.forward(h)),
        None => layer.fused(h, Activation::Identity, Some(x)),
    }
}
