//! Embeddings of pictures and texts, computed once: what frozen towers make of them is kept by content, under the same keys as training keeps it.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::Result;
use bifocal_align::train::collective::{Ranks, Wait};
use bifocal_align::train::{self, Progress, TrainError};
use bifocal_data::cache::{Computed, Dtype, FillError, FillOptions, fill};
use bifocal_data::corrupt::Corruption;
use bifocal_data::{FeatureSpec, FeatureStore, ImageSource, ItemKey, Limits, load_images_changed};
use bifocal_models::bundle::Model;
use bifocal_nn::precision::{self, Precision};

use crate::pictures::{BATCH, preprocess};
use crate::ranks::console;

/// Rows that pass through a head at once.
const ROWS: usize = 8192;

/// Where features are kept, and who computes them.
pub struct Features<'a> {
    /// The folder.
    pub cache: PathBuf,
    /// Ranks share what has to be computed.
    pub ranks: &'a dyn Ranks,
}

/// Embeddings of pictures, some of which could not be read.
pub struct Pictures {
    /// `[read, dim]`, unit rows.
    pub rows: Vec<f32>,
    /// The row of each picture that was given; none for one that could not be read.
    pub row_of: Vec<Option<usize>>,
    /// What could not be read, with the reason.
    pub bad: Vec<String>,
}

impl Features<'_> {
    /// Embeds pictures, after a corruption if there is one.
    ///
    /// # Errors
    /// A model without a vision tower, a cache that cannot be used, pictures of which none can be read.
    pub fn pictures(&self, model: &Model, images: &[ImageSource], corruption: Option<Corruption>) -> Result<Pictures> {
        let preprocess = preprocess(model)?;
        let mut bad: Vec<(usize, String)> = Vec::new();
        let (mut places, mut keys) = (Vec::with_capacity(images.len()), Vec::with_capacity(images.len()));
        for (i, key) in ItemKey::of_images(images, &Limits::default()).into_iter().enumerate() {
            match key {
                Ok(key) => {
                    places.push(i);
                    keys.push(key);
                }
                Err(error) => bad.push((i, format!("{}: {error}", images[i]))),
            }
        }
        let (mut spec, width) = match model.vision().filter(|_| model.keeps_image_features()) {
            Some(tower) => (FeatureSpec::new().with("tower", &tower.fingerprint), tower.tower.dim()),
            None => (FeatureSpec::new().with("model", model.fingerprint()), model.dim()),
        };
        spec = spec.with("preprocess", preprocess.fingerprint());
        if model.precision() != Precision::F32 {
            spec = spec.with("precision", model.precision().name());
        }
        if let Some(corruption) = corruption {
            spec = spec.with("corruption", corruption.to_string());
        }
        let mut store = FeatureStore::open(&self.cache, &spec, width, Dtype::F32)?;
        let own = train::dealt(&keys, self.ranks);
        let own_keys: Vec<ItemKey> = own.iter().map(|&k| keys[k]).collect();
        let progress = RefCell::new(console(self.ranks)?);
        let mut damaged = Vec::new();
        let compute = |wanted: &[usize]| {
            // one of several ranks goes on: the others would wait for it
            if self.ranks.size() == 1 && progress.borrow_mut().stop() {
                return Err(TrainError::Stopped {
                    what: "pictures".to_owned(),
                });
            }
            let of = |k: usize| own[wanted[k]];
            let files: Vec<&ImageSource> = (0..wanted.len()).map(|k| &images[places[of(k)]]).collect();
            let change = |k: usize, picture| match corruption {
                Some(corruption) => corruption.apply(picture, &keys[of(k)]),
                None => Some(picture),
            };
            let loaded = load_images_changed(&files, preprocess, &Limits::default(), change).map_err(trouble)?;
            for bad in &loaded.bad {
                damaged.push((places[of(bad.index)], format!("{}: {}", bad.image, bad.error)));
            }
            let n = loaded.good.len();
            let rows = match model.vision().filter(|_| model.keeps_image_features()) {
                Some(tower) => {
                    precision::scope(model.precision(), || tower.embed(&loaded.pixels, n)).map_err(trouble)?
                }
                None => model.embed_images(&loaded.pixels, n).map_err(trouble)?,
            };
            Ok::<_, TrainError>(Computed {
                rows,
                failed: loaded.bad.into_iter().map(|bad| bad.index).collect(),
            })
        };
        let tell = |done, total| progress.borrow_mut().features("pictures", done, total);
        fill(&mut store, &own_keys, &FillOptions::batch(BATCH), compute, tell).map_err(stopped)?;
        progress.borrow_mut().finish();
        bad.extend(
            self.ranks
                .tell("pictures that cannot be read", &damaged, Wait::Work)?
                .concat(),
        );
        bad.sort();
        bad.dedup();
        let mut missing = train::seen_by_all(&mut store, &keys, self.ranks)?
            .into_iter()
            .peekable();
        let mut row_of = vec![None; images.len()];
        let mut there = Vec::new();
        for (k, &i) in places.iter().enumerate() {
            if missing.next_if_eq(&k).is_none() {
                row_of[i] = Some(there.len());
                there.push(keys[k]);
            }
        }
        if there.is_empty() {
            let first = bad
                .first()
                .map_or(String::new(), |(_, why)| format!("; the first: {why}"));
            anyhow::bail!("none of the {} pictures could be read{first}", images.len());
        }
        let mut rows = Vec::with_capacity(there.len() * model.dim());
        for some in there.chunks(ROWS) {
            let features = store.gather(some)?;
            rows.extend(match model.keeps_image_features() {
                true => model.embed_image_features(features)?,
                false => features,
            });
        }
        Ok(Pictures {
            rows,
            row_of,
            bad: bad.into_iter().map(|(_, why)| why).collect(),
        })
    }

    /// Embeds texts: `[texts, dim]`, unit rows.
    ///
    /// # Errors
    /// A model without a text tower, a cache that cannot be used.
    pub fn texts(&self, model: &Model, texts: &[String]) -> Result<Vec<f32>> {
        let Some(encoder) = model.text() else {
            // the model says what it lacks
            return Ok(model.embed_texts(&[])?);
        };
        let prompt = model.manifest().and_then(|manifest| manifest.text.prompt.as_deref());
        let mut progress = console(self.ranks)?;
        let features = train::text_features(
            &self.cache,
            encoder,
            prompt,
            model.precision(),
            texts,
            &mut progress,
            self.ranks,
        )?;
        progress.finish();
        let mut rows = Vec::with_capacity(texts.len() * model.dim());
        for some in features.chunks(ROWS * encoder.tower.dim().max(1)) {
            rows.extend(model.embed_text_features(some.to_vec())?);
        }
        Ok(rows)
    }
}

fn trouble(error: impl std::fmt::Display) -> TrainError {
    TrainError::Features {
        what: "pictures".to_owned(),
        message: error.to_string(),
    }
}

fn stopped(error: FillError<TrainError>) -> anyhow::Error {
    match error {
        FillError::Cache(error) => error.into(),
        FillError::Compute(error) => error.into(),
    }
}
