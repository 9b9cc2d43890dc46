//! CIDEr-D (Vedantam et al. 2015), which the COCO caption evaluation calls CIDEr.
//!
//! For each order n of 1 to 4: counts of n-grams times ln(pictures / pictures with the n-gram in a reference) make vectors; caption and reference are compared by their
//! cosine, with the caption's entries clipped to the reference's, times exp(-d² / 2σ²), d being the difference of their numbers of **bigrams** and σ 6. The score is
//! the mean over orders and references, times 10. It depends on all pictures that are scored together: with one picture it is 0.

use std::collections::HashMap;

use super::bleu::{ORDERS, ngrams};

const SIGMA: f64 = 6.0;

type Gram<'a> = Vec<&'a str>;

/// A text as weighted n-grams.
struct Weighted<'a> {
    /// Sorted, so that sums do not depend on the order of a hash map.
    grams: Vec<(Gram<'a>, f64)>,
    norms: [f64; ORDERS],
    bigrams: usize,
}

/// The score of each caption among all of them, as words. References count once for a picture, however many of them hold an n-gram.
#[must_use]
pub fn cider(captions: &[(Vec<&str>, Vec<Vec<&str>>)]) -> Vec<f64> {
    let mut pictures: HashMap<Gram, usize> = HashMap::new();
    for (_, references) in captions {
        let grams: std::collections::HashSet<Gram> = references.iter().flat_map(|r| ngrams(r).into_keys()).collect();
        for gram in grams {
            *pictures.entry(gram).or_insert(0) += 1;
        }
    }
    let all = (captions.len() as f64).ln();
    let score = |(caption, references): &(Vec<&str>, Vec<Vec<&str>>)| {
        let caption = weighted(caption, &pictures, all);
        let mut sums = [0.0; ORDERS];
        for reference in references {
            let one = similarity(&caption, &weighted(reference, &pictures, all));
            (0..ORDERS).for_each(|order| sums[order] += one[order]);
        }
        let mean = sums.iter().sum::<f64>() / ORDERS as f64;
        if references.is_empty() {
            0.0
        } else {
            mean / references.len() as f64 * 10.0
        }
    };
    captions.iter().map(score).collect()
}

fn weighted<'a>(words: &[&'a str], pictures: &HashMap<Gram<'a>, usize>, all: f64) -> Weighted<'a> {
    let mut grams: Vec<(Gram, f64)> = Vec::new();
    let mut bigrams = 0;
    for (gram, count) in ngrams(words) {
        bigrams += if gram.len() == 2 { count } else { 0 };
        let seen = pictures.get(&gram).copied().unwrap_or(0).max(1) as f64;
        grams.push((gram, count as f64 * (all - seen.ln())));
    }
    grams.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut norms = [0.0; ORDERS];
    for (gram, weight) in &grams {
        norms[gram.len() - 1] += weight * weight;
    }
    Weighted {
        grams,
        norms: norms.map(f64::sqrt),
        bigrams,
    }
}

/// For each order the clipped cosine with the penalty on lengths.
fn similarity(caption: &Weighted, reference: &Weighted) -> [f64; ORDERS] {
    let mut sums = [0.0; ORDERS];
    let mut other = reference.grams.iter().peekable();
    for (gram, weight) in &caption.grams {
        while other.next_if(|(known, _)| known < gram).is_some() {}
        if let Some((_, theirs)) = other.peek().filter(|(known, _)| known == gram) {
            sums[gram.len() - 1] += weight.min(*theirs) * theirs;
        }
    }
    let gap = caption.bigrams.abs_diff(reference.bigrams) as f64;
    let penalty = (-(gap * gap) / (2.0 * SIGMA * SIGMA)).exp();
    std::array::from_fn(|order| {
        let norm = caption.norms[order] * reference.norms[order];
        if norm == 0.0 {
            sums[order] * penalty
        } else {
            sums[order] / norm * penalty
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        text.split(' ').collect()
    }

    #[test]
    fn a_reference_itself_gets_ten_and_a_stranger_nothing() {
        let captions = [
            (split("a dog runs on grass"), vec![split("a dog runs on grass")]),
            (split("blue sky"), vec![split("two red cars at night")]),
        ];
        let scores = cider(&captions);
        assert!((scores[0] - 10.0).abs() < 1e-12 && scores[1] == 0.0);
    }

    #[test]
    fn one_picture_says_nothing() {
        assert_eq!(cider(&[(split("a dog"), vec![split("a dog")])]), [0.0]);
    }
}
