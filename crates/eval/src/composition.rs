//! Composition: a picture's caption against a sentence that differs from it in one object, attribute or relation.
//!
//! Protocol (SugarCrepe, Hsieh et al. 2023): an item is right when the caption's score is **strictly** greater than that of its hard
//! negative; an equal score is wrong, so that a model that gives all texts one vector gets nothing. Chance is one half.

use serde::{Deserialize, Serialize};

use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::dot;

/// How many items a model gets right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompositionReport {
    /// Items that were asked.
    pub items: usize,
    /// Those whose caption scores higher than the negative.
    pub right: usize,
    /// Those with equal scores, which count as wrong.
    pub tied: usize,
}

impl CompositionReport {
    /// The fraction of items that are right.
    pub fn accuracy(&self) -> f64 {
        self.right as f64 / self.items as f64
    }
}

/// Compares the scores of captions and hard negatives with their pictures.
///
/// # Shapes
/// `images` `[N, dim]`, `captions` and `negatives` `[M, dim]`, unit rows for cosine scores; `image_of` `[M]`: the picture of each item.
///
/// # Errors
/// Empty input, lengths that do not fit, values that are not finite, and indices outside of the pictures.
pub fn composition(
    images: &[f32],
    captions: &[f32],
    negatives: &[f32],
    dim: usize,
    image_of: &[usize],
) -> Result<CompositionReport, EvalError> {
    let count = rows_of("the image matrix", images, dim)?;
    if image_of.is_empty() {
        return Err(EvalError::Empty {
            what: "the caption matrix",
        });
    }
    check_matrix("the caption matrix", captions, image_of.len(), dim)?;
    check_matrix("the matrix of negatives", negatives, image_of.len(), dim)?;
    let mut report = CompositionReport {
        items: image_of.len(),
        right: 0,
        tied: 0,
    };
    let texts = captions.chunks_exact(dim).zip(negatives.chunks_exact(dim));
    for (row, (&index, (caption, negative))) in image_of.iter().zip(texts).enumerate() {
        if index >= count {
            return Err(EvalError::Index {
                what: "item",
                row,
                index,
                count,
            });
        }
        let image = &images[index * dim..][..dim];
        let (own, other) = (dot(image, caption), dot(image, negative));
        report.right += usize::from(own > other);
        report.tied += usize::from(own == other);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_strictly_greater_score_is_right() {
        let images = [1.0, 0.0, 0.0, 1.0];
        let captions = [0.8, 0.6, 0.6, 0.8, 1.0, 0.0, 0.0, 1.0];
        // higher, equal, lower; the last item asks for the second picture
        let negatives = [0.6, 0.8, 0.6, -0.8, 1.0, 0.0, 1.0, 0.0];
        let report = composition(&images, &captions, &negatives, 2, &[0, 0, 0, 1]).unwrap();
        let expected = CompositionReport {
            items: 4,
            right: 2,
            tied: 2,
        };
        assert_eq!(report, expected);
        assert_eq!(report.accuracy(), 0.5);
        let swapped = composition(&images, &negatives, &captions, 2, &[0, 0, 0, 1]).unwrap();
        assert_eq!((swapped.right, swapped.tied), (0, 2));
    }

    #[test]
    fn a_collapsed_model_gets_nothing() {
        let same = [0.6, 0.8];
        assert_eq!(composition(&same, &same, &same, 2, &[0]).unwrap().right, 0);
    }

    #[test]
    fn doubtful_input_is_refused() {
        let one = [1.0, 0.0];
        assert!(matches!(
            composition(&one, &one, &one, 2, &[]),
            Err(EvalError::Empty { .. })
        ));
        assert!(matches!(
            composition(&one, &one, &[1.0], 2, &[0]),
            Err(EvalError::Shape { .. })
        ));
        assert!(matches!(
            composition(&one, &one, &one, 2, &[1]),
            Err(EvalError::Index { index: 1, .. })
        ));
        assert!(matches!(
            composition(&one, &[f32::NAN, 0.0], &one, 2, &[0]),
            Err(EvalError::NotFinite { .. })
        ));
    }
}
