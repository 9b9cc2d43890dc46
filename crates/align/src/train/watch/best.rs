//! The best evaluation of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The best value of a metric so far, higher being better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Name of the metric.
    pub metric: String,
    /// Its best value; `None` before the first.
    pub value: Option<f64>,
    /// Step it was reached after.
    pub step: u64,
}

impl Best {
    /// Of a metric that was not measured yet.
    pub fn new(metric: impl Into<String>) -> Self {
        Self {
            metric: metric.into(),
            value: None,
            step: 0,
        }
    }

    /// Looks at an evaluation and tells whether it is the best one yet. A tie keeps the earlier one; a value that is absent or not
    /// a number is never the best.
    pub fn consider(&mut self, step: u64, metrics: &BTreeMap<String, f64>) -> bool {
        let Some(&value) = metrics.get(&self.metric) else {
            return false;
        };
        let better = !value.is_nan() && self.value.is_none_or(|best| value > best);
        if better {
            (self.value, self.step) = (Some(value), step);
        }
        better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_highest() {
        let mut best = Best::new("t2i_r1");
        let row = |v: f64| BTreeMap::from([("t2i_r1".to_owned(), v), ("other".to_owned(), 9.0)]);
        assert!(!best.consider(1, &BTreeMap::from([("other".to_owned(), 9.0)])));
        assert!(!best.consider(1, &row(f64::NAN)));
        assert!(best.consider(2, &row(-0.5)));
        assert!(best.consider(4, &row(0.25)));
        assert!(!best.consider(6, &row(0.25)));
        assert!(!best.consider(8, &row(f64::NAN)));
        assert!(!best.consider(10, &row(0.1)));
        assert_eq!((best.value, best.step), (Some(0.25), 4));
        let stored = serde_json::to_string(&best).unwrap();
        assert_eq!(stored, r#"{"metric":"t2i_r1","value":0.25,"step":4}"#);
        assert_eq!(serde_json::from_str::<Best>(&stored).unwrap(), best);
        let none = serde_json::to_string(&Best::new("a")).unwrap();
        assert_eq!(serde_json::from_str::<Best>(&none).unwrap(), Best::new("a"));
    }
}
