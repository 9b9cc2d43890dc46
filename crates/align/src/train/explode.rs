//! When a loss has exploded: it is many times what it was lately.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Steps that are remembered.
pub(crate) const WINDOW: usize = 50;
/// A loss that has come down is taken for no less than this share of what it was at first: near zero a single hard batch is many times the
/// median and nothing is wrong.
const FLOOR: f64 = 0.1;

/// The last losses of a stage. Part of a checkpoint, so that a resumed run judges its steps as an unbroken one does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Losses {
    /// The last [`WINDOW`], oldest first. Those that exploded are among them: a median of fifty does not mind a few, and where all are high, that is how
    /// high the loss is now.
    recent: VecDeque<f32>,
    /// Median of the first [`WINDOW`].
    first: Option<f32>,
}

impl Losses {
    /// The highest loss that has not exploded, `times` what is usual; `None` while too few steps have been seen, or when `times` is 0.
    pub fn limit(&self, times: f64) -> Option<f32> {
        let first = self.first?;
        let usual = f64::from(median(&self.recent)).max(FLOOR * f64::from(first));
        (times > 0.0 && usual > 0.0).then_some((times * usual) as f32)
    }

    /// Remembers the loss of a step, unless it is not a number.
    pub fn push(&mut self, loss: f32) {
        if !loss.is_finite() {
            return;
        }
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
        if self.first.is_none() && self.recent.len() == WINDOW {
            self.first = Some(median(&self.recent));
        }
    }
}

/// The upper one of the two in the middle where there are two.
fn median(values: &VecDeque<f32>) -> f32 {
    let mut sorted: Vec<f32> = values.iter().copied().collect();
    sorted.sort_by(f32::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(losses: impl IntoIterator<Item = f32>) -> Losses {
        let mut all = Losses::default();
        losses.into_iter().for_each(|loss| all.push(loss));
        all
    }

    #[test]
    fn nothing_is_said_before_the_window_is_full_or_when_switched_off() {
        assert_eq!(after([1.0; WINDOW - 1]).limit(10.0), None);
        assert_eq!(after([1.0; WINDOW]).limit(10.0), Some(10.0));
        assert_eq!(after([1.0; WINDOW]).limit(0.0), None);
        assert_eq!(after([0.0; WINDOW]).limit(10.0), None);
    }

    #[test]
    fn the_limit_follows_the_last_steps_and_stops_at_a_tenth_of_the_first() {
        let falling = after([4.0; WINDOW].into_iter().chain([1.0; WINDOW]));
        assert_eq!(falling.limit(10.0), Some(10.0));
        let fallen = after([4.0; WINDOW].into_iter().chain([1e-4; WINDOW]));
        assert_eq!(fallen.limit(10.0), Some(4.0));
        // what is not a number leaves no trace, one that exploded hardly any
        let shaken = after([1.0; WINDOW].into_iter().chain([f32::NAN, 500.0, 1.0]));
        assert_eq!(shaken.limit(10.0), Some(10.0));
    }

    #[test]
    fn it_is_the_same_after_a_checkpoint() {
        let losses = after((0..80).map(|i| 1.0 / (i as f32 + 0.3)));
        let text = serde_json::to_string(&losses).expect("JSON");
        assert_eq!(serde_json::from_str::<Losses>(&text).expect("JSON"), losses);
    }
}
