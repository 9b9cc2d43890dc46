//! From a recipe to the parts that learn: towers from scratch, adapters, heads.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use bifocal_data::Preprocess;
use bifocal_models::adapter::{Head, HeadConfig};
use bifocal_models::bundle::{TextSide, VisionSide};
use bifocal_models::connector::flamingo::FlamingoConfig;
use bifocal_models::connector::qformer::QFormerConfig;
use bifocal_models::open::{TextEncoder, TextOptions, VisionEncoder};
use bifocal_models::text::TextTower;
use bifocal_models::towers::Towers;
use bifocal_models::unified::{Drawing, look_width};
use bifocal_models::vision::{CodeOptions, VisionTower, Vit, VitConfig, VitFamily};
use bifocal_models::vq::Codec;
use bifocal_models::{Gelu, StackConfig};
use bifocal_nn::init::Rng;
use bifocal_nn::lora;
use bifocal_nn::params::{self, ParamInfo};

use super::TrainError;
use super::plan::{Plan, matches};
use super::setup::{MOST_CODES, find};
use crate::methods::Stage;
use crate::random::{INIT, mix};
use crate::recipe::{CodesSpec, HeadKind, HeadSpec, LoraSpec, LossKind, NewFamily, NewVision, Recipe, RecipeError};

/// A vision transformer that has learnt nothing.
pub(super) fn from_scratch(new: &NewVision, seed: u64) -> VisionSide {
    let stack = |gelu| StackConfig::new(new.width, new.layers, new.heads, 4 * new.width, gelu);
    let config = |stack| VitConfig::clip(new.size, new.patch, new.width, stack);
    // the size was checked with the recipe
    let size = new.size as u32;
    let (config, preprocess) = match new.family {
        NewFamily::Clip => (config(stack(Gelu::Erf)), Preprocess::clip(size)),
        NewFamily::Siglip => {
            let stack = StackConfig {
                eps: 1e-6,
                ..stack(Gelu::Tanh)
            };
            let config = VitConfig {
                family: VitFamily::SigLip,
                ..config(stack)
            };
            (config, Preprocess::siglip(size))
        }
    };
    let tower = Vit::new(config, &mut Rng::new(mix(seed, INIT, 1 << 32))).without_projection();
    VisionSide {
        encoder: VisionEncoder {
            fingerprint: blake3::hash(format!("{new:?} {seed}").as_bytes()).to_hex().to_string(),
            tower: VisionTower::Vit(tower),
            preprocess,
            name: "a new vision transformer".to_owned(),
        },
        head: None,
        log_scale: None,
    }
}

/// The tower of a vision side as the token encoder of a TokLIP (see [`Vit::on_codes`]).
pub(super) fn on_codes(side: VisionSide, spec: &CodesSpec, seed: u64) -> Result<VisionSide, TrainError> {
    let refuse = |message: String| {
        TrainError::Recipe(RecipeError::Value {
            key: "vision.codes.model",
            message,
        })
    };
    let path = find("vision.codes.model", &spec.model)?.path;
    let codec = Codec::open(&path).map_err(|error| refuse(error.to_string()))?;
    let VisionEncoder {
        tower,
        preprocess,
        fingerprint,
        name,
    } = side.encoder;
    let VisionTower::Vit(tower) = tower else {
        return Err(refuse(format!(
            "{name} is no vision transformer, which a token encoder begins as; take a SigLIP"
        )));
    };
    let options = CodeOptions {
        bidirectional: spec.bidirectional,
        lookup: spec.lookup,
    };
    let about = format!("{fingerprint} {} {options:?} {seed}", codec.fingerprint());
    let mut rng = Rng::new(mix(seed, INIT, (1 << 32) + 3));
    let tower = tower.on_codes(Arc::new(codec), options, &mut rng);
    let tower = tower.map_err(|error| refuse(format!("{name}: {error}")))?;
    // towers are limited to far less
    let size = tower.config().image_size as u32;
    let encoder = VisionEncoder {
        preprocess: Preprocess {
            // autoencoders read values in −1…1, whatever the tower did
            mean: [0.5; 3],
            std: [0.5; 3],
            ..preprocess
        },
        tower: VisionTower::Vit(tower),
        fingerprint: blake3::hash(about.as_bytes()).to_hex().to_string(),
        name,
    };
    let encoder = encoder.with_image_size(size);
    Ok(VisionSide {
        encoder: encoder.map_err(|error| refuse(error.to_string()))?,
        ..side
    })
}

