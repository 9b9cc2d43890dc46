//! What a method sees of the data in one step, and what it makes of it before the loss.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bifocal_models::chat::Sequence;
use bifocal_models::text::{Pooling, TokenBatch};
use bifocal_models::vision::ImageBatch;
use bifocal_nn::Tensor;
use bifocal_nn::fused::embedding;
use serde::{Deserialize, Serialize};

use crate::losses::Positives;
use crate::methods::MethodError;

/// The pictures of a batch.
#[derive(Clone, Debug)]
pub enum Images {
    /// For a vision tower that learns.
    Pixels(ImageBatch),
    /// What a frozen vision tower makes of them, `[n, width]`.
    Features(Tensor<2>),
    /// What a frozen vision tower makes of their patches.
    Patches {
        /// `[n·each, width]`.
        rows: Tensor<2>,
        /// Patches of a picture.
        each: usize,
    },
    /// For a vision tower that learns to read them.
    Codes {
        /// Of each picture, one after the other.
        codes: Arc<[u32]>,
        /// Codes of a picture.
        each: usize,
    },
    /// For a language model that reads and draws them.
    Drawn {
        /// Of each picture, one after the other.
        codes: Arc<[u32]>,
        /// What is read of them, `[n·each, width]`.
        looks: Tensor<2>,
        /// Codes of a picture.
        each: usize,
    },
}

impl Images {
    fn part(&self, images: Range<usize>) -> Self {
        match self {
            Self::Pixels(all) => {
                let per = all.height * all.width;
                Self::Pixels(ImageBatch {
                    n: images.len(),
                    pixels: all.pixels.clone().slice([images.start * per..images.end * per, 0..3]),
                    ..*all
                })
            }
            Self::Features(all) => Self::Features(rows(all, images)),
            Self::Patches { rows: all, each } => Self::Patches {
                rows: rows(all, images.start * each..images.end * each),
                each: *each,
            },
            Self::Codes { codes, each } => Self::Codes {
                codes: codes[images.start * each..images.end * each].into(),
                each: *each,
            },
            Self::Drawn { codes, looks, each } => {
                let part = images.start * each..images.end * each;
                Self::Drawn {
                    codes: codes[part.clone()].into(),
                    looks: rows(looks, part),
                    each: *each,
                }
            }
        }
    }
}

/// The texts of a batch.
#[derive(Clone, Debug)]
pub enum Texts {
    /// For a text tower that learns.
    Tokens(Tokens),
    /// What a frozen text tower makes of them, `[m, width]`.
    Features(Tensor<2>),
    /// Dialogues, for a language model that learns to talk.
    Dialogues(Dialogues),
}

/// Written dialogues of a step, or some of them.
#[derive(Clone, Debug)]
pub struct Dialogues {
    /// One for each text.
    pub all: Arc<[Sequence]>,
    /// Tokens and pictures in dialogues that come before in the whole step: dropout is drawn by place.
    pub before: [usize; 2],
}

/// Texts as a tower that learns reads them.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// The texts.
    pub batch: TokenBatch,
    /// How the vectors of a text's tokens become one.
    pub pooling: Pooling,
    /// Tokens that come before in the whole step: dropout is drawn by place.
    pub before: usize,
}

impl Texts {
    fn part(&self, texts: Range<usize>) -> Self {
        match self {
            Self::Tokens(all) => Self::Tokens(Tokens {
                batch: all.batch.part(texts.clone()),
                before: all.before + all.batch.offsets[texts.start],
                ..*all
            }),
            Self::Features(all) => Self::Features(rows(all, texts)),
            Self::Dialogues(Dialogues { all, before }) => {
                let earlier = &all[..texts.start];
                let tokens: usize = earlier.iter().map(|s| s.ids.len()).sum();
                let pictures = earlier.iter().filter(|s| s.image.is_some()).count();
                Self::Dialogues(Dialogues {
                    all: all[texts].into(),
                    before: [before[0] + tokens, before[1] + pictures],
                })
            }
        }
    }
}

fn rows(x: &Tensor<2>, range: Range<usize>) -> Tensor<2> {
    let width = x.dims()[1];
    x.clone().slice([range, 0..width])
}

