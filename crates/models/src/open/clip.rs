//! Sizes of CLIP's towers from the settings that transformers and open_clip write.

use std::path::Path;

use bifocal_data::Preprocess;
use bifocal_data::transform::CropRounding;

use super::OpenError;
use super::preprocess::{self, small};
use super::settings::Settings;
use crate::blocks::{Gelu, StackConfig};
use crate::text::ClipTextConfig;
use crate::vision::ClipVitConfig;

/// `config.json` of transformers' CLIP: both towers, or one of them by itself.
pub(super) struct HuggingFace {
    settings: Settings,
    nested: bool,
    dim: Option<usize>,
}

impl HuggingFace {
    /// `model_type` was read already.
    pub fn new(mut settings: Settings, model_type: &str) -> Result<Self, OpenError> {
        let nested = model_type == "clip";
        let dim = settings.take("projection_dim")?;
        Ok(Self { settings, nested, dim })
    }

    pub fn vision(mut self) -> Result<ClipVitConfig, OpenError> {
        let mut s = self.tower("vision_config")?;
        Ok(ClipVitConfig {
            image_size: s.take("image_size")?.unwrap_or(224),
            patch: s.take("patch_size")?.unwrap_or(32),
            dim: self.dim.unwrap_or(512),
            stack: stack(&mut s, 768, 3072, 12)?,
        })
    }

    pub fn text(mut self) -> Result<ClipTextConfig, OpenError> {
        let mut s = self.tower("text_config")?;
        Ok(ClipTextConfig {
            vocabulary: s.take("vocab_size")?.unwrap_or(49408),
            positions: s.take("max_position_embeddings")?.unwrap_or(77),
            dim: self.dim.unwrap_or(512),
            stack: stack(&mut s, 512, 2048, 8)?,
        })
    }

    /// Settings that are missing have transformers' defaults.
    fn tower(&mut self, key: &str) -> Result<Settings, OpenError> {
        if self.nested {
            return self.settings.object(key);
        }
        let path = self.settings.path().to_owned();
        Ok(std::mem::replace(&mut self.settings, Settings::empty(&path)))
    }
}

fn stack(s: &mut Settings, width: usize, mlp: usize, heads: usize) -> Result<StackConfig, OpenError> {
    s.only("layer_norm_eps", 1e-5)?;
    let act: Option<String> = s.take("hidden_act")?;
    let gelu = match act.as_deref() {
        None | Some("quick_gelu") => Gelu::Quick,
        Some("gelu") => Gelu::Erf,
        Some(other) => {
            let what = format!("\"hidden_act\": \"{other}\"");
            return Err(OpenError::unsupported(
                s.path(),
                what,
                "take a model with quick_gelu or gelu",
            ));
        }
    };
    Ok(StackConfig {
        width: s.take("hidden_size")?.unwrap_or(width),
        layers: s.take("num_hidden_layers")?.unwrap_or(12),
        heads: s.take("num_attention_heads")?.unwrap_or(heads),
        mlp: s.take("intermediate_size")?.unwrap_or(mlp),
        gelu,
    })
}

/// `open_clip_config.json`.
pub(super) struct OpenClip {
    model: Settings,
    preprocess: Settings,
    dim: usize,
    gelu: Gelu,
}

impl OpenClip {
    pub fn new(mut settings: Settings) -> Result<Self, OpenError> {
        let mut model = settings.object("model_cfg")?;
        let quick = model.take("quick_gelu")?.unwrap_or(false);
        Ok(Self {
            dim: model.require("embed_dim")?,
            gelu: if quick { Gelu::Quick } else { Gelu::Erf },
            preprocess: settings.object("preprocess_cfg")?,
            model,
        })
    }

    pub fn vision(&mut self) -> Result<ClipVitConfig, OpenError> {
        let mut s = self.model.object("vision_cfg")?;
        let width = s.take("width")?.unwrap_or(768);
        let head_width: usize = s.take("head_width")?.unwrap_or(64);
        if head_width == 0 {
            return Err(OpenError::malformed(s.path(), "\"head_width\" is 0"));
        }
        let config = ClipVitConfig {
            image_size: s.take("image_size")?.unwrap_or(224),
            patch: s.take("patch_size")?.unwrap_or(16),
            dim: self.dim,
            stack: self.stack(&mut s, width, width / head_width)?,
        };
        s.only("pool_type", "tok".to_owned())?;
        s.only("patch_dropout", 0.0)?;
        s.refuse_rest(&["timm_pool", "timm_proj"])?;
        Ok(config)
    }

    pub fn text(&mut self) -> Result<ClipTextConfig, OpenError> {
        let mut s = self.model.object("text_cfg")?;
        let width = s.take("width")?.unwrap_or(512);
        let heads = s.take("heads")?.unwrap_or(8);
        let config = ClipTextConfig {
            vocabulary: s.take("vocab_size")?.unwrap_or(49408),
            positions: s.take("context_length")?.unwrap_or(77),
            dim: self.dim,
            stack: self.stack(&mut s, width, heads)?,
        };
        s.only("pool_type", "argmax".to_owned())?;
        s.only("proj_type", "linear".to_owned())?;
        s.refuse_rest(&["hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id"])?;
        Ok(config)
    }

    fn stack(&self, s: &mut Settings, width: usize, heads: usize) -> Result<StackConfig, OpenError> {
        let ratio: f64 = s.take("mlp_ratio")?.unwrap_or(4.0);
        Ok(StackConfig {
            width,
            layers: s.take("layers")?.unwrap_or(12),
            heads,
            // saturates; sizes are checked when weights are loaded
            mlp: (width as f64 * ratio) as usize,
            gelu: self.gelu,
        })
    }

    pub fn preprocess(self, side: usize) -> Result<Preprocess, OpenError> {
        preprocess::open_clip(self.preprocess, side)
    }
}

/// CLIP's preprocessing; its own when the folder says nothing.
pub(super) fn hugging_face_preprocess(folder: &Path, side: usize) -> Result<Preprocess, OpenError> {
    let base = Preprocess {
        crop_rounding: CropRounding::Floor,
        ..Preprocess::clip(small(side, &Settings::empty(folder))?)
    };
    preprocess::fits(preprocess::hugging_face(folder, base, true)?, folder, side)
}
