//! Recipes: everything that decides how a run goes, in one TOML file.
//!
//! A recipe is layered: the method's own defaults, the file, the chosen `[profile.NAME]` of the file, then
//! `--set key=value`. Each layer says only what it changes. The result, with every knob written out, is
//! stored beside the run as `recipe.toml`; that file is a recipe itself and repeats the run.

mod chain;
mod chat;
mod check;
mod device;
mod error;
mod flamingo;
mod hold;
mod layers;
mod learning;
mod qformer;
mod spec;
mod toklip;
mod unified;
mod vq;

pub use chain::{Chain, ContinualSpec, Task};
pub use chat::ChatSpec;
pub use device::Device;
pub use error::RecipeError;
pub use flamingo::FlamingoSpec;
pub use hold::{ElasticSpec, ReferenceSpec};
pub use learning::{
    BadStep, ComputeSpec, Decay, FreezeRule, OptimizerKind, OptimizerSpec, Precision, RunSpec, ScheduleKind,
    ScheduleSpec,
};
pub use qformer::QFormerSpec;
pub use spec::{
    CaptionSpec, ClassRows, CodesSpec, ConsolidateKind, ConsolidateSpec, DataSpec, DistillSpec, HeadActivation,
    HeadKind, HeadSpec, LoraSpec, LossKind, LossSpec, MergeSpec, NewFamily, NewVision, Normalizer, Rho, SourceKind,
    SourceSpec, StageSpec, TeacherSpec, TextSpec, VisionSpec,
};
pub use toklip::{Per, ToklipSpec};
pub use unified::UnifiedSpec;
pub use vq::{AutoencoderSpec, CodebookSpec, LatentSpec, PictureSource, PicturesSpec, VqLoss, VqRecipe};

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::methods;

/// A run, described.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// Which method trains (see [`crate::methods::METHODS`]).
    pub method: String,
    /// Seed of everything that is drawn: initial weights, order of the data, choice of captions, dropout, noise.
    pub seed: u64,
    /// Width of the embedding space that both towers meet in.
    pub embed_dim: usize,
    /// The tower for pictures.
    pub vision: VisionSpec,
    /// The tower for texts.
    pub text: TextSpec,
    /// A model to distil from.
    pub teacher: TeacherSpec,
    /// What stands between the vision tower and the embedding space.
    pub image_head: HeadSpec,
    /// What stands between the text tower and the embedding space.
    pub text_head: HeadSpec,
    /// The objective.
    pub loss: LossSpec,
    /// What ProCLIP distils, and how much.
    pub distill: DistillSpec,
    /// What C-CLIP holds on to, and how.
    pub consolidate: ConsolidateSpec,
    /// What EWC holds on to.
    pub elastic: ElasticSpec,
    /// What ZSCL looks at beside the task.
    pub reference: ReferenceSpec,
    /// What TokLIP distils, and how much.
    pub toklip: ToklipSpec,
    /// How a language model learns to read pictures and to draw them.
    pub unified: UnifiedSpec,
    /// How much of what was learnt is kept.
    pub merge: MergeSpec,
    /// How LLM2CLIP tunes its language model.
    pub caption: CaptionSpec,
    /// How a language model learns to talk about pictures.
    pub chat: ChatSpec,
    /// The Q-Former between vision tower and language model, where there is one.
    pub qformer: QFormerSpec,
    /// The layers through which a language model looks at pictures, where there are such.
    pub flamingo: FlamingoSpec,
    /// Small matrices that learn beside frozen layers.
    pub lora: LoraSpec,
    /// The rule that moves the weights.
    pub optimizer: OptimizerSpec,
    /// How the learning rate changes and how long the run is.
    pub schedule: ScheduleSpec,
    /// What is learnt from.
    pub data: DataSpec,
    /// Which parameters learn and how, after the method's own rules; the last rule that matches a parameter counts.
    pub freeze: Vec<FreezeRule>,
    /// What single stages of the method do otherwise (`[stage.NAME]`); what a table does not say is as in the recipe.
    pub stage: BTreeMap<String, StageSpec>,
    /// How it is computed.
    pub compute: ComputeSpec,
    /// Checkpoints and reactions; these knobs do not change what is learnt, and may differ when a run is resumed.
    pub run: RunSpec,
    /// Several tasks that are learnt one after another (see [`Chain`]).
    #[serde(skip_serializing)]
    pub continual: ContinualSpec,
    /// What each task of `continual.tasks` does otherwise (`[task.NAME]`).
    #[serde(skip_serializing)]
    pub task: BTreeMap<String, Recipe>,
    /// Named partial recipes (`[profile.smoke]`): what they say replaces what stands above.
    #[serde(skip_serializing)]
    pub profile: BTreeMap<String, Recipe>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            method: String::new(),
            seed: 42,
            embed_dim: 512,
            vision: VisionSpec::default(),
            text: TextSpec::default(),
            teacher: TeacherSpec::default(),
            image_head: HeadSpec::default(),
            text_head: HeadSpec::default(),
            loss: LossSpec::default(),
            distill: DistillSpec::default(),
            consolidate: ConsolidateSpec::default(),
            elastic: ElasticSpec::default(),
            reference: ReferenceSpec::default(),
            toklip: ToklipSpec::default(),
            unified: UnifiedSpec::default(),
            merge: MergeSpec::default(),
            caption: CaptionSpec::default(),
            chat: ChatSpec::default(),
            qformer: QFormerSpec::default(),
            flamingo: FlamingoSpec::default(),
            lora: LoraSpec::default(),
            optimizer: OptimizerSpec::default(),
            schedule: ScheduleSpec::default(),
            data: DataSpec::default(),
            freeze: Vec::new(),
            stage: BTreeMap::new(),
            compute: ComputeSpec::default(),
            run: RunSpec::default(),
            continual: ContinualSpec::default(),
            task: BTreeMap::new(),
            profile: BTreeMap::new(),
        }
    }
}

