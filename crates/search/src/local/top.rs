//! The k best of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An item with its best score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Best {
    pub(super) id: i64,
    pub(super) score: f32,
    /// Which of its vectors has that score.
    pub(super) part: usize,
}

impl Eq for Best {}

impl PartialOrd for Best {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Best {
    /// Best first: higher score, then what was stored earlier.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.id.cmp(&other.id))
    }
}

/// Keeps the best ones of all that it is shown.
pub(super) struct Top {
    k: usize,
    /// The worst on top.
    heap: BinaryHeap<Best>,
}

impl Top {
    pub(super) fn new(k: usize) -> Self {
        Self {
            k,
            heap: BinaryHeap::new(),
        }
    }

    pub(super) fn consider(&mut self, one: Best) {
        if self.heap.len() < self.k {
            self.heap.push(one);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && one < *worst
        {
            *worst = one;
        }
    }

    pub(super) fn into_sorted(self) -> Vec<Best> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_as_sorting_all() {
        // Few distinct scores: many ties.
        let all: Vec<Best> = (0..500)
            .map(|id| Best {
                id,
                score: (id * 37 % 23) as f32,
                part: 0,
            })
            .collect();
        let mut sorted = all.clone();
        sorted.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        for k in [0, 1, 7, 499, 500, 501, usize::MAX] {
            let mut top = Top::new(k);
            all.iter().rev().for_each(|&one| top.consider(one));
            assert_eq!(top.into_sorted(), sorted[..k.min(500)]);
        }
    }
}
