//! What lies in a folder of embeddings: finished parts, what they are of, and what failed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bifocal_data::atomic::{FileLock, write_atomic};
use bifocal_data::table::{self, Column};
use serde::{Deserialize, Serialize};

use super::input::{Failed, Known};
use super::journal::{Frame, Journal};
use crate::output::rows::npy;

/// Version of the folder's layout.
const FORMAT: u32 = 1;
/// A file of ours is never this long.
const MAX_JSON: u64 = 1 << 30;

/// What the embeddings are of; a folder has one, and never changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub model: String,
    /// Of the model.
    pub fingerprint: String,
    pub dim: usize,
    pub normalized: bool,
    /// `images`, `captions` or `texts`.
    pub kind: String,
    pub items: usize,
    /// BLAKE3 of the names or texts of all items.
    pub input: String,
    /// Items of a part; the last one may have fewer.
    pub part_items: usize,
}

/// What became of a part; written when everything else of it is.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    pub rows: usize,
    pub failed: Vec<Failed>,
    /// Items that had failed in an earlier part, and succeeded in this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recovered: Vec<usize>,
}

/// A folder of embeddings.
pub struct Folder {
    dir: PathBuf,
}

impl Folder {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Makes the folder and takes it for one run.
    ///
    /// # Errors
    /// Another run in it, or no access.
    pub fn take(&self) -> Result<FileLock> {
        let progress = self.dir.join("progress");
        std::fs::create_dir_all(&progress).with_context(|| format!("creating {}", progress.display()))?;
        Ok(FileLock::acquire(&progress.join("lock"), "bifocal embed")?)
    }

    /// The manifest, if there is one.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        let path = self.dir.join("manifest.json");
        let found: Option<Manifest> = read_json(&path)?;
        if let Some(found) = found.as_ref().filter(|m| m.format != FORMAT || m.part_items == 0) {
            bail!(
                "{} has format {}, this version knows {FORMAT}; use another folder, or a newer version",
                path.display(),
                found.format
            );
        }
        Ok(found)
    }

    /// Makes the folder one of these embeddings, or checks that it is.
    ///
    /// # Errors
    /// A folder of other ones, with what differs.
    pub fn settle(&self, wanted: &Manifest) -> Result<()> {
        let Some(found) = self.manifest()? else {
            return write_json(&self.dir.join("manifest.json"), wanted);
        };
        let mut wanted = wanted.clone();
        // names are only shown
        wanted.model.clone_from(&found.model);
        if found == wanted {
            return Ok(());
        }
        let differs = if found.fingerprint != wanted.fingerprint || found.dim != wanted.dim {
            format!("embeddings of another model ({})", found.model)
        } else if found.normalized != wanted.normalized {
            "embeddings with the other setting of --no-normalize".to_owned()
        } else if found.part_items != wanted.part_items {
            format!("parts of {} items", found.part_items)
        } else if found.kind != wanted.kind {
            format!("embeddings of {}", found.kind)
        } else {
            format!(
                "embeddings of another input ({} {}, now there are {})",
                found.items, found.kind, wanted.items
            )
        };
        bail!(
            "{} holds {differs}; give another folder with --out, or what it was begun with",
            self.dir.display()
        )
    }

    /// All finished parts.
    pub fn outcomes(&self) -> Result<BTreeMap<usize, Outcome>> {
        let dir = self.dir.join("progress");
        let mut outcomes = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
            let path = entry?.path();
            if let Some(number) = number_of(&path, ".json")
                && let Some(outcome) = read_json(&path)?
            {
                outcomes.insert(number, outcome);
            }
        }
        Ok(outcomes)
    }

    /// Where the batches of an unfinished part are.
    pub fn journal(&self, part: usize) -> PathBuf {
        self.dir.join(format!("progress/part-{part:05}.journal"))
    }

    /// The batches of parts that were begun. A journal that was still there when its part was finished and the run killed is removed.
    pub fn unfinished(&self, dim: usize, finished: &BTreeMap<usize, Outcome>) -> Result<Vec<Frame>> {
        let dir = self.dir.join("progress");
        let mut frames = Vec::new();
        for entry in std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
            let path = entry?.path();
            match number_of(&path, ".journal") {
                Some(number) if finished.contains_key(&number) => {
                    std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
                }
                Some(_) => {
                    frames.extend(Journal::read(&path, dim).with_context(|| format!("reading {}", path.display()))?)
                }
                None => {}
            }
        }
        Ok(frames)
    }

    /// Writes the files of a part, what became of it last if that is news, and removes its journal.
    pub fn finish(
        &self,
        part: usize,
        known: &[Known],
        rows: &[f32],
        dim: usize,
        outcome: Option<&Outcome>,
    ) -> Result<()> {
        if !known.is_empty() {
            let path = self.dir.join(format!("part-{part:05}.npy"));
            write_atomic(&path, |file| npy(file, rows, dim)).with_context(|| format!("writing {}", path.display()))?;
            let path = self.dir.join(format!("part-{part:05}.parquet"));
            let columns = columns(known);
            write_atomic(&path, |file| table::write(file, &columns))
                .with_context(|| format!("writing {}", path.display()))?;
        }
        if let Some(outcome) = outcome {
            write_json(&self.dir.join(format!("progress/part-{part:05}.json")), outcome)?;
        }
        let journal = self.journal(part);
        std::fs::remove_file(&journal).with_context(|| format!("removing {}", journal.display()))
    }

    /// Writes what failed, one object a line.
    pub fn write_ledger<'a>(&self, failed: impl Iterator<Item = &'a Failed>) -> Result<()> {
        let path = self.ledger();
        let mut failed = failed;
        write_atomic(&path, |file| {
            failed.try_for_each(|one| {
                serde_json::to_writer(
                    &mut *file,
                    &serde_json::json!({ "key": one.key, "cause": one.cause, "reason": one.reason, "when": one.when }),
                )?;
                file.write_all(b"\n")
            })
        })
        .with_context(|| format!("writing {}", path.display()))
    }

    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger.jsonl")
    }
}

