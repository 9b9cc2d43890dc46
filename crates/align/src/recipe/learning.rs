//! The parts of a recipe that say how it learns: optimizer, schedule, freezing, computing, running.

use std::collections::BTreeMap;

use bifocal_nn::optim::{self, OptimizerConfig};
use serde::{Deserialize, Serialize};

use super::Device;

/// Which parameters the weight decay pulls towards zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// Those with two or more axes: no biases, norms or temperatures (CLIP).
    Matrices,
    /// All (SAIL).
    All,
}

/// Which rule moves the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Loshchilov & Hutter 2019.
    #[default]
    Adamw,
    /// Weight decay as part of the gradient (ShareLock).
    Adam,
    /// Chen et al. 2023 (SAIL).
    Lion,
}

/// `[optimizer]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSpec {
    /// `adamw`, `adam` or `lion`.
    pub kind: OptimizerKind,
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
    /// By tower (`vision`, `text`): each block learns with the rate of the block above it times this, what comes before the first block
    /// last (LLM2CLIP: 0.85 for its vision tower).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub layer_decay: BTreeMap<String, f64>,
}

impl Default for OptimizerSpec {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            lr: 5e-4,
            weight_decay: 0.2,
            decay: Decay::Matrices,
            betas: [0.9, 0.98],
            eps: 1e-6,
            clip_norm: None,
            layer_decay: BTreeMap::new(),
        }
    }
}

impl OptimizerSpec {
    /// What does not change from step to step.
    pub(crate) fn config(&self) -> OptimizerConfig {
        OptimizerConfig {
            kind: match self.kind {
                OptimizerKind::Adamw => optim::OptimizerKind::AdamW,
                OptimizerKind::Adam => optim::OptimizerKind::Adam,
                OptimizerKind::Lion => optim::OptimizerKind::Lion,
            },
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
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
    /// Stays, and at the end goes down to zero in a straight line.
    Cooldown,
}

/// `[schedule]`. The length is given as `epochs` or as `steps`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSpec {
    /// `cosine`, `constant` or `cooldown`.
    pub kind: ScheduleKind,
    /// Linear warm-up: below 1 a share of all steps (rounded up), otherwise a number of steps.
    pub warmup: f64,
    /// Length of the way down (`cooldown`): below 1 a share of all steps (rounded up), otherwise a number of steps.
    pub cooldown: f64,
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
            cooldown: 0.2,
            epochs: None,
            steps: None,
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

/// In what numbers products are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Products of bfloat16 numbers, summed in 32 bits; weights and everything else stay in 32 bits. Also for the features of frozen towers.
    Bf16,
}

impl TryFrom<String> for Precision {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Err(
                "precision \"int8\" is for inference (`bifocal embed --precision int8`, and so on): rounding to eight bits has no gradient; train with \"f32\" or \"bf16\"".to_owned(),
            ),
            // in serde's words, to which the nearest value is added
            _ => Err(format!("unknown variant `{name}`, expected `f32` or `bf16`")),
        }
    }
}

impl From<Precision> for bifocal_nn::precision::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// `[compute]`: how the same mathematics is computed. These knobs change results by rounding only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeSpec {
    /// `cpu` or `gpu`.
    pub device: Device,
    /// `f32` or `bf16`.
    pub precision: Precision,
    /// Pictures that pass through the towers at once; the loss is that of the whole batch all the same (gradient caching, Gao et al. 2021), for
    /// one more forward pass. 0: the whole batch.
    pub micro_batch: usize,
    /// Whether blocks of transformers forget what they computed and compute it again for the gradient.
    pub recompute: bool,
}

/// What to do about a step whose loss or gradient is not finite, or whose loss has exploded.
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
    /// Steps between evaluations on what was held out, and the page about the run written anew; 0: only at the end of each stage.
    pub evaluate_every: u64,
    /// The checkpoint with the highest of this stays as `checkpoints/best`: `t2i_r1`, `i2t_r5` and the like.
    pub best_by: String,
    /// Held-out pictures that are looked at while a run goes on, at most.
    pub evaluate_on: usize,
    /// `stop` or `skip`.
    pub bad_step: BadStep,
    /// A loss of more than so many times the median of the stage's last 50 steps has exploded (after the first 50; a median below a tenth of that of the
    /// first 50 counts as that tenth); 0: none ever has.
    pub explode: f64,
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
            evaluate_every: 0,
            best_by: "t2i_r1".to_owned(),
            evaluate_on: 200,
            bad_step: BadStep::Stop,
            explode: 10.0,
            cache: ".bifocal/features".to_owned(),
            copy_towers: false,
        }
    }
}
