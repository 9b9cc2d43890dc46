//! Which benchmarks are meant, and where they lie.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bifocal_benchmarks::{self as benchmark, Benchmark, Kind, Options, Suite};

use crate::failure::wrong_use;

/// A benchmark that is to be measured.
#[derive(Debug, Clone)]
pub struct Target {
    /// What it is called in tables and file names.
    pub name: String,
    /// The suite that reads it.
    suite: &'static Suite,
    /// Its folder.
    root: PathBuf,
    /// It came with a group: when its data is not there, it is told and left out.
    pub optional: bool,
}

/// Groups of suites, besides single names.
pub const GROUPS: [(&str, &str); 6] = [
    ("all", "everything that is found under --data"),
    ("imagenet-family", "ImageNet and its variants"),
    ("classification", "zero-shot classification"),
    ("languages", "retrieval in many languages"),
    ("composition", "captions against hard negatives"),
    ("texts", "the text side alone"),
];

fn in_group(suite: &Suite, group: &str) -> bool {
    match group {
        "all" => true,
        "imagenet-family" => suite.name.starts_with("imagenet") || suite.name == "objectnet",
        "classification" => suite.kind == Kind::Classification,
        "languages" => suite.kind == Kind::Languages,
        "composition" => suite.kind == Kind::Composition,
        "texts" => suite.kind == Kind::Texts,
        _ => false,
    }
}

/// The benchmarks that names, groups and `NAME=FOLDER` stand for, each once, in the order in which they were named.
///
/// # Errors
/// A name that is neither.
pub fn targets(names: &[String], data: &Path) -> Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    let mut add = |target: Target| {
        if !targets.iter().any(|t| t.name == target.name) {
            targets.push(target);
        }
    };
    for name in names {
        let (suite, folder) = match name.split_once('=') {
            Some((suite, folder)) => (suite, Some(folder)),
            None => (name.as_str(), None),
        };
        match (benchmark::suite(suite), folder) {
            (Some(suite), Some(folder)) => add(Target {
                name: name.clone(),
                suite,
                root: data.join(folder),
                optional: false,
            }),
            (Some(suite), None) => add(Target {
                name: suite.name.to_owned(),
                suite,
                root: root_of(suite, data),
                optional: false,
            }),
            (None, None) if GROUPS.iter().any(|(group, _)| *group == suite) => {
                for suite in benchmark::list().iter().filter(|s| in_group(s, suite)) {
                    add(Target {
                        name: suite.name.to_owned(),
                        suite,
                        root: root_of(suite, data),
                        optional: true,
                    });
                }
            }
            _ => {
                return Err(wrong_use(format!(
                    "there is no suite {suite:?}; `bifocal eval list` names them, and the groups {}",
                    GROUPS.map(|(group, _)| group).join(", ")
                )));
            }
        }
    }
    Ok(targets)
}

/// The folder of a suite's name below the data, or else the data itself.
fn root_of(suite: &Suite, data: &Path) -> PathBuf {
    let own = data.join(suite.name);
    match own.is_dir() {
        true => own,
        false => data.to_owned(),
    }
}

impl Target {
    /// Reads the lists of the benchmark. No picture is touched.
    ///
    /// # Errors
    /// What is missing, and how the folder should look.
    pub fn open(&self, options: &Options) -> Result<Benchmark> {
        Ok(benchmark::open(self.suite.name, &self.root, options)?)
    }
}