/// Samples of one step, or some of them. A sample is a picture with its texts; in a stage that learns from texts alone, the texts of a
/// picture.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `n` pictures; none when the stage does not look at them.
    pub images: Option<Images>,
    /// `m ≥ n` texts, those of a sample beside each other.
    pub texts: Texts,
    /// Which text belongs to which sample.
    pub positives: Positives,
    /// One more text of each sample, with the instruction before it: `n`.
    pub queries: Option<Texts>,
    /// Texts that belong to no picture, and how many of them come with each sample.
    pub negatives: Option<(Texts, Vec<usize>)>,
    /// What the teacher makes of the pictures, `[n, width]`.
    pub teacher_images: Option<Tensor<2>>,
    /// What the teacher makes of the pictures' tokens, `[n, tokens·width]`.
    pub teacher_tokens: Option<Tensor<2>>,
    /// What the teacher makes of the texts, `[m, width]`.
    pub teacher_texts: Option<Tensor<2>>,
    /// Pictures of no task with what a teacher makes of them; their texts are the teacher's rows of them.
    pub reference: Option<Box<Batch>>,
    /// Samples, texts and negatives that come before in the whole step: dropout and noise are drawn by place.
    pub first: [usize; 3],
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.positives.images()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the samples, in order, with as large a part of the reference.
    ///
    /// # Panics
    /// When the range is empty or goes beyond the samples.
    #[must_use]
    pub fn part(&self, samples: Range<usize>) -> Self {
        assert!(!samples.is_empty() && samples.end <= self.len(), "{samples:?}");
        let owners = self.positives.of_text();
        let below = |sample: usize| owners.partition_point(|&owner| owner < sample);
        let texts = below(samples.start)..below(samples.end);
        let positives = owners[texts.clone()]
            .iter()
            .map(|owner| owner - samples.start)
            .collect();
        let Some(positives) = Positives::new(samples.len(), positives) else {
            unreachable!("each sample has a text");
        };
        let before = |counts: &Vec<usize>| counts[..samples.start].iter().sum::<usize>();
        let negatives = self.negatives.as_ref().map(|(all, counts)| {
            let start = before(counts);
            let counts = counts[samples.clone()].to_vec();
            let end = start + counts.iter().sum::<usize>();
            (all.part(start..end), counts)
        });
        Self {
            images: self.images.as_ref().map(|all| all.part(samples.clone())),
            texts: self.texts.part(texts.clone()),
            positives,
            queries: self.queries.as_ref().map(|all| all.part(samples.clone())),
            negatives: negatives.filter(|(_, counts)| counts.iter().any(|&n| n > 0)),
            teacher_images: self.teacher_images.as_ref().map(|all| rows(all, samples.clone())),
            teacher_tokens: self.teacher_tokens.as_ref().map(|all| rows(all, samples.clone())),
            teacher_texts: self.teacher_texts.as_ref().map(|all| rows(all, texts.clone())),
            reference: self.reference.as_ref().and_then(|all| {
                let at = |sample: usize| all.len() * sample / self.len();
                let range = at(samples.start)..at(samples.end);
                (!range.is_empty()).then(|| Box::new(all.part(range)))
            }),
            first: [
                self.first[0] + samples.start,
                self.first[1] + texts.start,
                self.first[2] + self.negatives.as_ref().map_or(0, |(_, counts)| before(counts)),
            ],
        }
    }
}

/// Whose embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The pictures.
    Images,
    /// The texts.
    Texts,
    /// The texts that ask.
    Queries,
    /// The texts that belong to no picture.
    Negatives,
    /// The pictures as the teacher sees them.
    TeacherImages,
    /// The texts as the teacher sees them.
    TeacherTexts,
    /// The reference pictures.
    Reference,
    /// Of each dialogue the sum of its tokens' losses, and how many tokens these are.
    Answers,
    /// Of each picture that is drawn the sum of its codes' losses, and how many codes these are.
    Drawn,
    /// All tokens of each picture.
    Tokens,
    /// All tokens of each picture as the teacher sees them.
    TeacherTokens,
    /// The pictures' patches as a frozen tower gives them, for a loss that reads pairs anew.
    Patches,
    /// The texts' tokens as numbers, each text in a row that ends with −1 where it is shorter; likewise.
    Words,
    /// Numbers drawn for each sample.
    Draws,
}

/// What a stage's towers and heads make of samples: rows that its loss compares.
#[derive(Clone, Debug)]
pub struct Embeddings {
    /// Each `[rows, width]`.
    pub rows: BTreeMap<Part, Tensor<2>>,
    /// Which text belongs to which sample.
    pub positives: Positives,
}

impl Embeddings {
    /// Of some samples, nothing embedded yet.
    pub fn of(batch: &Batch) -> Self {
        Self {
            rows: BTreeMap::new(),
            positives: batch.positives.clone(),
        }
    }

    /// The rows of a part.
    ///
    /// # Errors
    /// [`MethodError::NoRows`] when it was not embedded.
    pub fn get(&self, part: Part) -> Result<Tensor<2>, MethodError> {
        self.rows.get(&part).cloned().ok_or(MethodError::NoRows { part })
    }

    /// The rows of a part that has a row for each text, one for each picture: that of its first text.
    ///
    /// # Errors
    /// [`MethodError::NoRows`] when it was not embedded.
    pub fn first_texts(&self, part: Part) -> Result<Tensor<2>, MethodError> {
        let rows = self.get(part)?;
        let firsts = self.positives.firsts();
        Ok(match firsts.len() == rows.dims()[0] && firsts.is_sorted() {
            true => rows,
            false => embedding(rows, &firsts.into()),
        })
    }

    /// With rows added.
    #[must_use]
    pub fn with(mut self, part: Part, rows: Tensor<2>) -> Self {
        self.rows.insert(part, rows);
        self
    }

    /// The rows of several parts of a batch, in order, as those of the whole.
    pub fn join(parts: &[Self]) -> Self {
        let mut rows: BTreeMap<Part, Vec<Tensor<2>>> = BTreeMap::new();
        let (mut samples, mut owners) = (0, Vec::new());
        for part in parts {
            for (&which, x) in &part.rows {
                rows.entry(which).or_default().push(x.clone());
            }
            owners.extend(part.positives.of_text().iter().map(|owner| samples + owner));
            samples += part.positives.images();
        }
        let Some(positives) = Positives::new(samples, owners) else {
            unreachable!("each sample of each part has a text");
        };
        Self {
            rows: rows
                .into_iter()
                .map(|(which, all)| (which, Tensor::cat(all, 0)))
                .collect(),
            positives,
        }
    }

    /// The same with other tensors in place of its own.
    #[must_use]
    pub fn map(&self, mut each: impl FnMut(Part, &Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            rows: self.rows.iter().map(|(&part, x)| (part, each(part, x))).collect(),
            positives: self.positives.clone(),
        }
    }
}
