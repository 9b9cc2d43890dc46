//! `bifocal convert`: a model in another layout.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_models::convert::{Layout, convert};

use crate::model;

/// Writes a model in another layout.
///
/// A CLIP or SigLIP in Hugging Face or open_clip layout, or a bundle without heads, becomes a folder that transformers, open_clip or Bifocal reads.
/// Every tensor is accounted for: what is missing, unknown or of another shape is listed, and nothing is written.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle or folder, or hf:org/name[@revision]
    #[arg(value_name = "FROM")]
    from: PathBuf,
    /// A folder that does not exist yet
    #[arg(value_name = "TO")]
    to: PathBuf,
    /// hf, hf-vision, open-clip or bundle
    #[arg(long, visible_alias = "to", default_value = "bundle")]
    layout: LayoutArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LayoutArg {
    /// transformers: config.json, preprocessor_config.json, model.safetensors
    Hf,
    /// transformers: the vision tower by itself
    HfVision,
    /// open_clip: open_clip_config.json, open_clip_model.safetensors
    #[value(alias = "open_clip")]
    OpenClip,
    /// Bifocal's own, with the towers inside
    Bundle,
}

pub fn run(args: Args) -> Result<()> {
    let layout = match args.layout {
        LayoutArg::Hf => Layout::HuggingFace,
        LayoutArg::HfVision => Layout::HuggingFaceVision,
        LayoutArg::OpenClip => Layout::OpenClip,
        LayoutArg::Bundle => Layout::Bundle,
    };
    let converted = convert(&model::find(&args.from)?, &args.to, layout)?;
    match converted.tensors {
        0 => println!("{}: weights {}", args.to.display(), converted.stored_as),
        n => println!("{}: {n} tensors as {}", args.to.display(), converted.stored_as),
    }
    for note in converted.notes {
        eprintln!("note: {note}");
    }
    Ok(())
}
