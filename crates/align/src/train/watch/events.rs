//! TensorBoard's event files.
//!
//! A run has one, `events.out.tfevents.<seconds>.<host>.bifocal` in its folder, with scalars as `simple_value` and histograms as
//! `HistogramProto` (`tensorflow/core/util/event.proto`, `framework/summary.proto`). Except for wall times, equal runs write equal records,
//! interrupted or not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use bifocal_data::atomic::write_atomic;

use super::evaluations::Evaluation;
use super::records::{self, Message};
use crate::train::metrics::Metrics;

/// What names of event files begin with, whoever writes them.
pub const PREFIX: &str = "events.out.tfevents.";
/// What names of ours end with.
const SUFFIX: &str = ".bifocal";
/// Buckets of a histogram, those of TensorBoard's own plugin.
const BUCKETS: usize = 30;

/// The event file of a run.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventLog {
    /// Opens the event file of the run in the folder `dir`: a new one for a run that begins (`resume_step` 0, whatever an earlier attempt
    /// left is removed), else the one that is there, cut before the first record of a later step or that is damaged. What was cut
    /// away will be written again, so that nothing is there twice; all events of a step should therefore be written before its checkpoint.
    ///
    /// `now` is in seconds since 1970. A file that must be cut is copied to a new name, because a TensorBoard that is open would go on reading in
    /// the middle of a record otherwise.
    ///
    /// # Errors
    /// When the folder or the file cannot be read or written.
    pub fn open(dir: &Path, resume_step: u64, now: f64) -> io::Result<Self> {
        let mut before = own_files(dir)?;
        // The newest is whole (it appears at once); older ones are left over from a process that was stopped while it copied.
        let newest = before.pop();
        let (keep, length) = match &newest {
            Some((_, path)) if resume_step > 0 => (kept(path, resume_step)?, fs::metadata(path)?.len()),
            _ => (0, 0),
        };
        let path = match &newest {
            Some((_, path)) if keep > 0 && keep == length => path.clone(),
            _ => {
                let after = newest.as_ref().map_or(0, |(seconds, _)| seconds.saturating_add(1));
                let path = dir.join(file_name(after.max(now as u64)));
                write_atomic(&path, |out| match &newest {
                    Some((_, old)) if keep > 0 => {
                        io::copy(&mut io::Read::take(File::open(old)?, keep), out).map(|_| ())
                    }
                    _ => {
                        let mut event = Message::default();
                        event.double(1, now);
                        event.bytes(3, b"brain.Event:2");
                        records::write(out, &event.0)
                    }
                })?;
                path
            }
        };
        for (_, old) in before.into_iter().chain(newest).filter(|(_, old)| *old != path) {
            fs::remove_file(old)?;
        }
        let file = BufWriter::new(OpenOptions::new().append(true).open(&path)?);
        Ok(Self { path, file })
    }

    /// Writes values of a step, `wall_time` in seconds since 1970. Values that are not finite are written as they are.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalars(&mut self, step: u64, wall_time: f64, values: &[(&str, f32)]) -> io::Result<()> {
        let mut summary = Message::default();
        for (tag, value) in values {
            let mut entry = Message::default();
            entry.bytes(1, tag.as_bytes());
            entry.float(2, *value);
            summary.bytes(1, &entry.0);
        }
        self.event(step, wall_time, &summary)
    }

    /// Writes how values are distributed: thirty buckets of equal width between the smallest and the largest. Values that are not
    /// finite are left out; without any other, nothing is written.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn histogram(&mut self, step: u64, wall_time: f64, tag: &str, values: &[f32]) -> io::Result<()> {
        let values: Vec<f64> = values.iter().map(|v| f64::from(*v)).filter(|v| v.is_finite()).collect();
        if values.is_empty() {
            return Ok(());
        }
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (limits, counts) = buckets(&values, low, high);
        let sum = values.iter().sum();
        let squares = values.iter().map(|v| v * v).sum();
        let moments = [low, high, values.len() as f64, sum, squares];
        self.distribution(step, wall_time, tag, moments, &limits, &counts)
    }

    /// Writes a step: `loss`, `terms/…`, `lr`, `grad_norm`, `logit_scale` and, where there is one, `logit_bias`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn metrics(&mut self, metrics: &Metrics, wall_time: f64) -> io::Result<()> {
        let terms: Vec<(String, f32)> = metrics
            .terms
            .iter()
            .map(|(name, v)| (format!("terms/{name}"), *v))
            .collect();
        let mut values = vec![("loss", metrics.loss)];
        values.extend(terms.iter().map(|(name, v)| (name.as_str(), *v)));
        values.extend([("lr", metrics.lr as f32), ("grad_norm", metrics.grad_norm as f32)]);
        values.push(("logit_scale", metrics.logit_scale));
        values.extend(metrics.logit_bias.map(|bias| ("logit_bias", bias)));
        self.scalars(metrics.step, wall_time, &values)
    }

    /// Writes an evaluation: `eval/…`, and its similarities as histograms `similarity/own` and `similarity/other`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn evaluation(&mut self, evaluation: &Evaluation, wall_time: f64) -> io::Result<()> {
        let metrics = evaluation.metrics.iter();
        let values: Vec<(String, f32)> = metrics.map(|(name, v)| (format!("eval/{name}"), *v as f32)).collect();
        let values: Vec<(&str, f32)> = values.iter().map(|(name, v)| (name.as_str(), *v)).collect();
        self.scalars(evaluation.step, wall_time, &values)?;
        let Some(similarities) = &evaluation.similarities else {
            return Ok(());
        };
        for (tag, counts) in [
            ("similarity/own", &similarities.positive),
            ("similarity/other", &similarities.negative),
        ] {
            let counts: Vec<f64> = counts.iter().map(|c| *c as f64).collect();
            let width = 2.0 / counts.len().max(1) as f64;
            let limits: Vec<f64> = (1..=counts.len()).map(|i| i as f64 * width - 1.0).collect();
            // single values are gone; those of a bin count as its middle
            let moment = |power| {
                limits
                    .iter()
                    .zip(&counts)
                    .map(|(l, c)| c * (l - width / 2.0).powi(power))
                    .sum()
            };
            let moments = [-1.0, 1.0, moment(0), moment(1), moment(2)];
            self.distribution(evaluation.step, wall_time, tag, moments, &limits, &counts)?;
        }
        Ok(())
    }

    /// `moments`: smallest and largest value, their number, sum and sum of squares.
    fn distribution(
        &mut self,
        step: u64,
        wall_time: f64,
        tag: &str,
        moments: [f64; 5],
        limits: &[f64],
        counts: &[f64],
    ) -> io::Result<()> {
        let mut histogram = Message::default();
        (1..)
            .zip(moments)
            .for_each(|(field, value)| histogram.double(field, value));
        histogram.doubles(6, limits);
        histogram.doubles(7, counts);
        let mut entry = Message::default();
        entry.bytes(1, tag.as_bytes());
        entry.bytes(5, &histogram.0);
        let mut summary = Message::default();
        summary.bytes(1, &entry.0);
        self.event(step, wall_time, &summary)
    }

    fn event(&mut self, step: u64, wall_time: f64, summary: &Message) -> io::Result<()> {
        let mut event = Message::default();
        event.double(1, wall_time);
        event.int(2, step);
        event.bytes(5, &summary.0);
        records::write(&mut self.file, &event.0)
    }

    /// Hands what was written to the system, where a TensorBoard sees it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    /// Waits until everything is on the disk; done before a checkpoint, which refers to it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Upper limits and counts. The limits, and which of them a value belongs to, are those of `numpy.histogram`.
