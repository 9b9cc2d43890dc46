//! Classification by the nearest training pictures: what features are good for without any text.
//!
//! Protocol (Wu et al. 2018, §3.4, as DINO evaluates): cosine similarity, the k nearest vote for their class with weight exp(cosine / 0.07). Among
//! equal similarities the lower index is nearer, among equal votes the lower class wins.

use rayon::prelude::*;

use crate::calibration::check_labels;
use crate::error::{EvalError, check_matrix, rows_of};
use crate::scores::{block, normalise_rows};

/// Temperature of the votes.
const TEMPERATURE: f64 = 0.07;
/// Pictures that are scored at once.
const BLOCK: usize = 256;

/// The class of each picture by the `k` nearest of `train`.
///
/// # Shapes
/// `train` `[N, dim]`, `labels` `[N]` below `classes`, `images` `[M, dim]`; rows need not have unit length. → `[M]`.
///
/// # Errors
/// Empty input, lengths that do not fit, values that are not finite, rows without direction, labels that are no class, `k` of 0.
pub fn nearest(
    train: &[f32],
    labels: &[usize],
    images: &[f32],
    dim: usize,
    classes: usize,
    k: usize,
) -> Result<Vec<usize>, EvalError> {
    const TRAIN: &str = "the training matrix";
    const IMAGES: &str = "the image matrix";
    check_labels(labels, classes)?;
    check_matrix(TRAIN, train, labels.len(), dim)?;
    rows_of(IMAGES, images, dim)?;
    if k == 0 {
        return Err(EvalError::Parameter {
            what: "the number of neighbours",
            value: 0.0,
            expected: "give at least 1",
        });
    }
    let unit = |what: &'static str, rows: &[f32]| {
        let mut rows = rows.to_vec();
        normalise_rows(&mut rows, dim).map_err(|row| EvalError::ZeroVector { what, row })?;
        Ok::<_, EvalError>(rows)
    };
    let (train, images) = (unit(TRAIN, train)?, unit(IMAGES, images)?);
    let mut found = Vec::with_capacity(images.len() / dim);
    let mut scores = Vec::new();
    for rows in images.chunks(BLOCK * dim) {
        block(rows, &train, dim, &mut scores);
        found.par_extend(
            scores
                .par_chunks_exact(labels.len())
                .map(|row| vote(row, labels, classes, k)),
        );
    }
    Ok(found)
}

fn vote(scores: &[f32], labels: &[usize], classes: usize, k: usize) -> usize {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let nearer = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let k = k.min(order.len());
    if k < order.len() {
        order.select_nth_unstable_by(k - 1, nearer);
        order.truncate(k);
    }
    order.sort_unstable_by(nearer);
    let mut votes = vec![0.0f64; classes];
    for i in order {
        votes[labels[i]] += (f64::from(scores[i]) / TEMPERATURE).exp();
    }
    (1..classes).fold(0, |best, class| if votes[class] > votes[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_neighbours_weigh_more_than_many() {
        // one of class 1 on the spot, two of class 0 at a right angle
        let train = [0.0, 1.0, 0.0, 2.0, 3.0, 0.0];
        let labels = [0, 0, 1];
        assert_eq!(nearest(&train, &labels, &[1.0, 0.0], 2, 2, 3).unwrap(), [1]);
        assert_eq!(
            nearest(&train, &labels, &[0.0, 5.0, 5.0, 0.1], 2, 2, 1).unwrap(),
            [0, 1]
        );
        // more neighbours than there are
        assert_eq!(nearest(&train, &labels, &[0.0, 5.0], 2, 2, 50).unwrap(), [0]);
    }

    #[test]
    fn doubtful_input_is_refused() {
        let one = [1.0, 0.0];
        assert!(matches!(
            nearest(&one, &[0], &one, 2, 1, 0),
            Err(EvalError::Parameter { .. })
        ));
        assert!(matches!(
            nearest(&one, &[1], &one, 2, 1, 1),
            Err(EvalError::Index { .. })
        ));
        assert!(matches!(
            nearest(&[0.0, 0.0], &[0], &one, 2, 1, 1),
            Err(EvalError::ZeroVector { .. })
        ));
        assert!(matches!(
            nearest(&one, &[], &one, 2, 1, 1),
            Err(EvalError::Empty { .. })
        ));
    }
}
