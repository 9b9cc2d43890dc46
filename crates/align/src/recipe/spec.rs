//! The parts of a recipe. Each field is a knob of the TOML file under the same name.

use serde::{Deserialize, Serialize};

use bifocal_models::adapter::HeadConfig;
pub use bifocal_models::adapter::HeadKind;
use bifocal_models::text::{Attention, Pooling};

/// `[vision]`: the tower for pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VisionSpec {
    /// Folder or file of the pretrained tower; looked for as it stands, then in `$BIFOCAL_MODELS`.
    pub model: String,
}

/// `[text]`: the tower for texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextSpec {
    /// Folder or file of the pretrained tower; looked for as it stands, then in `$BIFOCAL_MODELS`.
    pub model: String,
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
}

/// `[image_head]`, `[text_head]`: the layers that are trained between a tower and the embedding space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadSpec {
    /// `identity` (the tower's width must be `embed_dim`), `linear`, `glu` (SAIL) or `residual` (the adaptor of LLM2CLIP).
    pub kind: HeadKind,
    /// Number of residual blocks (`residual` only; 4 in LLM2CLIP).
    pub blocks: usize,
    /// Inner width over input width (`glu`: 8 in SAIL; `residual`: 2 in LLM2CLIP).
    pub ratio: usize,
    /// Whether a linear head has a bias.
    pub bias: bool,
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
            ratio: self.ratio,
            dropout: self.dropout,
            normalize_input: self.normalize_input,
            bias: self.bias,
        }
    }
}

impl Default for HeadSpec {
    fn default() -> Self {
        Self {
            kind: HeadKind::Linear,
            blocks: 4,
            ratio: 2,
            bias: true,
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
}

/// What the sum over all pairs of the sigmoid loss is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalizer {
    /// The number of pairs, images × texts (SAIL).
    Pairs,
    /// The number of images (SigLIP).
    Images,
}

/// `[loss]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossSpec {
    /// `infonce` or `sigmoid`.
    pub kind: LossKind,
    /// What the similarities are multiplied by at the start (learnt as its logarithm).
    pub scale_init: f32,
    /// The scale never exceeds this after a step (100 in CLIP and SAIL); without it there is no limit above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_max: Option<f32>,
    /// What is added to the scaled similarities at the start (`sigmoid` only).
    pub bias_init: f32,
    /// Divisor of the sigmoid loss: `pairs` or `images`.
    pub normalizer: Normalizer,
    /// Captions drawn per picture and step; all of them are positives of the picture.
    pub captions: usize,
}

impl Default for LossSpec {
    fn default() -> Self {
        Self {
            kind: LossKind::Infonce,
            scale_init: 1.0 / 0.07,
            scale_max: Some(100.0),
            bias_init: -10.0,
            normalizer: Normalizer::Images,
            captions: 1,
        }
    }
}

/// Which parameters the weight decay pulls towards zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Those with two or more axes: no biases, norms or temperatures (CLIP).
    Matrices,
    /// All (SAIL).
    All,
}

/// `[optimizer]`: AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// Peak learning rate.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `matrices` or `all`.
    pub decay: Decay,
    /// Decay rates of the first and second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// The gradient over all parameters is scaled down to this L2 norm; without it, it stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            lr: 5e-4,
            weight_decay: 0.2,
            decay: Decay::Matrices,
            betas: [0.9, 0.98],
            eps: 1e-6,
            clip_norm: None,
        }
    }
}

/// What the learning rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine down to zero.
    Cosine,
    /// Stays.
    Constant,
}

/// `[schedule]`. The length is given as `epochs` or as `steps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// `cosine` or `constant`.
    pub kind: ScheduleKind,
    /// Linear warm-up: below 1 a share of all steps (rounded up), otherwise a number of steps.
    pub warmup: f64,
    /// How often each training picture is seen; used unless `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Number of optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
}

impl Default for ScheduleSpec {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            warmup: 0.0,
            epochs: None,
            steps: None,
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
}

/// `[[data.sources]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSpec {
    /// `captions`: the folder. `classifier`: a JSON list of `{"class": 0, "names": {"en": "tench", …}}`.
    pub path: String,
    /// `captions` or `classifier`.
    pub kind: SourceKind,
    /// Languages whose captions are used; empty: all.
    pub languages: Vec<String>,
    /// How often each row is seen per epoch.
    pub weight: f64,
    /// Sentences that captions are put into, in place of `{}`; one is drawn each time. Empty: captions as they are.
    pub templates: Vec<String>,
    /// Kept out of training and listed in `holdout.json` of the run: below 1 a share of the rows, otherwise their number.
    pub holdout: f64,
}

impl Default for SourceSpec {
    fn default() -> Self {
        Self {
            path: String::new(),
            kind: SourceKind::Captions,
            languages: Vec::new(),
            weight: 1.0,
            templates: Vec::new(),
            holdout: 0.0,
        }
    }
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
            class_rows: ClassRows::Patterns,
            sources: Vec::new(),
        }
    }
}

/// `[[freeze]]`: how the parameters whose names match learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRule {
    /// A parameter name, in which `*` stands for anything: `vision.*`, `*.bias`.
    pub pattern: String,
    /// Whether they stay as they are.
    #[serde(default)]
    pub frozen: bool,
    /// Their learning rate over that of `[optimizer]`.
    #[serde(default = "one")]
    pub lr: f64,
    /// Their weight decay, where they have one; without it that of `[optimizer]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

/// What to do about a step whose loss or gradient is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadStep {
    /// Stop and name the samples.
    Stop,
    /// Leave the weights as they are, note the samples, go on.
    Skip,
}

/// `[run]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSpec {
    /// Steps between checkpoints; there is always one at the end.
    pub checkpoint_every: u64,
    /// How many checkpoints stay.
    pub keep: usize,
    /// `stop` or `skip`.
    pub bad_step: BadStep,
    /// Folder in which the features of frozen towers are kept for later runs.
    pub cache: String,
    /// Whether the finished bundle holds copies of the towers; otherwise it names them and their fingerprints.
    pub copy_towers: bool,
}

impl Default for RunSpec {
    fn default() -> Self {
        Self {
            checkpoint_every: 500,
            keep: 3,
            bad_step: BadStep::Stop,
            cache: ".bifocal/features".to_owned(),
            copy_towers: false,
        }
    }
}
