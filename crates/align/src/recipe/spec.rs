//! The parts of a recipe that say what learns, from what and towards what. Each field is a knob of the TOML file under the same name.

use serde::{Deserialize, Serialize};

use bifocal_data::{Augment, CaptionMix};
use bifocal_models::adapter::HeadConfig;
pub use bifocal_models::adapter::{HeadActivation, HeadKind};
use bifocal_models::text::{Attention, Pooling};

use super::{FreezeRule, OptimizerSpec, ScheduleSpec};

/// `[vision]`: the tower for pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VisionSpec {
    /// Folder or file of the pretrained tower, or a bundle; looked for as it stands, then in `$BIFOCAL_MODELS`.
    pub model: String,
    /// Whether a vision transformer keeps the projection at its end (LLM2CLIP trains a new one in its place).
    pub projection: bool,
    /// A vision transformer that begins from scratch, in place of `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<NewVision>,
    /// The tower reads a picture's codes in place of its patches (TokLIP): either of the two above, which has to be a SigLIP, is what the token encoder
    /// begins as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codes: Option<CodesSpec>,
    /// Decodes a JPEG at a half, a quarter or an eighth of its size, as long as its shorter side keeps this many pixels: quicker, and not the reference's pixels. The trained model
    /// goes on with it; without it, as the tower did before (see [`bifocal_data::Conventions::reduce_to`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce_to: Option<u32>,
    /// Share of a picture's patches that a vision transformer leaves out in training, drawn anew for each picture and step (FLIP, arXiv 2212.00794;
    /// open_clip's `patch_dropout`). The class token stays; the finished model, held-out pictures, teachers and cached features see all patches. 0: none.
    pub patch_dropout: f64,
}

/// `[vision.codes]`: whose codes, and how they are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodesSpec {
    /// The frozen autoencoder: a folder that `recipes/vq.toml` has written, or a file of LlamaGen's; looked for as it stands, then in
    /// `$BIFOCAL_MODELS`. The finished bundle holds a copy.
    pub model: String,
    /// Whether codes see all others, and not only those before them; such a tower cannot go on code by code.
    pub bidirectional: bool,
    /// Whether each code gets a vector that is learnt, in place of the one in the codebook.
    pub lookup: bool,
}

/// Which kind of vision transformer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewFamily {
    /// With a class token.
    #[default]
    Clip,
    /// Without one: attention pools the patches.
    Siglip,
}

/// `[vision.new]`: the sizes of a vision transformer with OpenAI's initial values; patches of ViT-B/16 unless told otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewVision {
    /// `clip` or `siglip`.
    pub family: NewFamily,
    /// Side of the square that it reads, in pixels.
    pub size: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Width of a token.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Heads of attention; they share the width.
    pub heads: usize,
}

impl Default for NewVision {
    fn default() -> Self {
        Self {
            family: NewFamily::Clip,
            size: 224,
            patch: 16,
            width: 768,
            layers: 12,
            heads: 12,
        }
    }
}

impl Default for VisionSpec {
    fn default() -> Self {
        Self {
            model: String::new(),
            projection: true,
            new: None,
            codes: None,
            reduce_to: None,
            patch_dropout: 0.0,
        }
    }
}

/// `[text]`: the tower for texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSpec {
    /// Folder or file of the pretrained tower; looked for as it stands, then in `$BIFOCAL_MODELS`.
    pub model: String,
    /// Whether the tower begins with initial values: then sizes and tokenizer are those of `model`, and none of its weights (CLIP, SigLIP, BERT).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub from_scratch: bool,
    /// How token vectors become one vector: `mean`, `last`, `cls`, `eos`. Without it, what the model was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// `causal` or `bidirectional`, for language models. Without it, what the model was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    /// The layer of a language model or BERT that is pooled, as transformers numbers `hidden_states`; later ones are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer: Option<usize>,
    /// The name of a prompt that comes with the tower (`config_sentence_transformers.json`), put before every text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
    /// A sentence with `{}` in which every text is put, in training and afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Sentences with `{}` that ask about a caption; in training each caption is put into all of them, afterwards texts are put into the first
    /// (FLAME). In place of `prompt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facets: Vec<String>,
}

/// `[teacher]`: a model whose embeddings are what a stage distils: of texts (ProCLIP), of pictures (TokLIP).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherSpec {
    /// Folder of a CLIP or a bundle. Without it, `vision.model`.
    pub model: String,
}

