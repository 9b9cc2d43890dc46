//! Batches of a stage: cached features where a tower is frozen, pixels and tokens where it learns.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bifocal_data::{Augment, ImageSource, Preprocess, ResizeMode};
use bifocal_models::chat::Sequence;
use bifocal_models::text::{Pooling, TokenBatch};
use bifocal_models::tokenizer::Encoding;
use bifocal_models::vision::ImageBatch;
use bifocal_nn::Tensor;
use bifocal_nn::engine::{tensor, values};

use super::TrainError;
use super::ahead::{Ahead, Wanted};
use super::collective::{Ranks, Wait};
use super::corpus::{Picture, Row};
use super::draw::Draw;
use crate::batch::{Batch, Dialogues, Images, Texts, Tokens};
use crate::losses::Positives;
use crate::methods::{BatchNeeds, Negatives};

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

    pub fn gather(&self, rows: impl ExactSizeIterator<Item = usize>) -> Tensor<2> {
        let n = rows.len();
        let mut values = Vec::with_capacity(n * self.dim);
        rows.for_each(|i| values.extend_from_slice(self.row(i)));
        tensor(values, [n, self.dim])
    }
}

/// The pictures' side.
#[derive(Debug)]
pub(crate) enum ImageFeed {
    /// The stage learns from texts alone.
    None,
    /// A row of features for each row of the corpus.
    Features(Table),
    /// Patches of the picture of each row of the corpus: a row of features holds so many, one after the other.
    Patches(Table, usize),
    /// Codes of the picture of each row of the corpus, for a tower that learns to read them.
    Codes(Table),
    /// Codes of the picture of each row of the corpus, so many, each with what is read of it after it.
    Drawn(Table, usize),
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
    /// Each text of the corpus as a dialogue.
    Dialogues(Vec<Sequence>),
}

/// What a stage learns from.
#[derive(Debug)]
pub(crate) struct Feed {
    pub rows: Vec<Row>,
    pub draw: Draw,
    pub needs: BatchNeeds,
    pub images: ImageFeed,
    pub texts: TextFeed,
    /// Tokens of each text of the corpus with the instruction before it.
    pub queries: Option<Vec<Encoding>>,
    /// What the teacher makes of the picture of each row of the corpus.
    pub teacher_images: Option<Table>,
    /// What the teacher makes of the tokens of the picture of each row of the corpus.
    pub teacher_tokens: Option<Table>,
    /// What the teacher makes of each text of the corpus.
    pub teacher_texts: Option<Table>,
    /// Random changes of pictures that learn.
    pub augment: Option<Augment>,
    /// Pictures of no task that come with each batch.
    pub reference: Option<Box<Feed>>,
    /// Pictures that could not be read, told once each.
    pub told: BTreeSet<String>,
    /// Pictures of the next batches.
    pub ahead: Ahead,
}

/// The batches of a step with the names of their samples.
#[derive(Debug, Default)]
pub(crate) struct Sampled {
    /// Of each batch, what this rank has of it; `None` when it has nothing.
    pub batches: Vec<Option<Batch>>,
    pub keys: Vec<String>,
    /// Of samples whose features are not finite.
    pub broken: Vec<String>,
    /// New troubles with pictures.
    pub warnings: Vec<String>,
}

impl Sampled {
    pub fn add(&mut self, other: Self) {
        self.batches.extend(other.batches);
        self.keys.extend(other.keys);
        self.broken.extend(other.broken);
        self.warnings.extend(other.warnings);
    }
}

/// A picture of a batch and the texts drawn for it.
struct Drawn {
    row: usize,
    /// Its number in the run.
    sample: u64,
    texts: Vec<u32>,
    query: Option<u32>,
    negatives: Vec<u32>,
}

