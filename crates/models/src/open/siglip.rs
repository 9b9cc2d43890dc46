//! SigLIP (Zhai et al. 2023) and SigLIP 2 of fixed size (Tschannen et al. 2025) as transformers writes them.

use std::path::Path;

use bifocal_data::Preprocess;

use super::clip::stack;
use super::preprocess::{self, small};
use super::settings::Settings;
use super::{OpenError, TextEncoder};
use crate::blocks::{Gelu, StackConfig};
use crate::text::{ClipTextConfig, TextFamily};
use crate::tokenizer::Tokenizer;
use crate::vision::{VitConfig, VitFamily};

/// Values of `model_type`: both towers, or one by itself.
pub(super) const BOTH: &str = "siglip";
pub(super) const VISION: &str = "siglip_vision_model";
pub(super) const NAFLEX: &str = "siglip2";
pub(super) const NAFLEX_VISION: &str = "siglip2_vision_model";

/// Whether there is a text tower; that of NaFlex is SigLIP's.
pub(super) fn is_text(kind: &str) -> bool {
    [BOTH, "siglip_text_model", NAFLEX, "siglip2_text_model"].contains(&kind)
}

/// Blocks of the base size, transformers' defaults.
pub(super) fn base() -> StackConfig {
    StackConfig {
        eps: 1e-6,
        ..StackConfig::new(768, 12, 12, 3072, Gelu::Tanh)
    }
}

/// The vision tower and what it reads; `model_type` was read already.
pub(super) fn vision(folder: &Path, mut s: Settings, kind: &str) -> Result<(VitConfig, Preprocess), OpenError> {
    if kind == BOTH {
        s = s.object("vision_config")?;
    }
    s.only("num_channels", 3)?;
    s.only("vision_use_head", true)?;
    let stack = stack(&mut s, base())?;
    let config = VitConfig {
        family: VitFamily::SigLip,
        ..VitConfig::clip(
            s.take("image_size")?.unwrap_or(224),
            s.take("patch_size")?.unwrap_or(16),
            stack.width,
            stack,
        )
    };
    let base = Preprocess::siglip(small(config.image_size, &s)?);
    let preprocess = preprocess::hugging_face(folder, base, false)?;
    let preprocess = preprocess::fits(preprocess, folder, config.image_size)?;
    Ok((config, preprocess))
}

/// The vision tower of SigLIP 2 NaFlex, which reads pictures of any proportions, and what it reads; `model_type` was read already.
pub(super) fn naflex(folder: &Path, mut s: Settings, kind: &str) -> Result<(VitConfig, Preprocess), OpenError> {
    if kind == NAFLEX {
        s = s.object("vision_config")?;
    }
    s.only("num_channels", 3)?;
    s.only("vision_use_head", true)?;
    let stack = stack(&mut s, base())?;
    let patch: usize = s.take("patch_size")?.unwrap_or(16);
    let positions: usize = s.take("num_patches")?.unwrap_or(256);
    let grid = positions.isqrt();
    if grid * grid != positions {
        let problem = format!("\"num_patches\": {positions} is not the area of a square");
        return Err(OpenError::malformed(s.path(), problem));
    }
    let config = VitConfig {
        family: VitFamily::NaFlex,
        ..VitConfig::clip(grid.saturating_mul(patch), patch, stack.width, stack)
    };
    let preprocess = preprocess::naflex(folder, small(patch, &s)?, small(config.image_size, &s)?)?;
    Ok((config, preprocess))
}

/// The text tower, and the token that pads texts if the settings say so; `model_type` was read already.
pub(super) fn text(mut s: Settings, kind: &str) -> Result<(ClipTextConfig, Option<u32>), OpenError> {
    if kind == BOTH || kind == NAFLEX {
        s = s.object("text_config")?;
    }
    let stack = stack(&mut s, base())?;
    let config = ClipTextConfig {
        family: TextFamily::SigLip,
        vocabulary: s.take("vocab_size")?.unwrap_or(32_000),
        positions: s.take("max_position_embeddings")?.unwrap_or(64),
        dim: s.take("projection_size")?.unwrap_or(stack.width),
        stack,
    };
    Ok((config, s.take("pad_token_id")?))
}

/// Makes an encoder prepare texts as SigLIP was trained on them: cleaned, and padded to the tower's full length. What pads is what the
/// tokenizer's own settings say, since those of the model are left at a default in SigLIP 2.
pub(super) fn padded(
    encoder: TextEncoder,
    positions: usize,
    pad: Option<u32>,
    clean: fn(Tokenizer) -> Tokenizer,
) -> Result<TextEncoder, OpenError> {
    let Some(pad) = encoder.tokenizer.special().pad.or(pad) else {
        let what = "a SigLIP text tower without a token that pads";
        let advice = "fetch the model's tokenizer_config.json, which names its pad_token";
        return Err(OpenError::unsupported(encoder.tokenizer.path(), what, advice));
    };
    Ok(TextEncoder {
        tokenizer: clean(encoder.tokenizer).padded(positions, pad)?,
        max_tokens: positions,
        ..encoder
    })
}
