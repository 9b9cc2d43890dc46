//! What a language model is: sizes and constants, whatever file they came from.

mod gguf;

use std::path::Path;

use bifocal_nn::fused::{self, Activation, Rope, RopeStyle};

use crate::text::Attention;
use crate::weights::WeightsError;

/// Families of language models that differ in their blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaMA and what is built like it (Touvron et al. 2023): Llama 2 and 3, SmolLM2, Mistral.
    Llama,
    /// Qwen 2 and 2.5: as Llama, with biases of queries, keys and values.
    Qwen2,
    /// Qwen 3: queries and keys are normalised head by head.
    Qwen3,
    /// Gemma 3 (Gemma Team 2025).
    Gemma3,
}

impl Family {
    /// The name that GGUF metadata have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }

    /// Whether queries and keys are normalised head by head.
    pub(super) fn norms_heads(self) -> bool {
        matches!(self, Self::Qwen3 | Self::Gemma3)
    }
}

/// How rotary frequencies were changed for longer texts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by this.
    Linear(f32),
    /// Llama 3.1: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f32,
        /// Wavelengths above `original / low` are low frequencies.
        low: f32,
        /// Wavelengths below `original / high` are high frequencies.
        high: f32,
        /// The longest text of the first training, in tokens.
        original: f32,
    },
    /// Each is divided by its own number: how GGUF stores Llama 3.1's, `[head_dim / 2]`.
    Divisors(Vec<f32>),
}

impl RopeScaling {
    /// In f32 and in the order of transformers' `_compute_llama3_parameters`.
    fn apply(&self, frequencies: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Linear(factor) => frequencies.iter_mut().for_each(|f| *f /= factor),
            Self::Divisors(divisors) => frequencies.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d),
            &Self::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                for f in frequencies {
                    let wavelength = std::f32::consts::TAU / *f;
                    if wavelength > original / low {
                        *f /= factor;
                    } else if wavelength >= original / high {
                        let smooth = (original / wavelength - low) / (high - low);
                        *f = (1.0 - smooth) * (*f / factor) + smooth * *f;
                    }
                }
            }
        }
    }
}

/// Sizes and constants of a language model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmConfig {
    /// How its blocks are built.
    pub family: Family,
    /// Number of token ids.
    pub vocabulary: usize,
    /// The longest text, in tokens.
    pub context: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; they divide the query heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the gated feed-forward part.
    pub mlp: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the layer after attention has a bias.
    pub out_bias: bool,
    /// Whether the feed-forward part has biases.
    pub mlp_bias: bool,
    /// The constant of the RMS norms.
    pub eps: f32,
    /// Base of the rotary positions.
    pub theta: f32,
    /// How their frequencies were changed.
    pub scaling: RopeScaling,
    /// Base of the rotary positions in layers with a sliding window, where it is another; these are not scaled.
    pub local_theta: Option<f32>,
    /// Which coordinates of a head make a pair.
    pub rope_style: RopeStyle,
    /// Tokens that a sliding window holds, the token itself included; `None`: every layer sees everything.
    pub window: Option<usize>,
    /// `[layers]`: which layers see only a window.
    pub local: Vec<bool>,
    /// What attention scores are multiplied by.
    pub query_scale: f32,
    /// What token embeddings are multiplied by.
    pub embedding_scale: f32,
}

/// Limits of numbers in a file, far beyond any model that a CPU can run.
const MAX_WIDTH: u64 = 1 << 16;
pub(crate) const MAX_LAYERS: u64 = 1 << 10;
const MAX_CONTEXT: u64 = 1 << 24;

