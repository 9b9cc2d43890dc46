//! A guard against repetition, which small models fall into.

use std::collections::BTreeSet;

/// What is done about tokens that were there before; by itself, nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeats {
    /// The logit of a token that was there is divided by this where it is positive, and multiplied where it is negative (Keskar et al. 2019, CTRL); 1: nothing.
    pub penalty: f32,
    /// No run of so many tokens comes twice; 0: any may.
    pub no_ngram: usize,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            penalty: 1.0,
            no_ngram: 0,
        }
    }
}

impl Repeats {
    /// Changes the logits of the token after `history`.
    ///
    /// # Shapes
    /// `logits`: one a token; ids of `history` beyond them don't count.
    pub fn apply(&self, logits: &mut [f32], history: &[u32]) {
        if self.penalty != 1.0 {
            let there: BTreeSet<u32> = history.iter().copied().collect();
            for id in there {
                if let Some(logit) = logits.get_mut(id as usize) {
                    *logit = if *logit < 0.0 {
                        *logit * self.penalty
                    } else {
                        *logit / self.penalty
                    };
                }
            }
        }
        let n = self.no_ngram;
        if n > 0 && history.len() + 1 >= n {
            let last = &history[history.len() + 1 - n..];
            for run in history.windows(n).filter(|run| run[..n - 1] == *last) {
                if let Some(logit) = logits.get_mut(run[n - 1] as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_penalty_lowers_what_was_there() {
        let mut logits = [2.0, -2.0, 3.0, -1.0];
        let repeats = Repeats {
            penalty: 2.0,
            no_ngram: 0,
        };
        repeats.apply(&mut logits, &[0, 1, 1, 77]);
        assert_eq!(logits, [1.0, -4.0, 3.0, -1.0]);
    }

    #[test]
    fn no_run_comes_twice() {
        for n in 1..4 {
            let repeats = Repeats {
                penalty: 1.0,
                no_ngram: n,
            };
            // always the smallest token that may come: every run must be new
            let mut history: Vec<u32> = Vec::new();
            loop {
                let mut logits = [3.0, 2.0, 1.0];
                repeats.apply(&mut logits, &history);
                match super::super::sampling::likeliest(&logits) {
                    Some(id) => history.push(id),
                    None => break,
                }
            }
            let runs: BTreeSet<&[u32]> = history.windows(n).collect();
            assert_eq!(runs.len(), history.len() + 1 - n, "{history:?}");
            assert!(history.len() >= 3, "{n}: {history:?}");
        }
    }

    #[test]
    fn without_a_choice_nothing_changes() {
        let mut logits = [1.0, -1.0];
        Repeats::default().apply(&mut logits, &[0, 1, 0, 1]);
        assert_eq!(logits, [1.0, -1.0]);
    }
}
