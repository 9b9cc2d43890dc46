//! Retrieval in both directions with any number of captions per picture.
//!
//! Protocol (that of CLIP benchmark and LLM2CLIP's `zeroshot_retrieval.py`):
//! - text → image: every caption is a query, its own picture is the only right answer;
//! - image → text: every picture with a caption is a query, and its rank is the best rank of any of its captions;
//! - the score is the dot product of the rows as they are given (cosine when they are unit vectors);
//! - **ties: the lower index comes first**, as with `argmax` and a stable sort. How many queries were decided by that rule
//!   is reported ([`Direction::tied`]): a collapsed model, which gives all inputs one vector, shows there.
//!
//! Besides, per picture, the mean average precision over all of its captions (Manning et al. 2008, §8.4): with one right answer it is
//! the mean of 1 / rank.
//!
//! Scores live in blocks of 1024 × 1024; the N×M matrix never exists.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Unit;
use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::{block, pairs};

/// How ties are ranked, in the words that go beside the numbers.
pub const TIE_RULE: &str = "ties: lower index first";

/// Texts and images of a block of scores: 4 MiB, which stay in a cache.
const BLOCK: usize = 1024;
/// Images whose counts one task keeps.
const STRIPE: usize = 128;

/// What a random ranking reaches, computed exactly.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Chance {
    /// Expected recall at 1, a fraction.
    pub r1: f64,
    /// Expected recall at 5, a fraction.
    pub r5: f64,
    /// Expected recall at 10, a fraction.
    pub r10: f64,
    /// Median of the rank's distribution, from 1.
    pub median_rank: f64,
}

/// One direction of retrieval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Queries that were ranked.
    pub queries: usize,
    /// Candidates that each query ranks.
    pub candidates: usize,
    /// Recall at 1, a fraction between 0 and 1.
    pub r1: f64,
    /// Recall at 5.
    pub r5: f64,
    /// Recall at 10.
    pub r10: f64,
    /// Median rank of the right answer, from 1; the mean of the two middle ones when the number of queries is even.
    pub median_rank: f64,
    /// Mean rank of the right answer, from 1.
    pub mean_rank: f64,
    /// Mean average precision over all right answers, a fraction.
    #[serde(default)]
    pub map: f64,
    /// Queries whose rank the tie rule decided: a wrong candidate has exactly the score of the right one.
    pub tied: usize,
    /// What a random ranking reaches.
    pub chance: Chance,
}

/// Retrieval of N pictures and M captions in both directions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalReport {
    /// Pictures, also those without a caption: these are candidates but never queries.
    pub images: usize,
    /// Captions.
    pub texts: usize,
    /// How ties were ranked.
    pub ties: String,
    /// Each caption looks for its picture.
    pub text_to_image: Direction,
    /// Each picture looks for any of its captions.
    pub image_to_text: Direction,
}

/// Evaluates retrieval in both directions.
///
/// # Shapes
/// `images` `[N, dim]` and `texts` `[M, dim]`, row-major, unit rows for cosine scores (they are used as they are);
/// `text_image` `[M]`: the picture that each caption describes.
///
/// # Errors
/// Empty input, lengths that do not fit, values that are not finite, and indices outside of the pictures.
pub fn retrieval(
    images: &[f32],
    texts: &[f32],
    dim: usize,
    text_image: &[usize],
) -> Result<RetrievalReport, EvalError> {
    Ok(ranks(images, texts, dim, text_image)?.report())
}

/// As [`retrieval`], query by query.
///
/// # Errors
/// As [`retrieval`], and more than 2³² pictures or captions.
pub fn ranks(images: &[f32], texts: &[f32], dim: usize, text_image: &[usize]) -> Result<Ranks, EvalError> {
    let n = rows_of("the image matrix", images, dim)?;
    let m = text_image.len();
    if m == 0 {
        return Err(EvalError::Empty {
            what: "the text matrix",
        });
    }
    check_matrix("the text matrix", texts, m, dim)?;
    if let Some((row, &index)) = text_image.iter().enumerate().find(|&(_, &i)| i >= n) {
        return Err(EvalError::Index {
            what: "text",
            row,
            index,
            count: n,
        });
    }
    if n.max(m) > u32::MAX as usize {
        return Err(EvalError::Parameter {
            what: "the number of pictures or captions",
            value: n.max(m) as f64,
            expected: "at most 4294967295 are ranked at once",
        });
    }
    Ok(Ranks {
        images: n,
        text_image: text_image.to_vec(),
        ..count(images, texts, dim, text_image, n)
    })
}

