//! `bifocal train`: a recipe becomes a bundle.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bifocal_align::recipe::{Chain, Device, VqRecipe};
use bifocal_align::train::collective::Ranks;
use bifocal_align::train::{self, Options};
use bifocal_align::vq;
use bifocal_models::bundle::Manifest;

use crate::failure::wrong_use;
use crate::output::training;
use crate::recipe_args::RecipeArgs;
use crate::{continual, holdout, ranks};

/// Trains what a recipe describes and writes a bundle.
///
/// The run's folder holds the resolved recipe, metrics.jsonl (a line a step), checkpoints, the list of held-out pictures and,
/// at the end, the bundle in model/. A run that was stopped or killed goes on with --resume and ends with the same
/// bits. Ctrl-C and SIGTERM write a checkpoint and end the run with exit code 0; a second one ends it at once. When pictures were held out, the model is evaluated on them, next to chance and to a ridge regression from
/// picture features to text features that was fitted on the same training data.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder of the run (runs/ and the recipe's name, unless given)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in the folder; begin if there is none
    #[arg(long)]
    resume: bool,
    /// Tell what would be trained, on what, and what it would take, without training
    #[arg(long)]
    explain: bool,
}

pub fn run(args: Args) -> Result<()> {
    ranks::among(|ranks| run_among(args, ranks))
}

fn run_among(args: Args, ranks: &dyn Ranks) -> Result<()> {
    let out = args
        .out
        .unwrap_or_else(|| PathBuf::from("runs").join(args.recipe.recipe.file_stem().unwrap_or_default()));
    if let Some(recipe) = args.recipe.vq()? {
        return learn_codes(&recipe, out, args.resume, args.explain, ranks);
    }
    if let Some(chain) = args.recipe.chain()? {
        return match args.explain {
            true if ranks.first() => continual::explain(&chain),
            true => Ok(()),
            false => learn_all(&chain, &out, args.resume, ranks),
        };
    }
    let recipe = args.recipe.load()?;
    if args.explain {
        if ranks.first() {
            let overview = train::overview(&recipe)?;
            training::print_overview(&overview);
            match recipe.compute.device {
                Device::Cpu => training::print_estimates(&train::estimate(&recipe, &overview)?),
                Device::Gpu => println!("no estimate: what a run takes is tried on the CPU only"),
            }
            println!("\n{}", recipe.to_toml());
        }
        return Ok(());
    }
    let options = Options {
        out,
        resume: args.resume,
    };
    let mut console = ranks::console(ranks)?;
    let summary = train::run_among(&recipe, &options, &mut console, ranks)?;
    console.finish();
    drop(console);
    if !ranks.first() {
        return Ok(());
    }
    let Some(bundle) = &summary.bundle else {
        println!(
            "stopped after step {}; the same command with --resume goes on",
            summary.steps
        );
        return Ok(());
    };
    println!("{}: a bundle after {} steps", bundle.display(), summary.steps);
    if Manifest::read(bundle)?.chat.is_some() {
        println!("talk with it: bifocal chat --model {} --image P", bundle.display());
        return Ok(());
    }
    holdout::evaluate(&recipe, bundle, &summary.out)
}

/// A recipe of an autoencoder with a codebook.
fn learn_codes(recipe: &VqRecipe, out: PathBuf, resume: bool, explain: bool, ranks: &dyn Ranks) -> Result<()> {
    if ranks.size() > 1 {
        return Err(wrong_use(
            "an autoencoder learns in one process; start it without mpirun",
        ));
    }
    let planned = vq::overview(recipe)?;
    training::print_vq(&planned);
    if explain {
        println!("\n{}", recipe.to_toml());
        return Ok(());
    }
    let mut console = ranks::console(ranks)?;
    let summary = vq::run(recipe, &Options { out, resume }, &mut console)?;
    console.finish();
    if let Some(found) = &summary.evaluation {
        println!(
            "held-out pictures: squared error of latents {:.4} of their variance, {} codes used, perplexity {:.0}",
            found.latents, found.used, found.perplexity
        );
    }
    match &summary.model {
        Some(model) => println!(
            "{}: after {} steps; see `bifocal tokenize`",
            model.display(),
            summary.steps
        ),
        None => println!(
            "stopped after step {}; the same command with --resume goes on",
            summary.steps
        ),
    }
    Ok(())
}

/// A recipe of several tasks.
fn learn_all(chain: &Chain, out: &Path, resume: bool, ranks: &dyn Ranks) -> Result<()> {
    if let Some(matrix) = continual::run(chain, out, resume, ranks)?.filter(|_| ranks.first()) {
        println!("{}", matrix.to_markdown());
        println!("{}", out.join("report.html").display());
    }
    Ok(())
}