impl Feed {
    /// This rank's part of the batch of a step; `number` is for messages. The names are those of the whole batch.
    pub fn batch(&mut self, step: u64, number: u64, ranks: &dyn Ranks) -> Result<Sampled, TrainError> {
        let mut drawn = self.draw(step);
        let mut warnings = Vec::new();
        let mut own = ranks.share(drawn.len());
        let (mut images, mut pixels) = (None, None);
        match &self.images {
            ImageFeed::None => {}
            ImageFeed::Features(table) => images = Some(Images::Features(table.gather(drawn.iter().map(|d| d.row)))),
            ImageFeed::Patches(table, each) => {
                let rows = table.gather(drawn.iter().map(|d| d.row));
                let rows = rows.reshape([drawn.len() * each, table.dim / each]);
                images = Some(Images::Patches { rows, each: *each });
            }
            ImageFeed::Codes(table) => {
                // they are whole numbers
                let codes = drawn.iter().flat_map(|d| table.row(d.row)).map(|&code| code as u32);
                images = Some(Images::Codes {
                    codes: codes.collect(),
                    each: table.dim,
                });
            }
            ImageFeed::Drawn(table, each) => {
                let all = table.gather(drawn.iter().map(|d| d.row));
                let (n, width) = (drawn.len() * each, table.dim / each);
                let all = all.reshape([n, width]);
                // they are whole numbers
                let codes = values(all.clone().slice([0..n, 0..1]))
                    .into_iter()
                    .map(|code| code as u32);
                images = Some(Images::Drawn {
                    codes: codes.collect(),
                    looks: all.slice([0..n, 1..width]),
                    each: *each,
                });
            }
            ImageFeed::Pixels(preprocess) => {
                pixels = self.pixels(preprocess, &mut drawn, &mut own, number, &mut warnings, ranks)?;
            }
        }
        warnings.retain(|(path, _)| self.told.insert(path.clone()));
        let of = |texts: fn(&Drawn) -> &[u32]| drawn.iter().flat_map(texts).map(|&t| t as usize).collect::<Vec<_>>();
        let owners: Vec<usize> = drawn
            .iter()
            .enumerate()
            .flat_map(|(i, d)| std::iter::repeat_n(i, d.texts.len()))
            .collect();
        let numbers = of(|d| &d.texts);
        let Some(positives) = Positives::new(drawn.len(), owners) else {
            unreachable!("rows without texts do not come into the corpus");
        };
        let asked = of(|d| d.query.as_slice());
        let queries = self
            .queries
            .as_ref()
            .map(|tokens| packed(tokens, &asked, self.pooling()));
        let negatives = of(|d| &d.negatives);
        let batch = Batch {
            images,
            texts: self.texts(&numbers),
            positives,
            queries,
            negatives: (!negatives.is_empty()).then(|| {
                (
                    self.texts(&negatives),
                    drawn.iter().map(|d| d.negatives.len()).collect(),
                )
            }),
            teacher_images: (self.teacher_images.as_ref()).map(|table| table.gather(drawn.iter().map(|d| d.row))),
            teacher_tokens: (self.teacher_tokens.as_ref()).map(|table| table.gather(drawn.iter().map(|d| d.row))),
            teacher_texts: (self.teacher_texts.as_ref()).map(|table| table.gather(numbers.iter().copied())),
            reference: None,
            first: [0; 3],
        };
        // all but pixels is at hand for the whole batch, and the parts that others hold decide what comes before this one
        let part = match own.len() {
            0 => None,
            n if n == batch.len() => Some(batch),
            _ => Some(batch.part(own)),
        };
        let mut sampled = Sampled {
            keys: drawn.iter().map(|d| self.rows[d.row].key.clone()).collect(),
            broken: self.broken(&drawn),
            warnings: warnings.into_iter().map(|(_, warning)| warning).collect(),
            batches: Vec::new(),
        };
        let mut reference = None;
        if let Some(feed) = &mut self.reference {
            let beside = feed.batch(step, number, ranks)?;
            reference = beside.batches.into_iter().flatten().next().map(Box::new);
            sampled.broken.extend(beside.broken);
            sampled.warnings.extend(beside.warnings);
        }
        let part = part.map(|part| Batch {
            images: pixels.map(Images::Pixels).or(part.images),
            reference,
            ..part
        });
        sampled.batches.push(part);
        Ok(sampled)
    }

