//! Batches of a stage: cached features where a tower is frozen, pixels and tokens where it learns.

use std::collections::{BTreeMap, BTreeSet};

use bifocal_data::{ImageSource, Limits, Preprocess, ResizeMode, load_images};
use bifocal_models::text::{Pooling, TokenBatch};
use bifocal_models::tokenizer::Encoding;
use bifocal_models::vision::ImageBatch;
use bifocal_nn::Tensor;
use bifocal_nn::engine::tensor;

use super::TrainError;
use super::corpus::{Picture, Row};
use super::draw::Draw;
use crate::batch::{Batch, Images, Texts};
use crate::losses::Positives;

/// Rows of features.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub dim: usize,
    pub values: Vec<f32>,
}

impl Table {
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    fn gather(&self, rows: impl ExactSizeIterator<Item = usize>) -> Tensor<2> {
        let n = rows.len();
        let mut values = Vec::with_capacity(n * self.dim);
        rows.for_each(|i| values.extend_from_slice(self.row(i)));
        tensor(values, [n, self.dim])
    }
}

/// The pictures' side.
#[derive(Debug)]
pub(crate) enum ImageFeed {
    /// A row of features for each row of the corpus.
    Features(Table),
    /// Files, read when they are needed.
    Pixels(Preprocess),
}

/// The texts' side.
#[derive(Debug)]
pub(crate) enum TextFeed {
    /// A row of features for each text of the corpus.
    Features(Table),
    /// Tokens of each text of the corpus.
    Tokens(Vec<Encoding>, Pooling),
}

/// What a stage learns from.
#[derive(Debug)]
pub(crate) struct Feed {
    pub rows: Vec<Row>,
    pub draw: Draw,
    pub captions: usize,
    pub images: ImageFeed,
    pub texts: TextFeed,
    /// Pictures that could not be read, told once each.
    pub told: BTreeSet<String>,
}

/// A batch with the names of its pictures.
#[derive(Debug)]
pub(crate) struct Sampled {
    pub batch: Batch,
    pub keys: Vec<String>,
    /// Of samples whose features are not finite.
    pub broken: Vec<String>,
    /// New troubles with pictures.
    pub warnings: Vec<String>,
}

/// A picture of a batch and the texts drawn for it.
struct Drawn {
    row: usize,
    texts: Vec<u32>,
}

impl Feed {
    /// The batch of a step; `number` is for messages.
    pub fn batch(&mut self, step: u64, number: u64) -> Result<Sampled, TrainError> {
        let mut drawn = self.draw(step);
        let mut warnings = Vec::new();
        let images = match &self.images {
            ImageFeed::Features(table) => Images::Features(table.gather(drawn.iter().map(|d| d.row))),
            ImageFeed::Pixels(preprocess) => {
                let paths: Vec<&ImageSource> = drawn.iter().map(|d| self.path(d.row)).collect();
                let loaded =
                    load_images(&paths, preprocess, &Limits::default()).map_err(|error| TrainError::Features {
                        what: "pictures".to_owned(),
                        message: error.to_string(),
                    })?;
                for bad in &loaded.bad {
                    if self.told.insert(bad.image.to_string()) {
                        warnings.push(format!("{} is left out: {}", bad.image, bad.error));
                    }
                }
                let good: BTreeSet<usize> = loaded.good.iter().copied().collect();
                let mut at = 0..;
                drawn.retain(|_| at.next().is_some_and(|i| good.contains(&i)));
                if let ResizeMode::Patches { .. } = preprocess.resize {
                    return Err(TrainError::Features {
                        what: "pictures".to_owned(),
                        message:
                            "a tower that reads pictures of any proportions cannot learn yet; freeze it in the recipe"
                                .to_owned(),
                    });
                }
                let batch = ImageBatch::square(loaded.pixels, drawn.len(), preprocess.size as usize);
                Images::Pixels(batch.filter(|_| !drawn.is_empty()).ok_or_else(|| {
                    TrainError::NoPictures {
                        step: number,
                        first: loaded
                            .bad
                            .first()
                            .map_or_else(String::new, |b| format!("{}: {}", b.image, b.error)),
                    }
                })?)
            }
        };
        let owners: Vec<usize> = drawn
            .iter()
            .enumerate()
            .flat_map(|(i, d)| std::iter::repeat_n(i, d.texts.len()))
            .collect();
        let numbers: Vec<usize> = drawn.iter().flat_map(|d| &d.texts).map(|&t| t as usize).collect();
        let broken = self.broken(&drawn);
        let texts = match &self.texts {
            TextFeed::Features(table) => Texts::Features(table.gather(numbers.into_iter())),
            TextFeed::Tokens(tokens, pooling) => {
                Texts::Tokens(TokenBatch::of(numbers.iter().map(|&t| &tokens[t])), *pooling)
            }
        };
        let Some(positives) = Positives::new(drawn.len(), owners) else {
            unreachable!("rows without texts do not come into the corpus");
        };
        let keys = drawn.iter().map(|d| self.rows[d.row].key.clone()).collect();
        Ok(Sampled {
            batch: Batch {
                images,
                texts,
                positives,
            },
            keys,
            broken,
            warnings,
        })
    }

    /// The step's pictures, each once: one that is drawn twice gets the captions of both draws.
    fn draw(&mut self, step: u64) -> Vec<Drawn> {
        let mut drawn: Vec<Drawn> = Vec::new();
        let mut at: BTreeMap<usize, usize> = BTreeMap::new();
        for (sample, row) in self.draw.step(step) {
            let all = &self.rows[row].texts;
            let picked = self.draw.captions(sample, all.len(), self.captions);
            let picked = picked.into_iter().map(|i| all[i]);
            match at.get(&row) {
                Some(&i) => {
                    let known = drawn[i].texts.clone();
                    drawn[i].texts.extend(picked.filter(|t| !known.contains(t)));
                }
                None => {
                    at.insert(row, drawn.len());
                    drawn.push(Drawn {
                        row,
                        texts: picked.collect(),
                    });
                }
            }
        }
        drawn
    }

    fn path(&self, row: usize) -> &ImageSource {
        match &self.rows[row].picture {
            Picture::File(path) => path,
            Picture::Class(_) => unreachable!("classifier rows are refused when the vision tower learns"),
        }
    }

    fn broken(&self, drawn: &[Drawn]) -> Vec<String> {
        let finite = |table: &Table, i: usize| table.row(i).iter().all(|v| v.is_finite());
        let bad = |d: &&Drawn| {
            let image = matches!(&self.images, ImageFeed::Features(t) if !finite(t, d.row));
            let text = matches!(&self.texts, TextFeed::Features(t) if d.texts.iter().any(|&i| !finite(t, i as usize)));
            image || text
        };
        drawn.iter().filter(bad).map(|d| self.rows[d.row].key.clone()).collect()
    }
}