impl Recipe {
    /// Reads a recipe file, with a profile of it and `key=value` changes (dotted keys, TOML values; what is not
    /// a TOML value is taken as text).
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a key that does not exist (with its line and the nearest one that does),
    /// an unknown profile or method, a value out of range.
    pub fn load(path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Self, RecipeError> {
        Self::parse(&layers::file(path)?, path, profile, sets)
    }

    /// As [`Recipe::load`], from text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, path: &Path, profile: Option<&str>, sets: &[String]) -> Result<Self, RecipeError> {
        let recipe = layers::resolve(text, path, profile, sets)?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The stages that are not left out, in order.
    pub fn running(&self) -> Vec<&'static str> {
        let all = methods::find(&self.method).map_or(&[][..], |entry| entry.stages);
        let skipped = |name: &str| self.stage.get(name).is_some_and(|stage| stage.skip);
        all.iter().copied().filter(|name| !skipped(name)).collect()
    }

    /// The recipe as a stage of its method has it.
    #[must_use]
    pub fn of_stage(&self, name: &str) -> Self {
        let mut recipe = self.clone();
        if let Some(stage) = self.stage.get(name).cloned() {
            recipe.loss = stage.loss;
            recipe.distill = stage.distill;
            recipe.lora = stage.lora;
            recipe.optimizer = stage.optimizer;
            recipe.schedule = stage.schedule;
            recipe.data = stage.data;
            recipe.freeze = stage.freeze;
        }
        recipe
    }

    /// The recipe with every knob written out.
    pub fn to_toml(&self) -> String {
        match toml::to_string(self) {
            Ok(text) => text,
            Err(error) => unreachable!("a recipe is tables of numbers and strings: {error}"),
        }
    }

    /// The knobs in which two recipes differ, apart from those of `[run]`: `key: this one, other one`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        layers::differences(self, other)
    }
}
