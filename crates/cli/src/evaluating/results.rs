//! What is kept of one model on one benchmark: a JSON file that says how its numbers came about.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_data::atomic::write_atomic;
use bifocal_eval::Unit;
use serde::{Deserialize, Serialize};

/// Version of the files. A result of another version is measured again.
pub const FORMAT: u32 = 1;
/// Largest result file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// One model on one benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`FORMAT`].
    pub format: u32,
    /// What decides whether a number may be taken again.
    pub what: Identity,
    /// How many pictures and texts were looked at.
    pub counts: Counts,
    /// Name of the metric that stands in the matrix.
    pub headline: String,
    /// All numbers.
    pub metrics: Vec<Metric>,
    /// Outcomes of single pictures or items by `metric` or `metric/group`, for intervals and comparisons.
    pub units: BTreeMap<String, Units>,
    /// Classes that are taken for each other most.
    #[serde(default)]
    pub confused: Vec<Confused>,
    /// Typical successes and failures.
    #[serde(default)]
    pub examples: Vec<Example>,
}

/// Everything that a number depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the benchmark.
    pub suite: String,
    /// What it asks: classification, retrieval, composition, texts.
    pub task: String,
    /// A corruption of all pictures, such as `blur-3`.
    pub corruption: Option<String>,
    /// How it was measured, in words.
    pub protocol: String,
    /// Digest of the benchmark's pictures, labels and texts as they were listed.
    pub data: String,
    /// Name of the model in tables.
    pub model: String,
    /// Fingerprint of the model: equal for two that embed alike.
    pub fingerprint: String,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Whether linear probe and nearest neighbours were asked for.
    pub probe: bool,
    /// Version of Bifocal.
    pub bifocal: String,
}

/// How much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Pictures that were read.
    pub pictures: usize,
    /// Texts.
    pub texts: usize,
    /// Pictures that could not be read, and what else was left out.
    pub left_out: usize,
    /// Some of them with the reason.
    pub reasons: Vec<String>,
}

/// A number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// For example `t2i_r1`.
    pub name: String,
    /// Language or category; empty for the whole benchmark.
    pub group: String,
    /// A fraction for shares, a rank from 1, a correlation.
    pub value: f64,
    /// 95 % interval over pictures or items.
    pub low: Option<f64>,
    /// 95 % interval over pictures or items.
    pub high: Option<f64>,
    /// What guessing reaches.
    pub chance: Option<f64>,
    /// What kind of number it is.
    pub unit: Kind,
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A fraction, shown in percent; more is better.
    Share,
    /// A fraction of which less is better.
    Error,
    /// A rank from 1; less is better.
    Rank,
    /// From −1 to 1, shown times 100; more is better.
    Correlation,
}

impl Kind {
    /// As tables show it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Rank => format!("{value:.1}").trim_end_matches(".0").to_owned(),
            // chance levels of large sets need the second digit
            _ if value > 0.0 && value < 0.01 => format!("{:.2}", 100.0 * value),
            _ => format!("{:.1}", 100.0 * value),
        }
    }

    /// Whether more is better.
    pub fn rises(self) -> bool {
        matches!(self, Self::Share | Self::Correlation)
    }
}

/// Sums and counts of [`Unit`]s.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Units {
    /// The sum of each.
    pub sum: Vec<f64>,
    /// The count of each; none: all are 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub count: Vec<f64>,
}

impl From<&[Unit]> for Units {
    fn from(units: &[Unit]) -> Self {
        let single = units.iter().all(|unit| unit.count == 1.0);
        Self {
            sum: units.iter().map(|unit| unit.sum).collect(),
            count: match single {
                true => Vec::new(),
                false => units.iter().map(|unit| unit.count).collect(),
            },
        }
    }
}

impl Units {
    /// The units again.
    pub fn units(&self) -> Vec<Unit> {
        let count = |i: usize| self.count.get(i).copied().unwrap_or(1.0);
        let one = |(i, &sum): (usize, &f64)| Unit { sum, count: count(i) };
        self.sum.iter().enumerate().map(one).collect()
    }
}

/// Two classes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confused {
    /// What the pictures show.
    pub right: String,
    /// What they were taken for.
    pub taken: String,
    /// How many of them.
    pub pictures: usize,
}

