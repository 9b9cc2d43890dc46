//! BLEU-1 to BLEU-4 (Papineni et al. 2002) over a corpus, as the COCO caption evaluation counts it.
//!
//! Precisions are clipped by the largest count in any reference of the picture and pooled over all captions; the brevity penalty compares the pooled length with that of
//! the references that are closest in length (of two equally close the shorter one). No smoothing but terms that keep divisions defined: 1e-15 in numerators, 1e-9 in
//! denominators.

use std::collections::HashMap;

/// The longest n-gram.
pub const ORDERS: usize = 4;
const TINY: f64 = 1e-15;
const SMALL: f64 = 1e-9;

/// How often each n-gram of the orders 1 to 4 is in a text.
pub(super) fn ngrams<'a>(words: &[&'a str]) -> HashMap<Vec<&'a str>, usize> {
    let mut counts = HashMap::new();
    for order in 1..=ORDERS {
        for gram in words.windows(order) {
            *counts.entry(gram.to_vec()).or_insert(0) += 1;
        }
    }
    counts
}

/// What one caption adds to the corpus.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    right: [usize; ORDERS],
    all: [usize; ORDERS],
    length: usize,
    reference: usize,
}

/// BLEU-1 to BLEU-4 of captions with the references of their pictures, as words.
#[must_use]
pub fn bleu(captions: &[(Vec<&str>, Vec<Vec<&str>>)]) -> [f64; ORDERS] {
    let mut sum = Tally::default();
    for (caption, references) in captions {
        let one = tally(caption, references);
        for order in 0..ORDERS {
            sum.right[order] += one.right[order];
            sum.all[order] += one.all[order];
        }
        sum.length += one.length;
        sum.reference += one.reference;
    }
    let mut product = 1.0;
    let ratio = (sum.length as f64 + TINY) / (sum.reference as f64 + SMALL);
    let penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    std::array::from_fn(|order| {
        product *= (sum.right[order] as f64 + TINY) / (sum.all[order] as f64 + SMALL);
        f64::powf(product, 1.0 / (order + 1) as f64) * penalty
    })
}

fn tally(caption: &[&str], references: &[Vec<&str>]) -> Tally {
    let mut most: HashMap<Vec<&str>, usize> = HashMap::new();
    for reference in references {
        for (gram, count) in ngrams(reference) {
            let known = most.entry(gram).or_insert(0);
            *known = (*known).max(count);
        }
    }
    let length = caption.len();
    let closest = references.iter().map(|r| (r.len().abs_diff(length), r.len())).min();
    let mut one = Tally {
        length,
        reference: closest.map_or(0, |(_, length)| length),
        ..Tally::default()
    };
    one.all = std::array::from_fn(|order| length.saturating_sub(order));
    for (gram, count) in ngrams(caption) {
        one.right[gram.len() - 1] += count.min(most.get(&gram).copied().unwrap_or(0));
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        text.split(' ').collect()
    }

    #[test]
    fn counts_are_clipped_and_short_captions_pay() {
        // Papineni's example: "the" may count twice
        let [one, ..] = bleu(&[(
            split("the the the the the the the"),
            vec![split("the cat is on the mat")],
        )]);
        assert!((one - 2.0 / 7.0).abs() < 1e-9);
        let [one, two, ..] = bleu(&[(
            split("a cat"),
            vec![split("a cat sat here"), split("a cat sat here too")],
        )]);
        assert!((one - (-1.0f64).exp()).abs() < 1e-8 && (two - one).abs() < 1e-8);
    }

    #[test]
    fn nothing_is_worth_nothing() {
        assert!(bleu(&[(vec![], vec![split("a cat")])]).iter().all(|b| *b == 0.0));
    }
}
