//! Checkpoints: everything that a run needs to go on as if nothing had happened.
//!
//! ```text
//! checkpoints/
//!   LATEST                    name of the newest one
//!   best/                     the one with the best evaluation
//!   step-000000500/
//!     weights.safetensors     parameters that learn; where they are averaged, also `average.NAME`
//!     optimizer.safetensors   their moments, `m.NAME` and, where the optimizer has a second one, `v.NAME`
//!     state.json              position in the run
//!     manifest.json           length and BLAKE3 of the three files
//! ```
//!
//! A checkpoint is written into a folder with another name and renamed when all of it is on the disk: it is there whole or not at
//! all. Reading checks each file against the manifest and falls back to the checkpoint before.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bifocal_models::weights::HostTensor;
use bifocal_nn::optim::Moments;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::disk::{Disk, SystemDisk};
use super::explode::Losses;

const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";
const LATEST: &str = "LATEST";
/// The one with the best evaluation.
const BEST: &str = "best";
const PREFIX: &str = "step-";
/// Name of a checkpoint that is being written.
const UNFINISHED: &str = ".unfinished-";

/// Position in a run. All randomness is drawn from the seed and the step, so that no generator needs to be saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Layout of the checkpoint.
    pub format: u32,
    /// Stage of the method, from 0.
    pub stage: usize,
    /// Steps taken in all stages.
    pub step: u64,
    /// Steps taken in this stage; with the seed it determines the next batch.
    pub stage_step: u64,
    /// Steps that the optimizer has taken (skipped ones are not among them).
    pub optimizer_step: u64,
    /// Pictures seen.
    pub samples: u64,
    /// What the next losses of the stage are compared with.
    #[serde(default)]
    pub losses: Losses,
    /// Of data, towers and recipe: a checkpoint continues only the run that it belongs to.
    pub fingerprint: String,
}

impl State {
    /// Before the first step.
    pub fn start(fingerprint: String) -> Self {
        Self {
            format: FORMAT,
            stage: 0,
            step: 0,
            stage_step: 0,
            optimizer_step: 0,
            samples: 0,
            losses: Losses::default(),
            fingerprint,
        }
    }
}

/// The present layout.
pub(crate) const FORMAT: u32 = 1;

/// A checkpoint in memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    /// Position.
    pub state: State,
    /// Parameters that learn, by name.
    pub weights: BTreeMap<String, HostTensor>,
    /// Optimizer state, by parameter.
    pub moments: BTreeMap<String, Moments>,
}

/// A checkpoint that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its folder.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a checkpoint could not be written or listed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused.
    #[error("checkpoint {path}: {source}; earlier checkpoints are as they were", path = path.display())]
    Io {
        /// What was being written or read.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The weights could not be put into a file.
    #[error("checkpoint {path}: {message}", path = path.display())]
    Encode {
        /// What was being written.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct Entry {
    bytes: u64,
    blake3: String,
}

impl Entry {
    fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }
}

/// The checkpoints of a run.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoints<D = SystemDisk> {
    dir: PathBuf,
    keep: usize,
    disk: D,
}

impl Checkpoints {
    /// Those in a folder, which is created; of those written, the last `keep` stay.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn open(dir: &Path, keep: usize) -> Result<Self, CheckpointError> {
        fs::create_dir_all(dir).map_err(at(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            keep: keep.max(1),
            disk: SystemDisk,
        })
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { path, source }
}