    /// What is to be read for samples, given by their number in the run and their row.
    fn wanted(&self, preprocess: &Preprocess, samples: impl Iterator<Item = (u64, usize)> + Clone) -> Wanted {
        let seeds = |augment| {
            (
                augment,
                samples.clone().map(|(sample, _)| self.draw.seed_of(sample)).collect(),
            )
        };
        Wanted {
            images: samples.clone().map(|(_, row)| self.image(row).clone()).collect(),
            preprocess: preprocess.clone(),
            augment: self.augment.map(seeds),
        }
    }

    /// Begins to read the pictures of batches that come next, while the one before is learnt from. What the batches are does not depend on it.
    pub fn read_ahead(&mut self, steps: Range<u64>, ranks: &dyn Ranks) {
        if let ImageFeed::Pixels(preprocess) = &self.images {
            let preprocess = preprocess.clone();
            let mut batches = Vec::new();
            for step in steps.clone() {
                let mut rows = BTreeSet::new();
                let mut samples = self.draw.step(step);
                samples.retain(|&(_, row)| rows.insert(row));
                let own = ranks.share(samples.len());
                batches.push(self.wanted(&preprocess, samples[own].iter().copied()));
            }
            self.ahead.begin(batches);
        }
        if let Some(feed) = &mut self.reference {
            feed.read_ahead(steps, ranks);
        }
    }

    /// Pictures that learn, those of this rank; what cannot be read at any rank is taken out of what was drawn, and `own` moves with it.
    fn pixels(
        &self,
        preprocess: &Preprocess,
        drawn: &mut Vec<Drawn>,
        own: &mut Range<usize>,
        number: u64,
        warnings: &mut Vec<(String, String)>,
        ranks: &dyn Ranks,
    ) -> Result<Option<ImageBatch>, TrainError> {
        let trouble = |message: String| TrainError::Features {
            what: "pictures".to_owned(),
            message,
        };
        if let ResizeMode::Patches { .. } = preprocess.resize {
            let message = "a tower that reads pictures of any proportions cannot learn yet; freeze it in the recipe";
            return Err(trouble(message.to_owned()));
        }
        let wanted = self.wanted(preprocess, drawn[own.clone()].iter().map(|d| (d.sample, d.row)));
        let loaded = self.ahead.take(&wanted).map_err(|error| trouble(error.to_string()))?;
        let bad = loaded.bad.iter();
        let bad: Vec<(usize, String)> = bad.map(|b| (own.start + b.index, b.error.to_string())).collect();
        let bad: BTreeMap<usize, String> = ranks
            .tell("pictures that cannot be read", &bad, Wait::Step)?
            .into_iter()
            .flatten()
            .collect();
        for (&i, error) in &bad {
            if let Some(drawn) = drawn.get(i) {
                let image = self.image(drawn.row).to_string();
                let warning = format!("{image} is left out: {error}");
                warnings.push((image, warning));
            }
        }
        let start = own.start - bad.range(..own.start).count();
        *own = start..start + loaded.good.len();
        let mut at = 0..;
        drawn.retain(|_| at.next().is_some_and(|i| !bad.contains_key(&i)));
        if drawn.is_empty() {
            return Err(TrainError::NoPictures {
                step: number,
                first: warnings
                    .first()
                    .map_or_else(String::new, |(_, warning)| warning.clone()),
            });
        }
        Ok(ImageBatch::square(loaded.pixels, own.len(), preprocess.size as usize).filter(|_| own.start < own.end))
    }

    fn texts(&self, numbers: &[usize]) -> Texts {
        match &self.texts {
            TextFeed::Features(table) => Texts::Features(table.gather(numbers.iter().copied())),
            TextFeed::Tokens(tokens, pooling) => packed(tokens, numbers, *pooling),
            TextFeed::Dialogues(all) => Texts::Dialogues(Dialogues {
                all: numbers.iter().map(|&i| all[i].clone()).collect(),
                before: [0; 2],
            }),
        }
    }

    fn pooling(&self) -> Pooling {
        match &self.texts {
            TextFeed::Tokens(_, pooling) => *pooling,
            TextFeed::Features(_) | TextFeed::Dialogues(_) => Pooling::Mean,
        }
    }

