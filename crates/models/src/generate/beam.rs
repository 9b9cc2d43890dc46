//! Several texts grow side by side, the likeliest as a whole is taken.

use super::GenerateError;

/// How many texts grow, and how long ones compare with short ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// Texts that grow side by side.
    pub beams: usize,
    /// The sum of logarithms is divided by the number of tokens to this power: 1 compares means.
    pub length_penalty: f32,
    /// The most tokens of a text.
    pub max_tokens: usize,
}

/// Texts that grow side by side: more would only cost memory.
const MAX_BEAMS: usize = 64;

/// A text on its way, or its end.
#[derive(Clone, Debug)]
struct Text {
    score: f32,
    ids: Vec<u32>,
}

/// The likeliest text after what was read, with the token that ends it. As transformers' `generate` with `early_stopping` off: ended texts are kept as long as
/// one that still grows could become better than the worst of them.
///
/// `step(parents, ids)` gives the logits after each text that goes on: text i is the former text `parents[i]` and then `ids[i]`. The first call has no texts and
/// asks for those after what was read. `guard(text, scores)` may change the logarithms of the probabilities of what comes after a text: after the softmax, as
/// transformers has it in this search, and before it where tokens are drawn one by one.
///
/// # Shapes
/// `step`: `n` texts → `[n, vocabulary]`; the first call: `[1, vocabulary]`.
///
/// # Errors
/// What `step` gives, and [`GenerateError::Field`] for a number of beams or tokens that cannot be.
pub fn beam_search(
    options: &Beams,
    stop: &[u32],
    mut step: impl FnMut(&[usize], &[u32]) -> Result<Vec<f32>, GenerateError>,
    guard: impl Fn(&[u32], &mut [f32]),
) -> Result<Vec<u32>, GenerateError> {
    let field = |field, value: usize, allowed| {
        Err(GenerateError::Field {
            field,
            value: value.to_string(),
            allowed,
        })
    };
    if !(1..=MAX_BEAMS).contains(&options.beams) {
        return field("beams", options.beams, "1…64");
    }
    if options.max_tokens == 0 {
        return field("max_tokens", 0, "1 or more");
    }
    let mut growing = vec![Text {
        score: 0.0,
        ids: Vec::new(),
    }];
    let mut ended: Vec<Text> = Vec::new();
    let mut logits = step(&[], &[])?;
    // so many that enough go on when others end
    let wide = (1 + stop.len()).max(2) * options.beams;
    for length in 1..=options.max_tokens {
        let size = (length as f32).powf(options.length_penalty);
        let best = best(&growing, &logits, wide, &guard);
        if best.is_empty() {
            return Err(GenerateError::NotFinite);
        }
        let (mut next, mut parents) = (Vec::new(), Vec::new());
        for (rank, (score, parent, id)) in best.into_iter().enumerate() {
            let text = |score| Text {
                score,
                ids: growing[parent].ids.iter().copied().chain([id]).collect(),
            };
            if stop.contains(&id) || length == options.max_tokens {
                if rank < options.beams {
                    ended.push(text(score / size));
                }
            } else if next.len() < options.beams {
                next.push(text(score));
                parents.push(parent);
            }
        }
        ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        ended.truncate(options.beams);
        growing = next;
        let hope = growing.first().map(|text| text.score / size);
        let worst = ended.get(options.beams - 1).map(|text| text.score);
        if hope.is_none() || worst.is_some_and(|worst| hope.is_none_or(|hope| hope <= worst)) {
            break;
        }
        let ids: Vec<u32> = growing.iter().filter_map(|text| text.ids.last().copied()).collect();
        logits = step(&parents, &ids)?;
    }
    let best = ended.into_iter().next().or(growing.into_iter().next());
    best.map(|text| text.ids).ok_or(GenerateError::NotFinite)
}

