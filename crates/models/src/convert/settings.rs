//! What the settings files of all families have in common.

use bifocal_data::{Filter, Preprocess, ResizeMode};
use serde_json::{Value, json};

use crate::blocks::{Gelu, StackConfig};

/// The objects as one; `own` is the one that wins.
pub(super) fn merged(mut common: Value, own: Value) -> Value {
    if let (Some(common), Value::Object(own)) = (common.as_object_mut(), own) {
        common.extend(own);
    }
    common
}

/// The blocks of a tower in transformers.
pub(super) fn stack(stack: &StackConfig) -> Value {
    json!({
        "hidden_size": stack.width,
        "intermediate_size": stack.mlp,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.heads,
        "hidden_act": match stack.gelu {
            Gelu::Quick => "quick_gelu",
            Gelu::Erf => "gelu",
            Gelu::Tanh => "gelu_pytorch_tanh",
        },
        "layer_norm_eps": decimal(stack.eps),
    })
}

/// `preprocessor_config.json` of transformers with the steps that are a family's own; otherwise what it has no word for.
pub(super) fn processor(preprocess: &Preprocess, own: Value) -> Result<Value, String> {
    let common = json!({
        "do_convert_rgb": true,
        "do_resize": true,
        // Pillow's numbers
        "resample": match preprocess.filter {
            Filter::Bilinear => 2,
            Filter::Bicubic => 3,
            other => return Err(format!("the filter {other:?}").to_lowercase()),
        },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": preprocess.mean.map(decimal),
        "image_std": preprocess.std.map(decimal),
    });
    Ok(merged(common, own))
}

/// `preprocess_cfg` of open_clip; otherwise what it has no word for.
pub(super) fn preprocess_cfg(preprocess: &Preprocess) -> Result<Value, String> {
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
        "size": preprocess.size,
        "mode": "RGB",
        "mean": preprocess.mean.map(decimal),
        "std": preprocess.std.map(decimal),
        "interpolation": interpolation,
        "resize_mode": resize_mode,
        "fill_color": fill,
    }))
}

/// Width of the feed-forward part as open_clip says it, a multiple of the blocks' width.
pub(super) fn mlp_ratio(stack: &StackConfig) -> Result<f64, String> {
    let (mlp, width) = (stack.mlp, stack.width);
    let ratio = mlp as f64 / width as f64;
    if (ratio * width as f64) as usize != mlp {
        return Err(format!("a feed-forward part of {mlp} beside a width of {width}"));
    }
    Ok(ratio)
}

/// The shortest decimal that is this f32: 0.48145466 and not 0.4814546704292297.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}
