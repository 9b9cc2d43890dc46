//! A page about a run: one file that needs no other, no network and no library.
//!
//! [`Report`] is plain data; [`Report::of_run`] collects it from what a run leaves in its folder, [`Report::html`] draws it. Texts are
//! escaped wherever they come from, and the page's own policy forbids every request.

mod chart;
mod numbers;
mod page;
mod run;
mod thin;

use std::io::Write;
use std::path::{Path, PathBuf};

use bifocal_data::atomic::write_atomic;

/// What the page shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Heading.
    pub title: String,
    /// A few numbers under it: what, and how much.
    pub facts: Vec<(String, String)>,
    /// What a reader should know first, for example that steps were left out.
    pub notes: Vec<String>,
    /// Keys and values of the recipe.
    pub recipe: Vec<(String, String)>,
    /// Which parameters learn, as text of fixed width; empty when unknown.
    pub freeze_table: String,
    /// In the order of their charts.
    pub curves: Vec<Curve>,
    /// A chart each.
    pub histograms: Vec<Histogram>,
    /// Texts and the pictures that were found for them.
    pub retrievals: Vec<Retrieval>,
}

/// A line in a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Heading of its chart; curves with the same heading share one.
    pub chart: String,
    /// What it is.
    pub name: String,
    /// Unit of its values; may be empty.
    pub unit: String,
    /// Steps in ascending order, and values. Values that are not finite are gaps.
    pub points: Vec<(u64, f64)>,
    /// Show it on a logarithmic axis, if all values are positive.
    pub log: bool,
    /// Draw the running mean over it, because single values say little.
    pub smooth: bool,
}

/// Distributions over the same bins.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Heading.
    pub title: String,
    /// What stands under it; may be empty.
    pub caption: String,
    /// Lower limit of the first bin.
    pub low: f64,
    /// Upper limit of the last bin.
    pub high: f64,
    /// Names and counts. Bins have equal width; each series is drawn as shares of its own total.
    pub series: Vec<(String, Vec<u64>)>,
}

/// A text and what was found for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Retrieval {
    /// The text.
    pub query: String,
    /// The nearest pictures, the best first.
    pub shown: Vec<Found>,
}

/// A picture that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// A small picture as PNG or JPEG; anything else is not shown.
    pub thumbnail: Vec<u8>,
    /// Its similarity with the text.
    pub score: f64,
    /// Whether the text belongs to it.
    pub correct: bool,
}

/// Why a run's files do not become a page.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file cannot be read or written.
    #[error("{path}: {source}; is this the folder of a run, and may you write there?", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The stored recipe is damaged.
    #[error("{path}: {message}; it is written when a run starts, so start the run again with --resume", path = path.display())]
    Recipe {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
}

impl Report {
    /// Name of the page in a run's folder.
    pub const FILE: &'static str = "report.html";

    /// Collects what the run in the folder `dir` has left: `recipe.toml`, `metrics.jsonl`, and, where they exist, `timings.jsonl`,
    /// `evaluations.jsonl` and `best.json`. A run that is not finished, or whose files are damaged from some line on, has a page about
    /// what there is; `notes` then say so. The freeze table and the retrievals are the caller's to add.
    ///
    /// # Errors
    /// When the recipe or the metrics cannot be read.
    pub fn of_run(dir: &Path) -> Result<Self, ReportError> {
        run::collect(dir)
    }

    /// The page.
    pub fn html(&self) -> String {
        page::render(self)
    }

    /// Writes the page into the folder `dir` ([`Report::FILE`]), whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, ReportError> {
        let path = dir.join(Self::FILE);
        match write_atomic(&path, |out| out.write_all(self.html().as_bytes())) {
            Ok(()) => Ok(path),
            Err(source) => Err(ReportError::Io { path, source }),
        }
    }
}
