//! A model that does not change: pictures and texts to rows, texts to tokens.

use std::path::{Path, PathBuf};

use bifocal_models::bundle::Model;
use bifocal_models::open::TextOptions;
use bifocal_models::tokenizer::Encoding;
use bifocal_nn::precision::Precision;

use crate::{Outcome, Side, dump, floats};

/// Commands: `images` (all of them), `image` (the first), `texts` (from strings), `tokens` (texts that are tokens already), `tokenize`; `dump` writes `images.out` and
/// `texts.out`, `ids` the tokens as lines of numbers.
pub struct Embed {
    model: Model,
    folder: PathBuf,
    /// Of `images.f32`, `[n, side, side, 3]`; empty without that file.
    pixels: Vec<f32>,
    /// Of `lines.txt`; empty without that file.
    lines: Vec<String>,
    encodings: Vec<Encoding>,
}

impl Embed {
    pub fn open(model: &str, folder: &str, precision: Precision) -> Outcome<Self> {
        let folder = PathBuf::from(folder);
        let model = Model::open(Path::new(model), &TextOptions::default())?.with_precision(precision);
        let there = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        let pixels = there("images.f32")
            .map(|path| floats(&path))
            .transpose()?
            .unwrap_or_default();
        let text = there("lines.txt")
            .map(std::fs::read_to_string)
            .transpose()?
            .unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut this = Self {
            model,
            folder,
            pixels,
            lines,
            encodings: Vec::new(),
        };
        if !this.lines.is_empty() {
            this.encodings = this.tokenize()?;
        }
        Ok(this)
    }

    fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(String::as_str).collect()
    }

    fn tokenize(&self) -> Outcome<Vec<Encoding>> {
        Ok(self.model.tokenize(&self.texts())?)
    }

    /// Values of one picture.
    fn picture(&self) -> Outcome<usize> {
        Ok(self.model.preprocess().ok_or("the model reads no pictures")?.values())
    }

    fn images(&self, pixels: &[f32]) -> Outcome<Vec<f32>> {
        Ok(self.model.embed_images_raw(pixels, pixels.len() / self.picture()?)?)
    }
}

impl Side for Embed {
    fn answer(&mut self, command: &str) -> Outcome<Option<f32>> {
        let rows = match command {
            "images" => self.images(&self.pixels)?,
            "image" => self.images(&self.pixels[..self.picture()?])?,
            "texts" => self.model.embed_texts_raw(&self.texts())?,
            "tokens" => self.model.embed_tokens_raw(&self.encodings)?,
            "tokenize" => vec![
                self.tokenize()?
                    .iter()
                    .map(|encoding| encoding.ids.len())
                    .sum::<usize>() as f32,
            ],
            "ids" => {
                let line =
                    |encoding: &Encoding| encoding.ids.iter().map(|id| format!("{id} ")).collect::<String>() + "\n";
                std::fs::write(
                    self.folder.join("ids.out"),
                    self.encodings.iter().map(line).collect::<String>(),
                )?;
                vec![0.0]
            }
            "dump" => {
                if !self.pixels.is_empty() {
                    dump(&self.folder.join("images.out"), &self.images(&self.pixels)?)?;
                }
                if !self.encodings.is_empty() {
                    dump(
                        &self.folder.join("texts.out"),
                        &self.model.embed_tokens_raw(&self.encodings)?,
                    )?;
                }
                vec![0.0]
            }
            _ => return Ok(None),
        };
        Ok(Some(rows[0]))
    }
}
