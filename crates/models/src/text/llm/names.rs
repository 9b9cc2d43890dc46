//! Where a language model's tensors are: GGUF's names, or those of transformers.

use bifocal_nn::layers::{Linear, RmsNorm};

use super::Family;
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// Whose names a file uses, and how it stores Gemma's norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlmNames {
    /// llama.cpp's.
    Gguf,
    /// transformers', with what stands before each name.
    HuggingFace(&'static str),
}

/// What stands before transformers' names: nothing in a model without output layer, `model.` in one with it, more in one that also sees,
/// and `embedding_model.` in NV-Embed.
const PREFIXES: [&str; 6] = [
    "model.",
    "",
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "embedding_model.",
];

impl LlmNames {
    /// Finds out what stands before transformers' names.
    ///
    /// # Errors
    /// [`WeightsError::MissingTensor`] when there is no table of embeddings.
    pub fn hugging_face(source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let there = |prefix: &&&str| source.shape(&format!("{prefix}embed_tokens.weight")).is_some();
        match PREFIXES.iter().find(there) {
            Some(prefix) => Ok(Self::HuggingFace(prefix)),
            None => {
                let names = source.names();
                let names = names.iter().map(String::as_str);
                Err(WeightsError::missing(source.path(), "model.embed_tokens.weight", names))
            }
        }
    }

    pub(super) fn table(self) -> String {
        match self {
            Self::Gguf => "token_embd.weight".to_owned(),
            Self::HuggingFace(prefix) => format!("{prefix}embed_tokens.weight"),
        }
    }

    /// What the output layer may be called, where it has rows of its own.
    pub(super) fn outputs(self) -> Vec<String> {
        match self {
            Self::Gguf => vec!["output.weight".to_owned()],
            Self::HuggingFace(prefix) => {
                // beside the model without output layer, or, of a model that also sees, at the top
                let beside = prefix
                    .strip_suffix(".model.")
                    .map_or(String::new(), |outer| format!("{outer}."));
                vec![format!("{beside}lm_head.weight"), "lm_head.weight".to_owned()]
            }
        }
    }

    pub(super) fn last_norm(self) -> String {
        match self {
            Self::Gguf => "output_norm".to_owned(),
            Self::HuggingFace(prefix) => format!("{prefix}norm"),
        }
    }

    /// What the names of all blocks begin with.
    pub(super) fn blocks(self) -> String {
        match self {
            Self::Gguf => "blk.".to_owned(),
            Self::HuggingFace(prefix) => format!("{prefix}layers."),
        }
    }
}

/// The tensors of one block, or those around the blocks.
#[derive(Clone, Copy)]
pub(super) struct Tensors<'a> {
    pub loader: Loader<'a>,
    pub names: LlmNames,
    pub family: Family,
    pub eps: f32,
}

impl Tensors<'_> {
    /// The name of a part of a block; `part` is llama.cpp's.
    pub fn name(self, layer: usize, part: &str) -> String {
        let blocks = self.names.blocks();
        let part = match (self.names, part) {
            (LlmNames::Gguf, part) => part,
            (_, "attn_norm") => "input_layernorm",
            (_, "attn_q") => "self_attn.q_proj",
            (_, "attn_k") => "self_attn.k_proj",
            (_, "attn_v") => "self_attn.v_proj",
            (_, "attn_q_norm") => "self_attn.q_norm",
            (_, "attn_k_norm") => "self_attn.k_norm",
            (_, "attn_output") => "self_attn.o_proj",
            (_, "post_attention_norm") => "post_attention_layernorm",
            // Gemma has a norm after attention too, and that has the name which the others give to this one
            (_, "ffn_norm") if self.family == Family::Gemma3 => "pre_feedforward_layernorm",
            (_, "ffn_norm") => "post_attention_layernorm",
            (_, "ffn_gate") => "mlp.gate_proj",
            (_, "ffn_up") => "mlp.up_proj",
            (_, "ffn_down") => "mlp.down_proj",
            (_, "post_ffw_norm") => "post_feedforward_layernorm",
            (_, other) => other,
        };
        format!("{blocks}{layer}.{part}")
    }

    pub fn norm(self, name: &str, width: usize) -> Result<RmsNorm, WeightsError> {
        let mut norm = self.loader.rms_norm(name, width, self.eps)?;
        // Gemma's norms multiply by 1 + w; the converter to GGUF has added the 1 already
        if self.family == Family::Gemma3 && self.names != LlmNames::Gguf {
            norm.weight = norm.weight.map(|w| w + 1.0);
        }
        Ok(norm)
    }

    pub fn stacked(
        self,
        layer: usize,
        parts: &[(&str, usize)],
        din: usize,
        bias: bool,
    ) -> Result<Linear, WeightsError> {
        let names: Vec<String> = parts.iter().map(|(part, _)| self.name(layer, part)).collect();
        let named: Vec<(&str, usize)> = names
            .iter()
            .zip(parts)
            .map(|(n, (_, rows))| (n.as_str(), *rows))
            .collect();
        self.loader.stacked(&named, din, bias)
    }
}
