//! Zero-shot classification: class names become class weights through prompts.
//!
//! Protocol (open_clip, CLIP benchmark): the embedding of every prompt is normalised, the prompts of a class are averaged
//! and the mean is normalised again; an image belongs to the class with the highest dot product. To classify among a
//! subset of classes (ImageNet-A, -R, -O, ObjectNet) give the weights of that subset only.
//! Ties: the lower class index comes first, as with `argmax`.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::{block, normalise_rows, pairs};

/// Images that are scored at once.
const IMAGES: usize = 512;

/// Zero-shot accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotReport {
    /// Images that were classified.
    pub images: usize,
    /// Classes that they were classified into.
    pub classes: usize,
    /// How ties were ranked.
    pub ties: String,
    /// Fraction whose own class is the first.
    pub top1: f64,
    /// Fraction whose own class is among the first five.
    pub top5: f64,
    /// Top-1 per class, averaged over the classes that have images.
    pub mean_per_class: f64,
    /// Images whose rank the tie rule decided.
    pub tied: usize,
    /// Top-1 of a random order.
    pub chance_top1: f64,
    /// Top-5 of a random order.
    pub chance_top5: f64,
    /// Each class, in its order.
    pub per_class: Vec<ClassAccuracy>,
}

/// One class of a [`ZeroShotReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassAccuracy {
    /// Images of the class.
    pub images: usize,
    /// Those whose first class is right.
    pub top1: usize,
    /// Those whose first five classes hold the right one.
    pub top5: usize,
}

/// Class weights from the embeddings of prompts: `w = norm(mean(norm(prompt)))`.
///
/// # Shapes
/// `prompts` `[classes × per_class, dim]`, all prompts of the first class first; returns `[classes, dim]`.
///
/// # Errors
/// Lengths that do not fit, values that are not finite, prompts without direction, and prompts that cancel out.
pub fn class_weights(prompts: &[f32], per_class: usize, dim: usize) -> Result<Vec<f32>, EvalError> {
    const WHAT: &str = "the prompt matrix";
    let rows = rows_of(WHAT, prompts, dim)?;
    if per_class == 0 || rows % per_class != 0 {
        let shape = format!("a multiple of {per_class} prompts per class × {dim}");
        return Err(EvalError::Shape {
            what: WHAT,
            len: prompts.len(),
            expected: rows / per_class.max(1) * per_class * dim,
            shape,
        });
    }
    let mut weights = Vec::with_capacity(rows / per_class * dim);
    for (class, block) in prompts.chunks_exact(per_class * dim).enumerate() {
        let mut sum = vec![0.0f64; dim];
        for (index, prompt) in block.chunks_exact(dim).enumerate() {
            let length = length(prompt);
            if length == 0.0 {
                return Err(EvalError::ZeroVector {
                    what: WHAT,
                    row: class * per_class + index,
                });
            }
            for (s, &v) in sum.iter_mut().zip(prompt) {
                *s += f64::from(v) / length;
            }
        }
        weights.extend(sum.iter().map(|s| (s / per_class as f64) as f32));
    }
    normalise_rows(&mut weights, dim).map_err(|row| EvalError::ZeroVector {
        what: "the mean prompt of a class",
        row,
    })?;
    Ok(weights)
}

/// A class and how well it fits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Which class.
    pub class: usize,
    /// Cosine of the image and the class.
    pub cosine: f32,
    /// Its share of the softmax over all classes.
    pub share: f32,
}

/// All classes for one image, best first; ties by class index.
///
/// # Shapes
/// `row` `[dim]` of unit length, `weights` `[classes, dim]` (see [`class_weights`]); `scale` multiplies cosines before the softmax.
pub fn rank_classes(row: &[f32], weights: &[f32], scale: f32) -> Vec<Ranked> {
    let cosines: Vec<f32> = weights
        .chunks_exact(row.len().max(1))
        .map(|w| w.iter().zip(row).map(|(a, b)| a * b).sum())
        .collect();
    let top = cosines.iter().copied().fold(f32::MIN, f32::max);
    let exp: Vec<f32> = cosines.iter().map(|c| ((c - top) * scale).exp()).collect();
    let sum: f32 = exp.iter().sum();
    let one = |class: usize| Ranked {
        class,
        cosine: cosines[class],
        share: exp[class] / sum,
    };
    let mut ranked: Vec<Ranked> = (0..cosines.len()).map(one).collect();
    ranked.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.class.cmp(&b.class)));
    ranked
}