impl<D: Disk> Checkpoints<D> {
    /// Where the checkpoint of a step is, or would be.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(name_of(step))
    }

    /// Makes a checkpoint, which has just been written, the best one: it stays as `best` in place of the one that was.
    ///
    /// # Errors
    /// When the disk refuses; the best one before may be gone then, the checkpoint is not.
    pub fn keep_best(&self, checkpoint: &Path) -> Result<(), CheckpointError> {
        let (best, new) = (self.dir.join(BEST), self.dir.join(format!("{UNFINISHED}{BEST}")));
        if new.exists() {
            self.disk.remove_dir(&new).map_err(at(&new))?;
        }
        self.disk.create_dir(&new).map_err(at(&new))?;
        for file in [WEIGHTS, OPTIMIZER, STATE, MANIFEST] {
            // the files never change, so that both folders may share them
            let (from, to) = (checkpoint.join(file), new.join(file));
            self.disk.link(&from, &to).map_err(at(&to))?;
        }
        self.disk.sync_dir(&new).map_err(at(&new))?;
        if best.exists() {
            self.disk.remove_dir(&best).map_err(at(&best))?;
        }
        self.disk.rename(&new, &best).map_err(at(&best))?;
        self.disk.sync_dir(&self.dir).map_err(at(&self.dir))
    }

    /// Writes a checkpoint and deletes those that are too old. When this fails, what was there before is there still.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, snapshot: &Snapshot) -> Result<PathBuf, CheckpointError> {
        let name = name_of(snapshot.state.step);
        let target = self.path(snapshot.state.step);
        let files = encode(snapshot).map_err(|message| CheckpointError::Encode {
            path: target.clone(),
            message,
        })?;
        let unfinished = self.dir.join(format!("{UNFINISHED}{name}"));
        for leftover in [&unfinished, &target] {
            // `target` is there when a run goes on from an earlier checkpoint because this one was damaged.
            if leftover.exists() {
                self.disk.remove_dir(leftover).map_err(at(leftover))?;
            }
        }
        self.disk.create_dir(&unfinished).map_err(at(&unfinished))?;
        for (file, bytes) in &files {
            let path = unfinished.join(file);
            self.disk.write(&path, bytes).map_err(at(&path))?;
        }
        self.disk.sync_dir(&unfinished).map_err(at(&unfinished))?;
        self.disk.rename(&unfinished, &target).map_err(at(&target))?;
        self.disk.sync_dir(&self.dir).map_err(at(&self.dir))?;
        self.settle(snapshot.state.step)?;
        Ok(target)
    }

    /// Names the checkpoint of a step as the newest one and deletes those before it that are too old: the end of [`Checkpoints::save`], and what
    /// a run that was killed in it has to make up for.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn settle(&self, step: u64) -> Result<(), CheckpointError> {
        let (latest, new) = (self.dir.join(LATEST), self.dir.join(format!("{LATEST}.new")));
        self.disk
            .write(&new, format!("{}\n", name_of(step)).as_bytes())
            .map_err(at(&new))?;
        self.disk.rename(&new, &latest).map_err(at(&latest))?;
        self.disk.sync_dir(&self.dir).map_err(at(&self.dir))?;
        let older = self.list()?.into_iter().filter(|(found, _)| *found <= step);
        for (_, old) in older.skip(self.keep) {
            self.disk.remove_dir(&old).map_err(at(&old))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole, and the newer ones that are not. Which one that is, the folder decides:
    /// `LATEST` may be one behind when a run is killed between two renames.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn load_newest(&self) -> Result<(Option<Snapshot>, Vec<Skipped>), CheckpointError> {
        let mut skipped = Vec::new();
        for (step, path) in self.list()? {
            match read(&path) {
                Ok(snapshot) if snapshot.state.step == step => return Ok((Some(snapshot), skipped)),
                Ok(snapshot) => skipped.push(Skipped {
                    reason: format!("it says that it is of step {}", snapshot.state.step),
                    path,
                }),
                Err(reason) => skipped.push(Skipped { path, reason }),
            }
        }
        Ok((None, skipped))
    }

    /// The step of the newest finished checkpoint.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn newest(&self) -> Result<Option<u64>, CheckpointError> {
        Ok(self.list()?.first().map(|(step, _)| *step))
    }

    /// Finished checkpoints, newest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(at(&self.dir))? {
            let path = entry.map_err(at(&self.dir))?.path();
            let step = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.parse::<u64>().ok());
            if let Some(step) = step {
                found.push((step, path));
            }
        }
        found.sort_by(|a, b| b.cmp(a));
        Ok(found)
    }
}

