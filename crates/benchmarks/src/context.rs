//! What all readers of layouts do: find files, read tables within limits, count what is missing.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{BenchmarkError, Options, Suite};
use bifocal_data::source::{ImageSource, Skipped, has_image_ending, inside};

/// Largest list or annotation file that is read whole, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 28;
/// Most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4_000_000;

/// A benchmark's folder while it is read.
pub(crate) struct Context<'a> {
    pub suite: &'static Suite,
    pub root: &'a Path,
    pub options: &'a Options,
    pub skipped: Vec<Skipped>,
    /// Pictures that the lists name and that are not there, and the first of them.
    missing: (usize, String),
    /// What the protocol says about a set that is not whole.
    pub part: Option<String>,
}

impl<'a> Context<'a> {
    pub fn new(suite: &'static Suite, root: &'a Path, options: &'a Options) -> Self {
        Self {
            suite,
            root,
            options,
            skipped: Vec::new(),
            missing: (0, String::new()),
            part: None,
        }
    }

    /// The first of these paths below the root that exists.
    ///
    /// # Errors
    /// [`BenchmarkError::Missing`], naming the first of them.
    pub fn path(&self, alternatives: &[&str]) -> Result<PathBuf, BenchmarkError> {
        self.optional(alternatives)
            .ok_or_else(|| self.absent(alternatives.first().copied().unwrap_or_default()))
    }

    /// As [`path`](Self::path), or nothing.
    pub fn optional(&self, alternatives: &[&str]) -> Option<PathBuf> {
        alternatives.iter().map(|a| self.root.join(a)).find(|p| p.exists())
    }

    pub fn absent(&self, missing: &str) -> BenchmarkError {
        BenchmarkError::Missing {
            suite: self.suite.name,
            root: self.root.to_owned(),
            missing: missing.to_owned(),
            found: listing(self.root),
            layout: self.suite.layout,
        }
    }

    /// The picture of that name in the first of the folders that has it; counted as missing when none has.
    ///
    /// # Errors
    /// A name that leads out of the folder.
    pub fn picture(&mut self, folders: &[PathBuf], name: &str) -> Result<Option<ImageSource>, BenchmarkError> {
        let first = folders.first().map_or(self.root, PathBuf::as_path);
        let name = inside(name).map_err(|reason| malformed(first, None, format!("{name:?}: {reason}")))?;
        let found = folders.iter().map(|f| f.join(&name)).find(|p| p.is_file());
        if found.is_none() {
            self.missing.0 += 1;
            if self.missing.0 == 1 {
                self.missing.1 = first.join(&name).display().to_string();
            }
        }
        Ok(found.map(ImageSource::File))
    }

    /// Checks that the set is whole: `found` is how many of the `expected` there are (0: not known), `unit` what is counted.
    ///
    /// # Errors
    /// [`BenchmarkError::Incomplete`], unless a part is allowed; then the protocol will say so. Nothing at all is always an error.
    pub fn complete(&mut self, found: usize, expected: usize, unit: &str) -> Result<(), BenchmarkError> {
        let (missing, example) = &self.missing;
        if found > 0 && *missing == 0 && (expected == 0 || found == expected) {
            return Ok(());
        }
        let expected = if expected == 0 { found + missing } else { expected };
        let mut what = format!("it has {found} of {expected} {unit}");
        if *missing > 0 {
            what += &format!("; {missing} that the lists name are not there, the first is {example}");
        }
        if found == 0 || !self.options.partial {
            return Err(BenchmarkError::Incomplete {
                suite: self.suite.name,
                root: self.root.to_owned(),
                what,
                layout: self.suite.layout,
            });
        }
        let part = format!("Only a part: {found} of {expected} {unit}.");
        self.part = Some(
            self.part
                .take()
                .map_or_else(|| part.clone(), |before| format!("{before} {part}")),
        );
        self.missing = (0, String::new());
        Ok(())
    }

