//! Opening a store with its model, and turning what is asked for into one vector.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bifocal_data::{ImageSource, Limits, load_images};
use bifocal_models::bundle::Model;
use bifocal_models::hub::HubName;
use bifocal_search::query::{Term, combine, weighted};
use bifocal_search::{ModelId, Store, StoreError, shown};

use crate::failure::wrong_use;
use crate::model::Compute;
use crate::pictures;

/// Opens a store for reading; the model is not needed.
pub fn open_reader(store: &Path) -> Result<Box<dyn Store>> {
    bifocal_search::open_reader(store, None).map_err(told)
}

/// Opens a store for writing what this model embeds.
pub fn open_writer(store: &Path, model: &ModelId) -> Result<Box<dyn Store>> {
    bifocal_search::open_writer(store, model).map_err(told)
}

/// A build that cannot do it is called wrongly.
fn told(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::NotBuilt { .. } => wrong_use(format!("--store {error}")),
        error => error.into(),
    }
}

/// Opens the model that a store was made with, at `given` if it has moved.
///
/// # Errors
/// No model there, or another one: its embeddings could not be compared with those of the store.
pub fn open_model(store: &dyn Store, name: &Path, given: Option<&Path>, compute: Compute) -> Result<Model> {
    let stored = store.model();
    let path = given.unwrap_or(Path::new(&stored.name));
    let model = compute.open_joint(path).with_context(|| {
        format!(
            "the store {} was made with the model {}; if it has moved, give --model",
            shown(name).display(),
            stored.name
        )
    })?;
    let id = model_id(&model, path)?;
    if !stored.fits(&id) {
        return Err(StoreError::ModelMismatch {
            path: shown(name),
            stored: Box::new(stored.clone()),
            given: Box::new(id),
        }
        .into());
    }
    Ok(model)
}

/// What a store remembers of a model, and opens it by again.
pub fn model_id(model: &Model, path: &Path) -> Result<ModelId> {
    // a name of the hub is where the model is found again, wherever its cache is
    let path = if HubName::is_meant(path) {
        path.to_owned()
    } else {
        path.canonicalize()
            .with_context(|| format!("finding {}", path.display()))?
    };
    Ok(ModelId {
        fingerprint: model.fingerprint().to_owned(),
        dim: model.dim(),
        name: path.to_string_lossy().into_owned(),
    })
}

/// What is looked for: the directions of all of it are added.
#[derive(Debug, Default)]
pub struct Question {
    /// Texts with their weights.
    pub texts: Vec<Term>,
    /// Pictures with their weights.
    pub images: Vec<(f32, PathBuf)>,
    /// Keys of items of the store.
    pub like: Vec<String>,
}

impl Question {
    /// Whether the model has to be opened to answer it.
    pub fn needs_model(&self) -> bool {
        !self.texts.is_empty() || !self.images.is_empty()
    }

    /// Its one vector; `model` as [`Question::needs_model`] says.
    pub fn vector(&self, store: &dyn Store, model: Option<&Model>) -> Result<Vec<f32>> {
        let dim = store.model().dim;
        let mut vectors = Vec::new();
        if let Some(model) = model {
            let texts: Vec<&str> = self.texts.iter().map(|t| t.text.as_str()).collect();
            let rows = if texts.is_empty() {
                Vec::new()
            } else {
                model.embed_texts(&texts)?
            };
            let weights = self.texts.iter().map(|t| t.weight);
            vectors.extend(weights.zip(rows.chunks_exact(dim).map(<[f32]>::to_vec)));
            for (weight, path) in &self.images {
                vectors.push((*weight, embed_picture(model, path)?));
            }
        }
        for key in &self.like {
            let entry = store.get(key)?.with_context(|| {
                format!(
                    "--like {key}: the store has no item of that key; `bifocal search` shows the keys of what it finds"
                )
            })?;
            vectors.push((1.0, entry.direction(dim)?));
        }
        Ok(combine(&vectors, dim)?)
    }
}

fn embed_picture(model: &Model, path: &Path) -> Result<Vec<f32>> {
    let source = [ImageSource::from(path)];
    let loaded = load_images(&source, pictures::preprocess(model)?, &Limits::default())?;
    if let Some(bad) = loaded.bad.first() {
        anyhow::bail!("--image {}: {}", path.display(), bad.error);
    }
    Ok(model.embed_images(&loaded.pixels, 1)?)
}

/// `0.5:dog.jpg` or `-1:people.jpg` as weight and path; a file of that very name is taken as it is.
pub fn weighted_path(argument: &str) -> (f32, PathBuf) {
    if Path::new(argument).exists() {
        return (1.0, argument.into());
    }
    let (sign, rest) = match argument.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, argument),
    };
    match weighted(rest) {
        (_, path) if path.len() == rest.len() => (1.0, argument.into()),
        (weight, path) => (sign * weight, path.into()),
    }
}

/// The key of an item that may be given as a path relative to the current folder.
pub fn key(store: &dyn Store, given: &str) -> Result<String> {
    if store.get(given)?.is_some() {
        return Ok(given.to_owned());
    }
    let absolute = Path::new(given).canonicalize().ok();
    Ok(absolute
        .and_then(|path| path.to_str().map(str::to_owned))
        .unwrap_or_else(|| given.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_have_weights() {
        for (argument, weight, path) in [
            ("dog.jpg", 1.0, "dog.jpg"),
            ("0.5:dog.jpg", 0.5, "dog.jpg"),
            ("-2:a/dog.jpg", -2.0, "a/dog.jpg"),
            ("-dog.jpg", 1.0, "-dog.jpg"),
            ("10:30.jpg", 1.0, "10:30.jpg"),
        ] {
            assert_eq!(weighted_path(argument), (weight, path.into()), "{argument}");
        }
    }
}
