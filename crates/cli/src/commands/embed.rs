//! `bifocal embed`: rows of numbers from pictures or texts.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_align::train::collective::{Ranks, Wait};
use bifocal_data::{ImageSource, Limits, load_images, source};
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
use bifocal_models::text::{Attention, Pooling};

use crate::failure::wrong_use;
use crate::output::progress::Progress;
use crate::output::rows::{self, Format};
use crate::{model, pictures, ranks};

/// Embeds pictures or texts.
///
/// Rows are written in the order given (a folder: sorted by path), L2-normalised unless told otherwise. `.npy` is
/// float32 with one row per input; `.jsonl` has one object a line with the input and its embedding. A picture that
/// cannot be read is an error, since its row would be missing.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    /// A bundle, a folder in Hugging Face, open_clip or sentence-transformers layout, a .gguf or .pth file, or hf:org/name[@revision]
    #[arg(long, value_name = "M")]
    model: PathBuf,
    /// Pictures or folders of pictures
    #[arg(long, num_args = 1.., value_name = "PATH", group = "input")]
    images: Vec<PathBuf>,
    /// A file with one text a line, taken verbatim: no trimming, no skipping of blank lines
    #[arg(long, value_name = "FILE", group = "input")]
    texts: Option<PathBuf>,
    /// Texts on the command line
    #[arg(long, num_args = 1.., value_name = "STR", group = "input")]
    text: Vec<String>,
    /// Where to write: a name ending in .npy or .jsonl
    #[arg(long, value_name = "F")]
    out: PathBuf,
    /// Keep the rows' lengths as the model gives them
    #[arg(long)]
    no_normalize: bool,
    /// For bare language models: mean, caption, last, cls, eos or max
    #[arg(long)]
    pooling: Option<Pooling>,
    /// For bare language models: causal or bidirectional
    #[arg(long)]
    attention: Option<Attention>,
}

pub fn run(args: Args) -> Result<()> {
    ranks::among(|ranks| run_among(args, ranks))
}

fn run_among(args: Args, ranks: &dyn Ranks) -> Result<()> {
    let format = Format::of(&args.out)?;
    let options = TextOptions {
        pooling: args.pooling,
        attention: args.attention,
        ..TextOptions::default()
    };
    let model = model::open(&args.model, &options)?;
    if model.manifest().is_some() && (args.pooling.is_some() || args.attention.is_some()) {
        return Err(wrong_use(
            "--pooling and --attention are for bare language models; a bundle was trained with its own",
        ));
    }
    let (inputs, rows) = if args.images.is_empty() {
        let texts = match &args.texts {
            Some(file) => source::texts(file)?,
            None => args.text.clone(),
        };
        let rows = embed_texts(&model, &texts, args.no_normalize, ranks)?;
        (texts, rows)
    } else {
        let files: Vec<ImageSource> = pictures::list(&args.images)?.into_iter().map(|s| s.image).collect();
        let rows = embed_pictures(&model, &files, args.no_normalize, ranks)?;
        (files.iter().map(ImageSource::to_string).collect(), rows)
    };
    if !ranks.first() {
        return Ok(());
    }
    rows::write(&args.out, format, &inputs, &rows, model.dim())?;
    eprintln!("{}: {} rows of {}", args.out.display(), inputs.len(), model.dim());
    Ok(())
}

fn embed_texts(model: &Model, texts: &[String], raw: bool, ranks: &dyn Ranks) -> Result<Vec<f32>> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let embed = |chunk: &[&str]| {
        if raw {
            model.embed_texts_raw(chunk)
        } else {
            model.embed_texts(chunk)
        }
    };
    pictures::embed_texts_with(&texts, embed, ranks)
}

fn embed_pictures(model: &Model, files: &[ImageSource], raw: bool, ranks: &dyn Ranks) -> Result<Vec<f32>> {
    let preprocess = pictures::preprocess(model)?;
    let files = &files[ranks.share(files.len())];
    let mut progress = Progress::new("embedding pictures", files.len() as u64);
    let mut rows = Vec::new();
    for (i, chunk) in files.chunks(pictures::BATCH).enumerate() {
        let loaded = load_images(chunk, preprocess, &Limits::default())?;
        if let Some(bad) = loaded.bad.first() {
            anyhow::bail!("{}: {}; leave it out and call again", bad.image, bad.error);
        }
        rows.extend(if raw {
            model.embed_images_raw(&loaded.pixels, chunk.len())?
        } else {
            model.embed_images(&loaded.pixels, chunk.len())?
        });
        progress.update((pictures::BATCH * i + chunk.len()) as u64, "");
    }
    progress.finish();
    ranks.barrier(Wait::Work)?;
    Ok(ranks.gather_f32(&rows)?.concat())
}
