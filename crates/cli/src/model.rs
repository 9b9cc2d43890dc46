//! `--model M`: a bundle, a CLIP, or a pretrained encoder by itself; `--precision`: how its products are multiplied.

use std::path::{Path, PathBuf};

use anyhow::Result;
use bifocal_models::bundle::{MANIFEST, Manifest, Model, VisionPart};
use bifocal_models::hub::SCHEME;
use bifocal_models::open::TextOptions;
use bifocal_nn::precision::Precision;

/// How towers compute: what all commands that embed share.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Compute {
    /// What towers multiply: f32; bf16, rounded to eight significant bits; int8, eight-bit integers
    ///
    /// The faster ones are for processors with instructions for them. Rows differ by rounding, and can be compared with those of another precision: for stores it is
    /// the same model.
    #[arg(long, value_name = "f32|bf16|int8", default_value = "f32", value_parser = precision)]
    precision: Precision,
}

impl Compute {
    /// Opens whatever `path` holds; `options` are for bare language models.
    pub fn open(self, path: &Path, options: &TextOptions) -> Result<Model> {
        Ok(open(path, options)?.with_precision(self.precision))
    }

    /// Opens a model that understands pictures and texts.
    pub fn open_joint(self, path: &Path) -> Result<Model> {
        Ok(open_joint(path)?.with_precision(self.precision))
    }
}

fn precision(name: &str) -> Result<Precision, String> {
    let all = [Precision::F32, Precision::Bf16, Precision::Int8];
    let found = all.into_iter().find(|precision| precision.name() == name);
    found.ok_or_else(|| "f32, bf16 or int8 is expected".to_owned())
}

/// Opens whatever `path` holds; `options` are for bare language models.
pub fn open(path: &Path, options: &TextOptions) -> Result<Model> {
    Ok(Model::open(&find(path)?, options)?)
}

/// Where a model is that was named on the command line; `hf:org/name` is fetched, and so is what a bundle refers to by such a name.
pub fn find(path: &Path) -> Result<PathBuf> {
    if let Some(name) = path.to_str().filter(|name| name.starts_with(SCHEME)) {
        let found = fetch(name)?;
        fetch_referred(&found)?;
        return Ok(found);
    }
    if !path.exists() {
        anyhow::bail!(
            "there is no model at {}: give a bundle that `bifocal train` wrote, or fetch an encoder with scripts/fetch-encoders.py",
            path.display()
        );
    }
    fetch_referred(path)?;
    Ok(path.to_owned())
}

/// The towers that a bundle, if this is one, refers to by names of the hub.
fn fetch_referred(path: &Path) -> Result<()> {
    if path.join(MANIFEST).is_file() {
        let manifest = Manifest::read(path)?;
        let vision = match &manifest.vision {
            VisionPart::Pretrained(reference) => Some(reference),
            VisionPart::Trained(_) => None,
        };
        for reference in vision.into_iter().chain([&manifest.text.pretrained]) {
            fetch_named(&reference.path)?;
        }
    }
    Ok(())
}

/// Fetches a model if it is named by a hub's name; a path is left alone.
pub fn fetch_named(name: &str) -> Result<()> {
    if name.starts_with(SCHEME) {
        fetch(name)?;
    }
    Ok(())
}

#[cfg(feature = "hub")]
fn fetch(name: &str) -> Result<PathBuf> {
    crate::hub::fetch(&name.parse()?)
}

/// Without the network only what was fetched before can be found.
#[cfg(not(feature = "hub"))]
fn fetch(name: &str) -> Result<PathBuf> {
    use bifocal_models::bundle::{Located, locate};
    name.parse::<bifocal_models::hub::HubName>()?;
    match locate(name, None) {
        Located::At(path) => Ok(path),
        Located::Nowhere(_) => {
            anyhow::bail!("{name} was not fetched before, and this program was built without its client (feature hub)")
        }
    }
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