/// The best continuations of all texts: score, text, token; of equal ones, those of earlier texts and smaller ids.
fn best(growing: &[Text], logits: &[f32], count: usize, guard: &impl Fn(&[u32], &mut [f32])) -> Vec<(f32, usize, u32)> {
    let vocabulary = logits.len() / growing.len().max(1);
    let mut all: Vec<(f32, usize, u32)> = Vec::with_capacity(logits.len());
    for (i, (text, line)) in growing.iter().zip(logits.chunks_exact(vocabulary.max(1))).enumerate() {
        let top = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = line.iter().map(|&l| f64::from(l - top).exp()).sum();
        let lse = top + sum.ln() as f32;
        let mut scores: Vec<f32> = line.iter().map(|l| l - lse).collect();
        guard(&text.ids, &mut scores);
        let scored = scores.into_iter().enumerate();
        let scored = scored.map(|(id, score)| (text.score + score, i, id as u32));
        all.extend(scored.filter(|(score, _, _)| *score > f32::NEG_INFINITY));
    }
    let order = |a: &(f32, usize, u32), b: &(f32, usize, u32)| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)));
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
        all.truncate(count);
    }
    all.sort_unstable_by(order);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use bifocal_nn::init::Rng;

    const VOCABULARY: usize = 4;
    const END: u32 = 0;

    /// Logits of a toy model that depend on the whole text.
    fn toy(seed: u64, text: &[u32]) -> Vec<f32> {
        let code = text.iter().fold(1u64, |code, &id| code * 5 + u64::from(id) + 1);
        let mut rng = Rng::new(seed * 1_000_003 + code);
        (0..VOCABULARY).map(|_| 2.0 * rng.normal()).collect()
    }

    fn search(seed: u64, beams: usize, max_tokens: usize) -> Vec<u32> {
        let options = Beams {
            beams,
            length_penalty: 1.0,
            max_tokens,
        };
        let mut texts: Vec<Vec<u32>> = vec![Vec::new()];
        let found = beam_search(
            &options,
            &[END],
            |parents, ids| {
                if !ids.is_empty() {
                    texts = parents
                        .iter()
                        .zip(ids)
                        .map(|(&p, &id)| texts[p].iter().copied().chain([id]).collect())
                        .collect();
                }
                Ok(texts.iter().flat_map(|text| toy(seed, text)).collect())
            },
            |_, _| {},
        );
        found.unwrap()
    }

    fn mean(seed: u64, text: &[u32]) -> f64 {
        let log = |i: usize| {
            let line = toy(seed, &text[..i]);
            let sum: f64 = line.iter().map(|&l| f64::from(l).exp()).sum();
            f64::from(line[text[i] as usize]) - sum.ln()
        };
        (0..text.len()).map(log).sum::<f64>() / text.len() as f64
    }

    /// All texts that end, or are as long as they may be.
    fn all(max: usize, so_far: &[u32], out: &mut Vec<Vec<u32>>) {
        for id in 0..VOCABULARY as u32 {
            let text: Vec<u32> = so_far.iter().copied().chain([id]).collect();
            if id == END || text.len() == max {
                out.push(text);
            } else {
                all(max, &text, out);
            }
        }
    }

    #[test]
    fn with_enough_beams_the_best_of_all_texts_is_found() {
        for seed in 0..12 {
            let mut texts = Vec::new();
            all(3, &[], &mut texts);
            let best = texts
                .iter()
                .max_by(|a, b| mean(seed, a).total_cmp(&mean(seed, b)))
                .unwrap();
            let found = search(seed, 36, 3);
            assert!(
                (mean(seed, &found) - mean(seed, best)).abs() < 1e-5,
                "{found:?} {best:?}"
            );
        }
    }

    #[test]
    fn one_beam_is_greedy() {
        for seed in 0..12 {
            let mut greedy = Vec::new();
            while greedy.len() < 6 && greedy.last() != Some(&END) {
                let id = super::super::sampling::likeliest(&toy(seed, &greedy)).unwrap();
                greedy.push(id);
            }
            // the search may find that a later end is better in the mean; greedy's text is at least among what it saw
            assert!(mean(seed, &search(seed, 1, 6)) >= mean(seed, &greedy) - 1e-6);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let none = |beams, max_tokens| {
            let options = Beams {
                beams,
                length_penalty: 1.0,
                max_tokens,
            };
            beam_search(&options, &[], |_, _| Ok(vec![0.0]), |_, _| {}).is_err()
        };
        assert!(none(0, 3) && none(65, 3) && none(2, 0) && !none(2, 3));
    }
}
