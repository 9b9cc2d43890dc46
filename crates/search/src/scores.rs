//! What is typical: how the scores of a whole collection lie.

use serde::Serialize;

/// Bins over the cosines from -1 to 1.
const BINS: usize = 2048;

/// The scores of all items for one query. Cosines of different models, and of different queries, lie at different heights; a
/// hit says something by how far it lies above the others.
#[derive(Clone, PartialEq, Serialize)]
pub struct ScoreStats {
    /// How many scores.
    pub count: u64,
    /// Their mean.
    pub mean: f32,
    /// Their standard deviation.
    pub deviation: f32,
    #[serde(skip)]
    bins: Vec<u32>,
}

impl ScoreStats {
    /// Of these scores, or of a sample of them.
    pub fn of(scores: impl IntoIterator<Item = f32>) -> Self {
        let mut bins = vec![0u32; BINS];
        let (mut count, mut sum, mut squares) = (0u64, 0.0f64, 0.0f64);
        for score in scores {
            count += 1;
            sum += f64::from(score);
            squares += f64::from(score) * f64::from(score);
            bins[bin(score)] += 1;
        }
        let n = count.max(1) as f64;
        let mean = sum / n;
        Self {
            count,
            mean: mean as f32,
            deviation: (squares / n - mean * mean).max(0.0).sqrt() as f32,
            bins,
        }
    }

    /// How many standard deviations a score lies above the mean; 0 where all scores are the same.
    pub fn deviations(&self, score: f32) -> f32 {
        if self.deviation > 0.0 {
            (score - self.mean) / self.deviation
        } else {
            0.0
        }
    }

    /// The share of the scores that lie below this one, in percent, to a thousandth of a cosine.
    pub fn percentile(&self, score: f32) -> f32 {
        let at = bin(score);
        let below: u64 = self.bins[..at].iter().map(|&c| u64::from(c)).sum();
        let same = f64::from(self.bins[at]);
        (100.0 * (below as f64 + 0.5 * same) / self.count.max(1) as f64) as f32
    }

    /// Whether there are enough scores to call any of them typical.
    pub fn is_telling(&self) -> bool {
        const LEAST: u64 = 20;
        self.count >= LEAST && self.deviation > 0.0
    }
}

/// Cosines are slightly beyond 1 after rounding; NaN counts as the lowest.
fn bin(score: f32) -> usize {
    ((score + 1.0) * (BINS / 2) as f32).clamp(0.0, (BINS - 1) as f32) as usize
}

impl std::fmt::Debug for ScoreStats {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "ScoreStats({} scores, {} ± {})",
            self.count, self.mean, self.deviation
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_ranks_are_those_of_the_scores() {
        let scores: Vec<f32> = (0..1000).map(|i| i as f32 / 2000.0).collect();
        let stats = ScoreStats::of(scores.iter().copied());
        assert_eq!(stats.count, 1000);
        assert!((stats.mean - 0.249_75).abs() < 1e-5);
        // Of evenly spaced numbers: the step times √((n² - 1) / 12).
        assert!((stats.deviation - 0.0005 * (999_999.0f32 / 12.0).sqrt()).abs() < 1e-5);
        assert!((stats.percentile(0.25) - 50.0).abs() < 0.2);
        assert!(stats.percentile(2.0) > 99.0 && stats.percentile(-2.0) == 0.0);
        assert!((stats.deviations(stats.mean + 3.0 * stats.deviation) - 3.0).abs() < 1e-4);
        assert!(stats.is_telling());
    }

    #[test]
    fn nothing_and_one_thing_are_no_distribution() {
        let none = ScoreStats::of([]);
        assert_eq!((none.count, none.mean, none.percentile(0.5)), (0, 0.0, 0.0));
        let same = ScoreStats::of([0.5; 100]);
        assert!(!same.is_telling() && same.deviations(0.9) == 0.0);
        assert!(!ScoreStats::of([f32::NAN, 1.1]).mean.is_finite());
    }
}
