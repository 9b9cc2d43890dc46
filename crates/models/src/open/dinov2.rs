//! DINOv2 (Oquab et al. 2023), with and without registers (Darcet et al. 2023), as transformers writes it.

use std::path::Path;

use bifocal_data::{Filter, Preprocess};

use super::OpenError;
use super::preprocess;
use super::settings::Settings;
use crate::blocks::{Gelu, StackConfig};
use crate::vision::{VitConfig, VitFamily};

/// Value of `model_type`; the other one has registers.
pub(super) const PLAIN: &str = "dinov2";
pub(super) const REGISTERS: &str = "dinov2_with_registers";

/// The tower, and what it reads: pictures are usually smaller than its grid of positions, which transformers then resizes without being
/// asked. `model_type` was read already.
pub(super) fn vision(folder: &Path, mut s: Settings, kind: &str) -> Result<(VitConfig, Preprocess), OpenError> {
    let registers = kind == REGISTERS;
    s.only("num_channels", 3)?;
    s.only("qkv_bias", true)?;
    s.only("hidden_act", "gelu".to_owned())?;
    let width: usize = s.take("hidden_size")?.unwrap_or(768);
    let ratio: f64 = s.take("mlp_ratio")?.unwrap_or(4.0);
    let swiglu = s.take("use_swiglu_ffn")?.unwrap_or(false);
    // saturates; sizes are checked when weights are loaded
    let mlp = (width as f64 * ratio) as usize;
    // a gate costs a third more, so that the inner width is two thirds, rounded up to eights
    let mlp = if swiglu {
        (mlp / 3 * 2 + mlp % 3 * 2 / 3).saturating_add(7) / 8 * 8
    } else {
        mlp
    };
    let heads = s.take("num_attention_heads")?.unwrap_or(12);
    let stack = StackConfig {
        eps: s.take("layer_norm_eps")?.unwrap_or(1e-6),
        layer_scale: true,
        swiglu,
        ..StackConfig::new(width, s.take("num_hidden_layers")?.unwrap_or(12), heads, mlp, Gelu::Erf)
    };
    let patch = s.take("patch_size")?.unwrap_or(if registers { 16 } else { 14 });
    let tokens = if registers {
        s.take("num_register_tokens")?.unwrap_or(4)
    } else {
        0
    };
    if registers && tokens == 0 {
        return Err(OpenError::malformed(s.path(), "\"num_register_tokens\" is 0"));
    }
    let config = VitConfig {
        family: VitFamily::DinoV2,
        registers: tokens,
        antialias: registers,
        ..VitConfig::clip(s.take("image_size")?.unwrap_or(224), patch, width, stack)
    };
    let base = Preprocess::imagenet(224, 256, Filter::Bicubic);
    Ok((config, preprocess::hugging_face(folder, base, true)?))
}
