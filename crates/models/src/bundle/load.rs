//! The towers of a bundle, inside it or where it refers to.

use std::path::{Path, PathBuf};

use super::locate::list;
use super::model::{lay_over, open_file};
use super::{BundleError, Located, MANIFEST, Manifest, Reference, SaveTower, VisionPart, locate};
use crate::open::{TextEncoder, TextOptions, VisionEncoder, open_text, open_vision};
use crate::vision::VisionTower;
use crate::weights::strict;

/// The vision tower, and where a pretrained one is.
pub(super) fn load_vision(dir: &Path, manifest: &Manifest) -> Result<(VisionEncoder, Option<PathBuf>), BundleError> {
    match &manifest.vision {
        VisionPart::Pretrained(reference) => {
            let path = find(dir, "vision", reference)?;
            let encoder = match bundle(&path)? {
                None => open_vision(&path)?,
                Some(inner) => {
                    if let VisionPart::Pretrained(below) = &inner.vision {
                        refuse_chain(&path, "vision", below)?;
                    }
                    load_vision(&path, &inner)?.0
                }
            };
            same("vision", &path, &encoder.fingerprint, reference)?;
            let mut encoder = encoder.with_image_size(manifest.preprocess.size)?;
            encoder.preprocess = manifest.preprocess.clone();
            Ok((encoder, Some(path)))
        }
        VisionPart::Trained(own) => {
            let source = open_file(dir, manifest, &own.file)?;
            let encoder = VisionEncoder {
                tower: strict(&source, &[], |source| VisionTower::from_tensors(&own.config, source))?,
                preprocess: manifest.preprocess.clone(),
                fingerprint: manifest.fingerprint.clone(),
                name: dir.display().to_string(),
            };
            Ok((encoder, None))
        }
    }
}

/// The text tower, and where the pretrained one is.
pub(super) fn load_text(dir: &Path, manifest: &Manifest) -> Result<(TextEncoder, PathBuf), BundleError> {
    let part = &manifest.text;
    let path = find(dir, "text", &part.pretrained)?;
    let options = TextOptions {
        pooling: Some(part.pooling),
        attention: Some(part.attention),
        layer: part.layer,
        prompt: part.prompt_name.clone(),
        writes: manifest.chat.is_some(),
    };
    let mut encoder = match bundle(&path)? {
        None => open_text(&path, &options)?,
        Some(inner) => {
            refuse_chain(&path, "text", &inner.text.pretrained)?;
            load_text(&path, &inner)?.0
        }
    };
    same("text", &path, &encoder.fingerprint, &part.pretrained)?;
    if let Some(file) = &part.trained {
        let source = open_file(dir, manifest, file)?;
        let both = format!("{} {}", encoder.fingerprint, manifest.fingerprint);
        encoder.fingerprint = blake3::hash(both.as_bytes()).to_hex().to_string();
        encoder.tower = strict(&source, &[], |source| lay_over(encoder.tower, source, ""))?;
    }
    Ok((encoder, path))
}

fn find(dir: &Path, side: &'static str, reference: &Reference) -> Result<PathBuf, BundleError> {
    match locate(&reference.path, Some(dir)) {
        Located::At(path) => Ok(path),
        Located::Nowhere(places) => Err(BundleError::TowerMissing {
            side,
            name: reference.path.clone(),
            looked: list(&places),
        }),
    }
}

/// What a folder says of itself, if it is a bundle.
fn bundle(path: &Path) -> Result<Option<Manifest>, BundleError> {
    match path.join(MANIFEST).is_file() {
        true => Manifest::read(path).map(Some),
        false => Ok(None),
    }
}

/// A bundle may refer to another bundle for a tower, but that one for the same tower to no further one: otherwise bundles could refer to each other in a
/// circle. [`original`] keeps to that.
fn refuse_chain(path: &Path, side: &'static str, below: &Reference) -> Result<(), BundleError> {
    match bundle(&find(path, side, below)?)? {
        None => Ok(()),
        Some(_) => Err(BundleError::Chain {
            path: path.to_owned(),
            name: below.path.clone(),
        }),
    }
}

/// Where a tower comes from that a run took from somewhere: the same, or, when that is a bundle which has it from elsewhere, that place. `covered`: all of
/// its weights are written anew, so that of a text tower which was trained in the bundle only what lies below is needed.
pub(super) fn original(tower: &SaveTower, text: bool, covered: bool) -> Result<SaveTower, BundleError> {
    let Some(manifest) = bundle(&tower.path)? else {
        return Ok(tower.clone());
    };
    let reference = match (text, manifest.vision) {
        (true, _) if covered || manifest.text.trained.is_none() => manifest.text.pretrained,
        (false, VisionPart::Pretrained(reference)) => reference,
        _ => return Ok(tower.clone()),
    };
    let side = if text { "text" } else { "vision" };
    let path = find(&tower.path, side, &reference)?;
    let below = SaveTower {
        // what is inside of that bundle is nowhere else
        name: match path.starts_with(&tower.path) {
            true => path.display().to_string(),
            false => reference.path,
        },
        path,
        fingerprint: reference.fingerprint,
        trained: tower.trained,
    };
    match covered {
        // no circle: the tower has been opened through these references
        true => original(&below, text, covered),
        false => Ok(below),
    }
}

fn same(side: &'static str, path: &Path, found: &str, reference: &Reference) -> Result<(), BundleError> {
    if found == reference.fingerprint {
        return Ok(());
    }
    Err(BundleError::OtherTower {
        side,
        path: path.to_owned(),
        found: found.to_owned(),
        expected: reference.fingerprint.clone(),
    })
}