    pub fn skip(&mut self, what: &str, reason: &str) {
        self.skipped.push(Skipped {
            line: None,
            what: what.to_owned(),
            reason: reason.to_owned(),
        });
    }
}

/// An error about a file.
pub(crate) fn malformed(path: &Path, line: Option<usize>, reason: impl Into<String>) -> BenchmarkError {
    BenchmarkError::Malformed {
        path: path.to_owned(),
        line: line.map(|l| l as u64),
        reason: reason.into(),
    }
}

/// The bytes of a file within the limit.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, BenchmarkError> {
    let io = |e: std::io::Error| malformed(path, None, format!("cannot be read: {e}"));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|f| f.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(io)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(malformed(path, None, format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

/// The text of a file within the limit.
pub(crate) fn text(path: &Path) -> Result<String, BenchmarkError> {
    let text = String::from_utf8(bytes(path)?).map_err(|e| malformed(path, None, format!("is not UTF-8: {e}")))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// The lines of a file that are not blank, with their numbers from 1, without spaces at their ends.
pub(crate) fn lines(path: &Path) -> Result<Vec<(usize, String)>, BenchmarkError> {
    let text = text(path)?;
    let numbered = text.lines().map(str::trim).enumerate();
    Ok(numbered
        .filter(|(_, l)| !l.is_empty())
        .map(|(i, l)| (i + 1, l.to_owned()))
        .collect())
}

/// The lines of a file that are not blank.
pub(crate) fn words(path: &Path) -> Result<Vec<String>, BenchmarkError> {
    Ok(lines(path)?.into_iter().map(|(_, l)| l).collect())
}

/// A JSON file.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, BenchmarkError> {
    serde_json::from_slice(&bytes(path)?).map_err(|e| malformed(path, None, format!("is not the JSON expected: {e}")))
}

/// A file with one JSON object a line.
pub(crate) fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, BenchmarkError> {
    let wrong =
        |line: usize, e: serde_json::Error| malformed(path, Some(line), format!("is not the JSON expected: {e}"));
    lines(path)?
        .iter()
        .map(|(number, line)| serde_json::from_str(line).map_err(|e| wrong(*number, e)))
        .collect()
}

/// A buffered file, for lists that are larger than [`MAX_FILE`].
pub(crate) fn reader(path: &Path) -> Result<BufReader<File>, BenchmarkError> {
    File::open(path)
        .map(BufReader::new)
        .map_err(|e| malformed(path, None, format!("cannot be read: {e}")))
}

/// The names in a folder, sorted; hidden ones and names that are not UTF-8 are left out.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, BenchmarkError> {
    let io = |e: std::io::Error| malformed(folder, None, format!("cannot be read: {e}"));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)?.take(MAX_ENTRIES) {
        let name = entry.map_err(io)?.file_name();
        names.extend(name.to_str().filter(|n| !n.starts_with('.')).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// The folders in a folder, sorted by name.
pub(crate) fn folders(folder: &Path) -> Result<Vec<String>, BenchmarkError> {
    let mut names = names(folder)?;
    names.retain(|n| folder.join(n).is_dir());
    Ok(names)
}

/// The pictures in a folder, sorted by name.
pub(crate) fn pictures(folder: &Path) -> Result<Vec<ImageSource>, BenchmarkError> {
    let names = names(folder)?;
    let paths = names.iter().map(|n| folder.join(n));
    Ok(paths.filter(|p| has_image_ending(p)).map(ImageSource::File).collect())
}

/// Some of what is in a folder, for messages.
fn listing(folder: &Path) -> String {
    let Ok(names) = names(folder) else {
        return "no such folder".to_owned();
    };
    match names.len() {
        0 => "nothing in it".to_owned(),
        n if n > 6 => format!("{}, … ({n} entries)", names[..6].join(", ")),
        _ => names.join(", "),
    }
}
