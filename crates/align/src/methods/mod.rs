//! Methods: everything that a paper changes, one file per paper.
//!
//! A method says which parameters learn, what it needs of the data and how a batch becomes loss terms. It never opens
//! files and does not know how it is run; the loop in [`crate::train`] does not know which method it runs.

mod clip;
mod contrastive;
mod llm2clip;
mod sail;

use std::fmt::Debug;

use bifocal_models::towers::Towers;
use bifocal_nn::Tensor;
use bifocal_nn::init::Rng;

use crate::batch::Batch;
use crate::recipe::{FreezeRule, Recipe, RecipeError};

pub use contrastive::Contrastive;

/// A stretch of training with its own set of learning parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// For the log.
    pub name: &'static str,
    /// Ordered; the last rule that matches a parameter counts, and one that no rule matches learns.
    pub rules: Vec<FreezeRule>,
}

/// What a stage asks of the data. Whether pictures come as pixels or as cached features is not the method's
/// business: it follows from whether the stage's rules freeze the tower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNeeds {
    /// Captions per picture, drawn without repetition as long as there are enough.
    pub captions: usize,
}

/// The terms of a loss and their sum.
#[derive(Clone, Debug)]
pub struct LossTerms {
    /// What is minimised, `[1]`.
    pub total: Tensor<1>,
    /// Its parts by name, for the log.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

/// What changes from step to step.
pub struct Step {
    /// Counted from 0.
    pub index: u64,
    /// For dropout and noise; seeded by the run's seed and the step alone, so that a resumed run draws the same.
    pub rng: Rng,
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
}

/// Everything a paper changes, and nothing else.
pub trait Method: Debug {
    /// What is trained, in order.
    fn stages(&self) -> Vec<Stage>;

    /// What a stage needs of the data.
    fn needs(&self, stage: &Stage) -> BatchNeeds;

    /// From a batch to loss terms.
    ///
    /// # Errors
    /// [`MethodError`] when batch and towers do not fit.
    fn forward(&self, towers: &Towers, batch: &Batch, step: &mut Step) -> Result<LossTerms, MethodError>;

    /// After the optimizer: clamps, moving averages, merges.
    fn after_step(&mut self, towers: Towers, _step: &Step) -> Towers {
        towers
    }
}

/// A method as the registry knows it.
pub struct Entry {
    /// As a recipe names it.
    pub name: &'static str,
    /// In one line.
    pub summary: &'static str,
    /// TOML below every recipe of this method: what the paper or its code does unless told otherwise.
    pub defaults: &'static str,
    /// Builds it from a recipe.
    pub build: fn(&Recipe) -> Box<dyn Method>,
}

/// All methods.
pub const METHODS: &[Entry] = &[clip::ENTRY, sail::ENTRY, llm2clip::ENTRY];

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
        assert!(error.to_string().contains("clip, sail, llm2clip"), "{error}");
    }
}
