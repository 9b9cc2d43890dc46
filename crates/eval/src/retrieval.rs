//! Retrieval in both directions with any number of captions per picture.
//!
//! Protocol (that of CLIP benchmark and LLM2CLIP's `zeroshot_retrieval.py`):
//! - text → image: every caption is a query, its own picture is the only right answer;
//! - image → text: every picture with a caption is a query, and its rank is the best rank of any of its captions;
//! - the score is the dot product of the rows as they are given (cosine when they are unit vectors);
//! - **ties: the lower index comes first**, as with `argmax` and a stable sort. How many queries were decided by that rule
//!   is reported ([`Direction::tied`]): a collapsed model, which gives all inputs one vector, shows there.
//!
//! Scores live in tiles of 4×8; the N×M matrix never exists.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::{PANEL, Panel, ROWS, dot};

/// How ties are ranked, in the words that go beside the numbers.
pub const TIE_RULE: &str = "ties: lower index first";

/// Texts that one task scores against all images: 64 panels' worth of counting per vector of image counts.
const TEXTS_PER_TASK: usize = 64 * PANEL;

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
    let ranks = rank(images, texts, dim, text_image, n);
    let mut captions = vec![0usize; n];
    for &image in text_image {
        captions[image] += 1;
    }
    captions.retain(|&c| c > 0);
    let text_chance = chance(n, &[(1, m)]);
    captions.sort_unstable();
    let groups: Vec<(usize, usize)> = captions.chunk_by(|a, b| a == b).map(|g| (g[0], g.len())).collect();
    Ok(RetrievalReport {
        images: n,
        texts: m,
        ties: TIE_RULE.to_owned(),
        text_to_image: summarise(ranks.texts, n, text_chance),
        image_to_text: summarise(ranks.images, m, chance(m, &groups)),
    })
}

/// The rank of one query's answer and whether a tie decided it.
#[derive(Debug, Clone, Copy, Default)]
struct Rank {
    /// Candidates that come before the answer.
    before: usize,
    /// Wrong candidates with exactly the answer's score.
    equal: bool,
}

struct Ranks {
    texts: Vec<Rank>,
    images: Vec<Rank>,
}

/// The best caption of a picture: the highest score, and the lowest index among equals.
#[derive(Clone, Copy)]
struct Best {
    score: f32,
    text: usize,
}

/// Counts, in one pass over all pairs, what comes before each query's answer.
fn rank(images: &[f32], texts: &[f32], dim: usize, text_image: &[usize], n: usize) -> Ranks {
    let own: Vec<f32> = text_image
        .par_iter()
        .zip(texts.par_chunks_exact(dim))
        .map(|(&image, text)| dot(&images[image * dim..][..dim], text))
        .collect();
    let mut best: Vec<Option<Best>> = vec![None; n];
    for (text, (&image, &score)) in text_image.iter().zip(&own).enumerate() {
        match best[image] {
            Some(b) if b.score >= score => {}
            _ => best[image] = Some(Best { score, text }),
        }
    }
    let mut text_ranks = vec![Rank::default(); text_image.len()];
    let image_ranks = text_ranks
        .par_chunks_mut(TEXTS_PER_TASK)
        .enumerate()
        .fold(
            || vec![Rank::default(); n],
            |mut image_ranks, (task, text_ranks)| {
                let first = task * TEXTS_PER_TASK;
                for (block, ranks) in text_ranks.chunks_mut(PANEL).enumerate() {
                    let first = first + block * PANEL;
                    let panel = Panel::pack(&texts[first * dim..(first + ranks.len()) * dim], dim);
                    let side = TextSide {
                        first,
                        own: &own,
                        image: text_image,
                    };
                    count_panel(&panel, images, dim, &side, &best, ranks, &mut image_ranks);
                }
                image_ranks
            },
        )
        .reduce(|| vec![Rank::default(); n], merge);
    let images = best.iter().zip(image_ranks).filter_map(|(b, r)| b.map(|_| r)).collect();
    Ranks {
        texts: text_ranks,
        images,
    }
}

/// What is known about the texts of a panel: the panel's first text, and for all texts the own score and picture.
struct TextSide<'a> {
    first: usize,
    own: &'a [f32],
    image: &'a [usize],
}

fn count_panel(
    panel: &Panel,
    images: &[f32],
    dim: usize,
    side: &TextSide,
    best: &[Option<Best>],
    text_ranks: &mut [Rank],
    image_ranks: &mut [Rank],
) {
    for (tile, rows) in images.chunks(ROWS * dim).enumerate() {
        let scores = panel.scores(rows, dim);
        for (i, row) in scores.iter().enumerate().take(rows.len() / dim) {
            let image = tile * ROWS + i;
            for (j, &score) in row.iter().enumerate().take(panel.width()) {
                let text = side.first + j;
                let right = side.image[text] == image;
                let own = side.own[text];
                let rank = &mut text_ranks[j];
                rank.before += usize::from(score > own || (score == own && image < side.image[text]));
                rank.equal |= score == own && !right;
                if let Some(best) = best[image] {
                    let rank = &mut image_ranks[image];
                    rank.before += usize::from(score > best.score || (score == best.score && text < best.text));
                    rank.equal |= score == best.score && !right;
                }
            }
        }
    }
}

fn merge(mut a: Vec<Rank>, b: Vec<Rank>) -> Vec<Rank> {
    for (a, b) in a.iter_mut().zip(b) {
        a.before += b.before;
        a.equal |= b.equal;
    }
    a
}

fn summarise(ranks: Vec<Rank>, candidates: usize, chance: Chance) -> Direction {
    let queries = ranks.len();
    let tied = ranks.iter().filter(|r| r.equal).count();
    let mut places: Vec<usize> = ranks.into_iter().map(|r| r.before + 1).collect();
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
