//! The learning rate over the run.

use crate::recipe::{ScheduleKind, ScheduleSpec};

/// Linear warm-up, then a cosine to zero, or a constant with or without a way down at the end (open_clip `scheduler.py`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    base: f64,
    kind: ScheduleKind,
    warmup: u64,
    cooldown: u64,
    total: u64,
}

impl Schedule {
    /// A schedule of `total` steps that peaks at `base`.
    pub fn new(kind: ScheduleKind, base: f64, warmup: u64, total: u64) -> Self {
        Self {
            base,
            kind,
            warmup,
            cooldown: 0,
            total,
        }
    }

    /// The schedule of a recipe, for `rows` training pictures per epoch in batches of `batch`.
    pub fn from_spec(spec: &ScheduleSpec, base: f64, rows: usize, batch: usize) -> Self {
        let epochs = spec.epochs.unwrap_or(1.0);
        let by_epochs = (epochs * rows as f64 / batch.max(1) as f64).round() as u64;
        let total = spec.steps.unwrap_or(by_epochs).max(1);
        let steps = |share: f64| match share < 1.0 {
            true => (share * total as f64).ceil() as u64,
            false => share as u64,
        };
        Self {
            cooldown: steps(spec.cooldown).min(total),
            ..Self::new(spec.kind, base, steps(spec.warmup), total)
        }
    }

    /// Number of steps.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Length of the warm-up.
    pub fn warmup(&self) -> u64 {
        self.warmup
    }

    /// Learning rate of step `t`, counted from 0.
    pub fn at(&self, t: u64) -> f64 {
        if t < self.warmup {
            return self.base * (t + 1) as f64 / self.warmup as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.base,
            // open_clip's const_lr_cooldown with power 1 and end 0
            ScheduleKind::Cooldown => {
                let start = self.total - self.cooldown;
                let done = t.saturating_sub(start) as f64 / self.cooldown.max(1) as f64;
                self.base * (1.0 - done).max(0.0)
            }
            ScheduleKind::Cosine => {
                let length = self.total.saturating_sub(self.warmup).max(1);
                let done = (t - self.warmup).min(length) as f64 / length as f64;
                0.5 * (1.0 + (std::f64::consts::PI * done).cos()) * self.base
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_numbers() {
        let schedule = Schedule::new(ScheduleKind::Cosine, 1.0, 100, 1000);
        let golden = [
            (0, 0.01),
            (99, 1.0),
            (100, 1.0),
            (325, 0.853_553_390_6),
            (550, 0.5),
            (999, 3.046_171_1e-6),
        ];
        for (step, expected) in golden {
            let found = schedule.at(step);
            assert!((found - expected).abs() < 1e-10, "step {step}: {found}");
        }
        assert_eq!(schedule.at(5000), 0.0);
    }

    #[test]
    fn a_constant_stays_after_its_warm_up() {
        let schedule = Schedule::new(ScheduleKind::Constant, 2.0, 4, 10);
        assert_eq!([0, 3, 4, 9].map(|t| schedule.at(t)), [0.5, 2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_cooldown_is_a_straight_line_at_the_end() {
        let spec = ScheduleSpec {
            kind: ScheduleKind::Cooldown,
            warmup: 2.0,
            cooldown: 0.5,
            steps: Some(8),
            ..ScheduleSpec::default()
        };
        let schedule = Schedule::from_spec(&spec, 4.0, 1, 1);
        let all: Vec<f64> = (0..9).map(|t| schedule.at(t)).collect();
        assert_eq!(all, [2.0, 4.0, 4.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    }

    #[test]
    fn epochs_and_shares_become_steps() {
        let spec = ScheduleSpec {
            warmup: 0.1,
            epochs: Some(3.0),
            ..ScheduleSpec::default()
        };
        let schedule = Schedule::from_spec(&spec, 1.0, 1000, 64);
        assert_eq!((schedule.total(), schedule.warmup()), (47, 5));
        let spec = ScheduleSpec {
            warmup: 7.0,
            steps: Some(20),
            ..spec
        };
        let schedule = Schedule::from_spec(&spec, 1.0, 1000, 64);
        assert_eq!((schedule.total(), schedule.warmup()), (20, 7));
    }

    #[test]
    fn a_warm_up_longer_than_the_run_is_no_division_by_zero() {
        let schedule = Schedule::new(ScheduleKind::Cosine, 1.0, 50, 10);
        assert!((0..100).all(|t| schedule.at(t).is_finite()));
    }
}