/// `[image_head]`, `[text_head]`: the layers that are trained between a tower and the embedding space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadSpec {
    /// `identity` (the tower's width must be `embed_dim`), `linear`, `glu` (SAIL), `residual` (the adaptor of LLM2CLIP), `mlp` (ShareLock, LIFT),
    /// `patches` (FLAME: an MLP over each patch) or, for a language model that talks, `qformer` (BLIP-2; `[qformer]`) or `flamingo` (`[flamingo]`).
    pub kind: HeadKind,
    /// Number of residual blocks (`residual` only; 4 in LLM2CLIP).
    pub blocks: usize,
    /// Number of linear layers (`mlp`, `patches`; 4 in ShareLock, 2 in LIFT).
    pub layers: usize,
    /// Inner width over input width (`glu`: 8 in SAIL; `residual`: 2 in LLM2CLIP; `mlp`: 1 in ShareLock, and 0 for `embed_dim` in LIFT).
    pub ratio: usize,
    /// Between the layers of an MLP: `gelu` or `relu`.
    pub activation: HeadActivation,
    /// Whether an MLP normalises over the batch before each activation (ShareLock).
    pub batch_norm: bool,
    /// Whether a linear head has a bias.
    pub bias: bool,
    /// Start from the head of the bundle that is `vision.model` or `text.model`; what this table says about its shape does not count then.
    pub pretrained: bool,
    /// Share of inner values that is dropped in training (`glu`, `residual`).
    pub dropout: f32,
    /// Share of the head's inputs that is dropped in training.
    pub input_dropout: f32,
    /// Whether rows are scaled to unit length before the head.
    pub normalize_input: bool,
    /// Whether each feature is shifted and scaled to mean 0 and variance 1 over the training data first (frozen towers only).
    pub standardize_input: bool,
    /// Standard deviation of Gaussian noise added to the head's inputs in training, in units of their root mean square.
    pub noise: f32,
}

impl HeadSpec {
    /// What the head itself is built from, for an embedding of this width.
    pub fn config(&self, embed_dim: usize) -> HeadConfig {
        HeadConfig {
            kind: self.kind,
            width: Some(embed_dim),
            blocks: self.blocks,
            layers: self.layers,
            ratio: self.ratio,
            activation: self.activation,
            batch_norm: self.batch_norm,
            dropout: self.dropout,
            normalize_input: self.normalize_input,
            bias: self.bias,
            qformer: None,
            flamingo: None,
        }
    }
}

impl Default for HeadSpec {
    fn default() -> Self {
        Self {
            kind: HeadKind::Linear,
            blocks: 4,
            layers: 2,
            ratio: 2,
            activation: HeadActivation::Gelu,
            batch_norm: false,
            bias: true,
            pretrained: false,
            dropout: 0.0,
            input_dropout: 0.0,
            normalize_input: false,
            standardize_input: false,
            noise: 0.0,
        }
    }
}

/// Which objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossKind {
    /// Symmetric softmax cross-entropy (CLIP).
    Infonce,
    /// Pairwise sigmoid (SigLIP, SAIL).
    Sigmoid,
    /// One minus the cosine of each pair, without negatives (LIFT).
    Cosine,
}

/// What the sum over all pairs of the sigmoid loss is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalizer {
    /// The number of pairs, images × texts (SAIL).
    Pairs,
    /// The number of images (SigLIP).
    Images,
    /// The number of texts (FLAME).
    Texts,
}

/// `[loss]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossSpec {
    /// `infonce`, `sigmoid` or `cosine`.
    pub kind: LossKind,
    /// What the similarities are multiplied by at the start (learnt as its logarithm).
    pub scale_init: f32,
    /// Whether the scale of `vision.model` is taken in place of `scale_init`, where it has one.
    pub scale_pretrained: bool,
    /// The scale never exceeds this after a step (100 in CLIP and SAIL); without it there is no limit above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_max: Option<f32>,
    /// What is added to the scaled similarities at the start (`sigmoid` only).
    pub bias_init: f32,
    /// Divisor of the sigmoid loss: `pairs`, `images` or `texts`.
    pub normalizer: Normalizer,
    /// Captions drawn per picture and step; all of them are positives of the picture.
    pub captions: usize,
    /// Texts drawn per picture and step from the group `negatives` of a source; they are candidates that no picture belongs to (`infonce`).
    pub negatives: usize,
    /// Share of each target that is spread evenly over all candidates (label smoothing, `infonce`).
    pub smoothing: f32,
}

