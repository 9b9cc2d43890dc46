//! Attention of tokens to a table of learnt vectors before they are pooled: NV-Embed (Lee et al. 2024, arXiv 2405.17428).

use bifocal_nn::fused::Activation;
use bifocal_nn::layers::{Before, LayerNorm, Linear};
use bifocal_nn::{Module, Param, Tensor};

use crate::blocks::{check_sizes, gate_up_parts};
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// PyTorch's constant of layer norms.
const EPS: f32 = 1e-5;

/// Sizes of the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentConfig {
    /// Width of tokens and of the learnt vectors.
    pub width: usize,
    /// Number of learnt vectors.
    pub latents: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// x ← x + attention(norm(x), latents); x ← x + mlp(norm(x)).
///
/// Keys and values come from the learnt vectors alone, never from a text, and are computed once, when the layer is loaded: they, and not
/// what they came from, are its parameters.
#[derive(Module, Debug)]
pub struct LatentAttention {
    norm: LayerNorm,
    /// `[heads·head_dim, c]`.
    query: Linear,
    /// `[latents, heads·head_dim]`.
    keys: Param<Tensor<2>>,
    /// `[latents, heads·head_dim]`.
    values: Param<Tensor<2>>,
    /// `[c, heads·head_dim]`.
    out: Linear,
    mlp_norm: LayerNorm,
    /// `[2·mlp, c]`: gate, up.
    gate_up: Linear,
    /// `[c, mlp]`.
    down: Linear,
    #[module(skip)]
    head_dim: usize,
}

impl LatentAttention {
    /// Loads the layer with the names of NV-Embed's own code below `prefix`.
    ///
    /// # Errors
    /// [`WeightsError`] when sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: &LatentConfig, source: &dyn TensorSource, prefix: &str) -> Result<Self, WeightsError> {
        let &LatentConfig {
            width: c,
            latents,
            heads,
            head_dim,
        } = config;
        let sizes = [
            ("latent_dim", c),
            ("num_latents_value", latents),
            ("num_cross_heads", heads),
            ("cross_dim_head", head_dim),
            ("heads of all", heads.saturating_mul(head_dim)),
        ];
        check_sizes(source.path(), &sizes)?;
        let loader = Loader(source);
        let name = |part: &str| format!("{prefix}cross_attend_blocks.{part}");
        let inner = heads * head_dim;
        let learnt: Tensor<2> = loader.param(&format!("{prefix}latents"), [latents, c])?.val();
        let learnt = loader.layer_norm(&name("0.norm_context"), c, EPS)?.forward(learnt);
        let both = loader
            .linear(&name("0.fn.to_kv"), c, 2 * inner, false)?
            .forward(learnt)
            .detach();
        let half = |from: usize| Param::from_tensor(both.clone().slice([0..latents, from..from + inner]));
        // the file has values, then gates
        let mlp = 4 * c;
        let swap = |mut rows: Vec<f32>| {
            let half = rows.len() / 2;
            rows.rotate_left(half);
            rows
        };
        let weight = swap(loader.values(&name("1.fn.net.0.weight"), &[2 * mlp, c])?);
        let bias = swap(loader.values(&name("1.fn.net.0.bias"), &[2 * mlp])?);
        Ok(Self {
            norm: loader.layer_norm(&name("0.norm"), c, EPS)?,
            query: loader.linear(&name("0.fn.to_q"), c, inner, false)?,
            keys: half(0),
            values: half(inner),
            out: loader.linear(&name("0.fn.to_out"), inner, c, false)?,
            mlp_norm: loader.layer_norm(&name("1.norm"), c, EPS)?,
            gate_up: Linear::from_params(
                Param::from_tensor(bifocal_nn::engine::tensor(weight, [2 * mlp, c])),
                Some(Param::from_tensor(bifocal_nn::engine::tensor(bias, [2 * mlp]))),
            )
            .with_parts(&gate_up_parts(mlp)),
            down: loader.linear(&name("1.fn.net.2"), mlp, c, true)?,
            head_dim,
        })
    }

    /// `[t, c]` → `[t, c]`, token by token.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let d = self.head_dim;
        let query = self.query.forward(self.norm.forward(x.clone())) * (d as f32).powf(-0.5);
        let [t, inner] = query.dims();
        let (keys, values) = (self.keys.val(), self.values.val());
        let [latents, _] = keys.dims();
        let heads = (0..inner).step_by(d).map(|at| {
            let of = |x: &Tensor<2>, rows: usize| x.clone().slice([0..rows, at..at + d]);
            let scores = of(&query, t).matmul(of(&keys, latents).transpose());
            burn::tensor::activation::softmax(scores, 1).matmul(of(&values, latents))
        });
        let mixed = Tensor::cat(heads.collect(), 1);
        let x = self.out.fused(mixed, Activation::Identity, Some(x));
        let h = self.gate_up.after(Before::LayerNorm(&self.mlp_norm), x.clone(), None);
        self.down.after(Before::Gated(Activation::GeluErf), h, Some(x))
    }
}
