//! One model on the held-out pictures of all tests, and on the benchmarks of no task.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use bifocal_align::recipe::Chain;
use bifocal_align::train::{self, HeldPicture};
use bifocal_benchmarks::{Benchmark, Options};
use bifocal_data::ImageSource;
use bifocal_eval::{Asks, Ranks, Unit, ranks};
use bifocal_models::bundle::Model;
use serde::{Deserialize, Serialize};

use crate::evaluating::{Features, measure, plan};

/// What a model was asked and how it did. A file of the run's folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Of the model.
    pub fingerprint: String,
    /// Digest of what was asked.
    pub asked: String,
    /// By test.
    pub tests: BTreeMap<String, Recall>,
    /// Benchmarks of no task, each with its headline.
    pub keeps: BTreeMap<String, f64>,
}

/// R@1 of a test, as fractions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Pictures that were looked at.
    pub pictures: usize,
    /// Pictures look for one of their captions, among those of the test.
    pub i2t: f64,
    /// Captions look for their picture, among those of the test.
    pub t2i: f64,
    /// As `i2t`, among the captions of all tests.
    pub merged_i2t: f64,
    /// As `t2i`, among the pictures of all tests.
    pub merged_t2i: f64,
}

/// What models are asked.
pub struct Asked {
    tests: Vec<(String, Vec<HeldPicture>)>,
    keeps: Vec<(String, Benchmark)>,
    /// Digest of all of that.
    pub digest: String,
}

impl Asked {
    /// Opens data and benchmarks; no picture is read.
    ///
    /// # Errors
    /// Data that cannot be opened, a test that holds nothing out, an unknown benchmark.
    pub fn open(chain: &Chain) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        let mut tests = Vec::new();
        for test in &chain.tests {
            let held = train::held_out(&test.recipe)?;
            if held.is_empty() {
                anyhow::bail!(
                    "task {:?} holds no captioned picture out, so that nothing can be measured; give its data.sources a holdout",
                    test.name
                );
            }
            hasher.update(format!("{} {held:?}", test.name).as_bytes());
            tests.push((test.name.clone(), held));
        }
        let targets = plan::targets(&chain.keeps, Path::new("."))?;
        let open = |target: &plan::Target| {
            let benchmark = target.open(&Options::default())?;
            Ok((short(&target.name), benchmark))
        };
        let keeps = targets.iter().map(open).collect::<Result<Vec<_>>>()?;
        for (name, benchmark) in &keeps {
            hasher.update(format!("{name} {benchmark:?}").as_bytes());
        }
        Ok(Self {
            tests,
            keeps,
            digest: hasher.finalize().to_hex()[..32].to_owned(),
        })
    }

    /// Names of the benchmarks of no task.
    pub fn keeps(&self) -> impl Iterator<Item = &str> {
        self.keeps.iter().map(|(name, _)| name.as_str())
    }

    /// Asks a model.
    ///
    /// # Errors
    /// A model that cannot embed, a test of which no picture can be read.
    pub fn ask(&self, model: &Model, features: &Features<'_>) -> Result<Measured> {
        let (mut images, mut texts, mut owners) = (Vec::<f32>::new(), Vec::<f32>::new(), Vec::<usize>::new());
        let mut own = Vec::new();
        let dim = model.dim();
        for (name, held) in &self.tests {
            let seen = see(model, features, held).with_context(|| format!("test {name:?}"))?;
            let first = images.len() / dim;
            owners.extend(seen.owners.iter().map(|owner| first + owner));
            images.extend(&seen.images);
            texts.extend(&seen.texts);
            own.push((
                ranks(&seen.images, &seen.texts, dim, &seen.owners)?,
                seen.images.len() / dim,
            ));
        }
        let merged = ranks(&images, &texts, dim, &owners)?;
        let mut tests = BTreeMap::new();
        let mut first = 0;
        for ((name, _), (own, pictures)) in self.tests.iter().zip(&own) {
            let places = first..first + pictures;
            first = places.end;
            let recall = Recall {
                pictures: *pictures,
                i2t: r1(&own.units(Asks::Image, 1)),
                t2i: r1(&own.units(Asks::Text, 1)),
                merged_i2t: r1(&part(&merged, Asks::Image, places.clone())),
                merged_t2i: r1(&part(&merged, Asks::Text, places)),
            };
            tests.insert(name.clone(), recall);
        }
        let mut keeps = BTreeMap::new();
        for (name, benchmark) in &self.keeps {
            let found = measure(features, model, benchmark, None, false, 0)?;
            let value = found.main().with_context(|| format!("{name} gave no number"))?;
            keeps.insert(name.clone(), value);
        }
        Ok(Measured {
            fingerprint: model.fingerprint().to_owned(),
            asked: self.digest.clone(),
            tests,
            keeps,
        })
    }
}

/// A benchmark without the way to its folder, for tables.
fn short(name: &str) -> String {
    match name.split_once('=') {
        Some((suite, folder)) => {
            let last = Path::new(folder)
                .file_name()
                .map_or(folder.into(), |last| last.to_string_lossy());
            format!("{suite}={last}")
        }
        None => name.to_owned(),
    }
}

/// The pictures of a test that can be read, and their captions.
struct Seen {
    /// `[pictures, dim]`.
    images: Vec<f32>,
    /// `[captions, dim]`.
    texts: Vec<f32>,
    /// The picture of each caption.
    owners: Vec<usize>,
}

fn see(model: &Model, features: &Features<'_>, held: &[HeldPicture]) -> Result<Seen> {
    let sources: Vec<ImageSource> = held.iter().map(|held| held.image.clone()).collect();
    let pictures = features.pictures(model, &sources, None)?;
    for bad in &pictures.bad {
        eprintln!("left out {bad}");
    }
    let (mut captions, mut owners) = (Vec::new(), Vec::new());
    for (held, row) in held.iter().zip(&pictures.row_of) {
        if let Some(row) = row {
            captions.extend(held.captions.iter().cloned());
            owners.resize(captions.len(), *row);
        }
    }
    Ok(Seen {
        images: pictures.rows,
        texts: features.texts(model, &captions)?,
        owners,
    })
}

/// The units of some pictures; each of them has captions.
fn part(ranks: &Ranks, asks: Asks, pictures: std::ops::Range<usize>) -> Vec<Unit> {
    ranks.units(asks, 1)[pictures].to_vec()
}

/// Hits over questions.
fn r1(units: &[Unit]) -> f64 {
    let (hits, count) = units
        .iter()
        .fold((0.0, 0.0), |(hits, count), unit| (hits + unit.sum, count + unit.count));
    hits / f64::max(count, 1.0)
}