impl Default for LossSpec {
    fn default() -> Self {
        Self {
            kind: LossKind::Infonce,
            scale_init: 1.0 / 0.07,
            scale_pretrained: false,
            scale_max: Some(100.0),
            bias_init: -10.0,
            normalizer: Normalizer::Images,
            captions: 1,
            negatives: 0,
            smoothing: 0.0,
        }
    }
}

/// How the difference of two distances counts (ProCLIP, eq. 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rho {
    /// Squared, as the paper writes it.
    Squared,
    /// Half the square below 1, linear above, as its code has it.
    SmoothL1,
}

/// `[distill]`: what ProCLIP adds to a contrastive loss, and what its first stage is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillSpec {
    /// `smooth-l1` or `squared`.
    pub rho: Rho,
    /// Weight of the alignment of instances in the first stage.
    pub instance: f32,
    /// Weight of the alignment of distances between instances in the first stage.
    pub structure: f32,
    /// Weight of the vision tower's regulariser beside the contrastive loss, for batches of 512; for others it is re-scaled so that the mean
    /// of its terms keeps its weight.
    pub lambda: f32,
    /// The teacher of the regulariser moves to the student by one minus this each step; 1: it stays as it was.
    pub ema: f32,
}

impl Default for DistillSpec {
    fn default() -> Self {
        Self {
            rho: Rho::SmoothL1,
            instance: 1.0,
            structure: 1.0,
            lambda: 4e-4,
            ema: 0.999,
        }
    }
}

/// What C-CLIP compares with what the model made of a batch before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsolidateKind {
    /// Picture and text of a pair as one vector (C-CLIP, eq. 5 to the letter).
    Pairs,
    /// Pictures and texts as rows of their own.
    Rows,
    /// How similar pictures and texts are to each other, as distributions (LwF).
    Similarities,
}

/// `[consolidate]`: what holds a model near its former self while it learns a task (C-CLIP, LwF).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsolidateSpec {
    /// `pairs`, `rows` or `similarities`.
    pub kind: ConsolidateKind,
    /// Weight beside the contrastive loss; 0: none.
    pub weight: f32,
    /// Cosines are divided by it (0.07 in C-CLIP); with `similarities` scaled ones are (2 is usual).
    pub temperature: f32,
    /// `pairs` and `rows`: layers over the model's rows, thrown away afterwards. The paper does not say which; the method's default is that of a
    /// reproduction.
    pub projector: HeadConfig,
}

impl Default for ConsolidateSpec {
    fn default() -> Self {
        Self {
            kind: ConsolidateKind::Pairs,
            weight: 1.0,
            temperature: 0.07,
            projector: HeadConfig::default(),
        }
    }
}

/// `[merge]`: how much of what the towers have learnt is in the finished model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MergeSpec {
    /// The weights of towers and pretrained heads are those before the run, plus this times what was added to them: 1 keeps all, C-CLIP half (WiSE-FT does
    /// so without LoRA).
    pub keep: f32,
    /// Whether what LoRA adds is taken with its factor alpha / rank; the paper can be read either way.
    pub scaled: bool,
    /// Every so many steps the weights enter an even average, which began with those before the run and is what the finished model has (the weight
    /// ensemble of ZSCL); 0: the model has the weights of the last step.
    pub average_every: u64,
}

impl Default for MergeSpec {
    fn default() -> Self {
        Self {
            keep: 1.0,
            scaled: true,
            average_every: 0,
        }
    }
}

/// `[caption]`: tuning a language model on captions of the same picture (LLM2CLIP, stage 1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionSpec {
    /// Put before the caption that asks, not before those that answer.
    pub instruction: String,
    /// What cosines are multiplied by.
    pub scale: f32,
    /// Captions of other pictures added as candidates, one for each picture.
    pub negatives: bool,
}

impl Default for CaptionSpec {
    fn default() -> Self {
        Self {
            instruction: "Given a caption, retrieve a similar relevant caption; ".to_owned(),
            scale: 50.0,
            negatives: true,
        }
    }
}

/// `[lora]`: small matrices that learn beside frozen layers (Hu et al. 2021).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSpec {
    /// Inner width; 0: none.
    pub rank: usize,
    /// The product of the two matrices is multiplied by this over the rank.
    pub alpha: f32,
    /// Share of inputs that is dropped in training.
    pub dropout: f32,
    /// Which linear layers, by name: `text.*`, `vision.blocks.*.qkv`.
    pub targets: Vec<String>,
}

