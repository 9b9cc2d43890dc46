//! What a classifier confuses, and whether its certainty is deserved.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::block;

/// Bins of the expected calibration error.
pub const BINS: usize = 15;
/// Images that are scored at once.
const IMAGES: usize = 512;

/// The decision about one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// The class with the highest score; among equals the first.
    pub class: usize,
    /// Its share of the softmax over all classes.
    pub confidence: f32,
    /// How many classes come before the right one.
    pub before: usize,
}

/// Certainty and accuracy in bins of equal width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Expected calibration error: Σ share of the bin · |accuracy − confidence| (Guo et al. 2017, equation 3).
    pub ece: f64,
    /// Mean confidence over all images.
    pub confidence: f64,
    /// Images, mean confidence and accuracy of each bin that has images, from the least certain.
    pub bins: Vec<(usize, f64, f64)>,
}

/// Decides about every image.
///
/// # Shapes
/// `images` `[N, dim]` and `weights` `[C, dim]` with unit rows, `labels` `[N]`; `scale` multiplies cosines before the softmax.
///
/// # Errors
/// Empty input, lengths that do not fit, values that are not finite, labels that are no class.
pub fn decide(
    images: &[f32],
    weights: &[f32],
    dim: usize,
    labels: &[usize],
    scale: f32,
) -> Result<Vec<Decision>, EvalError> {
    let classes = rows_of("the class weights", weights, dim)?;
    check_matrix("the image matrix", images, labels.len(), dim)?;
    check_labels(labels, classes)?;
    let (mut decisions, mut scores) = (Vec::with_capacity(labels.len()), Vec::new());
    for (rows, labels) in images.chunks(IMAGES * dim).zip(labels.chunks(IMAGES)) {
        block(rows, weights, dim, &mut scores);
        decisions.par_extend(scores.par_chunks_exact(classes).zip(labels).map(|(row, &label)| {
            let class = (1..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            let sum: f32 = row.iter().map(|s| ((s - row[class]) * scale).exp()).sum();
            let before = |(c, &score): (usize, &f32)| score > row[label] || (score == row[label] && c < label);
            Decision {
                class,
                confidence: 1.0 / sum,
                before: row.iter().enumerate().filter(|&one| before(one)).count(),
            }
        }));
    }
    Ok(decisions)
}

pub(crate) fn check_labels(labels: &[usize], classes: usize) -> Result<(), EvalError> {
    if labels.is_empty() {
        return Err(EvalError::Empty {
            what: "the list of labels",
        });
    }
    match labels.iter().enumerate().find(|&(_, &label)| label >= classes) {
        Some((row, &index)) => Err(EvalError::Index {
            what: "the label of image",
            row,
            index,
            count: classes,
        }),
        None => Ok(()),
    }
}

/// How certain and how right decisions are.
///
/// # Errors
/// No decisions, or another number of labels.
pub fn calibration(decisions: &[Decision], labels: &[usize]) -> Result<Calibration, EvalError> {
    same_length(decisions, labels)?;
    let mut bins = [(0usize, 0.0f64, 0.0f64); BINS];
    for (decision, &label) in decisions.iter().zip(labels) {
        let confidence = f64::from(decision.confidence);
        // a bin holds its upper limit, as in the reference implementation
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        bins[bin].0 += 1;
        bins[bin].1 += confidence;
        bins[bin].2 += f64::from(u8::from(decision.class == label));
    }
    let n = decisions.len() as f64;
    Ok(Calibration {
        ece: bins
            .iter()
            .map(|(_, confidence, right)| (confidence - right).abs() / n)
            .sum(),
        confidence: bins.iter().map(|bin| bin.1).sum::<f64>() / n,
        bins: bins
            .iter()
            .filter(|bin| bin.0 > 0)
            .map(|&(count, confidence, right)| (count, confidence / count as f64, right / count as f64))
            .collect(),
    })
}

fn same_length(decisions: &[Decision], labels: &[usize]) -> Result<(), EvalError> {
    if decisions.is_empty() {
        return Err(EvalError::Empty {
            what: "the list of decisions",
        });
    }
    match decisions.len() == labels.len() {
        true => Ok(()),
        false => Err(EvalError::Shape {
            what: "the list of labels",
            len: labels.len(),
            expected: decisions.len(),
            shape: "one label for each decision".to_owned(),
        }),
    }
}

/// The pairs of classes that are confused most: (right class, decided class, images), the most frequent first, then by class.
///
/// # Errors
/// As [`calibration`].
pub fn confused(
    decisions: &[Decision],
    labels: &[usize],
    most: usize,
) -> Result<Vec<(usize, usize, usize)>, EvalError> {
    same_length(decisions, labels)?;
    let mut wrong: Vec<(usize, usize)> = labels
        .iter()
        .zip(decisions)
        .map(|(&label, decision)| (label, decision.class))
        .filter(|(label, class)| label != class)
        .collect();
    wrong.sort_unstable();
    let mut counted: Vec<_> = wrong
        .chunk_by(|a, b| a == b)
        .map(|same| (same[0].0, same[0].1, same.len()))
        .collect();
    counted.sort_by_key(|&(label, class, count)| (std::cmp::Reverse(count), label, class));
    counted.truncate(most);
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(of: &[(usize, f32)]) -> Vec<Decision> {
        let one = |&(class, confidence)| Decision {
            class,
            confidence,
            before: 0,
        };
        of.iter().map(one).collect()
    }

    #[test]
    fn the_error_is_the_gap_of_each_bin() {
        // two bins: 0.9 with one of two right, 0.3 with one of one right
        let found = calibration(&decisions(&[(0, 0.9), (1, 0.9), (2, 0.3)]), &[0, 0, 2]).unwrap();
        assert!(
            (found.ece - (2.0 / 3.0 * 0.4 + 1.0 / 3.0 * 0.7)).abs() < 1e-6,
            "{found:?}"
        );
        assert_eq!(found.bins.len(), 2);
        assert!((found.confidence - 0.7).abs() < 1e-6);
    }

    #[test]
    fn decisions_are_the_softmax_and_ties_go_to_the_first() {
        let weights = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let found = decide(&[1.0, 0.0], &weights, 2, &[2], 10.0).unwrap();
        assert_eq!((found[0].class, found[0].before), (0, 2));
        let expected = 1.0 / (2.0 + (-10.0f32).exp());
        assert!((found[0].confidence - expected).abs() < 1e-6);
        assert!(matches!(
            decide(&[1.0, 0.0], &weights, 2, &[3], 1.0),
            Err(EvalError::Index { .. })
        ));
        assert!(calibration(&[], &[]).is_err());
    }

    #[test]
    fn the_most_frequent_confusion_comes_first() {
        let found = confused(&decisions(&[(1, 0.5), (1, 0.5), (2, 0.5), (0, 0.5)]), &[0, 0, 1, 0], 5).unwrap();
        assert_eq!(found, [(0, 1, 2), (1, 2, 1)]);
    }
}