/// Where every right answer came, in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranks {
    /// Pictures, those without a caption too.
    images: usize,
    /// The picture of each caption.
    text_image: Vec<usize>,
    /// For each caption: its picture among all pictures.
    texts: Vec<Place>,
    /// For each caption: itself among all captions, when its picture asks.
    captions: Vec<Place>,
}

/// The place of a right answer and whether a tie decided it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    /// Candidates that come before it.
    before: u32,
    /// Wrong candidates have exactly its score.
    equal: bool,
}

/// Which side asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    /// Captions look for their pictures.
    Text,
    /// Pictures look for any of their captions.
    Image,
}

impl Ranks {
    /// Captions by picture, pictures in their order; only those that have any.
    fn groups(&self) -> Vec<(usize, Vec<usize>)> {
        let mut order: Vec<usize> = (0..self.text_image.len()).collect();
        order.sort_by_key(|&text| self.text_image[text]);
        let same = |&a: &usize, &b: &usize| self.text_image[a] == self.text_image[b];
        order
            .chunk_by(same)
            .map(|texts| (self.text_image[texts[0]], texts.to_vec()))
            .collect()
    }

    /// The rank of each caption's picture, from 1.
    pub fn of_texts(&self) -> Vec<usize> {
        self.texts.iter().map(|place| place.before as usize + 1).collect()
    }

    /// Each picture that has captions, and the rank of the best of them, from 1.
    pub fn of_images(&self) -> Vec<(usize, usize)> {
        let best = |texts: &[usize]| texts.iter().map(|&t| self.captions[t].before as usize + 1).min();
        self.groups()
            .iter()
            .filter_map(|(image, texts)| Some((*image, best(texts)?)))
            .collect()
    }

    /// Hits within the first `k`, a unit for each picture that has captions: what is resampled together, since captions of one picture are
    /// not independent.
    pub fn units(&self, asks: Asks, k: usize) -> Vec<Unit> {
        let within = |place: &Place| f64::from(u8::from((place.before as usize) < k));
        let unit = |(_, texts): &(usize, Vec<usize>)| match asks {
            Asks::Text => Unit {
                sum: texts.iter().map(|&t| within(&self.texts[t])).sum(),
                count: texts.len() as f64,
            },
            Asks::Image => Unit::one(texts.iter().map(|&t| within(&self.captions[t])).fold(0.0, f64::max)),
        };
        self.groups().iter().map(unit).collect()
    }

    /// The report.
    pub fn report(&self) -> RetrievalReport {
        let (n, m) = (self.images, self.text_image.len());
        let groups = self.groups();
        let best = |texts: &Vec<usize>| texts.iter().map(|&t| self.captions[t]).min_by_key(|place| place.before);
        let images = groups.iter().filter_map(|(_, texts)| best(texts)).collect();
        let precision = |texts: &Vec<usize>| {
            let mut ranks: Vec<f64> = texts
                .iter()
                .map(|&t| f64::from(self.captions[t].before) + 1.0)
                .collect();
            ranks.sort_by(f64::total_cmp);
            (1..)
                .zip(&ranks)
                .map(|(found, rank)| f64::from(found) / rank)
                .sum::<f64>()
                / ranks.len() as f64
        };
        let image_map = groups.iter().map(|(_, texts)| precision(texts)).sum::<f64>() / groups.len() as f64;
        let text_map = self
            .texts
            .iter()
            .map(|p| 1.0 / (f64::from(p.before) + 1.0))
            .sum::<f64>()
            / m as f64;
        let mut captions: Vec<usize> = groups.iter().map(|(_, texts)| texts.len()).collect();
        captions.sort_unstable();
        let same: Vec<(usize, usize)> = captions.chunk_by(|a, b| a == b).map(|g| (g[0], g.len())).collect();
        RetrievalReport {
            images: n,
            texts: m,
            ties: TIE_RULE.to_owned(),
            text_to_image: summarise(self.texts.clone(), n, text_map, chance(n, &[(1, m)])),
            image_to_text: summarise(images, m, image_map, chance(m, &same)),
        }
    }
}

