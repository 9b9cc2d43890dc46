//! Datasets as they lie on a disk: captioned pictures, labelled pictures, folders, archives, tables, single files, lines of text.

mod archive;
mod braces;
mod columns;
mod csv;
mod error;
mod find;
mod folder;
mod jsonl;
mod made;
#[cfg(feature = "parquet")]
mod parquet;
mod picture;
mod rows;
mod tar;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use archive::Archive;
pub use braces::expand;
pub use csv::{Record, Records};
pub use error::SourceError;
pub use find::{Finder, shard_of};
pub use folder::has_image_ending;
use jsonl::Table;
pub use made::{Planes, Region};
#[cfg(feature = "parquet")]
pub use parquet::Cell;
pub use picture::{Facts, ImageSource, Member};
use rayon::prelude::*;
use rows::Rows;
pub use rows::inside;

/// One picture and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Path below the root with `/` between its parts; unique in its dataset. A sample of an archive or a table begins with its path, then
    /// comes the member's name up to its first dot, or the number of the row.
    pub key: String,
    /// Where the picture is, if there is one.
    pub image: ImageSource,
    /// Captions by group: the language, or the column that they come from; `caption` where no more is known.
    pub captions: BTreeMap<String, Vec<String>>,
    /// Name of the class.
    pub label: Option<String>,
}

impl Sample {
    fn bare(key: String, image: PathBuf) -> Self {
        Self {
            key,
            image: ImageSource::File(image),
            captions: BTreeMap::new(),
            label: None,
        }
    }
}

/// A row or a file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Line in the table, or row of a parquet file, from 1; `None` for a file in a folder or an archive.
    pub line: Option<u64>,
    /// The picture or folder as far as it is known.
    pub what: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) if self.what.is_empty() => write!(f, "line {line}: {}", self.reason),
            Some(line) => write!(f, "line {line} ({}): {}", self.what, self.reason),
            None => write!(f, "{}: {}", self.what, self.reason),
        }
    }
}

/// How a dataset lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Captions, from a table, archives, or text files beside the pictures; some samples may have labels too.
    Captions,
    /// Labels, from a table or archives.
    Labels,
    /// One folder for each class.
    ClassFolders,
    /// Pictures in a folder or below it.
    Plain,
    /// One file.
    Single,
}

/// Pictures with their captions or labels, in a fixed order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Folder that all keys start from.
    pub root: PathBuf,
    /// How it was found.
    pub layout: Layout,
    /// In the order of the table, or sorted by path.
    pub samples: Vec<Sample>,
    /// What could not be used.
    pub skipped: Vec<Skipped>,
}

