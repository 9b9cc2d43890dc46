//! What can go wrong while weights are read.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error from reading a file of weights. Each message says what is wrong, where, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused to open or read the file.
    #[error("cannot read {}: {source}; check that the path exists and is readable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The first bytes belong to no format that Bifocal reads.
    #[error(
        "{} is not a file of weights that Bifocal reads: it looks like {looks_like}; give a .gguf, a .safetensors (or a folder of them), or what torch.save wrote (.pth, .pt, .bin)",
        path.display()
    )]
    NotRecognised {
        /// The file.
        path: PathBuf,
        /// What the content looks like.
        looks_like: String,
    },
    /// The file contradicts its own format, or is cut short.
    #[error("{}: {place}: {detail}; the file is damaged or was not downloaded completely, fetch it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The part of the file, e.g. `tensor "blk.0.attn_q.weight"` or `byte 1234`.
        place: String,
        /// What is wrong there.
        detail: String,
    },
    /// A number in the file goes beyond what Bifocal accepts before it allocates memory.
    #[error("{}: {place} is {value}, more than the limit of {limit}; Bifocal does not load this file", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// The number that is too large.
        place: String,
        /// Its value.
        value: u64,
        /// The largest value accepted.
        limit: u64,
    },
    /// The file is sound but uses something that Bifocal does not read.
    #[error("{}: {what} is not supported; {advice}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The element type, version, or pickle instruction.
        what: String,
        /// What to do next.
        advice: String,
    },
    /// A metadata value that the model needs is missing or of another type.
    #[error("{}: metadata \"{key}\" {problem}; convert the model anew, or take another edition of it", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it, as a phrase.
        problem: String,
    },
    /// There is no tensor of this name.
    #[error("{} has no tensor \"{name}\"{hint}; check that the weights belong to this architecture", path.display())]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// Names that are there and look alike, as a phrase, or nothing.
        hint: String,
    },
    /// A tensor has another shape than the architecture needs.
    #[error("{}: tensor \"{name}\" has shape {found:?}, the architecture needs {expected:?}; check that weights and configuration belong together", path.display())]
    ShapeMismatch {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// Weights and architecture do not fit.
    #[error("{}: weights and architecture do not fit: {misfit}; check that weights and configuration belong together", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// All that does not fit.
        misfit: Box<Misfit>,
    },
    /// A row index lies outside of a tensor.
    #[error("{}: row {row} of tensor \"{name}\" was asked for, it has {rows}; check that tokenizer and weights belong together", path.display())]
    RowOutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The index asked for.
        row: usize,
        /// The number of rows.
        rows: usize,
    },
}

impl WeightsError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn metadata(path: &Path, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Metadata {
            path: path.to_owned(),
            key: key.into(),
            problem: problem.into(),
        }
    }

    pub(crate) fn malformed(path: &Path, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.to_owned(),
            place: place.into(),
            detail: detail.into(),
        }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unsupported {
            path: path.to_owned(),
            what: what.into(),
            advice: advice.into(),
        }
    }

    pub(crate) fn missing<'a>(path: &Path, name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self::MissingTensor {
            path: path.to_owned(),
            name: name.to_owned(),
            hint: similar(name, known),
        }
    }
}

/// What of a file's tensors an architecture does not fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// Tensors that the architecture needs and the file does not have.
    pub missing: Vec<String>,
    /// Names in the file that look like the first missing one, as a phrase, or nothing.
    pub hint: String,
    /// Tensors of another shape, each with both.
    pub misshapen: Vec<String>,
    /// Tensors that the architecture does not know; without them the numbers would not be the model's.
    pub unexpected: Vec<String>,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 12;
        let quoted = |names: &[String]| names.iter().take(SHOWN).map(|n| format!("\"{n}\"")).collect();
        let shown: [(&str, usize, Vec<String>, &str); 3] = [
            ("missing", self.missing.len(), quoted(&self.missing), &self.hint),
            (
                "of another shape",
                self.misshapen.len(),
                self.misshapen.iter().take(SHOWN).cloned().collect(),
                "",
            ),
            ("not known", self.unexpected.len(), quoted(&self.unexpected), ""),
        ];
        let mut between = "";
        for (what, count, names, hint) in shown.into_iter().filter(|(_, count, ..)| *count > 0) {
            write!(f, "{between}{count} {what}: {}", names.join(", "))?;
            if count > SHOWN {
                write!(f, ", and {} more", count - SHOWN)?;
            }
            f.write_str(hint)?;
            between = "; ";
        }
        Ok(())
    }
}

/// Up to three known names that share their last two components with `name`: what a person looks for when a
/// prefix differs ("model.encoder…" against "encoder…").
pub(super) fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let tail = |s: &str| s.rsplit('.').take(2).collect::<Vec<_>>().join(".");
    let wanted = tail(name);
    let found: Vec<String> = known
        .filter(|k| tail(k) == wanted)
        .take(3)
        .map(|k| format!("\"{k}\""))
        .collect();
    if found.is_empty() {
        String::new()
    } else {
        format!(" (it has {})", found.join(", "))
    }
}
