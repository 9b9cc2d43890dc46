//! SigLIP and SigLIP 2 of fixed size in the layouts of transformers and open_clip.

use bifocal_data::{Preprocess, ResizeMode};
use serde_json::{Value, json};

use super::names::How::{Batched, Kernel, QueryApart, Same, Thirds};
use super::names::{Row, Whose};
use super::settings::{decimal, merged, mlp_ratio, processor, stack};
use super::{Family, Pair};
use crate::blocks::Gelu;
use crate::open::timm;
use crate::vision::VitConfig;

/// SigLIP's vision transformer; open_clip's is timm's.
#[rustfmt::skip]
const VISION: &[Row] = &[
    Row("patches.weight", ("vision_model.embeddings.patch_embedding.weight", Kernel), ("visual.trunk.patch_embed.proj.weight", Kernel)),
    Row("patches.bias", ("vision_model.embeddings.patch_embedding.bias", Same), ("visual.trunk.patch_embed.proj.bias", Same)),
    Row("positions", ("vision_model.embeddings.position_embedding.weight", Same), ("visual.trunk.pos_embed", Batched)),
    Row("blocks.{}.ln_1.*", ("vision_model.encoder.layers.{}.layer_norm1.*", Same), ("visual.trunk.blocks.{}.norm1.*", Same)),
    Row("blocks.{}.qkv.*", ("vision_model.encoder.layers.{}.self_attn.?_proj.*", Thirds), ("visual.trunk.blocks.{}.attn.qkv.*", Same)),
    Row("blocks.{}.out.*", ("vision_model.encoder.layers.{}.self_attn.out_proj.*", Same), ("visual.trunk.blocks.{}.attn.proj.*", Same)),
    Row("blocks.{}.ln_2.*", ("vision_model.encoder.layers.{}.layer_norm2.*", Same), ("visual.trunk.blocks.{}.norm2.*", Same)),
    Row("blocks.{}.fc.*", ("vision_model.encoder.layers.{}.mlp.fc1.*", Same), ("visual.trunk.blocks.{}.mlp.fc1.*", Same)),
    Row("blocks.{}.proj.*", ("vision_model.encoder.layers.{}.mlp.fc2.*", Same), ("visual.trunk.blocks.{}.mlp.fc2.*", Same)),
    Row("ln_post.*", ("vision_model.post_layernorm.*", Same), ("visual.trunk.norm.*", Same)),
    Row("pool.probe", ("vision_model.head.probe", Batched), ("visual.trunk.attn_pool.latent", Batched)),
    Row("pool.qkv.weight", ("vision_model.head.attention.in_proj_weight", Same), ("visual.trunk.attn_pool.?.weight", QueryApart)),
    Row("pool.qkv.bias", ("vision_model.head.attention.in_proj_bias", Same), ("visual.trunk.attn_pool.?.bias", QueryApart)),
    Row("pool.out.*", ("vision_model.head.attention.out_proj.*", Same), ("visual.trunk.attn_pool.proj.*", Same)),
    Row("pool.norm.*", ("vision_model.head.layernorm.*", Same), ("visual.trunk.attn_pool.norm.*", Same)),
    Row("pool.fc.*", ("vision_model.head.mlp.fc1.*", Same), ("visual.trunk.attn_pool.mlp.fc1.*", Same)),
    Row("pool.proj.*", ("vision_model.head.mlp.fc2.*", Same), ("visual.trunk.attn_pool.mlp.fc2.*", Same)),
];

