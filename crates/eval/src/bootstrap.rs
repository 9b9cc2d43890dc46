//! How far a number would move if other pictures had been drawn: percentile bootstrap (Efron 1979), and its paired form for two models on
//! the same pictures.
//!
//! What is resampled are units (pictures with all of their captions, pairs, items), since queries about one picture are not independent. The same
//! seed gives the same interval on any number of threads.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// Resamples of an interval.
pub const RESAMPLES: usize = 1000;
/// Share of the resamples on each side of an interval.
const TAIL: f64 = 0.025;

/// What one unit adds to a mean: Σ sum / Σ count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Sum of its outcomes.
    pub sum: f64,
    /// How many they are.
    pub count: f64,
}

impl Unit {
    /// A single outcome.
    #[must_use]
    pub fn one(value: f64) -> Self {
        Self { sum: value, count: 1.0 }
    }
}

/// A mean and the interval that holds 95 % of the resampled means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean itself.
    pub mean: f64,
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Two models on the same units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Mean of the second minus mean of the first, with its interval.
    pub difference: Interval,
    /// Two-sided: twice the share of resamples in which the difference is on the other side of zero, or zero.
    pub p: f64,
    /// Units that both share.
    pub units: usize,
}

/// The mean of units with its interval.
///
/// # Errors
/// No units, or none with an outcome.
pub fn interval(units: &[Unit], seed: u64) -> Result<Interval, EvalError> {
    check(units)?;
    let means = resample(units.len(), seed, |picks| mean(picks.map(|i| units[i])));
    Ok(percentiles(mean(units.iter().copied()), means))
}

/// Whether the second model differs from the first: both are resampled together.
///
/// # Errors
/// No units, or lists that do not pair.
pub fn paired(first: &[Unit], second: &[Unit], seed: u64) -> Result<Paired, EvalError> {
    check(first)?;
    check(second)?;
    if first.len() != second.len() || first.iter().zip(second).any(|(a, b)| a.count != b.count) {
        return Err(EvalError::Shape {
            what: "the second model's outcomes",
            len: second.len(),
            expected: first.len(),
            shape: "the same pictures and captions as for the first model, in the same order".to_owned(),
        });
    }
    let difference = |a: f64, b: f64| b - a;
    let both = |picks: &mut dyn Iterator<Item = usize>| {
        let (mut a, mut b, mut count) = (0.0, 0.0, 0.0);
        for i in picks {
            a += first[i].sum;
            b += second[i].sum;
            count += first[i].count;
        }
        difference(a / count, b / count)
    };
    let observed = both(&mut (0..first.len()));
    let found = resample(first.len(), seed, |mut picks| both(&mut picks));
    let below = found.iter().filter(|&&d| d <= 0.0).count();
    let above = found.iter().filter(|&&d| d >= 0.0).count();
    // one is added so that no p is smaller than the number of resamples can show (Davison and Hinkley 1997, §4.2)
    let p = 2.0 * (below.min(above) + 1) as f64 / (found.len() + 1) as f64;
    Ok(Paired {
        difference: percentiles(observed, found),
        p: p.min(1.0),
        units: first.len(),
    })
}

fn check(units: &[Unit]) -> Result<(), EvalError> {
    match units.iter().map(|u| u.count).sum::<f64>() > 0.0 {
        true => Ok(()),
        false => Err(EvalError::Empty {
            what: "the list of outcomes",
        }),
    }
}

fn mean(units: impl Iterator<Item = Unit>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for unit in units {
        sum += unit.sum;
        count += unit.count;
    }
    sum / count
}

/// The statistic of [`RESAMPLES`] draws of `n` units with replacement; draws in which no unit counts are left out.
fn resample(n: usize, seed: u64, statistic: impl Fn(Draw) -> f64 + Sync) -> Vec<f64> {
    let one = |number: usize| {
        let state = SplitMix(SplitMix(seed).next() ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        statistic(Draw { state, n, left: n })
    };
    let found: Vec<f64> = (0..RESAMPLES).into_par_iter().map(one).collect();
    found.into_iter().filter(|value| value.is_finite()).collect()
}

/// `n` numbers below `n`.
struct Draw {
    state: SplitMix,
    n: usize,
    left: usize,
}

impl Iterator for Draw {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        // the bias of this multiplication is n / 2⁶⁴
        Some(((u128::from(self.state.next()) * self.n as u128) >> 64) as usize)
    }
}

/// Steele, Lea and Flood 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Percentiles by linear interpolation, as numpy's default.
fn percentiles(mean: f64, mut found: Vec<f64>) -> Interval {
    found.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (found.len().saturating_sub(1)) as f64;
        let (low, part) = (place.floor() as usize, place.fract());
        match (found.get(low), found.get(low + 1)) {
            (Some(a), Some(b)) => a + part * (b - a),
            (Some(a), None) => *a,
            _ => mean,
        }
    };
    Interval {
        mean,
        low: at(TAIL),
        high: at(1.0 - TAIL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coin(n: usize, every: usize) -> Vec<Unit> {
        (0..n).map(|i| Unit::one(f64::from(u8::from(i % every == 0)))).collect()
    }

    #[test]
    fn the_interval_of_a_share_is_that_of_the_normal_approximation() {
        let n = 2000;
        let found = interval(&coin(n, 4), 7).unwrap();
        assert_eq!(found.mean, 0.25);
        let expected = 1.96 * (0.25 * 0.75 / n as f64).sqrt();
        for side in [found.mean - found.low, found.high - found.mean] {
            assert!((side / expected - 1.0).abs() < 0.12, "{side} for {expected}");
        }
    }

    #[test]
    fn captions_of_one_picture_move_together() {
        // five equal captions a picture: the interval is that of the pictures, not of five times as many
        let pictures = coin(400, 2);
        let captions: Vec<Unit> = pictures
            .iter()
            .map(|u| Unit {
                sum: 5.0 * u.sum,
                count: 5.0,
            })
            .collect();
        let (a, b) = (interval(&pictures, 3).unwrap(), interval(&captions, 3).unwrap());
        assert!(
            (a.low - b.low).abs() < 1e-12 && (a.high - b.high).abs() < 1e-12,
            "{a:?} {b:?}"
        );
    }

    #[test]
    fn a_clear_difference_is_found_and_none_is_not() {
        let first = coin(500, 4);
        let mut better = first.clone();
        better.iter_mut().skip(1).step_by(8).for_each(|u| u.sum = 1.0);
        let found = paired(&first, &better, 1).unwrap();
        assert!(found.p < 0.01 && found.difference.low > 0.0, "{found:?}");
        let same = paired(&first, &first, 1).unwrap();
        assert_eq!((same.p, same.difference.mean), (1.0, 0.0));
        // one more right, one more wrong
        let mut other = first.clone();
        other[0].sum = 0.0;
        other[1].sum = 1.0;
        assert!(paired(&first, &other, 1).unwrap().p > 0.5);
    }

    #[test]
    fn the_interval_does_not_depend_on_the_number_of_threads() {
        let units = coin(300, 3);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| interval(&units, 9).unwrap())
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn what_does_not_pair_is_refused() {
        assert!(interval(&[], 0).is_err());
        assert!(matches!(
            paired(&coin(3, 1), &coin(4, 1), 0),
            Err(EvalError::Shape { .. })
        ));
    }
}