fn name_of(step: u64) -> String {
    format!("{PREFIX}{step:012}")
}

fn encode(snapshot: &Snapshot) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    let shape_of = |name: &str, n: usize| {
        let shape = snapshot.weights.get(name).map(|t| t.shape.clone());
        // an optimizer without second moments keeps none
        shape
            .filter(|shape| shape.iter().product::<usize>() == n)
            .unwrap_or_else(|| vec![n])
    };
    let weights = snapshot
        .weights
        .iter()
        .map(|(name, t)| (name.clone(), t.shape.clone(), t.data.as_slice()));
    let moments = snapshot.moments.iter().flat_map(|(name, moments)| {
        let shape = shape_of(name, moments.m.len());
        let first = (format!("m.{name}"), shape.clone(), moments.m.as_slice());
        // Lion has no second one
        let second = (!moments.v.is_empty()).then(|| (format!("v.{name}"), shape, moments.v.as_slice()));
        [Some(first), second].into_iter().flatten()
    });
    let mut files = vec![
        (WEIGHTS, tensors(weights)?),
        (OPTIMIZER, tensors(moments)?),
        (
            STATE,
            serde_json::to_vec_pretty(&snapshot.state).map_err(|e| e.to_string())?,
        ),
    ];
    let manifest = Manifest {
        files: files
            .iter()
            .map(|(name, bytes)| ((*name).to_owned(), Entry::of(bytes)))
            .collect(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(|e| e.to_string())?;
    files.push((MANIFEST, manifest));
    Ok(files)
}

/// The bytes of a file of tensors.
pub(super) fn tensors<'a>(all: impl Iterator<Item = (String, Vec<usize>, &'a [f32])>) -> Result<Vec<u8>, String> {
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = all
        .map(|(name, shape, data)| (name, shape, data.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (name, shape, data) in &bytes {
        let view = TensorView::new(Dtype::F32, shape.clone(), data).map_err(|e| e.to_string())?;
        views.push((name.as_str(), view));
    }
    safetensors::serialize(views, None).map_err(|e| e.to_string())
}

/// Reads a checkpoint and checks every byte of it against its manifest.
fn read(dir: &Path) -> Result<Snapshot, String> {
    let file = |name: &str| fs::read(dir.join(name)).map_err(|e| format!("{name}: {e}"));
    let manifest: Manifest = serde_json::from_slice(&file(MANIFEST)?).map_err(|e| format!("{MANIFEST}: {e}"))?;
    let checked = |name: &str| {
        let bytes = file(name)?;
        match manifest.files.get(name) {
            Some(entry) if *entry == Entry::of(&bytes) => Ok(bytes),
            Some(_) => Err(format!("{name} is not what was written")),
            None => Err(format!("{MANIFEST} does not name {name}")),
        }
    };
    let state: State = serde_json::from_slice(&checked(STATE)?).map_err(|e| format!("{STATE}: {e}"))?;
    if state.format != FORMAT {
        return Err(format!("format {} is not {FORMAT}", state.format));
    }
    let weights = decode(&checked(WEIGHTS)?).map_err(|e| format!("{WEIGHTS}: {e}"))?;
    let optimizer = decode(&checked(OPTIMIZER)?).map_err(|e| format!("{OPTIMIZER}: {e}"))?;
    let mut moments = BTreeMap::new();
    for (name, m) in &optimizer {
        if let Some(name) = name.strip_prefix("m.") {
            let v = optimizer.get(&format!("v.{name}"));
            let both = Moments {
                m: m.data.clone(),
                v: v.map_or_else(Vec::new, |v| v.data.clone()),
            };
            moments.insert(name.to_owned(), both);
        }
    }
    Ok(Snapshot {
        state,
        weights,
        moments,
    })
}

fn decode(bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>, String> {
    let all = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
    let mut out = BTreeMap::new();
    for (name, view) in all.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(format!("{name} is {:?}, not F32", view.dtype()));
        }
        let data = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let shape = view.shape().to_vec();
        out.insert(name, HostTensor { shape, data });
    }
    Ok(out)
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