/// SigLIP's text transformer.
#[rustfmt::skip]
const TEXT: &[Row] = &[
    Row("tokens.weight", ("text_model.embeddings.token_embedding.weight", Same), ("text.token_embedding.weight", Same)),
    Row("positions.weight", ("text_model.embeddings.position_embedding.weight", Same), ("text.positional_embedding", Same)),
    Row("blocks.{}.ln_1.*", ("text_model.encoder.layers.{}.layer_norm1.*", Same), ("text.transformer.resblocks.{}.ln_1.*", Same)),
    Row("blocks.{}.qkv.weight", ("text_model.encoder.layers.{}.self_attn.?_proj.weight", Thirds), ("text.transformer.resblocks.{}.attn.in_proj_weight", Same)),
    Row("blocks.{}.qkv.bias", ("text_model.encoder.layers.{}.self_attn.?_proj.bias", Thirds), ("text.transformer.resblocks.{}.attn.in_proj_bias", Same)),
    Row("blocks.{}.out.*", ("text_model.encoder.layers.{}.self_attn.out_proj.*", Same), ("text.transformer.resblocks.{}.attn.out_proj.*", Same)),
    Row("blocks.{}.ln_2.*", ("text_model.encoder.layers.{}.layer_norm2.*", Same), ("text.transformer.resblocks.{}.ln_2.*", Same)),
    Row("blocks.{}.fc.*", ("text_model.encoder.layers.{}.mlp.fc1.*", Same), ("text.transformer.resblocks.{}.mlp.c_fc.*", Same)),
    Row("blocks.{}.proj.*", ("text_model.encoder.layers.{}.mlp.fc2.*", Same), ("text.transformer.resblocks.{}.mlp.c_proj.*", Same)),
    Row("ln_final.*", ("text_model.final_layer_norm.*", Same), ("text.ln_final.*", Same)),
    Row("proj.*", ("text_model.head.*", Same), ("text.text_projection.*", Same)),
];

pub(super) struct SigLip;

