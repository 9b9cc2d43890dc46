//! `bifocal cache`: features of frozen towers, ahead of training.

use anyhow::Result;
use bifocal_align::train::{self, TrainError};

use crate::ranks;
use crate::recipe_args::RecipeArgs;

/// Computes the features of a recipe's frozen towers and keeps them.
///
/// `bifocal train` does the same before its first step; this command does it alone, for example on another machine that
/// shares the cache folder. What is in the cache is not computed again, and a run that was killed goes on where it was.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
}

pub fn run(args: Args) -> Result<()> {
    let recipe = args.recipe.load()?;
    ranks::among(|ranks| {
        let pairs = match train::pairs_among(&recipe, &mut ranks::console(ranks)?, ranks) {
            Err(stopped @ TrainError::Stopped { .. }) => {
                println!("{stopped}");
                return Ok(());
            }
            pairs => pairs?,
        };
        if ranks.first() {
            println!(
                "{}: features of {} pictures ({} wide) and their texts ({} wide)",
                recipe.run.cache,
                pairs.images.len() / pairs.image_dim.max(1),
                pairs.image_dim,
                pairs.text_dim
            );
        }
        Ok(())
    })
}
