//! Arguments that name a recipe: the same for every command that reads one.

use std::path::PathBuf;

use bifocal_align::Recipe;
use bifocal_align::recipe::RecipeError;

/// Which recipe, and what is changed of it.
#[derive(clap::Args)]
pub struct RecipeArgs {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    pub recipe: PathBuf,
    /// A profile of the recipe: smoke, lab or paper
    #[arg(long)]
    pub profile: Option<String>,
    /// Change a knob, as in --set optimizer.lr=1e-3
    #[arg(long, value_name = "key=value")]
    pub set: Vec<String>,
}

impl RecipeArgs {
    /// Reads the recipe.
    pub fn load(&self) -> Result<Recipe, RecipeError> {
        Recipe::load(&self.recipe, self.profile.as_deref(), &self.set)
    }
}
