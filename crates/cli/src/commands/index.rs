//! `bifocal index`: pictures into a store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bifocal_search::shown;

use crate::failure::wrong_use;
use crate::finder;
use crate::indexing::listing::{self, Listing};
use crate::indexing::summary::Summary;
use crate::indexing::{Indexer, Pass, rebuild::rebuild, watch::watch};
use crate::model::Compute;

/// Embeds pictures into a store, incrementally.
///
/// Pictures that the store has unchanged are not embedded again; moved ones keep their embedding; those that are gone from the
/// given folders leave the store. Captions and labels are brought up to date without embedding. A
/// run that was killed is continued by the same call.
///
/// A picture that cannot be read is left out and the others are indexed; the store remembers why, and does not try it again before it changes.
///
/// A store belongs to one model. `--rebuild` embeds everything that it knows with another one: the new store grows beside the old one,
/// which is searched until both are swapped at once.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle made by `bifocal train`, the folder of a CLIP in Hugging Face or open_clip layout, or hf:org/name[@revision]
    #[arg(long, value_name = "M")]
    model: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// The folder that keeps the store, or postgres://user@host/database?store=name
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Pictures, folders of pictures, tar shards (also patterns such as shard-{000..012}.tar), parquet files, tables of captions
    #[arg(required_unless_present = "rebuild", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Embed all pictures of the store again with this model, then index the given paths, if there are any
    #[arg(long)]
    rebuild: bool,
    /// Try again pictures that could not be read before and have not changed since
    #[arg(long)]
    retry_failed: bool,
    /// Go on: look for changes every so many seconds (5 if no number is given) until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5", require_equals = true)]
    watch: Option<u64>,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.watch.is_some() && args.paths.is_empty() {
        return Err(wrong_use("--watch needs the folders to watch: give them as PATH"));
    }
    let roots = listing::roots(&args.paths)?;
    let listing = Listing::read(&roots, true)?;
    let model = args.compute.open_joint(&args.model)?;
    let id = finder::model_id(&model, &args.model)?;
    let name = shown(&args.store);
    if args.rebuild {
        let (items, failed) = rebuild(&args.store, &model, &id)?;
        eprintln!("{}: {items} items embedded again, {failed} left out", name.display());
    }
    let store = finder::open_writer(&args.store, &id)?;
    let indexer = Indexer {
        store: &*store,
        model: &model,
    };
    let what = Pass {
        retry: args.retry_failed,
        refresh: true,
    };
    let summary = indexer.pass(&roots, &listing, what)?;
    store.flush()?;
    if summary.items == 0 && args.watch.is_none() {
        anyhow::bail!(
            "nothing was indexed: none of the {} pictures could be read",
            summary.failed
        );
    }
    show(&args, &name, &summary)?;
    match args.watch {
        Some(seconds) => watch(&indexer, &name, &roots, listing, Duration::from_secs(seconds.max(1))),
        None => Ok(()),
    }
}

fn show(args: &Args, name: &Path, summary: &Summary) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string(summary)?);
    } else {
        println!("{}: {summary}", name.display());
    }
    Ok(())
}
