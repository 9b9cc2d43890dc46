//! Texts that begin alike, as those in a prompt do: what they begin with is computed once for a batch.
//!
//! A token of a causal model depends on those before it alone, so that in every layer the first tokens of all texts are the same rows. They become one sequence of the batch,
//! and the texts' rests sequences that see its keys and values before their own, as a cache has them while a model writes.

use std::sync::Arc;

use bifocal_nn::{Tensor, engine, fused};

use super::Llm;
use crate::text::{Attention, TokenBatch};

/// Tokens that texts begin with at least, for it to be worth anything.
const LEAST: usize = 8;
/// Tokens that each text keeps for itself: attention adds up fewer in another order, and a text should have the same bits alone as in company.
const OWN: usize = 5;

/// A batch cut in what all its texts begin with and their rests.
struct Cut {
    /// Both, the beginning first. Positions are those in the texts.
    sequences: TokenBatch,
    /// `[t]`: of each token of the batch its row in `sequences`.
    rows: Arc<[u32]>,
}

impl Cut {
    /// `None` where too little would be saved.
    fn of(tokens: &TokenBatch) -> Option<Self> {
        let bounds = || tokens.offsets.windows(2).map(|b| (b[0], b[1]));
        let shortest = bounds().map(|(begin, end)| end - begin).min()?;
        let first = tokens.common_prefix().min(shortest.saturating_sub(OWN));
        if tokens.len() < 2 || first < LEAST {
            return None;
        }
        let mut kept: Vec<usize> = (0..first).collect();
        let mut offsets = vec![0, first];
        let mut rows = Vec::with_capacity(tokens.tokens());
        for (begin, end) in bounds() {
            // a batch has far fewer than 2³² tokens: its activations would not fit into memory
            rows.extend(
                (0..first)
                    .chain(kept.len()..kept.len() + end - begin - first)
                    .map(|row| row as u32),
            );
            kept.extend(begin + first..end);
            offsets.push(kept.len());
        }
        let pick = |of: &[u32]| kept.iter().map(|&at| of[at]).collect();
        Some(Self {
            sequences: TokenBatch {
                ids: pick(&tokens.ids),
                positions: pick(&tokens.positions),
                skip: vec![0; offsets.len() - 1].into(),
                offsets: offsets.into(),
            },
            rows: rows.into(),
        })
    }
}

impl Llm {
    /// As [`Llm::hidden`], with what all texts begin with computed once, where that is worth it: in a causal model on the CPU. Gradients may end here.
    ///
    /// # Shapes
    /// → `[t, width]`.
    pub(in crate::text) fn hidden_once(&self, tokens: &TokenBatch) -> Tensor<2> {
        let may = self.attention == Attention::Causal && engine::device() == engine::cpu();
        let Some(Cut { sequences, rows }) = may.then(|| Cut::of(tokens)).flatten() else {
            return self.hidden(tokens);
        };
        let x = self.rows_of(&sequences.ids);
        let blocks = self.blocks.iter();
        let x = self.last_norm(blocks.fold(x, |x, block| block.forward_after_first(x, &sequences)));
        fused::embedding(x, &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_where_its_texts_part_and_each_keeps_some_tokens() {
        let begin: Vec<u32> = (20..32).collect();
        let text = |rest: &[u32]| [&begin[..], rest].concat();
        let batch = TokenBatch::pack(&[text(&[1, 2, 3, 4, 5, 6]), text(&[1, 2]), text(&[9])]);
        assert_eq!(batch.common_prefix(), 12);
        // the last one has a single token of its own, and keeps four of the twelve
        let Cut { sequences, rows } = Cut::of(&batch).unwrap();
        assert_eq!(*sequences.offsets, [0, 8, 18, 24, 29]);
        assert_eq!(sequences.positions[8..10], [8, 9]);
        let put_back: Vec<u32> = rows.iter().map(|&row| sequences.ids[row as usize]).collect();
        assert_eq!(put_back, *batch.ids);
        let placed: Vec<u32> = rows.iter().map(|&row| sequences.positions[row as usize]).collect();
        assert_eq!(placed, *batch.positions);
    }

    #[test]
    fn what_saves_nothing_is_left_as_it_is() {
        let long: Vec<u32> = (0..40).collect();
        for texts in [
            vec![],
            vec![long.clone()],
            vec![long.clone(), vec![]],
            vec![long.clone(), long[1..].to_vec()],
            // begin alike, but one of them is all but over then
            vec![long.clone(), long[..12].to_vec()],
        ] {
            assert!(Cut::of(&TokenBatch::pack(&texts)).is_none(), "{texts:?}");
        }
        assert!(Cut::of(&TokenBatch::pack(&[long.clone(), long[..13].to_vec()])).is_some());
    }
}
