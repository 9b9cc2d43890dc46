//! Bundles that talk about pictures.

use std::path::Path;

use super::load::{load_text, load_vision};
use super::model::{lay_over, open_file};
use super::{BundleError, Manifest};
use crate::chat::{ChatError, ChatModel, Eyes};
use crate::unified::{Drawing, look_width};
use crate::weights::strict;
use bifocal_nn::init::Rng;

/// Opens a bundle that talks.
///
/// # Errors
/// [`ChatError::NoChat`] for one that embeds; else what is missing, damaged or does not belong.
pub(crate) fn open_chat(dir: &Path) -> Result<ChatModel, ChatError> {
    let manifest = Manifest::read(dir)?;
    let Some(chat) = manifest.chat.clone() else {
        return Err(ChatError::NoChat {
            path: dir.to_owned(),
            found: format!(
                "a bundle of the method {}, which embeds pictures and texts",
                manifest.method
            ),
        });
    };
    let (vision, _) = load_vision(dir, &manifest)?;
    let (text, _) = load_text(dir, &manifest)?;
    let tower = vision.tower.token_encoder().filter(|_| chat.draws);
    let input = match chat.draws {
        true => tower.and_then(look_width),
        false => vision.tower.patch_width(),
    };
    let input = input.ok_or_else(|| {
        let what = if chat.draws { "codes" } else { "patches" };
        BundleError::Widths(format!("{} has no {what} for the connector", vision.name))
    })?;
    let codes = tower.and_then(|tower| tower.codec()?.codes());
    let new = codes.map(|codes| Drawing::new(text.tower.dim(), codes, &mut Rng::new(0)));
    let head = manifest
        .image_head
        .build(input, &mut Rng::new(0))
        .map_err(BundleError::from)?;
    let source = open_file(dir, &manifest, "heads.safetensors")?;
    let (connector, drawing) = strict(&source, &["text_head."], |source| {
        let drawing = new.map(|new| lay_over(new, source, "drawing")).transpose()?;
        Ok::<_, BundleError>((lay_over(head, source, "image_head")?, drawing))
    })?;
    if connector.dim() != text.tower.dim() {
        let problem = format!("rows of {} for tokens of {}", connector.dim(), text.tower.dim());
        return Err(BundleError::Widths(problem).into());
    }
    Ok(ChatModel {
        name: dir.display().to_string(),
        fingerprint: manifest.fingerprint.clone(),
        eyes: Some(Eyes {
            vision,
            tap: chat.tap,
            connector,
            drawing,
        }),
        text,
        template: chat.template,
    })
}
