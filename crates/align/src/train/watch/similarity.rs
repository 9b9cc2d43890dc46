//! How similar pictures are to their own texts and to those of others.

use serde::{Deserialize, Serialize};

/// Bins between -1 and 1.
const BINS: usize = 40;

/// Similarities of a batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Similarities {
    /// Counts of texts with their own picture in forty bins of equal width between -1 and 1. A value on a limit belongs to the bin
    /// above, beyond the ends to the last.
    pub positive: Vec<u64>,
    /// Counts of all other pairs.
    pub negative: Vec<u64>,
    /// Mean over texts of the similarity with the own picture minus that with the nearest other one; above zero on average when
    /// search is right on average. `None` with a single picture or when nothing is finite.
    pub margin: Option<f64>,
    /// Pairs whose similarity is not finite; in no bin and no margin.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub not_finite: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Rows that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("similarities of a batch: {0}")]
pub struct SimilarityError(String);

/// Similarities of all pairs of `images` `[n, dim]` and `texts` `[m, dim]`, rows of length one; text `t` belongs to the picture
/// `text_image[t]`.
///
/// # Errors
/// [`SimilarityError`] when the slices do not have these shapes or a text belongs to no picture.
pub fn similarities(
    images: &[f32],
    texts: &[f32],
    dim: usize,
    text_image: &[usize],
) -> Result<Similarities, SimilarityError> {
    if dim == 0 || !images.len().is_multiple_of(dim) {
        let message = format!("{} values of pictures are no rows of {dim}", images.len());
        return Err(SimilarityError(message));
    }
    if Some(texts.len()) != text_image.len().checked_mul(dim) {
        let message = format!(
            "{} values of texts are not {} rows of {dim}",
            texts.len(),
            text_image.len()
        );
        return Err(SimilarityError(message));
    }
    let n = images.len() / dim;
    if let Some(t) = text_image.iter().position(|&i| i >= n) {
        let message = format!("text {t} belongs to picture {} of {n}", text_image[t]);
        return Err(SimilarityError(message));
    }
    let mut found = Similarities {
        positive: vec![0; BINS],
        negative: vec![0; BINS],
        ..Similarities::default()
    };
    let (mut sum, mut count) = (0.0, 0u64);
    for (text, &own) in texts.chunks_exact(dim).zip(text_image) {
        let (mut right, mut nearest) = (f64::NAN, f64::NEG_INFINITY);
        for (i, image) in images.chunks_exact(dim).enumerate() {
            let s = f64::from(dot(text, image));
            if !s.is_finite() {
                found.not_finite += 1;
                continue;
            }
            let bin = (((s + 1.0) * (BINS as f64 / 2.0)).max(0.0) as usize).min(BINS - 1);
            if i == own {
                found.positive[bin] += 1;
                right = s;
            } else {
                found.negative[bin] += 1;
                nearest = nearest.max(s);
            }
        }
        let margin = right - nearest;
        if margin.is_finite() {
            sum += margin;
            count += 1;
        }
    }
    found.margin = (count > 0).then(|| sum / count as f64);
    Ok(found)
}

/// Eight sums side by side, which a compiler makes vectors of.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a1) = a.as_chunks::<8>();
    let (b8, b1) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (x, y) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f32>() + a1.iter().zip(b1).map(|(x, y)| x * y).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_and_margin_by_hand() {
        // two pictures along the axes; similarities 0.8 and 0.6, 0 and 1, -1 and 0
        let images = [1.0, 0.0, 0.0, 1.0];
        let texts = [0.8, 0.6, 0.0, 1.0, -1.0, 0.0];
        let found = similarities(&images, &texts, 2, &[0, 1, 1]).unwrap();
        let at = |counts: &[u64]| -> Vec<(usize, u64)> {
            let all = counts.iter().copied().enumerate();
            all.filter(|(_, c)| *c > 0).collect()
        };
        assert_eq!(found.positive.len(), 40);
        // 0.8 in single precision is a little above the limit between bins 35 and 36, 0.6 as well
        assert_eq!(at(&found.positive), [(20, 1), (36, 1), (39, 1)]);
        assert_eq!(at(&found.negative), [(0, 1), (20, 1), (32, 1)]);
        let expected = (0.2 + 1.0 + 1.0) / 3.0;
        assert!((found.margin.unwrap() - expected).abs() < 1e-6);
        let stored = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Similarities>(&stored).unwrap(), found);
    }

    #[test]
    fn long_rows_count_in_full() {
        let row: Vec<f32> = (0..19).map(|i| if i % 2 == 0 { 0.25 } else { -0.125 }).collect();
        let expected: f32 = row.iter().map(|v| v * v).sum();
        assert!((dot(&row, &row) - expected).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_or_does_not_fit() {
        let found = similarities(&[f32::NAN, 1.0], &[1.0, 1.0], 1, &[0, 1]).unwrap();
        assert_eq!(found.not_finite, 2);
        assert_eq!(found.positive.iter().sum::<u64>(), 1);
        assert_eq!(found.negative.iter().sum::<u64>(), 1);
        assert_eq!(found.margin, None);
        assert_eq!(similarities(&[1.0], &[1.0], 1, &[0]).unwrap().margin, None);
        assert_eq!(similarities(&[], &[], 3, &[]).unwrap().margin, None);
        // rounding beyond the ends
        let found = similarities(&[1.01, -1.01], &[1.0], 1, &[0]).unwrap();
        assert_eq!((found.positive[39], found.negative[0]), (1, 1));
        for (images, texts, dim, own) in [
            (&[1.0f32][..], &[1.0f32][..], 0, &[0][..]),
            (&[1.0], &[1.0], 2, &[0]),
            (&[1.0], &[1.0, 1.0], 1, &[0]),
            (&[1.0], &[1.0], 1, &[1]),
            (&[1.0, 0.0], &[], usize::MAX, &[0, 0]),
        ] {
            assert!(
                similarities(images, texts, dim, own).is_err(),
                "{images:?} {texts:?} {dim}"
            );
        }
    }
}
