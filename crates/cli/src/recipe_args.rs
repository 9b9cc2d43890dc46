//! Arguments that name a recipe: the same for every command that reads one.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_align::Recipe;

use crate::model;

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
    /// Reads the recipe; towers that it names by a hub's name are fetched.
    pub fn load(&self) -> Result<Recipe> {
        let recipe = Recipe::load(&self.recipe, self.profile.as_deref(), &self.set)?;
        for name in [&recipe.vision.model, &recipe.text.model] {
            model::fetch_named(name)?;
        }
        Ok(recipe)
    }
}
