//! What a run leaves behind about its steps.
//!
//! `metrics.jsonl` holds one line per step with what the computation alone decides, so that a resumed run's file equals that of an
//! unbroken one to the byte; what depends on the clock is in `timings.jsonl`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Counted from 1.
    pub step: u64,
    /// Total loss before the step; not a number, or far too high, for a step that was left out.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f32,
    /// Its terms; none for a step that was left out.
    pub terms: BTreeMap<String, f32>,
    /// Learning rate of the step.
    pub lr: f64,
    /// L2 norm of the gradient before clipping; not a number for a step that was left out.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// What similarities are multiplied by, after the step.
    pub logit_scale: f32,
    /// What is added to them, after the step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub logit_bias: Option<f32>,
    /// Pictures seen so far.
    pub samples: u64,
    /// Whether the step was left out because it was not finite, or its loss had exploded.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub skipped: bool,
}

/// JSON has no NaN; serde_json writes `null` in its place.
fn null_is_nan<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + From<f32>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_else(|| f32::NAN.into()))
}

/// A line of `timings.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Counted from 1.
    pub step: u64,
    /// Of the step.
    pub seconds: f64,
    /// Pictures per second.
    pub samples_per_second: f64,
}

/// An append-only file of JSON lines with a `step` each.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: BufWriter<File>,
}

#[derive(Deserialize)]
struct StepOf {
    step: u64,
}

impl Log {
    /// Opens a log, cut back to the lines up to and including `step`: what a run that was killed wrote after its last
    /// checkpoint will be written again.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> std::io::Result<Self> {
        let mut keep = 0;
        if let Ok(file) = File::open(path) {
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            loop {
                line.clear();
                let read = reader.read_until(b'\n', &mut line)?;
                let whole = line.last() == Some(&b'\n');
                let kept = serde_json::from_slice::<StepOf>(&line).is_ok_and(|s| s.step <= step);
                if read == 0 || !whole || !kept {
                    break;
                }
                keep += read as u64;
            }
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        file.set_len(keep)?;
        drop(file);
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }

    /// Adds a line. It reaches the system at once, and the disk with [`Log::sync`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push<T: Serialize>(&mut self, line: &T) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.write_all(b"\n")?;
        self.file.flush()
    }

    /// Waits until everything is on the disk; done before each checkpoint, which refers to these lines.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> Timing {
        Timing {
            step,
            seconds: 0.5,
            samples_per_second: 2.0,
        }
    }

    #[test]
    fn a_resumed_log_is_cut_back_and_continues() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log.jsonl");
        let mut log = Log::open(&path, 0).expect("open");
        (1..=5).for_each(|s| log.push(&line(s)).expect("push"));
        let unbroken = std::fs::read(&path).expect("read");
        // killed while the sixth line was written
        log.file.write_all(b"{\"step\":6,\"sec").expect("write");
        log.sync().expect("sync");
        drop(log);
        let mut log = Log::open(&path, 3).expect("open again");
        (4..=5).for_each(|s| log.push(&line(s)).expect("push"));
        assert_eq!(std::fs::read(&path).expect("read"), unbroken);
    }

    #[test]
    fn a_fresh_run_starts_an_empty_log() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, "{\"step\":1}\nnot json\n").expect("write");
        drop(Log::open(&path, 0).expect("open"));
        assert_eq!(std::fs::read(&path).expect("read"), b"");
    }
}
