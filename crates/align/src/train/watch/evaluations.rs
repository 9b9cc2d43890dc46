//! What a run leaves behind about its evaluations.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::similarity::Similarities;
use crate::train::metrics::Log;

/// A line of `evaluations.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps taken before it.
    pub step: u64,
    /// By name, for example `t2i_r1`.
    #[serde(deserialize_with = "null_is_nan")]
    pub metrics: BTreeMap<String, f64>,
    /// Of the held-out pairs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub similarities: Option<Similarities>,
}

/// JSON has no NaN; serde_json writes `null` in its place.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let metrics = BTreeMap::<String, Option<f64>>::deserialize(from)?;
    Ok(metrics
        .into_iter()
        .map(|(name, value)| (name, value.unwrap_or(f64::NAN)))
        .collect())
}

impl Evaluation {
    /// Its file in a run's folder.
    pub const FILE: &'static str = "evaluations.jsonl";

    /// Opens the log of a run in the folder `dir` for evaluations ([`Log::push`]), cut back to those up to and including `step`.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn log(dir: &Path, step: u64) -> std::io::Result<Log> {
        Log::open(&dir.join(Self::FILE), step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Evaluation::log(dir.path(), 0).unwrap();
        let plain = Evaluation {
            step: 5,
            metrics: BTreeMap::from([("t2i_r1".to_owned(), 0.5)]),
            similarities: None,
        };
        let broken = Evaluation {
            step: 6,
            metrics: BTreeMap::from([("t2i_r1".to_owned(), f64::NAN)]),
            ..plain.clone()
        };
        log.push(&plain).unwrap();
        log.push(&broken).unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], r#"{"step":5,"metrics":{"t2i_r1":0.5}}"#);
        assert_eq!(serde_json::from_str::<Evaluation>(lines[0]).unwrap(), plain);
        let read: Evaluation = serde_json::from_str(lines[1]).unwrap();
        assert!(read.metrics["t2i_r1"].is_nan());
        drop(log);
        let log = Evaluation::log(dir.path(), 5).unwrap();
        assert_eq!(std::fs::read_to_string(log.path()).unwrap().lines().count(), 1);
    }
}