fn buckets(values: &[f64], low: f64, high: f64) -> (Vec<f64>, Vec<f64>) {
    if low == high {
        return (vec![high], vec![values.len() as f64]);
    }
    let width = (high - low) / BUCKETS as f64;
    let edge = |i: usize| if i == BUCKETS { high } else { i as f64 * width + low };
    let mut counts = vec![0.0; BUCKETS];
    for &v in values {
        let mut i = (((v - low) / width) as usize).min(BUCKETS - 1);
        // rounding may have put it beside its bucket
        if v < edge(i) {
            i -= 1;
        } else if i + 1 < BUCKETS && v >= edge(i + 1) {
            i += 1;
        }
        counts[i] += 1.0;
    }
    ((1..=BUCKETS).map(edge).collect(), counts)
}

/// Event files of ours in a folder with the time in their name, the newest last.
fn own_files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let seconds = entry.file_name().to_str().and_then(|name| {
            let name = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
            name.split_once('.')?.0.parse().ok()
        });
        if let Some(seconds) = seconds {
            files.push((seconds, entry.path()));
        }
    }
    files.sort();
    Ok(files)
}

fn file_name(seconds: u64) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let host: String = host
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(64)
        .collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    format!("{PREFIX}{seconds:010}.{host}{SUFFIX}")
}

/// Bytes of a file up to the first record that is damaged or of a step after `step`; zero when not even the first one is sound.
fn kept(path: &Path, step: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(File::open(path)?);
    let (mut keep, mut bytes) = (0, Vec::new());
    while let Some(length) = records::read(&mut reader, &mut bytes)? {
        if records::int_of(&bytes, 2).is_none_or(|s| s > step) {
            break;
        }
        keep += length;
    }
    Ok(keep)
}