/// What is counted for the images of a stripe: per slot, the caption that is looked for, its score, and what came before it. A picture has as
/// many slots in use as captions.
struct Slots {
    /// `[slots, images]`; infinite where there is no caption.
    own: Vec<f32>,
    text: Vec<u32>,
    before: Vec<u32>,
    equal: Vec<bool>,
}

/// Counts, in one pass over all pairs, what comes before each right answer.
fn count(images: &[f32], texts: &[f32], dim: usize, text_image: &[usize], n: usize) -> Ranks {
    let own = pairs(texts, images, dim, text_image);
    let mut by_image: Vec<u32> = (0..text_image.len() as u32).collect();
    by_image.sort_by_key(|&text| text_image[text as usize]);
    let mut text_places = vec![Place::default(); text_image.len()];
    let mut caption_places = text_places.clone();
    let mut scores = Vec::new();
    for (part, rows) in images.chunks(BLOCK * dim).enumerate() {
        let first = part * BLOCK;
        let mut stripes: Vec<(usize, Slots)> = (0..rows.len() / dim)
            .step_by(STRIPE)
            .map(|at| {
                (
                    at,
                    slots(
                        first + at,
                        STRIPE.min(rows.len() / dim - at),
                        &by_image,
                        text_image,
                        &own,
                    ),
                )
            })
            .collect();
        for (block_of, texts) in texts.chunks(BLOCK * dim).enumerate() {
            let from = block_of * BLOCK;
            block(texts, rows, dim, &mut scores);
            let width = rows.len() / dim;
            scores
                .par_chunks_exact(width)
                .zip(&mut text_places[from..from + texts.len() / dim])
                .enumerate()
                .for_each(|(i, (row, place))| count_row(row, first, own[from + i], text_image[from + i], place));
            stripes.par_iter_mut().for_each(|(at, slots)| {
                let width_here = STRIPE.min(width - *at);
                for (i, row) in scores.chunks_exact(width).enumerate() {
                    let text = from + i;
                    slots.count(
                        &row[*at..*at + width_here],
                        text as u32,
                        text_image[text].wrapping_sub(first + *at),
                    );
                }
            });
        }
        for (_, slots) in stripes {
            for (i, &text) in slots.text.iter().enumerate().filter(|&(i, _)| slots.own[i].is_finite()) {
                caption_places[text as usize] = Place {
                    before: slots.before[i],
                    equal: slots.equal[i],
                };
            }
        }
    }
    Ranks {
        images: n,
        text_image: Vec::new(),
        texts: text_places,
        captions: caption_places,
    }
}

/// Adds what a row of scores says about the place of a text's own image; the row begins with image `first`.
fn count_row(row: &[f32], first: usize, own: f32, image: usize, place: &mut Place) {
    let (mut greater, mut equal) = (0u32, 0u32);
    for &score in row {
        greater += u32::from(score > own);
        equal += u32::from(score == own);
    }
    place.before += greater;
    if equal > 0 {
        for (i, _) in row.iter().enumerate().filter(|&(_, &score)| score == own) {
            place.before += u32::from(first + i < image);
            place.equal |= first + i != image;
        }
    }
}