impl Manifest {
    /// Of a run that begins now.
    pub fn new(model: &bifocal_models::bundle::Model, normalized: bool) -> Self {
        Self {
            format: FORMAT,
            model: model.name().to_owned(),
            fingerprint: model.fingerprint().to_owned(),
            dim: model.dim(),
            normalized,
            kind: String::new(),
            items: 0,
            input: String::new(),
            part_items: 0,
        }
    }
}

/// Of which part a file is, if its name ends like this.
fn number_of(path: &Path, ending: &str) -> Option<usize> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("part-")?.strip_suffix(ending)?.parse().ok()
}

/// What has failed and was not recovered since, by item.
pub fn open_failures(outcomes: &BTreeMap<usize, Outcome>) -> BTreeMap<usize, &Failed> {
    let mut open = BTreeMap::new();
    for outcome in outcomes.values() {
        open.extend(outcome.failed.iter().map(|one| (one.index, one)));
    }
    let recovered: BTreeSet<usize> = outcomes.values().flat_map(|o| o.recovered.iter().copied()).collect();
    open.retain(|index, _| !recovered.contains(index));
    open
}

/// The columns that any of the items has.
fn columns(known: &[Known]) -> Vec<(&'static str, Column<'_>)> {
    let text = |of: fn(&Known) -> Option<&str>| {
        let values: Vec<Option<&str>> = known.iter().map(of).collect();
        values.iter().any(Option::is_some).then_some(Column::Text(values))
    };
    let number = |of: fn(&Known) -> Option<i64>| {
        let values: Vec<Option<i64>> = known.iter().map(of).collect();
        values.iter().any(Option::is_some).then_some(Column::Number(values))
    };
    let columns = [
        ("index", number(|k| i64::try_from(k.index).ok())),
        ("key", text(|k| Some(&k.key))),
        ("group", text(|k| k.group.as_deref())),
        ("caption", text(|k| k.text.as_deref())),
        ("captions", text(|k| k.captions.as_deref())),
        ("label", text(|k| k.label.as_deref())),
        ("width", number(|k| k.width)),
        ("height", number(|k| k.height)),
    ];
    columns
        .into_iter()
        .filter_map(|(name, column)| Some((name, column?)))
        .collect()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let told = || format!("reading {}; remove it and call again if it is damaged", path.display());
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_JSON => bail!("{} has {} bytes", path.display(), meta.len()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(told)?,
    };
    let bytes = std::fs::read(path).with_context(told)?;
    serde_json::from_slice(&bytes).map(Some).with_context(told)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    write_atomic(path, |file| Ok(serde_json::to_writer_pretty(file, value)?))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Killed after it wrote what became of a part, and before it removed its journal.
    #[test]
    fn a_journal_that_outlives_its_part_tells_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        let _lock = folder.take().unwrap();
        let bad = |index| Failed {
            index,
            key: format!("{index}.jpg"),
            cause: "image".into(),
            reason: "no picture".into(),
            when: 0,
        };
        for (part, index) in [(0, 3), (1, 140)] {
            let (mut journal, _) = Journal::open(&folder.journal(part), 2).unwrap();
            let frame = Frame {
                bad: vec![bad(index)],
                ..Frame::default()
            };
            journal.add(&frame).unwrap();
        }
        let left = std::fs::read(folder.journal(0)).unwrap();
        let outcome = Outcome {
            failed: vec![bad(3)],
            ..Outcome::default()
        };
        folder.finish(0, &[], &[], 2, Some(&outcome)).unwrap();
        std::fs::write(folder.journal(0), left).unwrap();
        let begun = folder.unfinished(2, &folder.outcomes().unwrap()).unwrap();
        assert_eq!(
            begun
                .iter()
                .flat_map(|f| &f.bad)
                .map(|one| one.index)
                .collect::<Vec<_>>(),
            [140]
        );
        assert!(!folder.journal(0).exists() && folder.journal(1).exists());
    }
}
