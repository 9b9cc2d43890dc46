//! A language model that reads and writes.

use bifocal_nn::Tensor;
use bifocal_nn::init::Rng;

use crate::connector::flamingo::Looks;

use super::{Beams, GenerateError, Repeats, Sampling, beam_search};
use crate::text::{Llm, LlmCache, TokensError};

/// Rows that pass through the model at once while it reads: memory for activations is that of so many.
const CHUNK: usize = 512;

/// One text on its way: what the model has read and written, and what it keeps of that.
#[derive(Debug)]
pub struct Writer<'a> {
    model: &'a Llm,
    cache: LlmCache,
    /// Tokens read and written, for the guard against repetition.
    history: Vec<u32>,
    /// Written, but not read by the model yet.
    pending: Option<u32>,
    /// After all that was read.
    logits: Option<Vec<f32>>,
    /// At what the model looks between its layers.
    looks: Option<Looks<'a>>,
}

impl<'a> Writer<'a> {
    /// Before the first token.
    ///
    /// # Errors
    /// [`GenerateError::NoOutput`] for a model without output layer.
    pub fn new(model: &'a Llm) -> Result<Self, GenerateError> {
        match model.output() {
            None => Err(GenerateError::NoOutput),
            Some(_) => Ok(Self {
                model,
                cache: LlmCache::new(model, 1),
                history: Vec::new(),
                pending: None,
                logits: None,
                looks: None,
            }),
        }
    }

    /// Looks at a picture between layers, from the row on at which its mark is.
    #[must_use]
    pub fn looking(mut self, looks: Looks<'a>) -> Self {
        self.looks = Some(looks);
        self
    }

    /// Where the mark of the picture is that it looks at, if it looks at one.
    pub fn mark_at(&mut self, place: Option<usize>) {
        if let Some(looks) = &mut self.looks {
            looks.mark_at(place);
        }
    }

    /// Rows so far, those of pictures included.
    pub fn len(&self) -> usize {
        self.cache.lengths()[0] + usize::from(self.pending.is_some())
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows that there is room for.
    pub fn room(&self) -> usize {
        self.model.config().context.saturating_sub(self.len())
    }

    /// Forgets what came after so many rows.
    pub fn rewind(&mut self, rows: usize) {
        if rows >= self.len() {
            return;
        }
        let gone = self.len() - rows;
        self.pending = None;
        self.logits = None;
        self.model.rewind(&mut self.cache, 0, rows);
        // rows of pictures are no tokens: what is gone may be more than is known
        self.history.truncate(self.history.len().saturating_sub(gone));
    }

    /// Reads tokens.
    ///
    /// # Errors
    /// [`GenerateError::Tokens`] for ids that the model does not know, and more than there is room for.
    pub fn read(&mut self, ids: &[u32]) -> Result<(), GenerateError> {
        let vocabulary = self.model.config().vocabulary;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(TokensError::UnknownId { id, vocabulary }.into());
        }
        self.catch_up()?;
        for ids in ids.chunks(CHUNK) {
            self.extend(self.model.rows_of(ids))?;
        }
        self.history.extend_from_slice(ids);
        Ok(())
    }

    /// Reads rows in place of tokens: what a connector makes of a picture.
    ///
    /// # Shapes
    /// `[t, width]`.
    ///
    /// # Errors
    /// [`GenerateError::Tokens`] for more than there is room for.
    pub fn read_rows(&mut self, rows: Tensor<2>) -> Result<(), GenerateError> {
        self.catch_up()?;
        let [t, width] = rows.dims();
        for start in (0..t).step_by(CHUNK) {
            self.extend(rows.clone().slice([start..(start + CHUNK).min(t), 0..width]))?;
        }
        Ok(())
    }

    /// Numbers for the token that comes next.
    ///
    /// # Shapes
    /// → `[vocabulary]`.
    ///
    /// # Errors
    /// [`GenerateError::Nothing`] before anything was read.
    pub fn logits(&mut self) -> Result<&[f32], GenerateError> {
        self.catch_up()?;
        self.logits.as_deref().ok_or(GenerateError::Nothing)
    }

    /// Draws the next token; the model reads it when it is asked for the one after it.
    ///
    /// # Errors
    /// As [`Writer::logits`]; and [`GenerateError::Tokens`] when the context is full.
    pub fn write(&mut self, sampling: &Sampling, repeats: &Repeats, rng: &mut Rng) -> Result<u32, GenerateError> {
        let mut logits = self.logits()?.to_vec();
        repeats.apply(&mut logits, &self.history);
        let id = sampling.draw(&logits, rng)?;
        self.pending = Some(id);
        self.history.push(id);
        Ok(id)
    }

    /// Writes the likeliest text of those that grow side by side; with the token that ends it, which stays unread.
    ///
    /// # Errors
    /// As [`Writer::write`] and [`beam_search`].
    pub fn write_beams(&mut self, beams: &Beams, repeats: &Repeats, stop: &[u32]) -> Result<Vec<u32>, GenerateError> {
        let first = self.logits()?.to_vec();
        let model = self.model;
        let mut cache = self.cache.clone();
        let history = self.history.clone();
        let looks = self.looks.clone();
        let step = |parents: &[usize], ids: &[u32]| {
            if ids.is_empty() {
                return Ok(first.clone());
            }
            cache = cache.select(parents);
            let hidden = model.extend_looking(model.rows_of(ids), &vec![1; ids.len()], &mut cache, looks.as_ref())?;
            model.logits(hidden).ok_or(GenerateError::NoOutput)
        };
        let guard = |text: &[u32], scores: &mut [f32]| repeats.apply(scores, &[&history, text].concat());
        let found = beam_search(beams, stop, step, guard)?;
        if let Some((&last, before)) = found.split_last() {
            self.read(before)?;
            self.history.push(last);
            self.pending = Some(last);
        }
        Ok(found)
    }

    /// Lets the model read what it has written.
    fn catch_up(&mut self) -> Result<(), GenerateError> {
        match self.pending.take() {
            None => Ok(()),
            Some(id) => self.extend(self.model.rows_of(&[id])),
        }
    }

    fn extend(&mut self, rows: Tensor<2>) -> Result<(), GenerateError> {
        let [t, width] = rows.dims();
        if t == 0 {
            return Ok(());
        }
        let looks = self.looks.as_ref();
        let hidden = self.model.extend_looking(rows, &[t], &mut self.cache, looks)?;
        // only the last row's numbers are of use
        let last = hidden.slice([t - 1..t, 0..width]);
        self.logits = self.model.logits(last);
        Ok(())
    }
}
