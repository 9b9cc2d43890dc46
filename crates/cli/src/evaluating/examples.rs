//! A few typical questions with what a model answers.

use bifocal_data::thumbnail::jpeg_within;
use bifocal_data::{Conventions, ImageSource, Limits};
use bifocal_eval::page::data_uri;

/// Successes and failures of a benchmark that are kept, each.
pub const SHOWN: usize = 4;
/// Answers of each.
pub const ANSWERS: usize = 3;
/// Longest side of a small picture.
const SIDE: u32 = 128;

/// Evenly spread over those that are right and those that are wrong: places of up to [`SHOWN`] each, the right ones first.
pub fn typical(right: &[bool]) -> Vec<usize> {
    let of = |wanted: bool| {
        let places: Vec<usize> = (0..right.len()).filter(|&i| right[i] == wanted).collect();
        let count = SHOWN.min(places.len());
        (0..count)
            .map(move |k| places[(2 * k + 1) * places.len() / (2 * count)])
            .collect::<Vec<_>>()
    };
    [of(true), of(false)].concat()
}

/// The picture in small, as an address; none when it cannot be read.
pub fn small(image: &ImageSource) -> Option<String> {
    let picture = image.open(&Limits::default(), Conventions::default()).ok()?;
    data_uri(&jpeg_within(&picture, SIDE)?)
}

/// The places of the highest scores, ties by place.
pub fn best(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(ANSWERS);
    order
}

/// Scores of a row with many.
pub fn scores(row: &[f32], rows: &[f32]) -> Vec<f32> {
    let dot = |other: &[f32]| row.iter().zip(other).map(|(a, b)| a * b).sum();
    rows.chunks_exact(row.len().max(1)).map(dot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_spread_over_both_kinds() {
        let right: Vec<bool> = (0..100).map(|i| i % 2 == 0).collect();
        let found = typical(&right);
        assert_eq!(found, [12, 36, 62, 86, 13, 37, 63, 87]);
        assert_eq!(typical(&[true]), [0]);
        assert!(typical(&[]).is_empty());
    }
}