/// Empty counts for the `width` images from `first` on.
fn slots(first: usize, width: usize, by_image: &[u32], text_image: &[usize], own: &[f32]) -> Slots {
    let image = |&text: &u32| text_image[text as usize];
    let range = |i: usize| {
        let at = by_image.partition_point(|text| image(text) < i);
        &by_image[at..at + by_image[at..].partition_point(|text| image(text) == i)]
    };
    let most = (first..first + width).map(|i| range(i).len()).max().unwrap_or(0);
    let mut made = Slots {
        own: vec![f32::INFINITY; most * width],
        text: vec![0; most * width],
        before: vec![0; most * width],
        equal: vec![false; most * width],
    };
    for i in 0..width {
        for (slot, &text) in range(first + i).iter().enumerate() {
            made.own[slot * width + i] = own[text as usize];
            made.text[slot * width + i] = text;
        }
    }
    made
}

impl Slots {
    /// Adds what the scores of one text with the stripe's images say. `own_image` is the text's own picture as a place in the stripe, if it is
    /// there.
    fn count(&mut self, row: &[f32], text: u32, own_image: usize) {
        let width = row.len();
        for (slot, before) in self.before.chunks_exact_mut(width).enumerate() {
            let own = &self.own[slot * width..][..width];
            let mut equal = 0u32;
            for ((before, &score), &own) in before.iter_mut().zip(row).zip(own) {
                *before += u32::from(score > own);
                equal += u32::from(score == own);
            }
            if equal > 0 {
                for i in (0..width).filter(|&i| row[i] == own[i]) {
                    before[i] += u32::from(text < self.text[slot * width + i]);
                    self.equal[slot * width + i] |= i != own_image;
                }
            }
        }
    }
}

fn summarise(ranks: Vec<Place>, candidates: usize, map: f64, chance: Chance) -> Direction {
    let queries = ranks.len();
    let tied = ranks.iter().filter(|r| r.equal).count();
    let mut places: Vec<usize> = ranks.into_iter().map(|r| r.before as usize + 1).collect();
    places.sort_unstable();
    let within = |k: usize| places.partition_point(|&r| r <= k) as f64 / queries as f64;
    Direction {
        queries,
        candidates,
        r1: within(1),
        r5: within(5),
        r10: within(10),
        median_rank: (places[(queries - 1) / 2] + places[queries / 2]) as f64 / 2.0,
        mean_rank: places.iter().map(|&r| r as f64).sum::<f64>() / queries as f64,
        map,
        tied,
        chance,
    }
}

/// Chance of a uniformly random order of `candidates`, for groups of (right answers per query, number of queries).
fn chance(candidates: usize, groups: &[(usize, usize)]) -> Chance {
    let queries: usize = groups.iter().map(|g| g.1).sum();
    let within = |k: usize| {
        groups
            .iter()
            .map(|&(right, count)| hit(candidates, right, k) * count as f64)
            .sum::<f64>()
            / queries as f64
    };
    Chance {
        r1: within(1),
        r5: within(5),
        r10: within(10),
        median_rank: median(candidates, within),
    }
}

/// Probability that at least one of `right` answers is among the first `k` of `candidates` in random order:
/// 1 − C(candidates − right, k) / C(candidates, k).
fn hit(candidates: usize, right: usize, k: usize) -> f64 {
    if right + k > candidates {
        return 1.0;
    }
    if right == 1 {
        return k as f64 / candidates as f64;
    }
    1.0 - (0..right)
        .map(|j| (candidates - k - j) as f64 / (candidates - j) as f64)
        .product::<f64>()
}