    /// The step's pictures, each once: one that is drawn twice gets the captions of both draws.
    fn draw(&mut self, step: u64) -> Vec<Drawn> {
        let mut drawn: Vec<Drawn> = Vec::new();
        let mut at: BTreeMap<usize, usize> = BTreeMap::new();
        for (sample, row) in self.draw.step(step) {
            let asks = usize::from(self.needs.queries.is_some());
            let mut picked = self.captions(sample, row, self.needs.captions + asks);
            // of a single caption, the question is the answer too
            let query = match asks {
                0 => None,
                _ if picked.len() > 1 => picked.pop(),
                _ => picked.first().copied(),
            };
            // drawn again where two epochs meet
            if let Some(&i) = at.get(&row) {
                if query.is_some() {
                    continue; // a question has one answer
                }
                let known = drawn[i].texts.clone();
                drawn[i].texts.extend(picked.into_iter().filter(|t| !known.contains(t)));
                continue;
            }
            at.insert(row, drawn.len());
            drawn.push(Drawn {
                row,
                sample,
                texts: picked,
                query,
                negatives: self.negatives(sample, row),
            });
        }
        drawn
    }

    /// `k` of a row's captions, or all when there are not more; by the weights of their groups where the source has some.
    fn captions(&self, sample: u64, row: usize, k: usize) -> Vec<u32> {
        let row = &self.rows[row];
        let Some(mixed) = &row.mixed else {
            let picked = self.draw.captions(sample, row.texts.len(), k);
            return picked.into_iter().map(|i| row.texts[i]).collect();
        };
        let groups: Vec<(&str, usize)> = mixed.groups.iter().map(|(name, n)| (&**name, *n)).collect();
        let usable: usize = groups
            .iter()
            .filter(|(name, _)| mixed.mix.uses(name))
            .map(|(_, n)| n)
            .sum();
        let begin = |group: usize| groups[..group].iter().map(|(_, n)| n).sum::<usize>();
        let picks = mixed.mix.draw(&groups, k.min(usable), self.draw.seed_of(sample));
        picks
            .into_iter()
            .map(|pick| row.texts[begin(pick.group) + pick.caption])
            .collect()
    }

    /// Texts that do not belong to the picture of a sample.
    fn negatives(&self, sample: u64, row: usize) -> Vec<u32> {
        match self.needs.negatives {
            Negatives::None => Vec::new(),
            Negatives::Hard(n) => {
                let all = &self.rows[row].negatives;
                let picked = self.draw.negatives(sample, all.len(), n);
                picked.into_iter().map(|i| all[i]).collect()
            }
            Negatives::Random => {
                let own = &self.rows[row].texts;
                let (other, caption) = self.draw.other(sample, self.rows.len());
                let texts = &self.rows[other].texts;
                let text = texts[caption % texts.len()];
                if own.contains(&text) { Vec::new() } else { vec![text] }
            }
        }
    }

    fn image(&self, row: usize) -> &ImageSource {
        match &self.rows[row].picture {
            Picture::File(image) => image,
            Picture::Class(_) | Picture::None => {
                unreachable!("rows without a picture are refused when the vision tower learns")
            }
        }
    }

    fn broken(&self, drawn: &[Drawn]) -> Vec<String> {
        let finite = |table: &Table, i: usize| table.row(i).iter().all(|v| v.is_finite());
        let bad = |d: &&Drawn| {
            let image = matches!(&self.images, ImageFeed::Features(t) | ImageFeed::Patches(t, _) | ImageFeed::Drawn(t, _) if !finite(t, d.row));
            let text = matches!(&self.texts, TextFeed::Features(t) if d.texts.iter().any(|&i| !finite(t, i as usize)));
            image || text
        };
        drawn.iter().filter(bad).map(|d| self.rows[d.row].key.clone()).collect()
    }
}

fn packed(tokens: &[Encoding], numbers: &[usize], pooling: Pooling) -> Texts {
    Texts::Tokens(Tokens {
        batch: TokenBatch::of(numbers.iter().map(|&t| &tokens[t])),
        pooling,
        before: 0,
    })
}