/// The vision tower of a recipe as one that leaves patches out in training.
pub(super) fn leaves_out(encoder: &VisionEncoder, share: f64) -> Result<VisionTower, TrainError> {
    encoder.tower.clone().with_patch_dropout(share).ok_or_else(|| {
        TrainError::Recipe(RecipeError::Value {
            key: "vision.patch_dropout",
            message: format!(
                "{} is no vision transformer over patches of pixels, so that there are none to leave out; set it to 0, or name a CLIP, SigLIP, DINOv2 or EVA02",
                encoder.name
            ),
        })
    })
}

/// Refuses a share of patches to leave out that no stage would make use of.
pub(super) fn check_patch_dropout<'a>(
    recipe: &Recipe,
    mut stages: impl Iterator<Item = (&'a Stage, &'a Plan)>,
) -> Result<(), TrainError> {
    let learns = |(stage, plan): (&Stage, &Plan)| stage.needs.images && plan.learns_below("vision.");
    if recipe.vision.patch_dropout == 0.0 || stages.any(learns) {
        return Ok(());
    }
    Err(TrainError::Recipe(RecipeError::Value {
        key: "vision.patch_dropout",
        message: "the vision tower learns in no stage: it reads each picture once, all of it, so that nothing would be left out; set it to 0, or let vision.* learn"
            .to_owned(),
    }))
}

/// The tower of a text side as if it had learnt nothing.
pub(super) fn untrained(text: &TextSide, seed: u64) -> Result<TextTower, TrainError> {
    let tower = text
        .encoder
        .tower
        .untrained(&mut Rng::new(mix(seed, INIT, (1 << 32) + 1)));
    tower.ok_or_else(|| {
        TrainError::Recipe(RecipeError::Value {
            key: "text.from_scratch",
            message: format!(
                "{} is a language model, which is not trained from nothing here; name a CLIP, SigLIP or BERT",
                text.encoder.name
            ),
        })
    })
}

pub(super) fn text_options(recipe: &Recipe, writes: bool) -> TextOptions {
    TextOptions {
        writes,
        pooling: recipe.text.pooling,
        attention: recipe.text.attention,
        layer: recipe.text.layer,
        prompt: recipe.text.prompt_name.clone(),
    }
}

/// Contradictions between a stage and what learns in it.
pub(super) fn check_stage(stage: &Stage, recipe: &Recipe, plan: &Plan) -> Result<(), TrainError> {
    let refuse = |key: &'static str, message: &str| {
        Err(TrainError::Recipe(RecipeError::Value {
            key,
            message: message.to_owned(),
        }))
    };
    if stage.needs.draws() && plan.learns_below("vision.") {
        return refuse(
            "freeze",
            "what is read of pictures is computed once, and codes have to mean the same while they are learnt; freeze vision.*",
        );
    }
    if let Some((_, cache)) = stage.needs.patches() {
        if plan.learns_below("vision.") && cache {
            return refuse(
                "chat.cache",
                "patches of pictures change while the vision tower learns; set it to false, or freeze vision.*",
            );
        }
        if recipe.vision.patch_dropout > 0.0 {
            return refuse(
                "vision.patch_dropout",
                "a connector reads all patches of a picture, in their places; set it to 0",
            );
        }
        if recipe.image_head.standardize_input || recipe.text_head.standardize_input {
            return refuse(
                "image_head.standardize_input",
                "a connector reads patches as they are; set it to false",
            );
        }
        return Ok(());
    }
    if stage.needs.images && recipe.image_head.kind == HeadKind::Patches && !plan.learns_below("vision.") {
        return refuse(
            "image_head.kind",
            "features of a frozen tower are one vector a picture, not its patches; let vision.* learn or take another head",
        );
    }
    if recipe.vision.codes.is_some() && stage.needs.images && !plan.learns_below("vision.") {
        return refuse(
            "vision.codes",
            "the layers between codes and tower have learnt nothing; give them a stage in which vision.patches.* learns",
        );
    }
    if recipe.vision.new.is_some() && stage.needs.images && !plan.learns_below("vision.") {
        return refuse(
            "vision.new",
            "a tower from scratch that does not learn sees nothing; give it a stage in which vision.* learns",
        );
    }
    if recipe.text.from_scratch && !plan.learns_below("text.") {
        return refuse(
            "text.from_scratch",
            "a tower from scratch that does not learn says nothing; give it a stage in which text.* learns",
        );
    }
    if stage.needs.queries.is_some() && !plan.learns_below("text.") {
        return refuse(
            "lora.rank",
            "the text tower has nothing to learn in this stage; set lora.rank, or skip the stage",
        );
    }
    Ok(())
}