fn length(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// Classifies images and compares with their labels.
///
/// # Shapes
/// `images` `[N, dim]`, `weights` `[C, dim]` (see [`class_weights`]), `labels` `[N]` with values below C. Scores are dot
/// products of the rows as they are; the length of an image's row does not matter, that of a class does.
///
/// # Errors
/// Empty input, lengths that do not fit, values that are not finite, labels that are no class.
pub fn zero_shot(images: &[f32], weights: &[f32], dim: usize, labels: &[usize]) -> Result<ZeroShotReport, EvalError> {
    let classes = rows_of("the class weights", weights, dim)?;
    if labels.is_empty() {
        return Err(EvalError::Empty {
            what: "the image matrix",
        });
    }
    check_matrix("the image matrix", images, labels.len(), dim)?;
    if let Some((row, &index)) = labels.iter().enumerate().find(|&(_, &l)| l >= classes) {
        return Err(EvalError::Index {
            what: "the label of image",
            row,
            index,
            count: classes,
        });
    }
    Ok(summarise(&rank(images, labels, weights, dim), labels, classes))
}

/// For each image: how many classes come before the right one, and whether a wrong class has its score.
fn rank(images: &[f32], labels: &[usize], weights: &[f32], dim: usize) -> Vec<(usize, bool)> {
    let (classes, mut scores) = (weights.len() / dim, Vec::new());
    let mut ranks = Vec::with_capacity(labels.len());
    for (rows, labels) in images.chunks(IMAGES * dim).zip(labels.chunks(IMAGES)) {
        let own = pairs(rows, weights, dim, labels);
        block(rows, weights, dim, &mut scores);
        let ranked = scores
            .par_chunks_exact(classes)
            .zip(&own)
            .zip(labels)
            .map(|((row, &own), &label)| {
                let before = |(class, &score): (usize, &f32)| score > own || (score == own && class < label);
                let ahead = row.iter().enumerate().filter(|&one| before(one)).count();
                (
                    ahead,
                    row.iter()
                        .enumerate()
                        .any(|(class, &score)| score == own && class != label),
                )
            });
        ranks.par_extend(ranked);
    }
    ranks
}

fn summarise(ranks: &[(usize, bool)], labels: &[usize], classes: usize) -> ZeroShotReport {
    let mut per_class = vec![
        ClassAccuracy {
            images: 0,
            top1: 0,
            top5: 0
        };
        classes
    ];
    for (&(before, _), &label) in ranks.iter().zip(labels) {
        let class = &mut per_class[label];
        class.images += 1;
        class.top1 += usize::from(before < 1);
        class.top5 += usize::from(before < 5);
    }
    let total = ranks.len() as f64;
    let seen: Vec<f64> = per_class
        .iter()
        .filter(|c| c.images > 0)
        .map(|c| c.top1 as f64 / c.images as f64)
        .collect();
    ZeroShotReport {
        images: ranks.len(),
        classes,
        ties: crate::retrieval::TIE_RULE.to_owned(),
        top1: per_class.iter().map(|c| c.top1).sum::<usize>() as f64 / total,
        top5: per_class.iter().map(|c| c.top5).sum::<usize>() as f64 / total,
        mean_per_class: seen.iter().sum::<f64>() / seen.len() as f64,
        tied: ranks.iter().filter(|r| r.1).count(),
        chance_top1: 1.0 / classes as f64,
        chance_top5: classes.min(5) as f64 / classes as f64,
        per_class,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_normalised_before_and_after_the_mean() {
        // One long and one short prompt count the same; the mean of two right angles lies between.
        let weights = class_weights(&[100.0, 0.0, 0.0, 0.5], 2, 2).unwrap();
        let half = 0.5f32.sqrt();
        assert!((weights[0] - half).abs() < 1e-7 && (weights[1] - half).abs() < 1e-7);
    }

    #[test]
    fn prompts_without_direction_are_refused() {
        assert!(matches!(
            class_weights(&[1.0, 0.0, 0.0, 0.0], 2, 2),
            Err(EvalError::ZeroVector { row: 1, .. })
        ));
        assert!(matches!(
            class_weights(&[1.0, 0.0, -1.0, 0.0], 2, 2),
            Err(EvalError::ZeroVector { row: 0, .. })
        ));
        assert!(matches!(class_weights(&[1.0; 6], 2, 2), Err(EvalError::Shape { .. })));
        assert!(matches!(class_weights(&[1.0; 6], 0, 2), Err(EvalError::Shape { .. })));
    }

    #[test]
    fn classes_without_images_do_not_enter_the_mean() {
        let weights = [1.0, 0.0, 0.0, 1.0, -1.0, 0.0];
        let images = [1.0, 0.1, 1.0, 0.2, 0.1, 1.0, 1.0, 0.0];
        let report = zero_shot(&images, &weights, 2, &[0, 0, 1, 1]).unwrap();
        assert_eq!((report.top1, report.mean_per_class), (0.75, 0.75));
        assert_eq!(report.top5, 1.0);
        assert_eq!((report.chance_top1, report.chance_top5), (1.0 / 3.0, 1.0));
        assert_eq!(report.per_class[2].images, 0);
        assert!(matches!(
            zero_shot(&images, &weights, 2, &[0, 0, 1, 3]),
            Err(EvalError::Index { row: 3, .. })
        ));
    }
}
