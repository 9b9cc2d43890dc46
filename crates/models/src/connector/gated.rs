//! Flamingo's gated cross-attention (Alayrac et al. 2022, arXiv 2204.14198, §2.2): layers between those of a frozen language model, through which
//! each token looks at the picture before it. Gates begin at 0, so that the model is at first what it was.

use std::sync::Arc;

use bifocal_nn::init::Rng;
use bifocal_nn::layers::{LayerNorm, zeros};
use bifocal_nn::{Module, Param, Tensor, fused};

use super::perceiver::{Cross, EPS, FeedForward};
use crate::blocks::check_sizes;
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// Sizes of a gated layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedConfig {
    /// Width of the language model.
    pub width: usize,
    /// Width of what pictures became.
    pub media: usize,
    /// Heads; open_flamingo has 8.
    pub heads: usize,
    /// Width of a head; open_flamingo has 64.
    pub head: usize,
}

/// x ← x + tanh(g_a)·attention(norm(x); media); x ← x + tanh(g_f)·mlp(x).
#[derive(Module, Debug)]
pub struct GatedCross {
    norm: LayerNorm,
    attention: Cross,
    /// `[1]`.
    attention_gate: Param<Tensor<1>>,
    mlp: FeedForward,
    /// `[1]`.
    mlp_gate: Param<Tensor<1>>,
}

impl GatedCross {
    /// Gates closed, the rest as PyTorch does.
    pub fn new(c: GatedConfig, rng: &mut Rng) -> Self {
        Self {
            norm: LayerNorm::new(c.width, EPS),
            attention: Cross::new(c.width, c.media, c.heads, c.head, rng),
            attention_gate: zeros([1]),
            mlp: FeedForward::new(c.width, rng),
            mlp_gate: zeros([1]),
        }
    }

    /// Loads one with the names of open_flamingo below `prefix` (`gated_cross_attn_layer.`).
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(c: GatedConfig, source: &dyn TensorSource, prefix: &str) -> Result<Self, WeightsError> {
        let sizes = [
            ("width", c.width),
            ("media", c.media),
            ("heads of all", c.heads.saturating_mul(c.head)),
        ];
        check_sizes(source.path(), &sizes)?;
        let loader = Loader(source);
        let name = |part: &str| format!("{prefix}{part}");
        Ok(Self {
            norm: loader.layer_norm(&name("attn.norm"), c.width, EPS)?,
            attention: Cross::load([c.width, c.media, c.heads, c.head], loader, &name("attn."))?,
            attention_gate: loader.param(&name("attn_gate"), [1])?,
            mlp: FeedForward::load(c.width, loader, &name("ff."))?,
            mlp_gate: loader.param(&name("ff_gate"), [1])?,
        })
    }

    /// A layer of the language model looks at pictures.
    ///
    /// # Shapes
    /// `x` `[n·t, c]`: texts of `t` tokens; `media` `[n·m·l, media]`: `m` pictures of each, of `l` vectors; `pictures` `[n·t]`: how many pictures a token
    /// has before it (itself, where it stands for one, counted): it looks at the last of them, and at nothing where there is none →
    /// `[n·t, c]`.
    pub fn forward(
        &self,
        x: Tensor<2>,
        media: Tensor<2>,
        items: usize,
        vectors: usize,
        pictures: &[usize],
    ) -> Tensor<2> {
        let [keys, _] = media.dims();
        let each = keys / items.max(1);
        let seen: Vec<bool> = pictures
            .iter()
            .flat_map(|&picture| (0..each).map(move |key| key / vectors.max(1) + 1 == picture))
            .collect();
        let mixed = self
            .attention
            .forward(self.norm.forward(x.clone()), media, items, Some(&seen));
        self.add(x, mixed)
    }

    /// As [`GatedCross::forward`] for packed sequences of any lengths with one picture each; `sees` says of each row whether it looks at it.
    ///
    /// # Shapes
    /// `x` `[t, c]`, `offsets` `[n + 1]`, `media` `[n·l, media]`, `sees` `[t]` → `[t, c]`.
    pub fn look(&self, x: Tensor<2>, media: Tensor<2>, offsets: &[usize], sees: &[bool]) -> Tensor<2> {
        let n = offsets.len().saturating_sub(1);
        let lengths: Vec<usize> = offsets.windows(2).map(|bounds| bounds[1] - bounds[0]).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if longest == 0 {
            return x;
        }
        let each = media.dims()[0] / n;
        // sequences as long as the longest: what is added is any row, and sees nothing
        let (mut there, mut back, mut seen) = (Vec::new(), Vec::new(), Vec::with_capacity(n * longest * each));
        for (i, (bounds, length)) in offsets.windows(2).zip(&lengths).enumerate() {
            for at in 0..longest {
                let row = bounds[0] + at;
                let own = at < *length;
                there.push(if own { row as u32 } else { 0 });
                seen.extend(std::iter::repeat_n(own && sees[row], each));
            }
            back.extend((0..*length).map(|at| (i * longest + at) as u32));
        }
        let (there, back): (Arc<[u32]>, Arc<[u32]>) = (there.into(), back.into());
        let rows = fused::embedding(self.norm.forward(x.clone()), &there);
        let mixed = self.attention.forward(rows, media, n, Some(&seen));
        self.add(x, fused::embedding(mixed, &back))
    }

    fn add(&self, x: Tensor<2>, mixed: Tensor<2>) -> Tensor<2> {
        let gate = |gate: &Param<Tensor<1>>| gate.val().tanh().unsqueeze::<2>();
        let x = x + mixed * gate(&self.attention_gate);
        x.clone() + self.mlp.forward(x, None) * gate(&self.mlp_gate)
    }
}
