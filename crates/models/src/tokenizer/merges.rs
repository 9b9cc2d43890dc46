//! Merges of a SentencePiece BPE vocabulary, which lists pieces only.

use std::collections::HashMap;

/// All pairs of pieces that join to a piece, in the order in which BPE may apply them.
///
/// `order` gives the value by which pieces are preferred (larger first): their scores, or their negated positions where the scores do
/// not follow the order of training. Among splits of equal value those with a longer left part come first, and then those
/// whose parts stand earlier in the vocabulary, as in transformers' `generate_merges`.
pub(super) fn derive(pieces: &[String], order: impl Fn(usize) -> f64) -> Vec<(String, String)> {
    let position: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .map(|(i, piece)| (piece.as_str(), i))
        .collect();
    struct Split<'a> {
        value: f64,
        left_chars: usize,
        chars: usize,
        left: &'a str,
        right: &'a str,
    }
    let mut splits = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        // of pieces that occur twice the last one counts
        if position[piece.as_str()] != i {
            continue;
        }
        let first = splits.len();
        let chars = piece.chars().count();
        for (left_chars, (at, _)) in piece.char_indices().enumerate().skip(1) {
            let (left, right) = piece.split_at(at);
            if position.contains_key(left) && position.contains_key(right) {
                splits.push(Split {
                    value: order(i),
                    left_chars,
                    chars,
                    left,
                    right,
                });
            }
        }
        splits[first..].sort_by_key(|s| (position[s.left], position[s.right]));
    }
    // descending by value, left and right length; a stable sort keeps the order of the vocabulary otherwise
    splits.sort_by(|a, b| {
        b.value
            .total_cmp(&a.value)
            .then(b.left_chars.cmp(&a.left_chars))
            .then((b.chars - b.left_chars).cmp(&(a.chars - a.left_chars)))
    });
    splits
        .into_iter()
        .map(|s| (s.left.to_owned(), s.right.to_owned()))
        .collect()
}
