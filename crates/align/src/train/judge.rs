//! Looking at held-out pictures while a run goes on: retrieval among them, similarities, and what is found for a few captions.

use std::collections::BTreeMap;

use bifocal_data::{ImageSource, Limits, Preprocess, load_images};
use bifocal_models::adapter::normalize;
use bifocal_models::text::{Pooling, TokenBatch};
use bifocal_models::tokenizer::Encoding;
use bifocal_models::towers::{Teacher, Towers};
use bifocal_models::vision::ImageBatch;
use bifocal_nn::engine::values;
use bifocal_nn::params;

use super::TrainError;
use super::feed::Table;
use super::watch::report::{Found, Retrieval};
use super::watch::{Evaluation, similarities};

/// Pictures that pass through a tower at once, and texts.
const IMAGES: usize = 16;
const TEXTS: usize = 64;
/// Captions whose finds are shown, and how many pictures each.
const QUERIES: usize = 6;
const SHOWN: usize = 5;
/// Side of a picture that is shown, in pixels.
const THUMBNAIL: u32 = 96;

/// The pictures' side: what a frozen tower made of them, or where they are.
pub(crate) enum HeldImages {
    Features(Table),
    Pixels(Preprocess),
}

/// The texts' side.
pub(crate) enum HeldTexts {
    Features(Table),
    Tokens(Vec<Encoding>, Pooling),
}

/// Held-out pictures and their captions, as a stage's towers see them.
pub(crate) struct Judge {
    pub pictures: Vec<ImageSource>,
    pub captions: Vec<String>,
    /// Which picture each caption belongs to.
    pub owners: Vec<usize>,
    pub images: HeldImages,
    pub texts: HeldTexts,
}

/// Unit rows of both sides.
pub(crate) struct Rows {
    images: Vec<f32>,
    texts: Vec<f32>,
    dim: usize,
}

impl Judge {
    /// Rows by the towers as they are; nothing is recorded.
    pub fn embed(&self, towers: &Towers) -> Result<Rows, TrainError> {
        let towers = params::set_trainable(towers.clone(), |_| false);
        let trouble = |message: String| TrainError::Features {
            what: "held-out pictures".to_owned(),
            message,
        };
        let mut images = Vec::new();
        match (&self.images, &towers.vision) {
            (HeldImages::Pixels(preprocess), Some(vision)) => {
                let side = Teacher {
                    vision: vision.clone(),
                    image_head: towers.image_head.clone(),
                };
                for chunk in self.pictures.chunks(IMAGES) {
                    let loaded =
                        load_images(chunk, preprocess, &Limits::default()).map_err(|e| trouble(e.to_string()))?;
                    let batch = ImageBatch::square(loaded.pixels, loaded.good.len(), preprocess.size as usize);
                    let batch = batch.filter(|batch| batch.n == chunk.len());
                    let batch = batch.ok_or_else(|| trouble("one that was readable is not any more".to_owned()))?;
                    images.extend(values(normalize(side.embed(&batch))));
                }
            }
            (HeldImages::Features(table), _) => {
                for start in (0..self.pictures.len()).step_by(TEXTS) {
                    let end = (start + TEXTS).min(self.pictures.len());
                    let rows = towers.image_head.forward(table.gather(start..end), false);
                    images.extend(values(normalize(rows)));
                }
            }
            (HeldImages::Pixels(_), None) => return Err(trouble("there is no vision tower".to_owned())),
        }
        let mut texts = Vec::new();
        for start in (0..self.captions.len()).step_by(TEXTS) {
            let end = (start + TEXTS).min(self.captions.len());
            let features = match (&self.texts, &towers.text) {
                (HeldTexts::Features(table), _) => table.gather(start..end),
                (HeldTexts::Tokens(tokens, pooling), Some(tower)) => {
                    tower.embed(&TokenBatch::of(tokens[start..end].iter()), *pooling)
                }
                (HeldTexts::Tokens(..), None) => return Err(trouble("there is no text tower".to_owned())),
            };
            texts.extend(values(normalize(towers.text_head.forward(features, false))));
        }
        Ok(Rows {
            dim: images.len() / self.pictures.len().max(1),
            images,
            texts,
        })
    }

    /// Recall in both directions and similarities.
    pub fn evaluate(&self, rows: &Rows, step: u64) -> Result<Evaluation, TrainError> {
        let trouble = |message: String| TrainError::Features {
            what: "held-out pictures".to_owned(),
            message,
        };
        let found = bifocal_eval::retrieval(&rows.images, &rows.texts, rows.dim, &self.owners);
        let found = found.map_err(|error| trouble(error.to_string()))?;
        let mut metrics = BTreeMap::new();
        for (way, direction) in [("t2i", found.text_to_image), ("i2t", found.image_to_text)] {
            for (k, recall) in [(1, direction.r1), (5, direction.r5), (10, direction.r10)] {
                metrics.insert(format!("{way}_r{k}"), recall);
            }
        }
        let seen = similarities(&rows.images, &rows.texts, rows.dim, &self.owners);
        Ok(Evaluation {
            step,
            metrics,
            similarities: Some(seen.map_err(|error| trouble(error.to_string()))?),
        })
    }

    /// What is found for a few captions, spread over the pictures.
    pub fn retrievals(&self, rows: &Rows) -> Vec<Retrieval> {
        let apart = (self.captions.len() / QUERIES).max(1);
        let queries = (0..self.captions.len()).step_by(apart).take(QUERIES);
        queries.map(|text| self.found(rows, text)).collect()
    }

    fn found(&self, rows: &Rows, text: usize) -> Retrieval {
        let query = &rows.texts[text * rows.dim..][..rows.dim];
        let score = |image: usize| {
            let row = &rows.images[image * rows.dim..][..rows.dim];
            row.iter().zip(query).map(|(a, b)| f64::from(a * b)).sum::<f64>()
        };
        let mut ranked: Vec<(f64, usize)> = (0..self.pictures.len()).map(|i| (score(i), i)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let shown = ranked.into_iter().take(SHOWN).map(|(score, image)| Found {
            thumbnail: self.pictures[image]
                .thumbnail(&Limits::default(), THUMBNAIL)
                .unwrap_or_default(),
            score,
            correct: self.owners[text] == image,
        });
        Retrieval {
            query: self.captions[text].clone(),
            shown: shown.collect(),
        }
    }
}
