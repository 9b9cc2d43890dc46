//! Datasets as they lie on a disk: captioned pictures, labelled pictures, folders, single files, lines of text.

mod error;
mod folder;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub use error::SourceError;
use table::Table;

/// One picture and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Path below the root with `/` between its parts; unique in its dataset.
    pub key: String,
    /// Where the picture is.
    pub image: PathBuf,
    /// Captions by language.
    pub captions: BTreeMap<String, Vec<String>>,
    /// Name of the class.
    pub label: Option<String>,
}

impl Sample {
    fn bare(key: String, image: PathBuf) -> Self {
        Self {
            key,
            image,
            captions: BTreeMap::new(),
            label: None,
        }
    }
}

/// A row or a file that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Line in the table, from 1; `None` for a file found by walking a folder.
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
    /// `captions.jsonl` with rows {image, captions: {lang: [text, …]}}.
    Captions,
    /// `labels.jsonl` with rows {image, name}.
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
    /// Opens a folder, a table (`….jsonl`) or a single picture.
    ///
    /// A folder is read by its `captions.jsonl`, to which a `labels.jsonl` beside it adds class names, or by its `labels.jsonl`,
    /// or else by walking it: when every picture lies in a folder directly below the root, and there are at least two such
    /// folders, their names are the labels. Nothing is decoded here.
    ///
    /// # Errors
    /// [`SourceError`] when nothing at all can be used. Bad rows are counted in [`Dataset::skipped`].
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let meta = std::fs::metadata(path).map_err(|e| SourceError::io(path, &e))?;
        if meta.is_dir() {
            return Self::folder(path);
        }
        let root = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let name = path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.extension().is_some_and(|e| e == "jsonl") {
            let table = if name.contains("label") {
                Table::Labels
            } else {
                Table::Captions
            };
            return Self::tables(&root, &[(path, table)]);
        }
        let samples = vec![Sample::bare(name, path.to_owned())];
        Ok(Self {
            root,
            layout: Layout::Single,
            samples,
            skipped: Vec::new(),
        })
    }

    fn folder(root: &Path) -> Result<Self, SourceError> {
        let captions = root.join("captions.jsonl");
        let labels = root.join("labels.jsonl");
        let tables: Vec<(&Path, Table)> = [(captions.as_path(), Table::Captions), (labels.as_path(), Table::Labels)]
            .into_iter()
            .filter(|(path, _)| path.is_file())
            .collect();
        if !tables.is_empty() {
            return Self::tables(root, &tables);
        }
        let mut skipped = Vec::new();
        let mut samples = folder::walk(root, &mut skipped)?;
        if samples.is_empty() {
            return Err(SourceError::NoImages { path: root.to_owned() });
        }
        let layout = folder::label_by_folder(&mut samples);
        Ok(Self {
            root: root.to_owned(),
            layout,
            samples,
            skipped,
        })
    }

    fn tables(root: &Path, tables: &[(&Path, Table)]) -> Result<Self, SourceError> {
        let (mut samples, mut skipped) = (Vec::new(), Vec::new());
        for &(path, table) in tables {
            table::read(path, root, table, &mut samples, &mut skipped)?;
        }
        let (path, table) = tables[0];
        if samples.is_empty() {
            return Err(SourceError::NoRows {
                path: path.to_owned(),
                skipped,
            });
        }
        let layout = if table == Table::Captions {
            Layout::Captions
        } else {
            Layout::Labels
        };
        Ok(Self {
            root: root.to_owned(),
            layout,
            samples,
            skipped,
        })
    }

    /// Languages of the captions with the number of captions in each.
    #[must_use]
    pub fn languages(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for (lang, texts) in self.samples.iter().flat_map(|s| &s.captions) {
            *counts.entry(lang.as_str()).or_default() += texts.len();
        }
        counts
    }

    /// All captions of a language as (index of the sample, text), in the order of the samples.
    #[must_use]
    pub fn captions(&self, lang: &str) -> Vec<(usize, &str)> {
        self.samples
            .iter()
            .enumerate()
            .flat_map(|(i, s)| s.captions.get(lang).into_iter().flatten().map(move |t| (i, t.as_str())))
            .collect()
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