/// Adds small matrices beside the layers that a stage names.
pub(super) fn attach(
    spec: &LoraSpec,
    vision: &mut VisionSide,
    text: &mut TextSide,
    seed: u64,
) -> Result<(), TrainError> {
    if spec.rank == 0 {
        return Ok(());
    }
    let config = lora::LoraConfig {
        rank: spec.rank,
        alpha: spec.alpha,
        dropout: spec.dropout,
    };
    let reached = RefCell::new(BTreeSet::new());
    let wanted = |prefix: &str, name: &str| {
        let name = format!("{prefix}.{name}");
        let found = spec.targets.iter().filter(|pattern| matches(pattern, &name));
        let found: Vec<String> = found.cloned().collect();
        let any = !found.is_empty();
        reached.borrow_mut().extend(found);
        any
    };
    let failed = |error: lora::LoraError| RecipeError::Value {
        key: "lora",
        message: error.to_string(),
    };
    let tower = vision.encoder.tower.clone();
    (vision.encoder.tower, _) = lora::attach(tower, &config, |name| wanted("vision", name), seed).map_err(failed)?;
    let tower = text.encoder.tower.clone();
    (text.encoder.tower, _) = lora::attach(tower, &config, |name| wanted("text", name), seed ^ 1).map_err(failed)?;
    let reached = reached.into_inner();
    match spec.targets.iter().find(|pattern| !reached.contains(*pattern)) {
        None => Ok(()),
        Some(pattern) => Err(RecipeError::Value {
            key: "lora.targets",
            message: format!("{pattern:?} matches no linear layer; names are like text.blocks.0.qkv"),
        }
        .into()),
    }
}

/// Sizes of a tower of codes, for a language model that draws.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodesSeen {
    /// Codes that there are.
    pub codes: usize,
    /// Width of what is read of each.
    pub look: usize,
}

/// The tower of codes that a language model draws by.
pub(super) fn token_encoder(encoder: &VisionEncoder) -> Result<CodesSeen, TrainError> {
    let refuse = |what: &str| {
        TrainError::Recipe(RecipeError::Value {
            key: "vision.model",
            message: format!("{} {what}; name a TokLIP (recipes/toklip.toml)", encoder.name),
        })
    };
    let tower = encoder.tower.token_encoder();
    let tower = tower.ok_or_else(|| refuse("reads pixels, and pictures are drawn in codes"))?;
    if !tower.config().causal() {
        return Err(refuse(
            "sees all codes at once, so that what it makes of the first cannot be known while others are to come",
        ));
    }
    let sizes = tower.codec().and_then(|codec| codec.codes()).zip(look_width(tower));
    let (codes, look) = sizes.ok_or_else(|| refuse("has no codes"))?;
    if codes > MOST_CODES {
        return Err(refuse("has more codes than are kept exactly"));
    }
    Ok(CodesSeen { codes, look })
}

/// Heads and temperature, without towers, and how the heads are built.
pub(super) fn heads(
    recipe: &Recipe,
    vision: &mut VisionSide,
    text: &mut TextSide,
    talks: bool,
    trunk: Option<&TextEncoder>,
    draws: Option<CodesSeen>,
) -> Result<(Towers, HeadConfig, HeadConfig), TrainError> {
    let width = text.encoder.tower.dim();
    if talks && (!matches!(text.encoder.tower, TextTower::Llm(_)) || recipe.embed_dim != width) {
        let message = match &text.encoder.tower {
            TextTower::Llm(_) => format!(
                "rows of a connector are as wide as {}'s tokens; set it to {width}",
                text.encoder.name
            ),
            _ => format!("{} is no language model; name one as text.model", text.encoder.name),
        };
        return Err(RecipeError::Value {
            key: "embed_dim",
            message,
        }
        .into());
    }
    let build = |spec: &HeadSpec, given: Option<(Head, HeadConfig)>, input: usize, which: u64| {
        if let Some((head, config)) = given.filter(|_| spec.pretrained) {
            if head.dim() != recipe.embed_dim {
                return Err(TrainError::from(RecipeError::Value {
                    key: "embed_dim",
                    message: format!("the pretrained head gives {} values; set it to that", head.dim()),
                }));
            }
            return Ok((head, config));
        }
        let config = spec.config(recipe.embed_dim);
        let head = config.build(input, &mut Rng::new(mix(recipe.seed, INIT, which)))?;
        Ok((head, config))
    };
    let tower = &vision.encoder.tower;
    let seen = match recipe.image_head.kind {
        _ if draws.is_some() => draws.map_or(0, |seen| seen.look),
        _ if talks => tower.patch_width().unwrap_or_else(|| tower.dim()),
        HeadKind::Patches => tower.patch_width().unwrap_or_else(|| tower.dim()),
        _ => tower.dim(),
    };
    let (image, image_config) = match trunk {
        Some(trunk) => qformer(recipe, trunk, seen)?,
        None if recipe.image_head.kind == HeadKind::Flamingo => flamingo(recipe, &text.encoder, seen)?,
        None => build(&recipe.image_head, vision.head.take(), seen, 0)?,
    };
    let (text, text_config) = build(&recipe.text_head, text.head.take(), text.encoder.tower.dim(), 1)?;
    let bias = (recipe.loss.kind == LossKind::Sigmoid).then_some(recipe.loss.bias_init);
    let scale = vision.log_scale.filter(|_| recipe.loss.scale_pretrained);
    let scale = scale.unwrap_or_else(|| recipe.loss.scale_init.ln());
    let mut towers = Towers::new(None, None, image, text, scale, bias);
    towers.drawing =
        draws.map(|seen| Drawing::new(width, seen.codes, &mut Rng::new(mix(recipe.seed, INIT, (1 << 32) + 4))));
    Ok((towers, image_config, text_config))
}

