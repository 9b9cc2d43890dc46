//! Scoring rules of composition benchmarks on an item's own small table of scores, and agreement of rankings.
//!
//! [`composition`](crate::composition()) is SugarCrepe's rule on whole matrices; these are the others.

use crate::error::EvalError;

/// Winoground (Thrush et al. 2022, equations 1 to 3) for one item with two pictures and two captions; `s[i][t]` is the score of picture i
/// with caption t, and caption i belongs to picture i.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Winoground {
    /// For both pictures the own caption scores higher.
    pub text: bool,
    /// For both captions the own picture scores higher.
    pub image: bool,
    /// Both.
    pub group: bool,
}

/// All comparisons are strict: a tie is wrong. Chance is 1/4, 1/4 and 1/6.
#[must_use]
pub fn winoground(s: [[f32; 2]; 2]) -> Winoground {
    let text = s[0][0] > s[0][1] && s[1][1] > s[1][0];
    let image = s[0][0] > s[1][0] && s[1][1] > s[0][1];
    Winoground {
        text,
        image,
        group: text && image,
    }
}

/// MMVP-VLM (Tong et al. 2024): for each statement a softmax over the **two pictures**; the first picture is chosen when its share is above one half, the
/// second otherwise. A pair is right when both statements choose their own picture. Chance is 1/4.
///
/// `s[i][t]` is the score of picture i with statement t; a share above one half is a strictly greater score, so that a tie chooses the second picture.
#[must_use]
pub fn mmvp(s: [[f32; 2]; 2]) -> bool {
    let first = |t: usize| s[0][t] > s[1][t];
    first(0) && !first(1)
}

/// Whether the first of several captions has the highest score (ARO: Yuksekgonul et al. 2023). A tie is wrong, so that a model that gives all texts one
/// vector gets nothing.
#[must_use]
pub fn first_of(scores: &[f32]) -> bool {
    scores
        .split_first()
        .is_some_and(|(own, others)| others.iter().all(|other| own > other))
}

/// As [`first_of`], but the first of equals wins, as with `argmax`: ARO's orders.
#[must_use]
pub fn first_of_equals(scores: &[f32]) -> bool {
    scores
        .split_first()
        .is_some_and(|(own, others)| others.iter().all(|other| own >= other))
}

/// Spearman's rank correlation: Pearson's correlation of the ranks, where equal values share the mean of their ranks. STS benchmarks report it
/// times 100.
///
/// # Errors
/// Fewer than two pairs, lists of different lengths, values that are not finite, and a side on which all values are equal.
pub fn spearman(a: &[f64], b: &[f64]) -> Result<f64, EvalError> {
    if a.len() != b.len() || a.len() < 2 {
        return Err(EvalError::Shape {
            what: "the list of scores",
            len: b.len(),
            expected: a.len().max(2),
            shape: "one score for each of at least two pairs".to_owned(),
        });
    }
    for side in [a, b] {
        if let Some(row) = side.iter().position(|v| !v.is_finite()) {
            return Err(EvalError::NotFinite {
                what: "the list of scores",
                row,
            });
        }
    }
    let (ra, rb) = (shared_ranks(a), shared_ranks(b));
    let middle = (a.len() as f64 + 1.0) / 2.0;
    let (mut both, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (x, y) in ra.iter().zip(&rb) {
        both += (x - middle) * (y - middle);
        square_a += (x - middle).powi(2);
        square_b += (y - middle).powi(2);
    }
    if square_a == 0.0 || square_b == 0.0 {
        return Err(EvalError::Parameter {
            what: "the spread of the scores",
            value: 0.0,
            expected: "all of them are equal, which no ranking can be made of; is the model collapsed?",
        });
    }
    Ok(both / (square_a * square_b).sqrt())
}

/// Ranks from 1; equal values share the mean of theirs.
fn shared_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&x, &y| values[x].total_cmp(&values[y]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    // -0.0 and 0.0 are equal, which `total_cmp` does not say
    for same in order.chunk_by(|&x, &y| values[x] == values[y]) {
        let mean = first as f64 + (same.len() as f64 + 1.0) / 2.0;
        same.iter().for_each(|&i| ranks[i] = mean);
        first += same.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn winoground_counts_strictly() {
        let all = winoground([[0.9, 0.1], [0.2, 0.8]]);
        assert_eq!(
            all,
            Winoground {
                text: true,
                image: true,
                group: true
            }
        );
        // the first picture likes everything: captions are told apart, pictures are not
        let text = winoground([[0.9, 0.8], [0.1, 0.2]]);
        assert_eq!(
            text,
            Winoground {
                text: true,
                image: false,
                group: false
            }
        );
        let image = winoground([[0.9, 0.95], [0.1, 0.96]]);
        assert_eq!(
            image,
            Winoground {
                text: false,
                image: true,
                group: false
            }
        );
        assert!(!winoground([[0.5; 2]; 2]).text && !winoground([[0.5; 2]; 2]).image);
    }

    #[test]
    fn mmvp_compares_pictures_and_not_statements() {
        assert!(mmvp([[0.3, 0.1], [0.2, 0.4]]));
        // always the first picture: no pair
        assert!(!mmvp([[0.9, 0.9], [0.1, 0.1]]));
        // always the second one
        assert!(!mmvp([[0.1, 0.1], [0.9, 0.9]]));
        // each picture prefers its own statement, yet both statements prefer the first picture
        assert!(!mmvp([[0.9, 0.5], [0.1, 0.3]]));
    }

    #[test]
    fn ties_are_wrong() {
        assert!(first_of(&[0.5, 0.4, 0.3]));
        assert!(!first_of(&[0.5, 0.5]));
        assert!(!first_of(&[]));
        assert!(first_of_equals(&[0.5, 0.5]) && !first_of_equals(&[0.4, 0.5]));
    }

    #[test]
    fn equal_values_share_ranks() {
        assert_eq!(shared_ranks(&[3.0, 1.0, 3.0, -0.0, 0.0]), [4.5, 3.0, 4.5, 1.5, 1.5]);
        assert!((spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 15.0]).unwrap() - 0.5).abs() < 1e-12);
        assert!(spearman(&[1.0, 1.0], &[1.0, 2.0]).is_err());
        assert!(spearman(&[1.0], &[1.0]).is_err());
        assert!(spearman(&[1.0, f64::NAN], &[1.0, 2.0]).is_err());
    }
}
