//! All parts of a model that talks.

use std::path::Path;

use bifocal_nn::Tensor;

use super::{ChatError, Dialogue, Sequence, Template};
use crate::adapter::Head;
use crate::bundle::{self, MANIFEST};
use crate::connector::{ConnectorError, Tap};
use crate::open::{self, TextEncoder, TextOptions, VisionEncoder, open_text};
use crate::text::{Attention, Llm, TextTower};
use crate::unified::{Drawing, looks};
use crate::vision::ImageBatch;
use crate::weights::gguf::Gguf;

/// A picture as a language model gets it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `[rows, width of the language model]`: what stands in the text.
    pub rows: Tensor<2>,
    /// `[latents, width of the patches]`: what is looked at between layers (Flamingo).
    pub media: Option<Tensor<2>>,
}

/// What sees.
#[derive(Debug)]
pub struct Eyes {
    /// The tower with what prepares pictures for it.
    pub vision: VisionEncoder,
    /// What is read of it.
    pub tap: Tap,
    /// From patches to rows of the language model.
    pub connector: Head,
    /// For a model that reads pictures as codes, and draws them (see [`crate::unified`]).
    pub drawing: Option<Drawing>,
}

impl Eyes {
    /// The rows of a prepared picture; those of codes are between marks.
    ///
    /// # Shapes
    /// `pixels` `[size, size, 3]` → `[rows, width of the language model]`.
    ///
    /// # Errors
    /// [`ChatError`] for pixels of another size, and a tower without patches.
    pub fn see(&self, pixels: &[f32]) -> Result<Tensor<2>, ChatError> {
        Ok(self.look(pixels)?.rows)
    }

    /// As [`Eyes::see`], with what is looked at between layers.
    ///
    /// # Errors
    /// As [`Eyes::see`].
    pub fn look(&self, pixels: &[f32]) -> Result<Seen, ChatError> {
        let none = || ConnectorError::NoPatches {
            name: self.vision.name.clone(),
        };
        let side = self.vision.preprocess.size as usize;
        let images = ImageBatch::square(pixels.to_vec(), 1, side).ok_or(open::OpenError::Pixels {
            found: pixels.len(),
            images: 1,
            side,
        })?;
        if let Some(drawing) = &self.drawing {
            let tower = self.vision.tower.token_encoder().ok_or_else(none)?;
            let codes = tower.codes(&images).ok_or_else(none)?;
            let rows = self.connector.forward(looks(tower, &codes)?, false);
            return Ok(Seen {
                rows: drawing.framed(rows, codes.len()),
                media: None,
            });
        }
        let (patches, each) = self.tap.read(&self.vision.tower, &images).ok_or_else(none)?;
        let media = match &self.connector {
            Head::Flamingo(flamingo) => Some(flamingo.media(patches.clone(), 1)),
            _ => None,
        };
        Ok(Seen {
            rows: self.connector.connect(patches, each, false).0,
            media,
        })
    }

    /// Rows of a picture.
    pub fn rows(&self) -> usize {
        if let (Some(_), Some(tower)) = (&self.drawing, self.vision.tower.token_encoder()) {
            return Drawing::rows(tower.tokens_of_a_picture());
        }
        let side = self.vision.preprocess.size as usize;
        let patches = self.tap.tokens(&self.vision.tower, side).unwrap_or(0);
        self.connector.connected(patches)
    }
}

/// A language model that talks, and perhaps sees.
#[derive(Debug)]
pub struct ChatModel {
    /// What to call it.
    pub name: String,
    /// Equal for two models exactly when they say the same.
    pub fingerprint: String,
    /// `None` for a language model alone.
    pub eyes: Option<Eyes>,
    /// The language model with its tokenizer.
    pub text: TextEncoder,
    /// How dialogues are written for it.
    pub template: Template,
}

impl ChatModel {
    /// Opens a bundle that talks, a LLaVA in transformers' layout, or a language model (a GGUF, or a folder).
    ///
    /// # Errors
    /// [`ChatError`] with what is missing, damaged, or no model that talks.
    pub fn open(path: &Path) -> Result<Self, ChatError> {
        let model = if path.join(MANIFEST).is_file() {
            bundle::open_chat(path)?
        } else if let Some(llava) = open::open_llava(path)? {
            llava
        } else {
            let options = TextOptions {
                writes: true,
                attention: Some(Attention::Causal),
                ..TextOptions::default()
            };
            let text = open_text(path, &options)?;
            let template = match open::only_gguf(path)? {
                Some(file) => Template::of_gguf(&Gguf::open(&file).map_err(open::OpenError::from)?, &text.tokenizer),
                None => Template::of_tokenizer(&text.tokenizer),
            };
            Self {
                name: text.name.clone(),
                fingerprint: text.fingerprint.clone(),
                eyes: None,
                text,
                template,
            }
        };
        match &model.text.tower {
            TextTower::Llm(llm) if llm.output().is_some() => Ok(model),
            _ => Err(ChatError::NoChat {
                path: path.to_owned(),
                found: "its text tower embeds texts and writes none".to_owned(),
            }),
        }
    }

    /// The language model.
    ///
    /// # Errors
    /// [`ChatError::NoChat`] for a text tower that is none; a model that was opened has one.
    pub fn llm(&self) -> Result<&Llm, ChatError> {
        match &self.text.tower {
            TextTower::Llm(llm) => Ok(llm),
            _ => Err(ChatError::NoChat {
                path: self.name.clone().into(),
                found: "its text tower is no language model".to_owned(),
            }),
        }
    }

    /// A dialogue as the model reads it.
    ///
    /// # Errors
    /// As [`Sequence::new`]; and [`ChatError::Blind`] for one about a picture when the model sees none.
    pub fn sequence(&self, dialogue: &Dialogue) -> Result<Sequence, ChatError> {
        if dialogue.image && self.eyes.is_none() {
            return Err(ChatError::Blind {
                name: self.name.clone(),
            });
        }
        Sequence::new(&self.template, &self.text.tokenizer, dialogue)
    }
}
