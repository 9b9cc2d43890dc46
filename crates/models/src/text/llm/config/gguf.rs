//! What a language model is, read from a GGUF's metadata.

use bifocal_nn::fused::RopeStyle;

use super::{Family, LlmConfig, MAX_CONTEXT, MAX_LAYERS, MAX_WIDTH, RopeScaling};
use crate::weights::gguf::{Gguf, GgufValue};
use crate::weights::{TensorSource, WeightsError};

impl LlmConfig {
    /// Reads the metadata of a model.
    ///
    /// # Errors
    /// [`WeightsError::Unsupported`] for another family, or a rotary scaling that is not implemented;
    /// [`WeightsError::Metadata`] for numbers that are missing or cannot be.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, WeightsError> {
        let architecture = gguf.require("general.architecture", GgufValue::as_str)?;
        let known = [Family::Llama, Family::Qwen2, Family::Qwen3, Family::Gemma3];
        let Some(family) = known.into_iter().find(|family| family.name() == architecture) else {
            return Err(WeightsError::unsupported(
                gguf.path(),
                format!("the architecture \"{architecture}\""),
                "take a model of the families llama (SmolLM2, Llama, Mistral), qwen2, qwen3 or gemma3",
            ));
        };
        let m = Metadata { gguf, family };
        let gemma = family == Family::Gemma3;
        let heads = m.count("attention.head_count", MAX_WIDTH)?;
        let width = m.count("embedding_length", MAX_WIDTH)?;
        let layers = m.count("block_count", MAX_LAYERS)?;
        let head_dim = match m.optional_count("attention.key_length", MAX_WIDTH)? {
            Some(head_dim) => head_dim,
            None => width / heads,
        };
        m.same("rope.dimension_count", head_dim)?;
        m.same("attention.value_length", head_dim)?;
        let window = m.optional_count("attention.sliding_window", MAX_CONTEXT)?;
        let pattern = m.optional_count("attention.sliding_window_pattern", MAX_LAYERS)?;
        let window = window.filter(|&w| gemma || w < MAX_CONTEXT as usize);
        if window.is_some() && matches!(family, Family::Qwen2 | Family::Qwen3) {
            return Err(WeightsError::unsupported(
                gguf.path(),
                "a Qwen with sliding windows, whose layers the file does not name,",
                "take the original model in safetensors",
            ));
        }
        let scale = m.number("attention.scale")?;
        let config = Self {
            family,
            vocabulary: rows(gguf, "token_embd.weight")?,
            context: m.count("context_length", MAX_CONTEXT)?,
            width,
            layers,
            heads,
            kv_heads: match m.optional_count("attention.head_count_kv", MAX_WIDTH)? {
                Some(kv_heads) => kv_heads,
                None => heads,
            },
            head_dim,
            mlp: m.count("feed_forward_length", MAX_WIDTH << 2)?,
            // metadata do not say it; a bias that is there belongs to the model
            qkv_bias: family == Family::Qwen2 || gguf.shape("blk.0.attn_q.bias").is_some(),
            out_bias: gguf.shape("blk.0.attn_output.bias").is_some(),
            mlp_bias: gguf.shape("blk.0.ffn_gate.bias").is_some(),
            eps: m.required_number("attention.layer_norm_rms_epsilon")?,
            theta: m.number("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: scaling(&m)?,
            // Gemma 3's window layers turn with 10000 whatever the base of the others; few files say so
            local_theta: match gemma {
                true => Some(m.number("rope.freq_base_swa")?.unwrap_or(10_000.0)),
                false => None,
            },
            // The converter to GGUF permutes the rows of llama's query and key weights so that the two coordinates of a
            // pair stand side by side, as llama.cpp rotates them; Hugging Face's own files have them half a head apart.
            // Rotating the permuted rows in pairs of neighbours gives the same scores, since both sides of each dot
            // product are permuted alike. The other families are stored as trained.
            rope_style: match family {
                Family::Llama => RopeStyle::Interleaved,
                Family::Qwen2 | Family::Qwen3 | Family::Gemma3 => RopeStyle::Half,
            },
            window,
            local: match gemma {
                true => (1..=layers).map(|i| !i.is_multiple_of(pattern.unwrap_or(6))).collect(),
                false => vec![true; layers],
            },
            query_scale: scale.unwrap_or((head_dim as f32).powf(-0.5)),
            // rounded once, to f32: what the reference multiplies f32 embeddings by
            embedding_scale: if gemma { (width as f64).sqrt() as f32 } else { 1.0 },
        };
        config.check(gguf.path())?;
        Ok(config)
    }
}

/// Long-context scalings change the frequencies; running without them would give wrong numbers silently.
fn scaling(m: &Metadata) -> Result<RopeScaling, WeightsError> {
    let refuse = |what: String| {
        let advice = "take a model without it, as SmolLM2 or Gemma 3 270M";
        Err(WeightsError::unsupported(m.gguf.path(), what, advice))
    };
    if m.gguf.shape("rope_factors_long.weight").is_some() {
        return refuse("rotary scaling by the tensor \"rope_factors_long.weight\"".to_owned());
    }
    if let Some(shape) = m.gguf.shape("rope_freqs.weight") {
        // one number a pair; the check of the whole compares it with the width of a head
        if shape.iter().product::<usize>() > MAX_WIDTH as usize {
            return refuse(format!("rotary scaling of {shape:?} numbers"));
        }
        return Ok(RopeScaling::Divisors(m.gguf.load("rope_freqs.weight")?.data));
    }
    match m.gguf.optional(&m.key("rope.scaling.type"), GgufValue::as_str)? {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear(m.required_number("rope.scaling.factor")?)),
        Some(kind) => refuse(format!("rotary scaling of type \"{kind}\"")),
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
        WeightsError::metadata(self.gguf.path(), self.key(key), problem)
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

    /// Refuses another number than this one.
    fn same(&self, key: &str, head_dim: usize) -> Result<(), WeightsError> {
        match self.optional_count(key, MAX_WIDTH)? {
            Some(other) if other != head_dim => Err(WeightsError::unsupported(
                self.gguf.path(),
                format!("\"{}\" of {other} beside heads of {head_dim}", self.key(key)),
                "take a model whose keys and values are as wide as each other and are rotated as a whole",
            )),
            _ => Ok(()),
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