/// A Q-Former that begins as a BERT, for patches of so many values.
fn qformer(recipe: &Recipe, trunk: &TextEncoder, patch: usize) -> Result<(Head, HeadConfig), TrainError> {
    let refuse = |key, message| Err(RecipeError::Value { key, message }.into());
    let TextTower::Bert(bert) = &trunk.tower else {
        let message = format!("a Q-Former begins as a BERT, and {} is none", trunk.name);
        return refuse("qformer.trunk", message);
    };
    let spec = &recipe.qformer;
    if spec.max_tokens > bert.config().positions {
        let message = format!(
            "the trunk has positions for {} tokens; set it to that at most",
            bert.config().positions
        );
        return refuse("qformer.max_tokens", message);
    }
    let config = HeadConfig {
        qformer: Some(QFormerConfig::over(
            bert.config(),
            spec.queries,
            spec.cross_every,
            patch,
            spec.dim,
        )),
        ..recipe.image_head.config(recipe.embed_dim)
    };
    match config.build(patch, &mut Rng::new(mix(recipe.seed, INIT, 0)))? {
        Head::QFormer(head) => Ok((Head::QFormer(head.with(|qformer| qformer.over(bert))), config)),
        _ => unreachable!("the kind was asked for"),
    }
}

/// Resampler and gated layers between those of a language model, for patches of so many values.
fn flamingo(recipe: &Recipe, text: &TextEncoder, patch: usize) -> Result<(Head, HeadConfig), TrainError> {
    let spec = &recipe.flamingo;
    let TextTower::Llm(llm) = &text.tower else {
        let message = format!("{} is no language model; name one", text.name);
        return Err(RecipeError::Value {
            key: "text.model",
            message,
        }
        .into());
    };
    let layers = llm.config().layers;
    if spec.every > layers {
        let message = format!("{} has {layers} layers; set it to that at most", text.name);
        return Err(RecipeError::Value {
            key: "flamingo.every",
            message,
        }
        .into());
    }
    let config = HeadConfig {
        flamingo: Some(FlamingoConfig {
            image_width: patch,
            latents: spec.latents,
            layers: spec.layers,
            heads: spec.heads,
            head: spec.head,
            every: spec.every,
            text_layers: layers,
        }),
        ..recipe.image_head.config(recipe.embed_dim)
    };
    let head = config.build(patch, &mut Rng::new(mix(recipe.seed, INIT, 0)))?;
    Ok((head, config))
}

/// Layers that a loss looks through, from the joint space into itself.
pub(super) fn projector(config: &HeadConfig, recipe: &Recipe) -> Result<Head, TrainError> {
    let config = HeadConfig {
        width: Some(recipe.embed_dim),
        ..config.clone()
    };
    Ok(config.build(recipe.embed_dim, &mut Rng::new(mix(recipe.seed, INIT, (1 << 32) + 2)))?)
}

/// Parameters of heads and towers under the names that they have when both towers are in place.
pub(super) fn all_params(towers: &Towers, vision: &VisionEncoder, text: &TextEncoder) -> Vec<ParamInfo> {
    let below = |prefix: &str, list: Vec<ParamInfo>| {
        let named = |info: ParamInfo| ParamInfo {
            name: format!("{prefix}.{}", info.name),
            ..info
        };
        list.into_iter().map(named).collect::<Vec<_>>()
    };
    let mut all = below("vision", params::list(&vision.tower));
    all.extend(below("text", params::list(&text.tower)));
    all.extend(params::list(towers));
    // statistics move, but not by gradients
    all.retain(|p| !p.name.contains(".running_"));
    all
}
