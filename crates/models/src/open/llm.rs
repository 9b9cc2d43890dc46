//! Language models in the layout of transformers.
//!
//! Settings that are missing have transformers' defaults; those that change the numbers and are not implemented are refused.

use bifocal_nn::fused::RopeStyle;
use serde_json::Value;

use super::OpenError;
use super::settings::Settings;
use crate::text::{Attention, Family, LatentConfig, LlmConfig, MAX_LAYERS, Pooling, RopeScaling};
use crate::weights::TensorSource;
use crate::weights::gguf::{Gguf, GgufValue};

/// Settings that do not change what a token's vector is: generation, training, and bookkeeping.
const HARMLESS: &[&str] = &[
    "_name_or_path",
    "_attn_implementation_autoset",
    "architectures",
    "attention_dropout",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "final_logit_softcapping",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "max_window_layers",
    "min_length",
    "model_max_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "temperature",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// The `model_type`s of language models.
pub(super) fn family(model_type: &str) -> Option<Family> {
    Some(match model_type {
        "llama" | "mistral" | "nvembed" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gemma3" | "gemma3_text" => Family::Gemma3,
        _ => return None,
    })
}

/// What a GGUF says about pooling; the mean when it says nothing.
pub(super) fn gguf_pooling(gguf: &Gguf) -> Result<Pooling, OpenError> {
    let architecture = gguf.require("general.architecture", GgufValue::as_str)?;
    let key = format!("{architecture}.pooling_type");
    Ok(match gguf.optional(&key, GgufValue::as_u64)? {
        None | Some(0 | 1) => Pooling::Mean,
        Some(2) => Pooling::Cls,
        Some(3) => Pooling::Last,
        Some(other) => {
            let advice = "take an embedding model, which pools by mean, first or last token";
            return Err(OpenError::unsupported(
                gguf.path(),
                format!("\"{key}\" of {other}"),
                advice,
            ));
        }
    })
}

/// `config.json`; `model_type` was read already. Also what a token saw in training, where the file says it.
///
/// `chosen` is what the user wants a token to see: a model that came with code of its own is taken only with that, since such code mostly
/// changes just this.
pub(super) fn config(
    mut s: Settings,
    model_type: &str,
    chosen: Option<Attention>,
) -> Result<(LlmConfig, Attention), OpenError> {
    let Some(family) = family(model_type) else {
        return Err(OpenError::malformed(
            s.path(),
            format!("\"{model_type}\" is no language model"),
        ));
    };
    let mut bidirectional = false;
    let mut model_type = model_type;
    if model_type == "nvembed" {
        // what its code does, is done here too
        (s, model_type, bidirectional) = (s.object("text_config")?, "mistral", true);
        s.only("model_type", "bidir_mistral".to_owned())?;
    } else if model_type == "gemma3" {
        s.only("quantization_config", Value::Null)?;
        s = s.object("text_config")?;
        s.only("model_type", "gemma3_text".to_owned())?;
    }
    if s.take::<Value>("auto_map")?.is_some() && chosen.is_none() {
        return Err(OpenError::unsupported(
            s.path(),
            "\"auto_map\": code that came with the model, which Bifocal never runs,",
            "if all that it changes is what a token sees, say so: attention causal or bidirectional",
        ));
    }
    bidirectional |= s.take("use_bidirectional_attention")? == Some(true);
    bidirectional |= s.take("is_causal")? == Some(false);
    let config = read(&mut s, model_type, family)?;
    s.refuse_rest(HARMLESS)?;
    let attention = if bidirectional {
        Attention::Bidirectional
    } else {
        Attention::Causal
    };
    Ok((config, attention))
}

/// NV-Embed's layer before pooling, and what has to be as it was published.
pub(super) fn latent(s: &mut Settings) -> Result<LatentConfig, OpenError> {
    s.only("padding_side", "right".to_owned())?;
    s.only("add_eos", true)?;
    s.only("mask_type", "b".to_owned())?;
    s.only("is_mask_instruction", true)?;
    let mut l = s.object("latent_attention_config")?;
    let width = l.take("latent_dim")?.unwrap_or(4096);
    l.only("hidden_dim", width)?;
    Ok(LatentConfig {
        width,
        latents: l.take("num_latents_value")?.unwrap_or(512),
        heads: l.take("num_cross_heads")?.unwrap_or(8),
        head_dim: l.take("cross_dim_head")?.unwrap_or(4096),
    })
}

fn read(s: &mut Settings, model_type: &str, family: Family) -> Result<LlmConfig, OpenError> {
    let gemma = family == Family::Gemma3;
    let or = |value: Option<usize>, s: &mut Settings, key: &str| -> Result<usize, OpenError> {
        match (s.take(key)?, value) {
            (Some(found), _) | (None, Some(found)) => Ok(found),
            (None, None) => s.require(key),
        }
    };
    let act = if gemma { "gelu_pytorch_tanh" } else { "silu" };
    s.only("hidden_act", act.to_owned())?;
    s.only("hidden_activation", act.to_owned())?;
    // Gemma's published files leave out what is as in its first size
    let heads = or(gemma.then_some(8), s, "num_attention_heads")?;
    let width = or(gemma.then_some(2304), s, "hidden_size")?;
    let layers = or(gemma.then_some(26), s, "num_hidden_layers")?;
    if layers > MAX_LAYERS as usize {
        return Err(OpenError::malformed(
            s.path(),
            format!("\"num_hidden_layers\" is {layers}"),
        ));
    }
    let head_dim = match (s.take("head_dim")?, family) {
        (Some(head_dim), _) => head_dim,
        (None, Family::Qwen3) => 128,
        (None, Family::Gemma3) => 256,
        (None, _) => width.checked_div(heads).unwrap_or(0),
    };
    let kv_default = match gemma {
        true => 4,
        false if model_type == "mistral" => 8,
        false => heads,
    };
    let context = or(gemma.then_some(131_072), s, "max_position_embeddings")?;
    let bias = match family {
        Family::Qwen2 => None,
        _ => s.take::<bool>("attention_bias")?,
    };
    let rope = rope(s, gemma, context)?;
    let (window, local) = windows(s, model_type, family, layers)?;
    let scalar: f64 = match gemma {
        true => s.take("query_pre_attn_scalar")?.unwrap_or(256.0),
        false => head_dim as f64,
    };
    Ok(LlmConfig {
        family,
        vocabulary: or(gemma.then_some(262_208), s, "vocab_size")?,
        context,
        width,
        layers,
        heads,
        kv_heads: s.take("num_key_value_heads")?.unwrap_or(kv_default),
        head_dim,
        mlp: or(gemma.then_some(9216), s, "intermediate_size")?,
        qkv_bias: bias.unwrap_or(family == Family::Qwen2),
        out_bias: bias.unwrap_or(false),
        mlp_bias: s.take("mlp_bias")?.unwrap_or(false),
        eps: s.take("rms_norm_eps")?.unwrap_or(1e-6),
        theta: rope.theta,
        scaling: rope.scaling,
        local_theta: rope.local,
        rope_style: RopeStyle::Half,
        window,
        local,
        query_scale: scalar.powf(-0.5) as f32,
        // rounded once, to f32: what the reference multiplies f32 embeddings by
        embedding_scale: if gemma { (width as f64).sqrt() as f32 } else { 1.0 },
    })
}

/// The window of the layers that have one, and which these are.
fn windows(
    s: &mut Settings,
    model_type: &str,
    family: Family,
    layers: usize,
) -> Result<(Option<usize>, Vec<bool>), OpenError> {
    let qwen = matches!(family, Family::Qwen2 | Family::Qwen3);
    let used = match qwen {
        true => s.take("use_sliding_window")?.unwrap_or(false),
        false => family == Family::Gemma3 || model_type == "mistral",
    };
    let window: Option<usize> = s.take("sliding_window")?;
    let window = match family {
        Family::Gemma3 => window.or(Some(4096)),
        _ => window.filter(|_| used),
    };
    let first: usize = s.take("max_window_layers")?.unwrap_or(28);
    let (pattern, old): (Option<usize>, Option<usize>) =
        (s.take("sliding_window_pattern")?, s.take("_sliding_window_pattern")?);
    let pattern = pattern.or(old).unwrap_or(6).max(1);
    let types: Option<Vec<String>> = s.take("layer_types")?;
    let local: Vec<bool> = match &types {
        None => (0..layers)
            .map(|i| match family {
                Family::Gemma3 => !(i + 1).is_multiple_of(pattern),
                Family::Qwen2 | Family::Qwen3 => window.is_some() && i >= first,
                Family::Llama => window.is_some(),
            })
            .collect(),
        Some(types) => types.iter().map(|kind| kind == "sliding_attention").collect(),
    };
    let known = |kind: &String| ["sliding_attention", "full_attention"].contains(&kind.as_str());
    let sound = types.iter().flatten().all(known)
        && local.len() == layers
        && (window.is_some() || !local.contains(&true))
        // transformers' Mistral has a window in all layers or in none
        && (family != Family::Llama || local.iter().all(|&l| l == window.is_some()));
    if !sound {
        return Err(OpenError::unsupported(
            s.path(),
            format!(
                "\"layer_types\" that do not say for each of {layers} layers what it sees, or not as \"sliding_window\" says"
            ),
            "take a model of full_attention and sliding_attention layers",
        ));
    }
    Ok((window, local))
}

struct Turns {
    theta: f32,
    scaling: RopeScaling,
    local: Option<f32>,
}

/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`.
fn rope(s: &mut Settings, gemma: bool, context: usize) -> Result<Turns, OpenError> {
    let theta: f32 = s.take("rope_theta")?.unwrap_or(if gemma { 1e6 } else { 1e4 });
    let old_local: Option<f32> = s.take("rope_local_base_freq")?;
    s.only("partial_rotary_factor", 1.0)?;
    let mut new = s.object("rope_parameters")?;
    let mut old = s.object("rope_scaling")?;
    let mut full = match new.has("full_attention") {
        true => new.object("full_attention")?,
        false => std::mem::replace(&mut new, Settings::empty(s.path())),
    };
    let mut sliding = new.object("sliding_attention")?;
    new.refuse_rest(&[])?;
    if full.is_empty() {
        std::mem::swap(&mut full, &mut old);
    }
    old.refuse_rest(&[])?;
    let (theta, scaling) = scaling(full, theta, context)?;
    let local = match gemma {
        false => {
            sliding.refuse_rest(&[])?;
            None
        }
        true => {
            sliding.only("rope_type", "default".to_owned())?;
            let own = sliding.take("rope_theta")?;
            sliding.refuse_rest(&[])?;
            Some(own.or(old_local).unwrap_or(1e4))
        }
    };
    Ok(Turns { theta, scaling, local })
}

fn scaling(mut s: Settings, theta: f32, context: usize) -> Result<(f32, RopeScaling), OpenError> {
    let theta = s.take("rope_theta")?.unwrap_or(theta);
    let (new, old): (Option<String>, Option<String>) = (s.take("rope_type")?, s.take("type")?);
    s.only("partial_rotary_factor", 1.0)?;
    let kind = new.or(old);
    let scaling = match kind.as_deref() {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear(s.require("factor")?),
        Some("llama3") => RopeScaling::Llama3 {
            factor: s.require("factor")?,
            low: s.require("low_freq_factor")?,
            high: s.require("high_freq_factor")?,
            original: s.take("original_max_position_embeddings")?.unwrap_or(context as f32),
        },
        Some(other) => {
            return Err(OpenError::unsupported(
                s.path(),
                format!("rotary scaling of type \"{other}\""),
                "take a model with default, linear or llama3 scaling",
            ));
        }
    };
    s.refuse_rest(&[])?;
    Ok((theta, scaling))
}
