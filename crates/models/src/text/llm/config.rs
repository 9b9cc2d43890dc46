//! What a language model is, read from a GGUF's metadata.

use bifocal_nn::fused::{Activation, Rope, RopeStyle};

use crate::weights::gguf::{Gguf, GgufValue};
use crate::weights::{TensorSource, WeightsError};

/// Families of language models that differ in their blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// LLaMA and what is built like it (Touvron et al. 2023): SmolLM2, Mistral.
    Llama,
    /// Gemma 3 (Gemma Team 2025).
    Gemma3,
}

impl Family {
    /// The name that GGUF metadata have for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Gemma3 => "gemma3",
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
    /// The constant of the RMS norms.
    pub eps: f32,
    /// Base of the rotary positions.
    pub theta: f32,
    /// Base of the rotary positions in layers with a sliding window.
    pub local_theta: f32,
    /// Tokens that a sliding window holds, the token itself included; `None`: every layer sees everything.
    pub window: Option<usize>,
    /// Every how many layers one sees everything.
    pub window_pattern: usize,
    /// What attention scores are multiplied by.
    pub query_scale: f32,
    /// What token embeddings are multiplied by.
    pub embedding_scale: f32,
}

/// Limits of numbers in a file, far beyond any model that a CPU can run.
const MAX_WIDTH: u64 = 1 << 16;
const MAX_LAYERS: u64 = 1 << 10;
const MAX_CONTEXT: u64 = 1 << 24;

