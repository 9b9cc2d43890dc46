//! Which rows and captions each step sees: a pure function of the seed and the step, so that nothing needs to be saved and a run can
//! begin anywhere.
//!
//! Epochs follow each other without a seam: sample `i` of the run is place `i mod L` of epoch `i div L`, and step `t` takes samples
//! `t·batch … (t+1)·batch`. Over an epoch each row comes exactly as often as its weight says.

use bifocal_data::batches::Batches;
use bifocal_nn::init::Rng;

use crate::random::{CAPTIONS, EXTRA, NEGATIVES, ORDER, SAMPLE, mix};

/// Rows of one source and how often each is seen per epoch.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub rows: Vec<usize>,
    pub weight: f64,
}

/// The order of a run's samples.
#[derive(Debug)]
pub(crate) struct Draw {
    seed: u64,
    batch: usize,
    shares: Vec<Share>,
    length: u64,
    /// The epoch whose order is at hand.
    current: Option<(u64, Vec<usize>)>,
}

impl Draw {
    pub fn new(seed: u64, batch: usize, shares: Vec<Share>) -> Self {
        let length = shares.iter().map(|s| count(s) as u64).sum();
        Self {
            seed,
            batch,
            shares,
            length,
            current: None,
        }
    }

    /// Samples per epoch.
    pub fn epoch_length(&self) -> u64 {
        self.length
    }

    /// The step's samples: (number in the run, row). A row that is drawn twice in a step comes twice.
    pub fn step(&mut self, step: u64) -> Vec<(u64, usize)> {
        let length = self.length;
        if length == 0 {
            return Vec::new();
        }
        let first = step * self.batch as u64;
        (first..first + self.batch as u64)
            .map(|i| (i, self.order(i / length)[(i % length) as usize]))
            .collect()
    }

    fn order(&mut self, epoch: u64) -> &[usize] {
        if self.current.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let order = self.shuffled(epoch);
            self.current = Some((epoch, order));
        }
        self.current.as_ref().map_or(&[], |(_, order)| order)
    }

    fn shuffled(&self, epoch: u64) -> Vec<usize> {
        let mut all = Vec::with_capacity(self.length as usize);
        for (share, which) in self.shares.iter().zip(EXTRA..) {
            let (n, rows) = (count(share), share.rows.len().max(1));
            (0..n / rows).for_each(|_| all.extend_from_slice(&share.rows));
            // a weight's fraction: other rows each epoch
            let rest = permutation(mix(self.seed, which, 0), share.rows.len(), epoch);
            all.extend(rest.into_iter().take(n % rows).map(|i| share.rows[i]));
        }
        let order = permutation(mix(self.seed, ORDER, 0), all.len(), epoch);
        order.into_iter().map(|i| all[i]).collect()
    }

    /// For whatever else is drawn for a sample.
    pub fn seed_of(&self, sample: u64) -> u64 {
        mix(self.seed, SAMPLE, sample)
    }

    /// `k` different ones of `n` captions for a sample; all of them when there are not more.
    pub fn captions(&self, sample: u64, n: usize, k: usize) -> Vec<usize> {
        self.some(CAPTIONS, sample, n, k)
    }

    /// As [`Draw::captions`], of a sample's hard negatives.
    pub fn negatives(&self, sample: u64, n: usize, k: usize) -> Vec<usize> {
        self.some(NEGATIVES, sample, n, k)
    }

    /// One of `n` rows for a sample, and a number to choose one of its captions by.
    pub fn other(&self, sample: u64, n: usize) -> (usize, usize) {
        let mut rng = Rng::new(mix(self.seed, NEGATIVES, sample));
        (rng.below(n), rng.below(1 << 30))
    }

    fn some(&self, purpose: u64, sample: u64, n: usize, k: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        if n > k {
            let mut rng = Rng::new(mix(self.seed, purpose, sample));
            for i in 0..k {
                let j = i + rng.below(n - i);
                all.swap(i, j);
            }
            all.truncate(k);
        }
        all
    }
}

fn count(share: &Share) -> usize {
    (share.rows.len() as f64 * share.weight).round() as usize
}

/// An order of `0..n` for an epoch: one batch that holds everything.
fn permutation(seed: u64, n: usize, epoch: u64) -> Vec<usize> {
    Batches::new(seed, n, n, false).map_or_else(|_| Vec::new(), |mut all| all.at(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(batch: usize) -> Draw {
        let shares = vec![
            Share {
                rows: (0..10).collect(),
                weight: 1.0,
            },
            Share {
                rows: (10..14).collect(),
                weight: 2.5,
            },
        ];
        Draw::new(7, batch, shares)
    }

    #[test]
    fn every_epoch_holds_every_row_as_often_as_its_weight_says() {
        let mut draw = draw(4);
        assert_eq!(draw.epoch_length(), 20);
        let mut orders = Vec::new();
        for epoch in 0..6 {
            let rows: Vec<usize> = (0..5)
                .flat_map(|s| draw.step(epoch * 5 + s))
                .map(|(_, row)| row)
                .collect();
            let times = |row| rows.iter().filter(|&&r| r == row).count();
            assert!((0..10).all(|row| times(row) == 1));
            let weighted: Vec<usize> = (10..14).map(times).collect();
            assert!(weighted.iter().all(|n| (2..=3).contains(n)), "{weighted:?}");
            assert_eq!(weighted.iter().sum::<usize>(), 10);
            orders.push(rows);
        }
        orders.sort();
        orders.dedup();
        assert_eq!(orders.len(), 6, "epochs have orders of their own");
    }

    #[test]
    fn a_step_does_not_depend_on_the_steps_before() {
        let mut one = draw(7);
        let all: Vec<_> = (0..12).map(|s| one.step(s)).collect();
        for step in [11, 3, 0, 7] {
            assert_eq!(draw(7).step(step), all[step as usize]);
        }
    }

    #[test]
    fn captions_are_distinct_and_all_are_drawn_in_time() {
        let draw = draw(4);
        let mut seen = [0usize; 5];
        for sample in 0..2000 {
            let picked = draw.captions(sample, 5, 2);
            assert!(picked.len() == 2 && picked[0] != picked[1]);
            picked.iter().for_each(|&c| seen[c] += 1);
        }
        assert!(seen.iter().all(|n| (700..900).contains(n)), "{seen:?}");
        assert_eq!(draw.captions(0, 2, 3), [0, 1]);
    }
}
