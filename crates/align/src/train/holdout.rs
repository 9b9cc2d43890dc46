//! What a recipe keeps out of training, for whoever measures its model.

use bifocal_data::ImageSource;

use super::TrainError;
use super::corpus::Corpus;
use crate::recipe::Recipe;

/// A picture that is not learnt from, with the captions that a recipe would use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPicture {
    /// The picture.
    pub image: ImageSource,
    /// Its captions.
    pub captions: Vec<String>,
}

/// The pictures with captions that no stage of a recipe learns from; which these are does not depend on its seed. No picture is read.
///
/// # Errors
/// Data that cannot be opened.
pub fn held_out(recipe: &Recipe) -> Result<Vec<HeldPicture>, TrainError> {
    let mut held: Vec<HeldPicture> = Vec::new();
    for stage in recipe.running() {
        let recipe = recipe.of_stage(stage);
        for (image, captions) in Corpus::open(&recipe.data.sources, &recipe.text.facets, recipe.seed)?.held {
            if !captions.is_empty() && held.iter().all(|other| other.image != image) {
                held.push(HeldPicture { image, captions });
            }
        }
    }
    Ok(held)
}
