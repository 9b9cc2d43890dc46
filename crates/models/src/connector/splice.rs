//! Rows of pictures between rows of tokens.

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::fused;

use crate::chat::Sequence;
use crate::text::{Llm, TokenBatch};

/// What the language model reads: each sequence's tokens with the rows of its picture in their place. Gradients go to the pictures' rows.
///
/// # Shapes
/// `pictures`: `[n·each, width]`, `each` rows a picture; `owners`: which of them each sequence is about, if it has a place for one; the result is `[t, width]`
/// with where each sequence begins.
///
/// # Panics
/// When there are not as many rows as sequences ask for, or an id is beyond the vocabulary.
pub fn splice(
    llm: &Llm,
    sequences: &[Sequence],
    owners: &[usize],
    pictures: Option<Tensor<2>>,
    each: usize,
) -> (Tensor<2>, TokenBatch) {
    let ids: Vec<u32> = sequences.iter().flat_map(|s| s.ids.iter().copied()).collect();
    let lengths: Vec<usize> = sequences.iter().map(|s| s.rows(each)).collect();
    let batch = TokenBatch::of_lengths(&lengths);
    let Some(pictures) = pictures else {
        assert!(
            sequences.iter().all(|s| s.image.is_none()),
            "splice: a sequence has a picture, and there are no rows of it"
        );
        return (llm.rows_of(&ids), batch);
    };
    assert_eq!(owners.len(), sequences.len(), "splice: an owner a sequence");
    let there = pictures.dims()[0];
    assert!(
        owners.iter().all(|&owner| (owner + 1) * each <= there),
        "splice: {there} rows are not {each} for each picture"
    );
    // the pictures' rows come behind those of all tokens
    let (mut order, mut token) = (Vec::with_capacity(batch.tokens()), 0u32);
    let behind = ids.len() as u32;
    for (sequence, &owner) in sequences.iter().zip(owners) {
        let first = behind + (owner * each) as u32;
        let all = token..token + sequence.ids.len() as u32;
        let at = token + sequence.image.unwrap_or(0) as u32;
        order.extend(all.start..at);
        if sequence.image.is_some() {
            order.extend(first..first + each as u32);
        }
        order.extend(at..all.end);
        token = all.end;
    }
    let order: Arc<[u32]> = order.into();
    let rows = if ids.is_empty() {
        pictures
    } else {
        Tensor::cat(vec![llm.rows_of(&ids), pictures], 0)
    };
    (fused::embedding(rows, &order), batch)
}
