//! Pictures and texts through a model, in batches, with progress; what cannot be read is reported and left out.

use std::path::PathBuf;

use anyhow::Result;
use bifocal_align::train::collective::{Ranks, Wait};
use bifocal_data::source::{Dataset, Sample};
use bifocal_data::{ImageSource, Limits, Preprocess, ahead, load_images};
use bifocal_kernels::trace;
use bifocal_models::bundle::{BundleError, Model};

use crate::failure::wrong_use;
use crate::output::progress::Progress;

/// Pictures that are decoded and embedded at a time.
pub const BATCH: usize = 32;

/// Texts between two movements of the progress bar.
const TEXTS: usize = 512;

/// The pictures that paths stand for: files as they are, folders with all pictures below them, sorted.
///
/// # Errors
/// A path that does not exist, a folder without pictures.
pub fn list(paths: &[PathBuf]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for path in paths {
        let data = Dataset::open(path)?;
        report_skipped(&data);
        samples.extend(data.samples);
    }
    Ok(samples)
}

/// Embeddings of the pictures that could be read.
pub struct Embedded {
    /// `[samples.len(), dim]`, unit rows.
    pub rows: Vec<f32>,
    /// Which sample each row belongs to.
    pub samples: Vec<usize>,
}

/// Embeds the pictures of samples, each rank its share; all get all.
///
/// # Errors
/// When none of them can be read, or the model fails.
pub fn embed(model: &Model, samples: &[Sample], ranks: &dyn Ranks) -> Result<Embedded> {
    let preprocess = preprocess(model)?;
    let own = ranks.share(samples.len());
    let mut progress = Progress::new("embedding pictures", own.len() as u64);
    let mut embedded = Embedded {
        rows: Vec::new(),
        samples: Vec::new(),
    };
    let mut begin = own.start;
    let load = |chunk: &[Sample]| {
        let images: Vec<&ImageSource> = chunk.iter().map(|s| &s.image).collect();
        let _span = trace::beside("reading pictures");
        load_images(&images, preprocess, &Limits::default())
    };
    ahead(samples[own.clone()].chunks(BATCH), load, |loaded| -> Result<()> {
        let loaded = loaded?;
        for bad in &loaded.bad {
            eprintln!("left out {}: {}", bad.image, bad.error);
        }
        let rows = model.embed_images(&loaded.pixels, loaded.good.len())?;
        embedded.rows.extend(rows);
        embedded.samples.extend(loaded.good.iter().map(|g| begin + g));
        begin += loaded.good.len() + loaded.bad.len();
        progress.update((begin - own.start) as u64, "");
        Ok(())
    })?;
    progress.finish();
    let samples_of = ranks.tell("the pictures it has embedded", &embedded.samples, Wait::Work)?;
    embedded.samples = samples_of.concat();
    embedded.rows = ranks.gather_f32(&embedded.rows)?.concat();
    if embedded.samples.is_empty() {
        anyhow::bail!("none of the {} pictures could be read", samples.len());
    }
    Ok(embedded)
}

/// How a model wants its pictures.
///
/// # Errors
/// A model that reads texts only.
pub fn preprocess(model: &Model) -> Result<&Preprocess> {
    model.preprocess().ok_or_else(|| {
        wrong_use(format!(
            "{} reads texts, not pictures: give a model with a vision tower",
            model.name()
        ))
    })
}

/// Embeds texts: `[texts.len(), dim]`, unit rows.
pub fn embed_texts(model: &Model, texts: &[&str], ranks: &dyn Ranks) -> Result<Vec<f32>> {
    embed_texts_with(texts, |chunk| model.embed_texts(chunk), ranks)
}

/// Embeds texts chunk by chunk, so that the bar moves; within a chunk the model packs them as it likes. Each rank embeds its share, and all get all.
pub fn embed_texts_with(
    texts: &[&str],
    embed: impl Fn(&[&str]) -> Result<Vec<f32>, BundleError>,
    ranks: &dyn Ranks,
) -> Result<Vec<f32>> {
    let texts = &texts[ranks.share(texts.len())];
    let mut progress = Progress::new("embedding texts", texts.len() as u64);
    let mut rows = Vec::new();
    for (i, chunk) in texts.chunks(TEXTS).enumerate() {
        rows.extend(embed(chunk)?);
        progress.update((TEXTS * i + chunk.len()) as u64, "");
    }
    progress.finish();
    ranks.barrier(Wait::Work)?;
    Ok(ranks.gather_f32(&rows)?.concat())
}

/// Says what of a dataset could not be used.
pub fn report_skipped(data: &Dataset) {
    const SHOWN: usize = 5;
    for skipped in data.skipped.iter().take(SHOWN) {
        eprintln!("left out {skipped}");
    }
    if data.skipped.len() > SHOWN {
        eprintln!("left out {} more", data.skipped.len() - SHOWN);
    }
}
