//! Methods: everything that a paper changes, one file per paper.
//!
//! A method is a list of stages. A stage says which parameters learn, what it needs of the data, and, as an [`Objective`], how samples
//! become embeddings and embeddings a loss. It never opens files and does not know how it is run; the loop in [`crate::train`] does
//! not know which method it runs.

mod blip2;
mod caption;
mod cclip;
mod clip;
mod contrastive;
mod embed;
mod ewc;
mod flame;
mod flamingo;
mod lift;
mod lit;
mod llava;
mod llm2clip;
mod proclip;
mod sail;
mod sharelock;
mod siglip;
mod toklip;
mod unified;
mod zscl;

use std::fmt::Debug;

use bifocal_models::adapter::HeadConfig;
use bifocal_models::chat::Template;
use bifocal_models::connector::Tap;
use bifocal_models::towers::Towers;
use bifocal_nn::Tensor;

use crate::batch::{Batch, Embeddings, Part};
use crate::recipe::{FreezeRule, Recipe, RecipeError};
use crate::train::collective::RankError;

pub use contrastive::Contrastive;
pub(crate) use ewc::Elastic;

/// A stretch of training with its own objective and its own set of learning parameters.
#[derive(Debug)]
pub struct Stage {
    /// As recipes name it.
    pub name: &'static str,
    /// Ordered; the last rule that matches a parameter counts, and one that no rule matches learns.
    pub rules: Vec<FreezeRule>,
    /// What it asks of the data.
    pub needs: BatchNeeds,
    /// Whether a copy of the vision tower and its head, as they are when the stage begins, is kept as [`Towers::teacher`].
    pub keeps_teacher: bool,
    /// Whether what former tasks need holds its parameters, and what this one needs is measured at its end (`[elastic]` of the recipe).
    pub elastic: bool,
    /// Layers that its loss looks through, as [`Towers::projector`]; they are no part of the finished model.
    pub projector: Option<HeadConfig>,
    /// How samples become a loss.
    pub objective: Box<dyn Objective>,
}

/// What a stage asks of the data. Whether pictures come as pixels or as cached features is not the method's
/// business: it follows from whether the stage's rules freeze the tower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchNeeds {
    /// Whether it looks at pictures.
    pub images: bool,
    /// Captions per picture, drawn without repetition as long as there are enough.
    pub captions: usize,
    /// One more caption of each picture, different from the others if there is one, with this before it.
    pub queries: Option<String>,
    /// Texts per picture that belong to no picture of the batch.
    pub negatives: Negatives,
    /// Whose rows of the same pictures or texts come with a batch.
    pub teacher: Option<TeacherRows>,
    /// Texts come as dialogues for the language model, which is there also where it does not learn, and pictures as patches.
    pub dialogue: Option<DialogueNeeds>,
    /// Texts come as tokens of the BERT that a Q-Former began as, cut to so many, and pictures as patches.
    pub trunk: Option<TrunkNeeds>,
    /// Whether pictures of no task come beside, with what a teacher makes of them and of a text of each (`[reference]` of the recipe).
    pub reference: bool,
}

impl BatchNeeds {
    /// Pictures, each with some captions.
    pub fn pictures(captions: usize) -> Self {
        Self {
            images: true,
            captions,
            queries: None,
            negatives: Negatives::None,
            teacher: None,
            dialogue: None,
            trunk: None,
            reference: false,
        }
    }

    /// What is read of the vision tower in place of one vector a picture, and whether a frozen one reads each picture once.
    pub fn patches(&self) -> Option<(Tap, bool)> {
        let dialogue = self.dialogue.as_ref().map(|dialogue| (dialogue.tap, dialogue.cache));
        dialogue.or(self.trunk.map(|trunk| (trunk.tap, trunk.cache)))
    }

    /// Whether pictures are codes, to be read and drawn.
    pub fn draws(&self) -> bool {
        self.dialogue.as_ref().is_some_and(|dialogue| dialogue.draws)
    }

    /// Captions alone.
    pub fn captions(captions: usize) -> Self {
        Self {
            images: false,
            ..Self::pictures(captions)
        }
    }
}

/// How texts become dialogues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialogueNeeds {
    /// How they are written.
    pub template: Template,
    /// What is asked where a text is a caption.
    pub questions: Vec<String>,
    /// What is read of the vision tower.
    pub tap: Tap,
    /// Whether a frozen vision tower reads each picture once.
    pub cache: bool,
    /// Whether pictures come as codes, which it learns to draw, with what is read of them.
    pub draws: bool,
    /// Longer ones are cut to so many tokens, the picture's counted.
    pub max_tokens: usize,
}

/// How a Q-Former gets pictures and texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrunkNeeds {
    /// What is read of the vision tower.
    pub tap: Tap,
    /// Whether a frozen vision tower reads each picture once.
    pub cache: bool,
    /// Longer texts are cut to so many tokens.
    pub max_tokens: usize,
}

/// Rows to learn from that stay as they are through a stage, so that they are computed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeacherRows {
    /// What the teacher of the recipe makes of the texts, of unit length.
    Texts,
    /// What the teacher of the recipe makes of the pictures, as it leaves its head.
    Pictures {
        /// Whether its tokens come too.
        tokens: bool,
    },
    /// What towers and heads made of pictures and texts when the run began, as they leave the heads.
    FormerSelf,
}

