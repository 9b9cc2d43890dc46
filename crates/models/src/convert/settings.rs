//! The settings files of transformers and open_clip for a CLIP.

use bifocal_data::{Filter, Preprocess, ResizeMode};
use serde_json::{Value, json};

use crate::blocks::{EPS, Gelu};
use crate::text::ClipTextConfig;
use crate::tokenizer::SpecialTokens;
use crate::vision::VitConfig;

/// `config.json` of transformers.
pub(super) fn hugging_face(vision: &VitConfig, text: &ClipTextConfig, special: SpecialTokens, dtype: &str) -> Value {
    let act = |gelu: Gelu| match gelu {
        Gelu::Quick => "quick_gelu",
        Gelu::Erf => "gelu",
        Gelu::Tanh => "gelu_pytorch_tanh",
    };
    let mut text_config = json!({
        "model_type": "clip_text_model",
        "vocab_size": text.vocabulary,
        "max_position_embeddings": text.positions,
        "hidden_size": text.stack.width,
        "intermediate_size": text.stack.mlp,
        "num_hidden_layers": text.stack.layers,
        "num_attention_heads": text.stack.heads,
        "hidden_act": act(text.stack.gelu),
        "layer_norm_eps": decimal(text.stack.eps),
        "projection_dim": text.dim,
    });
    // transformers looks for the end-of-text token by its id; 2 makes it take the largest id, as CLIP did
    text_config["eos_token_id"] = special.eos.unwrap_or(2).into();
    for (key, id) in [("bos_token_id", special.bos), ("pad_token_id", special.pad)] {
        if let Some(id) = id {
            text_config[key] = id.into();
        }
    }
    json!({
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": vision.dim,
        "logit_scale_init_value": 2.6592,
        "torch_dtype": dtype,
        "text_config": text_config,
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch,
            "num_channels": 3,
            "hidden_size": vision.stack.width,
            "intermediate_size": vision.stack.mlp,
            "num_hidden_layers": vision.stack.layers,
            "num_attention_heads": vision.stack.heads,
            "hidden_act": act(vision.stack.gelu),
            "layer_norm_eps": decimal(vision.stack.eps),
            "projection_dim": vision.dim,
        },
    })
}

/// `preprocessor_config.json` of transformers; otherwise what it has no word for.
pub(super) fn processor(preprocess: &Preprocess) -> Result<Value, String> {
    let size = preprocess.size;
    let edge = match preprocess.resize {
        ResizeMode::Shortest => size,
        ResizeMode::ShortestThenCrop { resize_to } => resize_to,
        other => return Err(format!("preprocessing by {other:?}").to_lowercase()),
    };
    Ok(json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "shortest_edge": edge },
        "resample": match preprocess.filter {
            Filter::Bilinear => 2,
            Filter::Bicubic => 3,
            other => return Err(format!("the filter {other:?}").to_lowercase()),
        },
        "do_center_crop": true,
        "crop_size": { "height": size, "width": size },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": preprocess.mean.map(decimal),
        "image_std": preprocess.std.map(decimal),
    }))
}

/// `open_clip_config.json`; otherwise what it has no word for.
pub(super) fn open_clip(vision: &VitConfig, text: &ClipTextConfig, preprocess: &Preprocess) -> Result<Value, String> {
    if vision.stack.gelu != text.stack.gelu {
        return Err("two towers with different activations".into());
    }
    for stack in [&vision.stack, &text.stack] {
        if stack.gelu == Gelu::Tanh || stack.eps != EPS {
            return Err(format!("blocks with {:?} and an epsilon of {}", stack.gelu, stack.eps).to_lowercase());
        }
    }
    let ratio = |mlp: usize, width: usize| mlp as f64 / width as f64;
    for (mlp, width) in [
        (vision.stack.mlp, vision.stack.width),
        (text.stack.mlp, text.stack.width),
    ] {
        if (ratio(mlp, width) * width as f64) as usize != mlp {
            return Err(format!("a feed-forward part of {mlp} beside a width of {width}"));
        }
    }
    let (resize_mode, fill) = match preprocess.resize {
        ResizeMode::Shortest => ("shortest", [0; 3]),
        ResizeMode::Squash => ("squash", [0; 3]),
        ResizeMode::Longest { fill } => ("longest", fill),
        other => return Err(format!("preprocessing by {other:?}").to_lowercase()),
    };
    let interpolation = match preprocess.filter {
        Filter::Bilinear => "bilinear",
        Filter::Bicubic => "bicubic",
        other => return Err(format!("the filter {other:?}").to_lowercase()),
    };
    let fill: Value = if fill[0] == fill[1] && fill[1] == fill[2] {
        fill[0].into()
    } else {
        json!(fill)
    };
    Ok(json!({
        "model_cfg": {
            "embed_dim": vision.dim,
            "quick_gelu": vision.stack.gelu == Gelu::Quick,
            "vision_cfg": {
                "image_size": vision.image_size,
                "patch_size": vision.patch,
                "width": vision.stack.width,
                "layers": vision.stack.layers,
                "head_width": vision.stack.width / vision.stack.heads,
                "mlp_ratio": ratio(vision.stack.mlp, vision.stack.width),
            },
            "text_cfg": {
                "context_length": text.positions,
                "vocab_size": text.vocabulary,
                "width": text.stack.width,
                "heads": text.stack.heads,
                "layers": text.stack.layers,
                "mlp_ratio": ratio(text.stack.mlp, text.stack.width),
            },
        },
        "preprocess_cfg": {
            "size": preprocess.size,
            "mode": "RGB",
            "mean": preprocess.mean.map(decimal),
            "std": preprocess.std.map(decimal),
            "interpolation": interpolation,
            "resize_mode": resize_mode,
            "fill_color": fill,
        },
    }))
}

/// The shortest decimal that is this f32: 0.48145466 and not 0.4814546704292297.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
