//! `bifocal cache`: features of frozen towers, ahead of training.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_align::recipe::Recipe;
use bifocal_align::train;

use crate::output::training::Console;

/// Computes the features of a recipe's frozen towers and keeps them.
///
/// `bifocal train` does the same before its first step; this command does it alone, for example on another machine that
/// shares the cache folder. What is in the cache is not computed again, and a run that was killed goes on where it was.
#[derive(clap::Args)]
pub struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// A profile of the recipe
    #[arg(long)]
    profile: Option<String>,
    /// Change a knob, as in --set data.batch=64
    #[arg(long, value_name = "key=value")]
    set: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, args.profile.as_deref(), &args.set)?;
    let pairs = train::pairs(&recipe, &mut Console::default())?;
    println!(
        "{}: features of {} pictures ({} wide) and their texts ({} wide)",
        recipe.run.cache,
        pairs.images.len() / pairs.image_dim.max(1),
        pairs.image_dim,
        pairs.text_dim
    );
    Ok(())
}
