//! CLIP in the layouts of transformers and open_clip.

use bifocal_data::{Preprocess, ResizeMode};
use serde_json::{Value, json};

use super::names::How::{Kernel, Same, Thirds, Transposed};
use super::names::{Row, Whose};
use super::settings::{merged, mlp_ratio, processor, stack};
use super::{Family, Pair};
use crate::blocks::{EPS, Gelu};
use crate::vision::VitConfig;

/// CLIP's vision transformer.
#[rustfmt::skip]
pub(super) const VISION: &[Row] = &[
    Row("patches.weight", ("vision_model.embeddings.patch_embedding.weight", Kernel), ("visual.conv1.weight", Kernel)),
    Row("class", ("vision_model.embeddings.class_embedding", Same), ("visual.class_embedding", Same)),
    Row("positions", ("vision_model.embeddings.position_embedding.weight", Same), ("visual.positional_embedding", Same)),
    Row("ln_pre.*", ("vision_model.pre_layrnorm.*", Same), ("visual.ln_pre.*", Same)), // so spelt in the files
    Row("blocks.{}.ln_1.*", ("vision_model.encoder.layers.{}.layer_norm1.*", Same), ("visual.transformer.resblocks.{}.ln_1.*", Same)),
    Row("blocks.{}.qkv.weight", ("vision_model.encoder.layers.{}.self_attn.?_proj.weight", Thirds), ("visual.transformer.resblocks.{}.attn.in_proj_weight", Same)),
    Row("blocks.{}.qkv.bias", ("vision_model.encoder.layers.{}.self_attn.?_proj.bias", Thirds), ("visual.transformer.resblocks.{}.attn.in_proj_bias", Same)),
    Row("blocks.{}.out.*", ("vision_model.encoder.layers.{}.self_attn.out_proj.*", Same), ("visual.transformer.resblocks.{}.attn.out_proj.*", Same)),
    Row("blocks.{}.ln_2.*", ("vision_model.encoder.layers.{}.layer_norm2.*", Same), ("visual.transformer.resblocks.{}.ln_2.*", Same)),
    Row("blocks.{}.fc.*", ("vision_model.encoder.layers.{}.mlp.fc1.*", Same), ("visual.transformer.resblocks.{}.mlp.c_fc.*", Same)),
    Row("blocks.{}.proj.*", ("vision_model.encoder.layers.{}.mlp.fc2.*", Same), ("visual.transformer.resblocks.{}.mlp.c_proj.*", Same)),
    Row("ln_post.*", ("vision_model.post_layernorm.*", Same), ("visual.ln_post.*", Same)),
    Row("proj.weight", ("visual_projection.weight", Same), ("visual.proj", Transposed)),
];

/// CLIP's text transformer.
#[rustfmt::skip]
const TEXT: &[Row] = &[
    Row("tokens.weight", ("text_model.embeddings.token_embedding.weight", Same), ("token_embedding.weight", Same)),
    Row("positions.weight", ("text_model.embeddings.position_embedding.weight", Same), ("positional_embedding", Same)),
    Row("blocks.{}.ln_1.*", ("text_model.encoder.layers.{}.layer_norm1.*", Same), ("transformer.resblocks.{}.ln_1.*", Same)),
    Row("blocks.{}.qkv.weight", ("text_model.encoder.layers.{}.self_attn.?_proj.weight", Thirds), ("transformer.resblocks.{}.attn.in_proj_weight", Same)),
    Row("blocks.{}.qkv.bias", ("text_model.encoder.layers.{}.self_attn.?_proj.bias", Thirds), ("transformer.resblocks.{}.attn.in_proj_bias", Same)),
    Row("blocks.{}.out.*", ("text_model.encoder.layers.{}.self_attn.out_proj.*", Same), ("transformer.resblocks.{}.attn.out_proj.*", Same)),
    Row("blocks.{}.ln_2.*", ("text_model.encoder.layers.{}.layer_norm2.*", Same), ("transformer.resblocks.{}.ln_2.*", Same)),
    Row("blocks.{}.fc.*", ("text_model.encoder.layers.{}.mlp.fc1.*", Same), ("transformer.resblocks.{}.mlp.c_fc.*", Same)),
    Row("blocks.{}.proj.*", ("text_model.encoder.layers.{}.mlp.fc2.*", Same), ("transformer.resblocks.{}.mlp.c_proj.*", Same)),
    Row("ln_final.*", ("text_model.final_layer_norm.*", Same), ("ln_final.*", Same)),
    Row("proj.weight", ("text_projection.weight", Same), ("text_projection", Transposed)),
];

