//! What frozen towers make of a recipe's training data: filling the cache ahead of a run, and baselines on the same data.

use std::path::Path;

use bifocal_models::open::{TextEncoder, VisionEncoder};

use super::collective::{Alone, Ranks};
use super::features::Features;
use super::setup::Setup;
use super::{Progress, TrainError};
use crate::recipe::Recipe;

/// Features of the training pictures beside the mean of their texts' unit features.
#[derive(Debug)]
pub struct Pairs {
    /// The vision tower as it was pretrained.
    pub vision: VisionEncoder,
    /// The text tower as it was pretrained.
    pub text: TextEncoder,
    /// Width of a picture's features.
    pub image_dim: usize,
    /// Width of a text's features.
    pub text_dim: usize,
    /// `[pictures, image_dim]`.
    pub images: Vec<f32>,
    /// `[pictures, text_dim]`.
    pub texts: Vec<f32>,
}

/// Computes the features of all training data with the towers as they were pretrained, or takes them from the cache.
///
/// # Errors
/// As [`super::run`], before its first step.
pub fn pairs(recipe: &Recipe, progress: &mut dyn Progress) -> Result<Pairs, TrainError> {
    pairs_among(recipe, progress, &Alone)
}

/// As [`pairs`], with what the cache lacks split over ranks.
///
/// # Errors
/// As [`super::run_among`], before its first step.
pub fn pairs_among(recipe: &Recipe, progress: &mut dyn Progress, ranks: &dyn Ranks) -> Result<Pairs, TrainError> {
    recipe.check()?;
    ranks.agree_on_recipe(recipe)?;
    recipe.compute.device.scope(|| pairs_here(recipe, progress, ranks))
}

/// As [`pairs_among`], with all tensors where this thread puts them.
fn pairs_here(recipe: &Recipe, progress: &mut dyn Progress, ranks: &dyn Ranks) -> Result<Pairs, TrainError> {
    let setup = Setup::open(recipe)?;
    progress.started(&setup.overview(recipe));
    let features = Features::new(
        Path::new(&recipe.run.cache),
        setup.prompt.as_deref(),
        recipe.compute.precision,
        ranks,
    );
    // the last stage is the one that learns from pictures
    let Some(mut corpus) = setup.stages.last().map(|last| setup.corpora[last.corpus].clone()) else {
        unreachable!("a recipe without stages was refused");
    };
    let images = features.images(&setup.vision, &mut corpus, recipe.data.class_rows, progress)?;
    let texts = features.texts(&setup.text, &corpus.texts, progress)?;
    let mut means = Vec::with_capacity(corpus.rows.len() * texts.dim);
    for row in &corpus.rows {
        let mut mean = vec![0.0; texts.dim];
        for &text in &row.texts {
            let values = texts.row(text as usize);
            let length = values.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            mean.iter_mut()
                .zip(values)
                .for_each(|(m, v)| *m += v / length / row.texts.len() as f32);
        }
        means.extend(mean);
    }
    Ok(Pairs {
        image_dim: images.dim,
        text_dim: texts.dim,
        images: images.values,
        texts: means,
        vision: setup.vision,
        text: setup.text,
    })
}