impl LlmConfig {
    /// Checks numbers that came from a file before anything is allocated for them.
    pub(super) fn check(&self, path: &Path) -> Result<(), WeightsError> {
        let fault = |key: &str, problem: String| WeightsError::metadata(path, key, problem);
        let sizes = [
            ("vocabulary", self.vocabulary, MAX_CONTEXT),
            ("context", self.context, u64::MAX),
            ("width", self.width, MAX_WIDTH),
            ("layers", self.layers, MAX_LAYERS),
            ("heads", self.heads, MAX_WIDTH),
            ("key and value heads", self.kv_heads, MAX_WIDTH),
            ("width of a head", self.head_dim, MAX_WIDTH),
            ("width of the feed-forward part", self.mlp, MAX_WIDTH << 2),
            ("sliding window", self.window.unwrap_or(1), u64::MAX),
        ];
        if let Some((key, size, most)) = sizes
            .iter()
            .find(|(_, size, most)| !(1..=*most).contains(&(*size as u64)))
        {
            return Err(fault(key, format!("is {size}, not in 1…{most}")));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let problem = format!("is {}, which does not divide {}", self.kv_heads, self.heads);
            return Err(fault("key and value heads", problem));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(fault("width of a head", format!("is {}, not even", self.head_dim)));
        }
        if self.heads * self.head_dim > MAX_WIDTH as usize {
            return Err(fault("heads", format!("is {} of width {}", self.heads, self.head_dim)));
        }
        if self.local.len() != self.layers {
            let problem = format!("lists {} layers of {}", self.local.len(), self.layers);
            return Err(fault("sliding window", problem));
        }
        let mut positive = vec![
            ("constant of the norms", self.eps),
            ("rotary base", self.theta),
            ("rotary base of windows", self.local_theta.unwrap_or(1.0)),
            ("scale of attention", self.query_scale),
        ];
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => positive.push(("rotary scaling", *factor)),
            RopeScaling::Divisors(all) => {
                if all.len() != self.head_dim / 2 {
                    return Err(fault("rotary scaling", format!("has {} numbers", all.len())));
                }
                positive.extend(all.iter().map(|&d| ("rotary scaling", d)));
            }
            RopeScaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => positive.extend([*factor, *low, high - low, *original].map(|x| ("rotary scaling", x))),
        }
        match positive.iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            Some((key, x)) => Err(fault(key, format!("is {x}, not a number above 0"))),
            None => Ok(()),
        }
    }

    /// Whether a layer sees only a window.
    pub fn is_local(&self, layer: usize) -> bool {
        self.window.is_some() && self.local.get(layer).copied().unwrap_or(false)
    }

    /// Tokens that a layer's window reaches back, and without causality also forward; the token itself included.
    ///
    /// Without causality transformers' Gemma 3 sees |i − j| ≤ ⌊window / 2⌋, so that a window holds as many tokens as before, and one.
    /// Others have no window then: a model that was tuned to see both ways (NV-Embed, of a Mistral) sees the whole text.
    pub(super) fn window_of(&self, layer: usize, attention: Attention) -> Option<usize> {
        let window = self.window.filter(|_| self.is_local(layer))?;
        match (attention, self.family) {
            (Attention::Causal, _) => Some(window),
            (Attention::Bidirectional, Family::Gemma3) => Some(window / 2 + 1),
            (Attention::Bidirectional, _) => None,
        }
    }

    /// How a layer rotates queries and keys.
    pub(super) fn rope(&self, layer: usize) -> Rope {
        let own = self.local_theta.filter(|_| self.is_local(layer));
        let mut frequencies = fused::frequencies(own.unwrap_or(self.theta), self.head_dim);
        if own.is_none() {
            self.scaling.apply(&mut frequencies);
        }
        Rope {
            frequencies: frequencies.into(),
            style: self.rope_style,
            rotated_heads: self.heads + self.kv_heads,
            heads: self.heads + 2 * self.kv_heads,
        }
    }

    /// The gate's activation.
    pub(super) fn gate(&self) -> Activation {
        match self.family {
            Family::Gemma3 => Activation::GeluTanh,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => Activation::Silu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_keeps_high_frequencies_and_divides_low_ones() {
        let before = fused::frequencies(5e5, 64);
        let mut after = before.clone();
        let scaling = RopeScaling::Llama3 {
            factor: 32.0,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
        scaling.apply(&mut after);
        assert_eq!(after[..10], before[..10]);
        assert_eq!(after[31], before[31] / 32.0);
        let ratios: Vec<f32> = before.iter().zip(&after).map(|(b, a)| b / a).collect();
        assert!(
            ratios.is_sorted() && ratios.iter().any(|r| *r > 1.5 && *r < 31.0),
            "{ratios:?}"
        );
    }
}
