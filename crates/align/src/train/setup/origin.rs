//! Where the parts of a run come from, and what tells them apart.

use std::path::PathBuf;

use bifocal_models::bundle::{Located, locate};
use bifocal_nn::{Module, params};

use crate::train::TrainError;

/// A pretrained tower: as the recipe names it and where it was found.
#[derive(Clone, Debug)]
pub(in crate::train) struct Origin {
    pub(in crate::train) name: String,
    pub(in crate::train) path: PathBuf,
}

impl Origin {
    /// Of a tower that begins from scratch.
    pub(super) fn nowhere() -> Self {
        Self {
            name: String::new(),
            path: PathBuf::new(),
        }
    }
}

/// What tells a module's weights apart from others.
pub(super) fn hash_of<M: Module>(module: &M) -> String {
    let mut hasher = blake3::Hasher::new();
    params::visit(module, |info, values| {
        hasher.update(info.name.as_bytes());
        for value in values() {
            hasher.update(&value.to_le_bytes());
        }
    });
    hasher.finalize().to_hex().to_string()
}

/// The place of a model that a recipe names; `key` is where it does.
pub(in crate::train) fn find(key: &'static str, name: &str) -> Result<Origin, TrainError> {
    match locate(name, None) {
        Located::At(path) => Ok(Origin {
            name: name.to_owned(),
            path,
        }),
        Located::Nowhere(places) => Err(TrainError::TowerMissing {
            key,
            name: name.to_owned(),
            looked: places
                .iter()
                .map(|p| p.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}
