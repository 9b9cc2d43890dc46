//! Texts of a model in two steps, for callers that budget by tokens: first the tokens, then the rows.

use bifocal_nn::{pool, precision};

use super::{BundleError, Model};
use crate::tokenizer::Encoding;

impl Model {
    /// The tokens of texts, in the model's prompt if it has one.
    ///
    /// # Errors
    /// [`BundleError`] when there is no text tower or its tokenizer fails.
    pub fn tokenize(&self, texts: &[&str]) -> Result<Vec<Encoding>, BundleError> {
        let Some((encoder, _)) = &self.text else {
            return Err(self.no_text());
        };
        let prompt = self.manifest.as_ref().and_then(|m| m.text.prompt.as_deref());
        let Some(prompt) = prompt else {
            return Ok(encoder.tokenize(texts)?);
        };
        let prompted: Vec<String> = texts.iter().map(|text| prompt.replace("{}", text)).collect();
        Ok(encoder.tokenize(&prompted.iter().map(String::as_str).collect::<Vec<_>>())?)
    }

    /// Checks tokens that someone else made with the model's tokenizer, prompt and special tokens included.
    ///
    /// # Errors
    /// [`BundleError`] when there is no text tower, for too many tokens, and for ids that it does not know.
    pub fn tokens_of(&self, ids: Vec<u32>) -> Result<Encoding, BundleError> {
        match &self.text {
            Some((encoder, _)) => Ok(encoder.tokens_of(ids)?),
            None => Err(self.no_text()),
        }
    }

    /// Rows of texts with the lengths that the model gives, from what [`Model::tokenize`] gave.
    ///
    /// # Shapes
    /// → `[texts, dim]`.
    ///
    /// # Errors
    /// [`BundleError`] when there is no text tower, or tokens that it cannot read.
    pub fn embed_tokens_raw(&self, texts: &[Encoding]) -> Result<Vec<f32>, BundleError> {
        self.token_rows(texts, false)
    }

    pub(super) fn token_rows(&self, texts: &[Encoding], unit: bool) -> Result<Vec<f32>, BundleError> {
        let Some((encoder, side)) = &self.text else {
            return Err(self.no_text());
        };
        pool::pass(|| {
            let (features, dim) = precision::scope(self.precision(), || encoder.embed_tokens(texts))?;
            Ok(side.map(features, dim, unit))
        })
    }
}