impl Family for SigLip {
    fn vision(&self) -> &'static [Row] {
        VISION
    }

    fn text(&self) -> &'static [Row] {
        TEXT
    }

    fn scalar(&self) -> &'static [usize] {
        &[1]
    }

    fn bias(&self, bias: Option<f32>) -> Result<Option<f32>, String> {
        Ok(Some(bias.unwrap_or(0.0)))
    }

    fn vision_settings(&self, vision: &VitConfig) -> (Value, &'static str) {
        let own = json!({
            "model_type": "siglip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch,
            "num_channels": 3,
            "vision_use_head": true,
        });
        (merged(stack(&vision.stack), own), "SiglipVisionModel")
    }

    fn settings(&self, pair: &Pair) -> Value {
        let text = pair.text;
        let tokenizer = &pair.encoder.tokenizer;
        let mut text_config = merged(
            stack(&text.stack),
            json!({
                "model_type": "siglip_text_model",
                "vocab_size": text.vocabulary,
                "max_position_embeddings": text.positions,
                "projection_size": text.dim,
            }),
        );
        let special = tokenizer.special();
        let ids = [
            ("bos_token_id", special.bos),
            ("eos_token_id", special.eos),
            ("pad_token_id", tokenizer.pads_with()),
        ];
        for (key, id) in ids {
            if let Some(id) = id {
                text_config[key] = id.into();
            }
        }
        json!({
            "architectures": ["SiglipModel"],
            "model_type": "siglip",
            "text_config": text_config,
            "vision_config": self.vision_settings(pair.vision).0,
        })
    }

    fn processor(&self, preprocess: &Preprocess) -> Result<Value, String> {
        if preprocess.resize != ResizeMode::Squash {
            return Err(format!("preprocessing by {:?}", preprocess.resize).to_lowercase());
        }
        let size = preprocess.size;
        processor(
            preprocess,
            json!({
                "image_processor_type": "SiglipImageProcessor",
                "size": { "height": size, "width": size },
            }),
        )
    }

    fn model_cfg(&self, pair: &Pair) -> Result<Value, String> {
        let (vision, text) = (pair.vision, pair.text);
        let Some((name, _)) = timm::siglip_name(vision) else {
            let (side, patch) = (vision.image_size, vision.patch);
            let stack = &vision.stack;
            return Err(format!(
                "a vision tower of {} blocks of width {} for {side} pixels in patches of {patch}, which is none of timm's",
                stack.layers, stack.width
            ));
        };
        let act_kwargs = match text.stack.gelu {
            Gelu::Erf => json!({}),
            Gelu::Tanh => json!({ "approximate": "tanh" }),
            Gelu::Quick => return Err("a text tower with QuickGELU beside SigLIP's pictures".into()),
        };
        if pair.encoder.tokenizer.special().pad.is_none() {
            return Err("a token that pads, which only config.json names; name it in tokenizer_config.json".into());
        }
        let mut model = json!({
            "embed_dim": vision.dim,
            "custom_text": true,
            "vision_cfg": {
                "image_size": vision.image_size,
                "timm_model_name": name,
                "timm_model_pretrained": false,
                "timm_pool": "map",
                "timm_proj": "none",
            },
            "text_cfg": {
                "context_length": text.positions,
                "vocab_size": text.vocabulary,
                // a folder has its tokenizer inside, and any name will do
                "hf_tokenizer_name": ".",
                "tokenizer_kwargs": { "clean": "canonicalize" },
                "width": text.stack.width,
                "heads": text.stack.heads,
                "layers": text.stack.layers,
                "mlp_ratio": mlp_ratio(&text.stack)?,
                "no_causal_mask": true,
                "proj_bias": true,
                "pool_type": "last",
                "norm_kwargs": { "eps": decimal(text.stack.eps) },
                "act_kwargs": act_kwargs,
            },
        });
        if let Some(bias) = pair.bias {
            model["init_logit_bias"] = decimal(bias).into();
        }
        Ok(model)
    }

    fn notes(&self, pair: &Pair, whose: Whose) -> Vec<String> {
        if whose == Whose::HuggingFace {
            return vec![
                "texts are written in lower case and keep their punctuation, which open_clip takes out".into(),
            ];
        }
        let mut notes = vec![
            "open_clip takes the punctuation out of texts before it reads them".to_owned(),
            "where the folder is published, its name belongs into hf_tokenizer_name of open_clip_config.json"
                .to_owned(),
        ];
        let own = pair.vision.stack.gelu;
        if let Some((name, theirs)) = timm::siglip_name(pair.vision).filter(|(_, gelu)| *gelu != own) {
            notes.push(
                format!(
                    "timm's {name} has GELU by {theirs:?}, this tower by {own:?}: pictures embed a little differently"
                )
                .to_lowercase(),
            );
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::super::names::renamed;
    use super::*;
    use crate::open::{TextOptions, open_text, open_vision};
    use crate::text::{ClipText, TextTower};
    use crate::vision::{VisionConfig, VisionTower, Vit};
    use crate::weights::{self, HostTensor, WeightsError, strict};

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    fn shapes(tensors: &BTreeMap<String, HostTensor>) -> Vec<(&str, usize)> {
        tensors.iter().map(|(name, t)| (name.as_str(), t.shape.len())).collect()
    }

    /// Under open_clip's names both towers are read again as they were, and the names are those that timm and open_clip write.
    #[test]
    fn open_clips_names_are_those_of_timm_and_open_clip() {
        let vision = open_vision(&fixture("siglip")).unwrap().tower;
        let text = open_text(&fixture("siglip"), &TextOptions::default()).unwrap().tower;
        let mut all = renamed(vision.tensors(), VISION, Whose::OpenClip).unwrap();
        all.extend(renamed(text.tensors(), TEXT, Whose::OpenClip).unwrap());
        let theirs = weights::open(&fixture("siglip-open-clip")).unwrap();
        let theirs = theirs.names().into_iter().map(|name| {
            let tensor = theirs.load(&name).unwrap();
            (name, tensor)
        });
        assert_eq!(shapes(&all), shapes(&theirs.collect()));
        let (VisionConfig::Vit(vit), TextTower::Clip(clip)) = (vision.config(), &text) else {
            panic!("not a SigLIP");
        };
        let (vit, clip) = strict(&all, &[], |source| {
            Ok::<_, WeightsError>((Vit::load(vit, source)?, ClipText::load(clip.config().clone(), source)?))
        })
        .unwrap();
        assert!(VisionTower::Vit(vit).tensors() == vision.tensors());
        assert!(TextTower::Clip(clip).tensors() == text.tensors());
    }
}