impl Default for LoraSpec {
    fn default() -> Self {
        Self {
            rank: 0,
            alpha: 32.0,
            dropout: 0.0,
            targets: vec!["text.*".to_owned()],
        }
    }
}

/// Where pairs of picture and text come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// A folder with `captions.jsonl` and pictures.
    #[default]
    Captions,
    /// The classes that the vision tower was trained on: the row of its classifier stands for the picture, the class
    /// name for its caption. Needs no photos, but a frozen vision tower that still has its classifier.
    Classifier,
    /// A file of dialogues in LLaVA's layout, for a method that learns to talk.
    Dialogues,
}

/// `[[data.sources]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSpec {
    /// `captions`: the folder. `classifier`: a JSON list of `{"class": 0, "names": {"en": "tench", …}}`. `dialogues`: a JSON list of
    /// `{"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A dog."}]}`.
    pub path: String,
    /// `captions`, `classifier` or `dialogues`.
    pub kind: SourceKind,
    /// `dialogues`: the folder that pictures' names are below; without it the file's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub images: String,
    /// Languages, or other groups of captions, that are used; empty: all.
    pub languages: Vec<String>,
    /// The group of captions that are near a picture's own and wrong (see `loss.negatives`).
    pub negatives: String,
    /// How often captions of each group are drawn, for example `{ short = 0.5, long = 0.5 }`; groups without a weight are never drawn. Empty:
    /// all captions alike.
    #[serde(skip_serializing_if = "unweighted")]
    pub mix: CaptionMix,
    /// How often each row is seen per epoch.
    pub weight: f64,
    /// Sentences that captions are put into, in place of `{}`; one is drawn each time. Empty: captions as they are.
    pub templates: Vec<String>,
    /// Kept out of training and listed in `holdout.json` of the run: below 1 a share of the rows, otherwise their number.
    pub holdout: f64,
    /// A folder like `path` whose pictures are held out, where a data set comes with a part of its own for testing; in place of `holdout`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub test: String,
    /// How many of the other rows are learnt from, drawn by the recipe's seed: below 1 a share of them, otherwise their number; 0: all. What is held
    /// out does not depend on it, so that a later run can repeat a part of what an earlier one has learnt (replay).
    pub take: f64,
}

impl Default for SourceSpec {
    fn default() -> Self {
        Self {
            path: String::new(),
            kind: SourceKind::Captions,
            images: String::new(),
            languages: Vec::new(),
            negatives: String::new(),
            mix: CaptionMix::default(),
            weight: 1.0,
            templates: Vec::new(),
            holdout: 0.0,
            test: String::new(),
            take: 0.0,
        }
    }
}

fn unweighted(mix: &CaptionMix) -> bool {
    mix.weights().is_empty()
}

/// What stands for a picture of a class in a `classifier` source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassRows {
    /// The classifier's row times the covariance of the features of the recipe's pictures, added to their mean: what a picture of the
    /// class is expected to give (Haufe et al. 2014).
    Patterns,
    /// The row itself.
    Weights,
}

/// `[data]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSpec {
    /// Pictures per step.
    pub batch: usize,
    /// Batches whose gradients are averaged for a step; each has its own loss, so that this does not enlarge the set of negatives (see
    /// `compute.micro_batch` for what does).
    pub accumulate: usize,
    /// Random changes of pictures that learn (a frozen tower reads each picture once, as it is); without this table there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// What stands for the picture in `classifier` sources: `patterns` (needs pictures in another source; without them as `weights`) or
    /// `weights`.
    pub class_rows: ClassRows,
    /// What is mixed.
    pub sources: Vec<SourceSpec>,
}

impl Default for DataSpec {
    fn default() -> Self {
        Self {
            batch: 256,
            accumulate: 1,
            augment: None,
            class_rows: ClassRows::Patterns,
            sources: Vec::new(),
        }
    }
}

/// `[stage.NAME]`: what one stage of a method does otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StageSpec {
    /// Leaves the stage out.
    pub skip: bool,
    /// As `[loss]`.
    pub loss: LossSpec,
    /// As `[distill]`.
    pub distill: DistillSpec,
    /// As `[lora]`.
    pub lora: LoraSpec,
    /// As `[optimizer]`.
    pub optimizer: OptimizerSpec,
    /// As `[schedule]`.
    pub schedule: ScheduleSpec,
    /// As `[data]`.
    pub data: DataSpec,
    /// As `[[freeze]]`.
    pub freeze: Vec<FreezeRule>,
}
