//! Sizes of CLIP's towers from the settings that transformers and open_clip write.

use std::path::Path;

use bifocal_data::Preprocess;
use bifocal_data::transform::CropRounding;
use serde_json::Value;

use super::preprocess::{self, small, unknown};
use super::settings::Settings;
use super::{OpenError, timm};
use crate::blocks::{Gelu, StackConfig};
use crate::text::{ClipTextConfig, TextFamily};
use crate::vision::{ResNetConfig, VisionConfig, VitConfig};

/// The vision tower of transformers' CLIP and what it reads; `model_type` was read already.
pub(super) fn vision(folder: &Path, settings: Settings, kind: &str) -> Result<(VitConfig, Preprocess), OpenError> {
    let path = settings.path().to_owned();
    let config = HuggingFace::new(settings, kind)?.vision()?;
    let base = Preprocess {
        crop_rounding: CropRounding::Floor,
        ..Preprocess::clip(small(config.image_size, &Settings::empty(&path))?)
    };
    let preprocess = preprocess::hugging_face(folder, base, true)?;
    let preprocess = preprocess::fits(preprocess, folder, config.image_size)?;
    Ok((config, preprocess))
}

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

    pub fn vision(mut self) -> Result<VitConfig, OpenError> {
        let mut s = self.tower("vision_config")?;
        Ok(VitConfig::clip(
            s.take("image_size")?.unwrap_or(224),
            s.take("patch_size")?.unwrap_or(32),
            self.dim.unwrap_or(512),
            stack(&mut s, StackConfig::new(768, 12, 12, 3072, Gelu::Quick))?,
        ))
    }

    pub fn text(mut self) -> Result<ClipTextConfig, OpenError> {
        let mut s = self.tower("text_config")?;
        Ok(ClipTextConfig {
            family: TextFamily::Clip,
            vocabulary: s.take("vocab_size")?.unwrap_or(49408),
            positions: s.take("max_position_embeddings")?.unwrap_or(77),
            dim: self.dim.unwrap_or(512),
            stack: stack(&mut s, StackConfig::new(512, 12, 8, 2048, Gelu::Quick))?,
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

/// The blocks of a tower of CLIP or SigLIP in transformers; settings that are missing are as in `base`.
pub(super) fn stack(s: &mut Settings, base: StackConfig) -> Result<StackConfig, OpenError> {
    let act: Option<String> = s.take("hidden_act")?;
    let gelu = match act.as_deref() {
        None => base.gelu,
        Some("quick_gelu") => Gelu::Quick,
        Some("gelu") => Gelu::Erf,
        Some("gelu_pytorch_tanh" | "gelu_new") => Gelu::Tanh,
        Some(other) => {
            let what = format!("\"hidden_act\": \"{other}\"");
            let advice = "take a model with quick_gelu, gelu or gelu_pytorch_tanh";
            return Err(OpenError::unsupported(s.path(), what, advice));
        }
    };
    Ok(StackConfig {
        width: s.take("hidden_size")?.unwrap_or(base.width),
        layers: s.take("num_hidden_layers")?.unwrap_or(base.layers),
        heads: s.take("num_attention_heads")?.unwrap_or(base.heads),
        mlp: s.take("intermediate_size")?.unwrap_or(base.mlp),
        gelu,
        eps: s.take("layer_norm_eps")?.unwrap_or(base.eps),
        ..base
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

    /// The vision tower. The share of patches that its training left out, `patch_dropout`, changes nothing about what it is: here a recipe's
    /// `vision.patch_dropout` says what training leaves out.
    pub fn vision(&mut self) -> Result<VisionConfig, OpenError> {
        let mut s = self.model.object("vision_cfg")?;
        s.take::<f64>("patch_dropout")?;
        if let Some(name) = s.take::<String>("timm_model_name")? {
            return Ok(VisionConfig::Vit(timm::vision(&name, s, self.dim)?));
        }
        let head_width: usize = s.take("head_width")?.unwrap_or(64);
        if head_width == 0 {
            return Err(OpenError::malformed(s.path(), "\"head_width\" is 0"));
        }
        let layers: Option<Value> = s.take("layers")?;
        if layers.as_ref().is_some_and(Value::is_array) {
            return self.resnet(s, layers, head_width);
        }
        let layers = layers.and_then(|n| usize::try_from(n.as_u64()?).ok()).unwrap_or(12);
        let width = s.take("width")?.unwrap_or(768);
        let (side, patch) = (
            s.take("image_size")?.unwrap_or(224),
            s.take("patch_size")?.unwrap_or(16),
        );
        let stack = self.stack(&mut s, layers, width, width / head_width)?;
        let config = VitConfig {
            antialias: true,
            ..VitConfig::clip(side, patch, self.dim, stack)
        };
        s.only("pool_type", "tok".to_owned())?;
        s.refuse_rest(&["timm_pool", "timm_proj"])?;
        Ok(VisionConfig::Vit(config))
    }

    fn resnet(&self, mut s: Settings, layers: Option<Value>, head_width: usize) -> Result<VisionConfig, OpenError> {
        let layers = layers.and_then(|layers| serde_json::from_value(layers).ok());
        let Some(layers) = layers else {
            return Err(OpenError::malformed(
                s.path(),
                "\"layers\" is neither a number nor four",
            ));
        };
        let width: usize = s.take("width")?.unwrap_or(64);
        let config = ResNetConfig {
            image_size: s.take("image_size")?.unwrap_or(224),
            layers,
            width,
            heads: width.saturating_mul(32) / head_width,
            dim: self.dim,
        };
        s.refuse_rest(&[])?;
        Ok(VisionConfig::ResNet(config))
    }

    /// The text tower; SigLIP's is told by what it sees.
    pub fn text(&mut self) -> Result<ClipTextConfig, OpenError> {
        let mut s = self.model.object("text_cfg")?;
        let siglip = s.take("no_causal_mask")?.unwrap_or(false);
        let width = s.take("width")?.unwrap_or(512);
        let heads = s.take("heads")?.unwrap_or(8);
        let layers = s.take("layers")?.unwrap_or(12);
        let mut stack = self.stack(&mut s, layers, width, heads)?;
        if let Some(eps) = s.object("norm_kwargs")?.take("eps")? {
            stack.eps = eps;
        }
        let mut act = s.object("act_kwargs")?;
        match act.take::<String>("approximate")?.as_deref() {
            None | Some("none") => {}
            Some("tanh") => stack.gelu = Gelu::Tanh,
            Some(other) => return Err(unknown(&s, "approximate", other)),
        }
        act.refuse_rest(&[])?;
        let config = ClipTextConfig {
            family: if siglip { TextFamily::SigLip } else { TextFamily::Clip },
            vocabulary: s.take("vocab_size")?.unwrap_or(49408),
            positions: s.take("context_length")?.unwrap_or(77),
            dim: self.dim,
            stack,
        };
        if siglip {
            s.only("pool_type", "last".to_owned())?;
            s.only("proj_bias", true)?;
            let mut cleaning = s.object("tokenizer_kwargs")?;
            cleaning.only("clean", "canonicalize".to_owned())?;
            cleaning.refuse_rest(&[])?;
        }
        s.only("pool_type", "argmax".to_owned())?;
        s.only("proj_type", "linear".to_owned())?;
        s.refuse_rest(&["hf_tokenizer_name", "tokenizer_kwargs", "pad_id", "eos_id"])?;
        Ok(config)
    }

    fn stack(&self, s: &mut Settings, layers: usize, width: usize, heads: usize) -> Result<StackConfig, OpenError> {
        let ratio: f64 = s.take("mlp_ratio")?.unwrap_or(4.0);
        // saturates; sizes are checked when weights are loaded
        let mlp = (width as f64 * ratio) as usize;
        Ok(StackConfig::new(width, layers, heads, mlp, self.gelu))
    }

    pub fn preprocess(self, side: usize) -> Result<Preprocess, OpenError> {
        preprocess::open_clip(self.preprocess, side)
    }
}
