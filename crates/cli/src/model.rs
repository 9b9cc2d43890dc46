//! `--model M`: a bundle, or a pretrained encoder by itself.

use std::path::Path;

use anyhow::Result;
use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;

/// Opens whatever `path` holds; `options` are for bare language models.
pub fn open(path: &Path, options: &TextOptions) -> Result<Model> {
    if !path.exists() {
        anyhow::bail!(
            "there is no model at {}: give a bundle that `bifocal train` wrote, or fetch an encoder with scripts/fetch-encoders.py",
            path.display()
        );
    }
    Ok(Model::open(path, options)?)
}

/// Opens a model that understands pictures and texts.
pub fn open_bundle(path: &Path) -> Result<Model> {
    let model = open(path, &TextOptions::default())?;
    if model.manifest().is_none() {
        anyhow::bail!(
            "{} is an encoder by itself: this command needs a model that joins two towers; train one with `bifocal train`",
            path.display()
        );
    }
    Ok(model)
}