/// A question and what the model answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Whether the first answer is right.
    pub right: bool,
    /// What was asked, as text; empty when it is a picture.
    pub text: String,
    /// What was asked, as a small picture.
    pub picture: Option<String>,
    /// The best answers.
    pub answers: Vec<Answer>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it is right.
    pub right: bool,
    /// Its score.
    pub score: f32,
    /// As text; empty when it is a picture.
    pub text: String,
    /// As a small picture: a `data:` address.
    pub picture: Option<String>,
}

/// The number that stands for all: that of the whole benchmark, or else of its first group.
pub fn main<'a>(metrics: &'a [Metric], headline: &str) -> Option<&'a Metric> {
    let named = || metrics.iter().filter(|m| m.name == headline);
    named().find(|m| m.group.is_empty()).or_else(|| named().next())
}

impl Outcome {
    /// The benchmark and the corruption, as file names and tables have them.
    pub fn column(&self) -> String {
        self.what.column()
    }

    /// A number by its metric and group.
    pub fn metric(&self, name: &str, group: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.name == name && m.group == group)
    }

    /// The number that stands in the matrix.
    pub fn main(&self) -> Option<&Metric> {
        main(&self.metrics, &self.headline)
    }

    /// Writes it whole or not at all.
    pub fn write(&self, out: &Path) -> Result<()> {
        let path = self.what.path(out);
        let folder = path.parent().unwrap_or(out);
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let json = serde_json::to_vec(self)?;
        write_atomic(&path, |file| file.write_all(&json)).with_context(|| format!("writing {}", path.display()))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self> {
        let length = path
            .metadata()
            .with_context(|| format!("reading {}", path.display()))?
            .len();
        if length > MAX_FILE {
            anyhow::bail!("{} holds {length} bytes, more than a result has", path.display());
        }
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is no result of this version of `bifocal eval`; remove it and measure again",
                path.display()
            )
        })
    }

    /// All results below a folder, by model and benchmark. A damaged one is told and left out.
    pub fn all(out: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let results = out.join(RESULTS);
        for model in entries(&results)? {
            for path in entries(&model)? {
                if path.extension().is_some_and(|e| e == "json") {
                    match Self::read(&path) {
                        Ok(outcome) if outcome.format == FORMAT => found.push(outcome),
                        Ok(_) => eprintln!("left out {}: it is of another version", path.display()),
                        Err(error) => eprintln!("left out {}: {error:#}", path.display()),
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Folder of the result files, below `--out`.
pub const RESULTS: &str = "results";

impl Identity {
    /// The benchmark and the corruption.
    pub fn column(&self) -> String {
        match &self.corruption {
            Some(corruption) => format!("{}+{corruption}", self.suite),
            None => self.suite.clone(),
        }
    }

    /// Where its result is.
    pub fn path(&self, out: &Path) -> PathBuf {
        out.join(RESULTS)
            .join(file_name(&self.model))
            .join(format!("{}.json", file_name(&self.column())))
    }
}

/// What is in a folder, sorted; nothing where there is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = || {
        std::fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let mut found = read().with_context(|| format!("listing {}", folder.display()))?;
    found.sort();
    Ok(found)
}

/// A name that is a name in every file system.
pub fn file_name(name: &str) -> String {
    let plain = |c: char| match c.is_alphanumeric() || "-_.+=@".contains(c) {
        true => c,
        false => '_',
    };
    let name: String = name.chars().map(plain).take(120).collect();
    match name.trim_start_matches('.') {
        "" => "_".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_leave_their_folder_alone() {
        assert_eq!(file_name("../../etc/passwd"), "_.._etc_passwd");
        assert_eq!(file_name(".."), "_");
        assert_eq!(file_name("hf:org/name@main"), "hf_org_name@main");
        assert_eq!(file_name("retrieval=flickr8k+blur-3"), "retrieval=flickr8k+blur-3");
    }

    #[test]
    fn units_come_back() {
        let single = [Unit::one(1.0), Unit::one(0.0)];
        assert!(Units::from(&single[..]).count.is_empty());
        assert_eq!(Units::from(&single[..]).units(), single);
        let many = [Unit { sum: 3.0, count: 5.0 }, Unit::one(0.0)];
        assert_eq!(Units::from(&many[..]).units(), many);
    }

    #[test]
    fn numbers_are_shown_as_their_kind() {
        assert_eq!(Kind::Share.show(0.1234), "12.3");
        assert_eq!(Kind::Share.show(0.002), "0.20");
        assert_eq!(
            (Kind::Rank.show(3.0), Kind::Rank.show(3.5)),
            ("3".to_owned(), "3.5".to_owned())
        );
        assert_eq!(Kind::Correlation.show(-0.5), "-50.0");
    }
}