/// Where texts come from that belong to no picture of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negatives {
    /// There are none.
    None,
    /// So many of those that the data has for the picture.
    Hard(usize),
    /// One caption of another picture for each.
    Random,
}

/// The terms of a loss and their sum.
#[derive(Clone, Debug)]
pub struct LossTerms {
    /// What is minimised, `[1]`.
    pub total: Tensor<1>,
    /// Its parts by name, for the log.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

impl LossTerms {
    /// A loss of one term.
    pub fn one(name: &'static str, term: Tensor<1>) -> Self {
        Self {
            terms: vec![(name, term.clone())],
            total: term,
        }
    }

    /// With a term added.
    #[must_use]
    pub fn plus(mut self, name: &'static str, term: Tensor<1>) -> Self {
        self.total = self.total + term.clone();
        self.terms.push((name, term));
        self
    }
}

/// From samples to a loss, in two steps: what towers and heads make of each sample does not depend on the others, so that a batch can pass
/// through them in pieces, or on several machines; the loss sees the whole batch.
pub trait Objective: Debug {
    /// What towers and heads make of samples. Dropout and noise are drawn from the step's seed.
    ///
    /// # Errors
    /// [`MethodError`] when batch and towers do not fit.
    fn embed(&self, towers: &Towers, batch: &Batch, seed: u64) -> Result<Embeddings, MethodError>;

    /// From the embeddings of the whole batch to loss terms. Of `towers` it reads what has no rows of its own: scale, bias, projector.
    ///
    /// # Errors
    /// [`MethodError`] when there are no rows that it compares.
    fn loss(&self, towers: &Towers, all: &Embeddings) -> Result<LossTerms, MethodError>;

    /// Before the gradient of a step, after a share of the stage's steps: what a tower is made to do otherwise. It may depend on nothing else, so that a run
    /// that is resumed goes on alike.
    fn before_step(&self, towers: Towers, done: f64) -> Towers {
        let _ = done;
        towers
    }

    /// After the optimizer: clamps, moving averages.
    fn after_step(&self, towers: Towers) -> Towers {
        towers
    }
}

/// Why a batch did not become a loss.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// The batch holds what only a tower can read, and the tower is not there.
    #[error("the batch holds {what}, but there is no {tower} tower; this is a mistake in how the run was put together")]
    NoTower {
        /// Pixels or tokens.
        what: &'static str,
        /// Which tower.
        tower: &'static str,
    },
    /// A tower cannot read the batch.
    #[error("{tower} tower: {message}")]
    Tower {
        /// Which tower.
        tower: &'static str,
        /// What it says.
        message: String,
    },
    /// The other processes did not do their part.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// The loss compares what has not been embedded.
    #[error("the batch has no rows of {part:?} to compare; this is a mistake in how the run was put together")]
    NoRows {
        /// What is missing.
        part: Part,
    },
}

/// A method as the registry knows it.
pub struct Entry {
    /// As a recipe names it.
    pub name: &'static str,
    /// In one line.
    pub summary: &'static str,
    /// Names of its stages, in order.
    pub stages: &'static [&'static str],
    /// TOML below every recipe of this method: what the paper or its code does unless told otherwise.
    pub defaults: &'static str,
    /// Builds the stage of a name from the recipe as that stage has it.
    pub build: fn(&str, &Recipe) -> Stage,
}

/// The stages of a recipe's method that are not left out.
///
/// # Errors
/// [`RecipeError::Method`] for a method that there is not.
pub fn stages(recipe: &Recipe) -> Result<Vec<(Stage, Recipe)>, RecipeError> {
    let entry = find(&recipe.method)?;
    let stage = |name: &'static str| {
        let recipe = recipe.of_stage(name);
        ((entry.build)(name, &recipe), recipe)
    };
    Ok(recipe.running().into_iter().map(stage).collect())
}

/// All methods.
pub const METHODS: &[Entry] = &[
    clip::ENTRY,
    siglip::ENTRY,
    lit::ENTRY,
    sharelock::ENTRY,
    sail::ENTRY,
    flame::ENTRY,
    llm2clip::ENTRY,
    lift::ENTRY,
    proclip::ENTRY,
    cclip::ENTRY,
    ewc::ENTRY,
    zscl::ENTRY,
    llava::ENTRY,
    toklip::ENTRY,
    blip2::ENTRY,
    flamingo::ENTRY,
    unified::ENTRY,
];

/// The method of a name.
///
/// # Errors
/// [`RecipeError::Method`] with the names there are.
pub fn find(name: &str) -> Result<&'static Entry, RecipeError> {
    METHODS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known: Vec<_> = METHODS.iter().map(|entry| entry.name).collect();
        RecipeError::Method {
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// A rule that lets what it matches learn.
fn learns(pattern: &str) -> FreezeRule {
    FreezeRule {
        frozen: false,
        ..frozen(pattern)
    }
}

/// A rule that keeps what it matches as it is.
fn frozen(pattern: &str) -> FreezeRule {
    FreezeRule {
        pattern: pattern.to_owned(),
        frozen: true,
        lr: 1.0,
        weight_decay: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_recipes() {
        for entry in METHODS {
            let recipe: Recipe = toml::from_str(entry.defaults).expect(entry.name);
            assert!(recipe.method.is_empty(), "{} names a method", entry.name);
        }
    }

    #[test]
    fn an_unknown_method_is_answered_with_those_there_are() {
        let error = find("clap").err().expect("there is no such method");
        assert!(error.to_string().contains("clip, siglip, lit"), "{error}");
    }
}
