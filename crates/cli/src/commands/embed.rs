//! `bifocal embed`: rows of numbers from pictures or texts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bifocal_align::train::collective::{Ranks, Wait};
use bifocal_data::source::{self, Dataset, Sample};
use bifocal_data::{ImageSource, Limits, ahead, load_images};
use bifocal_kernels::trace;
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
use bifocal_models::text::{Attention, Pooling};

use crate::bulk::input::{self, Input, Lines};
use crate::bulk::{self, Settings};
use crate::failure::wrong_use;
use crate::model::Compute;
use crate::output::progress::Progress;
use crate::output::rows::{self, Format};
use crate::{pictures, ranks};

/// Embeds pictures or texts.
///
/// Rows are written in the order given (a folder: sorted by path), L2-normalised unless told otherwise. Into one file: `.npy` is
/// float32 with one row per input; `.jsonl` has one object a line with the input and its embedding; `.parquet` the same in columns. A picture
/// that cannot be read is an error then, since its row would be missing.
///
/// Into a folder (a name ending in /, or one without ending), for millions of items: part-00000.npy has the rows, part-00000.parquet the
/// keys, captions, labels and sizes. A run that was killed is continued by the same call. What cannot be read is left out and told in
/// ledger.jsonl; when everything else is done, the same call tries only that again.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("input").required(true))]
pub struct Args {
    /// A bundle, a folder in Hugging Face, open_clip or sentence-transformers layout, a .gguf or .pth file, or hf:org/name[@revision]
    #[arg(long, value_name = "M")]
    model: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// Pictures, folders of pictures, tar shards (also patterns such as shard-{000..012}.tar), parquet files, tables
    #[arg(long, num_args = 1.., value_name = "PATH", group = "input")]
    images: Vec<PathBuf>,
    /// A file with one text a line, taken verbatim: no trimming, no skipping of blank lines
    #[arg(long, value_name = "FILE", group = "input")]
    texts: Option<PathBuf>,
    /// Texts on the command line
    #[arg(long, num_args = 1.., value_name = "STR", group = "input")]
    text: Vec<String>,
    /// All captions of such paths as --images takes; into a folder
    #[arg(long, num_args = 1.., value_name = "PATH", group = "input")]
    captions: Vec<PathBuf>,
    /// Where to write: a name ending in .npy, .jsonl or .parquet, or a folder
    #[arg(long, value_name = "F")]
    out: PathBuf,
    /// Keep the rows' lengths as the model gives them
    #[arg(long)]
    no_normalize: bool,
    /// Items of a part of a folder, in batches of 32 pictures or 512 texts: 10000, or what the folder was begun with
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    part_items: Option<u32>,
    /// The share of items that may fail before a run into a folder ends with an error
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    max_failed: f64,
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
    let format = if is_folder(&args.out) {
        None
    } else {
        Some(Format::of(&args.out)?)
    };
    let options = TextOptions {
        pooling: args.pooling,
        attention: args.attention,
        ..TextOptions::default()
    };
    let model = args.compute.open(&args.model, &options)?;
    if model.manifest().is_some() && (args.pooling.is_some() || args.attention.is_some()) {
        return Err(wrong_use(
            "--pooling and --attention are for bare language models; a bundle was trained with its own",
        ));
    }
    let Some(format) = format else {
        return embed_in_parts(&args, &model, ranks);
    };
    if !args.captions.is_empty() {
        return Err(wrong_use("--captions are written into a folder: --out FOLDER/"));
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

/// Whether `--out` names a folder: it is one, or its name says so.
fn is_folder(out: &Path) -> bool {
    out.is_dir() || out.extension().is_none() || out.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn embed_in_parts(args: &Args, model: &Model, ranks: &dyn Ranks) -> Result<()> {
    let share = 0.0..=1.0;
    if !share.contains(&args.max_failed) {
        return Err(wrong_use(format!(
            "--max-failed {}: a share from 0 to 1 is needed",
            args.max_failed
        )));
    }
    let mut unusable = Vec::new();
    let mut list = |paths: &[PathBuf]| -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        for path in paths {
            let data = Dataset::open(path)?;
            if ranks.first() {
                pictures::report_skipped(&data);
            }
            unusable.extend(input::unusable(&data.skipped));
            samples.extend(data.samples);
        }
        Ok(samples)
    };
    let input = match &args.texts {
        Some(file) => Input::Lines(Lines::open(file)?),
        None if !args.captions.is_empty() => Input::captions(list(&args.captions)?),
        None if !args.images.is_empty() => {
            let mut samples = list(&args.images)?;
            samples.retain(|sample| !sample.image.is_none());
            Input::Images(samples, pictures::preprocess(model)?.clone())
        }
        None => {
            return Err(wrong_use(
                "--text is written into a file: --out F.npy, F.jsonl or F.parquet",
            ));
        }
    };
    if input.len() == 0 {
        anyhow::bail!("there is nothing to embed: no {} were found", input.kind());
    }
    let settings = Settings {
        normalized: !args.no_normalize,
        part_items: args.part_items.map(|n| n as usize),
        max_failed: args.max_failed,
    };
    bulk::run(&args.out, model, &input, &unusable, &settings, ranks)
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
    let mut done = 0;
    let load = |chunk| {
        let _span = trace::beside("reading pictures");
        load_images(chunk, preprocess, &Limits::default())
    };
    ahead(files.chunks(pictures::BATCH), load, |loaded| -> Result<()> {
        let loaded = loaded?;
        if let Some(bad) = loaded.bad.first() {
            anyhow::bail!(
                "{}: {}; leave it out and call again, or embed into a folder (--out NAME/), which leaves it out",
                bad.image,
                bad.error
            );
        }
        let count = loaded.good.len();
        rows.extend(if raw {
            model.embed_images_raw(&loaded.pixels, count)?
        } else {
            model.embed_images(&loaded.pixels, count)?
        });
        done += count;
        progress.update(done as u64, "");
        Ok(())
    })?;
    progress.finish();
    ranks.barrier(Wait::Work)?;
    Ok(ranks.gather_f32(&rows)?.concat())
}