impl LlmConfig {
    /// Reads the metadata of a model.
    ///
    /// # Errors
    /// [`WeightsError::Unsupported`] for another family, or a rotary scaling that is not implemented;
    /// [`WeightsError::Metadata`] for numbers that are missing or cannot be.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, WeightsError> {
        let architecture = gguf.require("general.architecture", GgufValue::as_str)?;
        let family = match architecture {
            "llama" => Family::Llama,
            "gemma3" => Family::Gemma3,
            other => {
                return Err(WeightsError::unsupported(
                    gguf.path(),
                    format!("the architecture \"{other}\""),
                    "take a model of the families llama (SmolLM2, Llama, Mistral) or gemma3",
                ));
            }
        };
        let m = Metadata { gguf, family };
        refuse_scaling(&m)?;
        let heads = m.count("attention.head_count", MAX_WIDTH)?;
        let width = m.count("embedding_length", MAX_WIDTH)?;
        let head_dim = match m.optional_count("attention.key_length", MAX_WIDTH)? {
            Some(head_dim) => head_dim,
            None => width / heads,
        };
        let window = m.optional_count("attention.sliding_window", MAX_CONTEXT)?;
        let theta = m.number("rope.freq_base")?.unwrap_or(10_000.0);
        // Gemma 3's window layers turn with 10000 whatever the base of the others; few files say so
        let local_theta = match family {
            Family::Llama => theta,
            Family::Gemma3 => m.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
        };
        let scale = m.number("attention.scale")?;
        let config = Self {
            family,
            vocabulary: rows(gguf, "token_embd.weight")?,
            context: m.count("context_length", MAX_CONTEXT)?,
            width,
            layers: m.count("block_count", MAX_LAYERS)?,
            heads,
            kv_heads: match m.optional_count("attention.head_count_kv", MAX_WIDTH)? {
                Some(kv_heads) => kv_heads,
                None => heads,
            },
            head_dim,
            mlp: m.count("feed_forward_length", MAX_WIDTH << 2)?,
            eps: m.required_number("attention.layer_norm_rms_epsilon")?,
            theta,
            local_theta,
            window: match family {
                Family::Llama => window.filter(|&w| w < MAX_CONTEXT as usize),
                Family::Gemma3 => window,
            },
            window_pattern: match family {
                Family::Llama => usize::MAX,
                Family::Gemma3 => m
                    .optional_count("attention.sliding_window_pattern", MAX_LAYERS)?
                    .unwrap_or(6),
            },
            query_scale: scale.unwrap_or((head_dim as f32).powf(-0.5)),
            embedding_scale: match family {
                Family::Llama => 1.0,
                // rounded once, to f32: what the reference multiplies f32 embeddings by
                Family::Gemma3 => (width as f64).sqrt() as f32,
            },
        };
        config.check(&m)?;
        Ok(config)
    }

    fn check(&self, m: &Metadata) -> Result<(), WeightsError> {
        if let Some(dims) = m.optional_count("rope.dimension_count", MAX_WIDTH)?
            && dims != self.head_dim
        {
            return Err(WeightsError::unsupported(
                m.gguf.path(),
                format!("rotating {dims} of {} dimensions", self.head_dim),
                "take a model whose heads are rotated as a whole",
            ));
        }
        if let Some(values) = m.optional_count("attention.value_length", MAX_WIDTH)?
            && values != self.head_dim
        {
            return Err(m.fault(
                "attention.value_length",
                format!("is {values}, but keys have {}", self.head_dim),
            ));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(m.fault(
                "attention.head_count_kv",
                format!("is {}, which does not divide {}", self.kv_heads, self.heads),
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(m.fault("attention.key_length", format!("is {}, not even", self.head_dim)));
        }
        if self.heads * self.head_dim > MAX_WIDTH as usize {
            return Err(m.fault(
                "attention.head_count",
                format!("is {} of width {}", self.heads, self.head_dim),
            ));
        }
        let positive = [
            ("attention.layer_norm_rms_epsilon", self.eps),
            ("rope.freq_base", self.theta),
            ("rope.freq_base_swa", self.local_theta),
            ("attention.scale", self.query_scale),
        ];
        match positive.iter().find(|(_, x)| !(x.is_finite() && *x > 0.0)) {
            Some((key, x)) => Err(m.fault(key, format!("is {x}, not a number above 0"))),
            None => Ok(()),
        }
    }

    /// Whether a layer sees only a window.
    pub fn is_local(&self, layer: usize) -> bool {
        self.window.is_some() && !(layer + 1).is_multiple_of(self.window_pattern)
    }

    /// How a layer rotates queries and keys.
    ///
    /// The converter to GGUF permutes the rows of llama's query and key weights so that the two coordinates of a pair
    /// stand side by side, as llama.cpp rotates them; Hugging Face's own files have them half a head apart. Rotating
    /// the permuted rows in pairs of neighbours gives the same scores, since both sides of each dot product are
    /// permuted alike. Gemma is stored as trained.
    pub(crate) fn rope(&self, layer: usize) -> Rope {
        Rope {
            theta: if self.is_local(layer) {
                self.local_theta
            } else {
                self.theta
            },
            style: match self.family {
                Family::Llama => RopeStyle::Interleaved,
                Family::Gemma3 => RopeStyle::Half,
            },
            rotated_heads: self.heads + self.kv_heads,
            heads: self.heads + 2 * self.kv_heads,
            head_dim: self.head_dim,
        }
    }

    /// The gate's activation.
    pub(crate) fn gate(&self) -> Activation {
        match self.family {
            Family::Llama => Activation::Silu,
            Family::Gemma3 => Activation::GeluTanh,
        }
    }
}

/// Long-context scalings change the frequencies; running without them would give wrong numbers silently.
fn refuse_scaling(m: &Metadata) -> Result<(), WeightsError> {
    let refuse = |what: String| {
        let advice = "take a model without it, as SmolLM2 or Gemma 3 270M";
        Err(WeightsError::unsupported(m.gguf.path(), what, advice))
    };
    let kind = m.gguf.optional(&m.key("rope.scaling.type"), GgufValue::as_str)?;
    if let Some(kind) = kind.filter(|&kind| kind != "none") {
        return refuse(format!("rotary scaling of type \"{kind}\""));
    }
    let factors = ["rope_freqs.weight", "rope_factors_long.weight"];
    match factors.iter().find(|name| m.gguf.shape(name).is_some()) {
        Some(name) => refuse(format!("rotary scaling by a tensor (\"{name}\")")),
        None => Ok(()),
    }
}

fn rows(gguf: &Gguf, name: &str) -> Result<usize, WeightsError> {
    match gguf.shape(name).as_deref() {
        Some([rows, _]) => Ok(*rows),
        // the loader says what is wrong with a table that is not a table
        Some(_) => Ok(0),
        None => gguf.load(name).map(|_| 0),
    }
}

struct Metadata<'a> {
    gguf: &'a Gguf,
    family: Family,
}

impl Metadata<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family.name())
    }

    fn fault(&self, key: &str, problem: String) -> WeightsError {
        WeightsError::Metadata {
            path: self.gguf.path().to_owned(),
            key: self.key(key),
            problem,
        }
    }

    fn count(&self, key: &str, most: u64) -> Result<usize, WeightsError> {
        match self.optional_count(key, most)? {
            Some(count) => Ok(count),
            None => Err(self.fault(key, "is missing".to_owned())),
        }
    }

    fn optional_count(&self, key: &str, most: u64) -> Result<Option<usize>, WeightsError> {
        match self.gguf.optional(&self.key(key), GgufValue::as_u64)? {
            None => Ok(None),
            // at most `most`, which fits
            Some(count) if (1..=most).contains(&count) => Ok(Some(count as usize)),
            Some(count) => Err(self.fault(key, format!("is {count}, not in 1…{most}"))),
        }
    }

    fn number(&self, key: &str) -> Result<Option<f32>, WeightsError> {
        let value = self.gguf.optional(&self.key(key), GgufValue::as_f64)?;
        Ok(value.map(|x| x as f32))
    }

    fn required_number(&self, key: &str) -> Result<f32, WeightsError> {
        match self.number(key)? {
            Some(number) => Ok(number),
            None => Err(self.fault(key, "is missing".to_owned())),
        }
    }
}
