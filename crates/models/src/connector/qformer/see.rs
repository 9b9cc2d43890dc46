//! Who sees whom: the three tasks of BLIP-2 differ in nothing else (figure 2 of the paper).

use bifocal_nn::Tensor;

use crate::text::TokenBatch;

/// What queries and texts are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// ITC: queries and tokens see their own kind only.
    Contrast,
    /// ITM: all see all.
    Match,
    /// ITG: queries see queries, a token sees the queries and the tokens up to itself.
    Describe,
}

/// Rows of a batch: those of an item are its queries, then its tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Items {
    pub n: usize,
    /// Of each item; 0 for texts alone.
    pub queries: usize,
    /// Of each item, with padding; 0 for pictures alone.
    pub tokens: usize,
}

impl Items {
    /// Rows of queries and rows of tokens.
    pub fn split(self, x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Self { n, queries, tokens } = self;
        let [_, c] = x.dims();
        let x = x.reshape([n, queries + tokens, c]);
        let part = |from: usize, rows: usize| x.clone().slice([0..n, from..from + rows, 0..c]).reshape([n * rows, c]);
        (part(0, queries), part(queries, tokens))
    }

    /// What [`Items::split`] took apart.
    pub fn join(self, queries: Tensor<2>, tokens: Tensor<2>) -> Tensor<2> {
        let [_, c] = queries.dims();
        let all = vec![
            queries.reshape([self.n, self.queries, c]),
            tokens.reshape([self.n, self.tokens, c]),
        ];
        Tensor::cat(all, 1).reshape([self.n * (self.queries + self.tokens), c])
    }
}

/// `[n, rows, rows]`: whether a row sees another. Padding sees what a token sees, so that it stays a number, and is seen by nobody.
pub(super) fn seen(task: Task, items: Items, texts: &TokenBatch) -> Vec<bool> {
    let Items { n, queries, tokens } = items;
    let rows = queries + tokens;
    let mut mask = Vec::with_capacity(n * rows * rows);
    for bounds in texts.offsets.windows(2) {
        let length = bounds[1] - bounds[0];
        for from in 0..rows {
            for to in 0..rows {
                let (query, other) = (from < queries, to < queries);
                let there = other || to < queries + length;
                let allowed = match task {
                    Task::Match => true,
                    Task::Contrast => query == other,
                    Task::Describe => other || (!query && to <= from),
                };
                mask.push(there && allowed);
            }
        }
    }
    mask
}