impl Dataset {
    /// Opens whatever is there:
    ///
    /// - a table of captions, labels or texts: `.jsonl`, `.csv`, `.tsv`;
    /// - archives in webdataset layout, `.tar`, or parquet files: one, or many by a pattern such as `train-{000..012}.tar`;
    /// - a folder with a table called `captions`, `metadata` or `labels` in it;
    /// - a folder of pictures: `X.txt` beside `X.jpg` is its caption; or else, when every picture lies in a folder directly below the root,
    ///   and there are at least two such folders, their names are the labels;
    /// - a folder without pictures, but with archives or parquet files in it or below it;
    /// - a single picture.
    ///
    /// No picture is decoded here, and none is read.
    ///
    /// # Errors
    /// [`SourceError`] when nothing at all can be used. Bad rows are counted in [`Dataset::skipped`].
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) => {
                let paths = braces::expand(path).ok_or_else(|| SourceError::io(path, &e))?;
                return Self::files(&parent(path), path, &paths);
            }
        };
        if meta.is_dir() {
            return Self::folder(path);
        }
        if Kind::of(path).is_some() {
            return Self::files(&parent(path), path, &[path.to_owned()]);
        }
        let samples = vec![Sample::bare(name(path), path.to_owned())];
        Ok(Self {
            root: parent(path),
            layout: Layout::Single,
            samples,
            skipped: Vec::new(),
        })
    }

    fn folder(root: &Path) -> Result<Self, SourceError> {
        let first = |names: &[&str]| names.iter().map(|n| root.join(n)).find(|p| p.is_file());
        let captions = first(&[
            "captions.jsonl",
            "captions.csv",
            "captions.tsv",
            "metadata.jsonl",
            "metadata.csv",
        ]);
        let tables: Vec<PathBuf> = captions
            .into_iter()
            .chain(first(&["labels.jsonl", "labels.csv"]))
            .collect();
        if let Some(table) = tables.first() {
            return Self::files(root, table, &tables);
        }
        let mut skipped = Vec::new();
        let mut found = folder::walk(root, &mut skipped)?;
        if found.samples.is_empty() {
            if found.shards.is_empty() {
                return Err(SourceError::NoImages { path: root.to_owned() });
            }
            let mut dataset = Self::files(root, root, &found.shards)?;
            dataset.skipped.extend(skipped);
            return Ok(dataset);
        }
        let layout = if found.samples.iter().any(|s| !s.captions.is_empty()) {
            Layout::Captions
        } else {
            folder::label_by_folder(&mut found.samples)
        };
        skipped.extend(found.shards.iter().map(|shard| Skipped {
            line: None,
            what: name(shard),
            reason: "it lies among pictures; give its own path to read it".to_owned(),
        }));
        Ok(Self {
            root: root.to_owned(),
            layout,
            samples: found.samples,
            skipped,
        })
    }

    /// Tables and archives together; `path` is what was asked for. Of several, those that cannot be opened are counted.
    fn files(root: &Path, path: &Path, files: &[PathBuf]) -> Result<Self, SourceError> {
        let mut rows = Rows::new(root);
        let shards: Vec<_> = files.par_iter().map(|file| Shard::read(file)).collect();
        let mut failed = None;
        for (file, shard) in files.iter().zip(shards) {
            let below = file.strip_prefix(root).unwrap_or(file);
            let prefix: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            let prefix = prefix.join("/");
            let outcome = shard.and_then(|shard| match shard {
                Shard::Tar(shard) => {
                    shard.into_rows(&prefix, &mut rows);
                    Ok(())
                }
                #[cfg(feature = "parquet")]
                Shard::Parquet(shard) => {
                    shard.into_rows(&prefix, &mut rows);
                    Ok(())
                }
                Shard::Jsonl => jsonl::read(file, &prefix, table(file), &mut rows),
                Shard::Csv => csv::read(file, &prefix, table(file), &mut rows),
            });
            if let Err(e) = outcome {
                rows.skip(None, (prefix, e.to_string()));
                failed = failed.or(Some(e));
            }
        }
        match failed {
            Some(error) if rows.samples.is_empty() => return Err(error),
            None if rows.samples.is_empty() => {
                return Err(SourceError::NoRows {
                    path: path.to_owned(),
                    skipped: rows.skipped,
                });
            }
            _ => {}
        }
        Ok(Self {
            root: root.to_owned(),
            layout: rows.layout(),
            samples: rows.samples,
            skipped: rows.skipped,
        })
    }

    /// Groups of the captions, as a rule languages, with the number of captions in each.
    #[must_use]
    pub fn languages(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for (lang, texts) in self.samples.iter().flat_map(|s| &s.captions) {
            *counts.entry(lang.as_str()).or_default() += texts.len();
        }
        counts
    }

    /// All captions of a group as (index of the sample, text), in the order of the samples.
    #[must_use]
    pub fn captions(&self, lang: &str) -> Vec<(usize, &str)> {
        self.samples
            .iter()
            .enumerate()
            .flat_map(|(i, s)| s.captions.get(lang).into_iter().flatten().map(move |t| (i, t.as_str())))
            .collect()
    }
}

/// Files that hold many samples.
#[derive(Clone, Copy)]
enum Kind {
    Tar,
    Parquet,
    Jsonl,
    Csv,
}

impl Kind {
    fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?.to_ascii_lowercase();
        match ending.as_str() {
            "tar" => Some(Self::Tar),
            "parquet" => Some(Self::Parquet),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "csv" | "tsv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// What can be read of a file without the others.
enum Shard {
    Tar(tar::Shard),
    #[cfg(feature = "parquet")]
    Parquet(parquet::Shard),
    Jsonl,
    Csv,
}

impl Shard {
    fn read(path: &Path) -> Result<Self, SourceError> {
        let unsupported = |reason: &str| SourceError::Unsupported {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        match Kind::of(path) {
            Some(Kind::Tar) => tar::Shard::read(path).map(Self::Tar),
            #[cfg(feature = "parquet")]
            Some(Kind::Parquet) => parquet::Shard::read(path).map(Self::Parquet),
            #[cfg(not(feature = "parquet"))]
            Some(Kind::Parquet) => Err(unsupported(
                "this build is without parquet; build it with its default features",
            )),
            Some(Kind::Jsonl) => Ok(Self::Jsonl),
            Some(Kind::Csv) => Ok(Self::Csv),
            None => Err(unsupported("it is neither .tar nor .parquet, .jsonl, .csv or .tsv")),
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().map_or_else(PathBuf::new, Path::to_owned)
}

fn name(path: &Path) -> String {
    path.file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn table(path: &Path) -> Table {
    if name(path).contains("label") {
        Table::Labels
    } else {
        Table::Captions
    }
}

/// The lines of a text file, verbatim: nothing is trimmed, blank lines count, only the newline at the very end is not a line.
///
/// # Errors
/// [`SourceError::Io`], or [`SourceError::NotUtf8`] with the line.
pub fn texts(path: &Path) -> Result<Vec<String>, SourceError> {
    let bytes = std::fs::read(path).map_err(|e| SourceError::io(path, &e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        SourceError::NotUtf8 {
            path: path.to_owned(),
            line: 1 + before.iter().filter(|&&b| b == b'\n').count(),
        }
    })?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    Ok(text
        .strip_suffix('\n')
        .unwrap_or(&text)
        .split('\n')
        .map(str::to_owned)
        .collect())
}
