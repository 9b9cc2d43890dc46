//! All suites: what they ask, how their folders look, where they come from.

use std::path::Path;

use super::{Benchmark, BenchmarkError, Options};

/// What a suite asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Zero-shot classification.
    Classification,
    /// Retrieval in one language.
    Retrieval,
    /// Retrieval in many languages.
    Languages,
    /// Composition.
    Composition,
    /// Texts alone.
    Texts,
}

/// A benchmark that can be read.
#[derive(Debug, Clone, Copy)]
pub struct Suite {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it asks.
    pub kind: Kind,
    /// One line about it.
    pub what: &'static str,
    /// How its folder looks; shown when something is missing.
    pub layout: &'static str,
    /// Where it comes from.
    pub url: &'static str,
    /// Licence, or the terms that the pictures come with.
    pub licence: &'static str,
}

impl Suite {
    pub(super) fn open(&self, _root: &Path, _options: &Options) -> Result<Benchmark, BenchmarkError> {
        Err(BenchmarkError::UnknownSuite {
            name: self.name.to_owned(),
        })
    }
}

static SUITES: [Suite; 0] = [];

/// All suites, by kind.
#[must_use]
pub fn list() -> &'static [Suite] {
    &SUITES
}

/// The suite of that name.
#[must_use]
pub fn suite(name: &str) -> Option<&'static Suite> {
    SUITES.iter().find(|s| s.name == name)
}
