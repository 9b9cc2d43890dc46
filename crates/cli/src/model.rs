//! `--model M`: a bundle, a CLIP, or a pretrained encoder by itself.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;

/// Opens whatever `path` holds; `options` are for bare language models.
pub fn open(path: &Path, options: &TextOptions) -> Result<Model> {
    Ok(Model::open(&find(path)?, options)?)
}

/// Where a model is that was named on the command line.
pub fn find(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        anyhow::bail!(
            "there is no model at {}: give a bundle that `bifocal train` wrote, or fetch an encoder with scripts/fetch-encoders.py",
            path.display()
        );
    }
    Ok(path.to_owned())
}

/// Opens a model that understands pictures and texts.
pub fn open_joint(path: &Path) -> Result<Model> {
    let model = open(path, &TextOptions::default())?;
    if model.text().is_none() || model.vision().is_none() {
        anyhow::bail!(
            "{} is an encoder by itself: this command needs a model that joins two towers; train one with `bifocal train`, or give the folder of a CLIP",
            path.display()
        );
    }
    Ok(model)
}