pub(super) struct Clip;

impl Family for Clip {
    fn vision(&self) -> &'static [Row] {
        VISION
    }

    fn text(&self) -> &'static [Row] {
        TEXT
    }

    fn scalar(&self) -> &'static [usize] {
        &[]
    }

    fn bias(&self, bias: Option<f32>) -> Result<Option<f32>, String> {
        match bias {
            Some(_) => Err("a bias of similarities".into()),
            None => Ok(None),
        }
    }

    fn vision_settings(&self, vision: &VitConfig) -> (Value, &'static str) {
        let own = json!({
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch,
            "num_channels": 3,
            "projection_dim": vision.dim,
        });
        (merged(stack(&vision.stack), own), "CLIPVisionModelWithProjection")
    }

    fn settings(&self, pair: &Pair) -> Value {
        let text = pair.text;
        let special = pair.encoder.tokenizer.special();
        let mut text_config = merged(
            stack(&text.stack),
            json!({
                "model_type": "clip_text_model",
                "vocab_size": text.vocabulary,
                "max_position_embeddings": text.positions,
                "projection_dim": text.dim,
            }),
        );
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
            "projection_dim": pair.vision.dim,
            "logit_scale_init_value": 2.6592,
            "text_config": text_config,
            "vision_config": self.vision_settings(pair.vision).0,
        })
    }

    fn processor(&self, preprocess: &Preprocess) -> Result<Value, String> {
        let size = preprocess.size;
        let edge = match preprocess.resize {
            ResizeMode::Shortest => size,
            ResizeMode::ShortestThenCrop { resize_to } => resize_to,
            other => return Err(format!("preprocessing by {other:?}").to_lowercase()),
        };
        processor(
            preprocess,
            json!({
                "image_processor_type": "CLIPImageProcessor",
                "size": { "shortest_edge": edge },
                "do_center_crop": true,
                "crop_size": { "height": size, "width": size },
            }),
        )
    }

    fn model_cfg(&self, pair: &Pair) -> Result<Value, String> {
        let (vision, text) = (pair.vision, pair.text);
        if vision.stack.gelu != text.stack.gelu {
            return Err("two towers with different activations".into());
        }
        for stack in [&vision.stack, &text.stack] {
            if stack.gelu == Gelu::Tanh || stack.eps != EPS {
                return Err(format!("blocks with {:?} and an epsilon of {}", stack.gelu, stack.eps).to_lowercase());
            }
        }
        Ok(json!({
            "embed_dim": vision.dim,
            "quick_gelu": vision.stack.gelu == Gelu::Quick,
            "vision_cfg": {
                "image_size": vision.image_size,
                "patch_size": vision.patch,
                "width": vision.stack.width,
                "layers": vision.stack.layers,
                "head_width": vision.stack.width / vision.stack.heads,
                "mlp_ratio": mlp_ratio(&vision.stack)?,
            },
            "text_cfg": {
                "context_length": text.positions,
                "vocab_size": text.vocabulary,
                "width": text.stack.width,
                "heads": text.stack.heads,
                "layers": text.stack.layers,
                "mlp_ratio": mlp_ratio(&text.stack)?,
            },
        }))
    }

    fn notes(&self, pair: &Pair, whose: Whose) -> Vec<String> {
        let _ = pair;
        let crop = "an odd margin of a picture is cut as this layout's own preprocessing does, which may move the crop by one pixel";
        let tokens = "open_clip uses CLIP's own tokenizer unless text_cfg names another (hf_tokenizer_name)";
        match whose {
            Whose::HuggingFace => vec![crop.into()],
            Whose::OpenClip => vec![crop.into(), tokens.into()],
        }
    }
}
