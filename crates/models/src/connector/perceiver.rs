//! What Flamingo's resampler and its gated layers are both made of (Alayrac et al. 2022): attention to other rows, and a feed-forward part, without biases.

use bifocal_nn::fused::Activation;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{LayerNorm, Linear, feed_forward};
use bifocal_nn::{Module, Tensor, plain};

use crate::load::Loader;
use crate::weights::WeightsError;

/// PyTorch's constant of layer norms.
pub(super) const EPS: f32 = 1e-5;
/// The feed-forward part is so many times as wide.
const WIDER: usize = 4;

/// Attention of rows to others.
#[derive(Module, Debug)]
pub struct Cross {
    /// `[heads·d, c]`.
    query: Linear,
    /// `[2·heads·d, width of the others]`: keys, values.
    key_value: Linear,
    /// `[c, heads·d]`.
    out: Linear,
    #[module(skip)]
    heads: usize,
}

impl Cross {
    pub fn new(width: usize, others: usize, heads: usize, head: usize, rng: &mut Rng) -> Self {
        let inner = heads * head;
        Self {
            query: Linear::new(width, inner, false, rng),
            key_value: Linear::new(others, 2 * inner, false, rng),
            out: Linear::new(inner, width, false, rng),
            heads,
        }
    }

    pub fn load([width, others, heads, head]: [usize; 4], loader: Loader, prefix: &str) -> Result<Self, WeightsError> {
        let inner = heads * head;
        let name = |part: &str| format!("{prefix}{part}");
        Ok(Self {
            query: loader.linear(&name("to_q"), width, inner, false)?,
            key_value: loader.linear(&name("to_kv"), others, 2 * inner, false)?,
            out: loader.linear(&name("to_out"), inner, width, false)?,
            heads,
        })
    }

    /// `[n·q, c]` looking at `[n·k, others]` → `[n·q, c]`; `seen` as in [`plain::attend_items`].
    pub fn forward(&self, x: Tensor<2>, others: Tensor<2>, items: usize, seen: Option<&[bool]>) -> Tensor<2> {
        let both = self.key_value.forward(others);
        let [rows, width] = both.dims();
        let half = |from: usize| both.clone().slice([0..rows, from..from + width / 2]);
        let query = self.query.forward(x);
        let mixed = plain::attend_items(query, half(0), half(width / 2), items, self.heads, seen);
        self.out.forward(mixed)
    }
}

/// norm, a wider layer, GELU, back.
#[derive(Module, Debug)]
pub struct FeedForward {
    norm: LayerNorm,
    /// `[4c, c]`.
    fc: Linear,
    /// `[c, 4c]`.
    proj: Linear,
}

impl FeedForward {
    pub fn new(width: usize, rng: &mut Rng) -> Self {
        Self {
            norm: LayerNorm::new(width, EPS),
            fc: Linear::new(width, WIDER * width, false, rng),
            proj: Linear::new(WIDER * width, width, false, rng),
        }
    }

    pub fn load(width: usize, loader: Loader, prefix: &str) -> Result<Self, WeightsError> {
        let name = |part: &str| format!("{prefix}{part}");
        Ok(Self {
            norm: loader.layer_norm(&name("0"), width, EPS)?,
            fc: loader.linear(&name("1"), width, WIDER * width, false)?,
            proj: loader.linear(&name("3"), WIDER * width, width, false)?,
        })
    }

    /// `[t, c]` → `[t, c]`, with `residual` added.
    pub fn forward(&self, x: Tensor<2>, residual: Option<Tensor<2>>) -> Tensor<2> {
        feed_forward(Some(&self.norm), &self.fc, Activation::GeluErf, &self.proj, x, residual)
    }
}