/// Median of a rank whose distribution function is `within`: the middle of the lower and the upper median.
fn median(candidates: usize, within: impl Fn(usize) -> f64) -> f64 {
    // A probability of exactly one half must not be missed by the rounding of a product.
    const HALF: f64 = 0.5;
    const SLACK: f64 = 1e-12;
    let first = |reached: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (1, candidates);
        while low < high {
            let middle = low + (high - low) / 2;
            if reached(within(middle)) {
                high = middle
            } else {
                low = middle + 1
            }
        }
        low
    };
    let lower = first(&|p| p >= HALF - SLACK);
    let upper = first(&|p| p > HALF + SLACK);
    (lower + upper) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit axes: picture i has score 1 with caption axis i and 0 with all others.
    fn axes(order: &[usize], dim: usize) -> Vec<f32> {
        order
            .iter()
            .flat_map(|&a| (0..dim).map(move |d| f32::from(u8::from(d == a))))
            .collect()
    }

    #[test]
    fn one_picture_whose_captions_rank_1_and_7_counts_as_found() {
        let images = axes(&[0], 2);
        // Own captions score 0.9 (rank 1) and 0.1 (rank 7); five captions of a second picture lie between.
        let mut texts = vec![0.9, 0.0];
        texts.extend([0.8, 0.0, 0.7, 0.0, 0.6, 0.0, 0.5, 0.0, 0.4, 0.0]);
        texts.extend([0.1, 0.0]);
        let mut two = images.clone();
        two.extend([0.0, 1.0]);
        let report = retrieval(&two, &texts, 2, &[0, 1, 1, 1, 1, 1, 0]).unwrap();
        assert_eq!(report.image_to_text.r1, 0.5);
        // Both captions of picture 0 find it; those of picture 1 prefer picture 0.
        assert_eq!(report.text_to_image.r1, 2.0 / 7.0);
        assert_eq!(report.text_to_image.queries, 7);
    }

    #[test]
    fn a_collapsed_model_scores_what_the_tie_rule_gives_and_says_so() {
        let n = 20;
        let same = vec![1.0; n * 3];
        let pairs: Vec<usize> = (0..n).collect();
        let report = retrieval(&same, &same, 3, &pairs).unwrap();
        for direction in [report.text_to_image, report.image_to_text] {
            assert_eq!(direction.r1, 1.0 / n as f64);
            assert_eq!(direction.r10, 0.5);
            assert_eq!(direction.median_rank, 10.5);
            assert_eq!(direction.tied, n);
            assert_eq!(
                direction.chance,
                Chance {
                    r1: 0.05,
                    r5: 0.25,
                    r10: 0.5,
                    median_rank: 10.5
                }
            );
        }
    }

    #[test]
    fn pictures_without_captions_are_candidates_but_not_queries() {
        let report = retrieval(&axes(&[0, 1, 2], 3), &axes(&[2], 3), 3, &[2]).unwrap();
        assert_eq!(report.image_to_text.queries, 1);
        assert_eq!(report.text_to_image.candidates, 3);
        assert_eq!((report.image_to_text.r1, report.text_to_image.r1), (1.0, 1.0));
    }

    #[test]
    fn chance_agrees_with_counting_all_orders() {
        // Six candidates, two right: 15 places for the pair, 9 of them with one in the first two.
        assert!((hit(6, 2, 2) - 9.0 / 15.0).abs() < 1e-15);
        assert_eq!(hit(6, 2, 5), 1.0);
        // Best rank of the pair: 1 with 5/15, 2 with 4/15, …: the median is 2.
        assert_eq!(median(6, |k| hit(6, 2, k)), 2.0);
        // A single candidate leaves no choice.
        assert_eq!(median(1, |k| hit(1, 1, k)), 1.0);
    }

    #[test]
    fn doubtful_input_is_refused() {
        let ok = axes(&[0, 1], 2);
        assert!(matches!(retrieval(&[], &ok, 2, &[0, 1]), Err(EvalError::Empty { .. })));
        assert!(matches!(retrieval(&ok, &[], 2, &[]), Err(EvalError::Empty { .. })));
        assert!(matches!(retrieval(&ok, &ok, 0, &[0, 1]), Err(EvalError::Shape { .. })));
        assert!(matches!(
            retrieval(&ok[..3], &ok, 2, &[0, 1]),
            Err(EvalError::Shape { .. })
        ));
        assert!(matches!(retrieval(&ok, &ok, 2, &[0]), Err(EvalError::Shape { .. })));
        assert!(matches!(
            retrieval(&ok, &ok, 2, &[0, 2]),
            Err(EvalError::Index { row: 1, index: 2, .. })
        ));
        let bad = [1.0, 0.0, f32::NAN, 0.0];
        assert!(matches!(
            retrieval(&ok, &bad, 2, &[0, 1]),
            Err(EvalError::NotFinite { row: 1, .. })
        ));
    }
}
