//! Arguments that name a recipe: the same for every command that reads one.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_align::Recipe;
use bifocal_align::recipe::{Chain, VqRecipe};

use crate::failure::wrong_use;
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
        if self.chain()?.is_some() {
            return Err(wrong_use(format!(
                "{} is a recipe of several tasks (continual.tasks), which `bifocal train` learns one after another; this command takes one of a \
                 single run",
                self.recipe.display()
            )));
        }
        let recipe = Recipe::load(&self.recipe, self.profile.as_deref(), &self.set)?;
        fetch(&recipe)?;
        Ok(recipe)
    }

    /// As [`RecipeArgs::load`], of an autoencoder's recipe; `None` when it is not one.
    pub fn vq(&self) -> Result<Option<VqRecipe>> {
        if !VqRecipe::is(&self.recipe) {
            return Ok(None);
        }
        Ok(Some(VqRecipe::load(&self.recipe, self.profile.as_deref(), &self.set)?))
    }

    /// As [`RecipeArgs::load`], of a recipe of several tasks; `None` when it is not one.
    pub fn chain(&self) -> Result<Option<Chain>> {
        if VqRecipe::is(&self.recipe) {
            return Err(wrong_use(format!(
                "{} trains an autoencoder (method = \"vq\"), which only `bifocal train` does",
                self.recipe.display()
            )));
        }
        let chain = Chain::load(&self.recipe, self.profile.as_deref(), &self.set)?;
        for task in chain.iter().flat_map(|chain| &chain.tasks) {
            fetch(&task.recipe)?;
        }
        Ok(chain)
    }
}

fn fetch(recipe: &Recipe) -> Result<()> {
    for name in [&recipe.vision.model, &recipe.text.model] {
        model::fetch_named(name)?;
    }
    Ok(())
}
