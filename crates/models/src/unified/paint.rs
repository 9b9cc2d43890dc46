//! Drawing code by code.

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::engine::values;
use bifocal_nn::init::Rng;

use super::{Drawing, after_its_text, after_nothing, beside};
use crate::chat::{ChatError, ChatModel, Dialogue, Eyes, Sequence};
use crate::generate::{GenerateError, Sampling};
use crate::text::{Llm, LlmCache};
use crate::vision::{CodeCache, Vit};

/// How codes are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brush {
    /// How each is drawn; 1 by temperature unless told otherwise: the likeliest code of all makes a grey picture.
    pub sampling: Sampling,
    /// What is asked for, g: the numbers for codes are u + g·(c − u), c with the text and u without. 1: as the model has learnt it, in one pass; 0: of no text.
    pub guidance: f32,
    /// Of what is drawn.
    pub seed: u64,
}

impl Default for Brush {
    fn default() -> Self {
        Self {
            sampling: Sampling {
                temperature: 1.0,
                ..Sampling::default()
            },
            guidance: 1.0,
            seed: 0,
        }
    }
}

/// The largest guidance.
const MAX_GUIDANCE: f32 = 100.0;

impl Brush {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GenerateError::Field`].
    pub fn check(&self) -> Result<(), GenerateError> {
        self.sampling.check()?;
        match (0.0..=MAX_GUIDANCE).contains(&self.guidance) {
            true => Ok(()),
            false => Err(GenerateError::Field {
                field: "guidance",
                value: self.guidance.to_string(),
                allowed: "0 (of no text) to 100",
            }),
        }
    }
}

/// A picture that was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Row by row, exactly as many as a picture has.
    pub codes: Vec<u32>,
    /// Codes on a side.
    pub grid: usize,
    /// Rows that were read before the first code; with guidance, those of both texts.
    pub read: usize,
}

/// Draws the codes of a picture from a text. `hear` is told after each code how many there are, and may end it by `false`: then there is no picture.
///
/// # Errors
/// [`ChatError::NoDrawing`] for a model that does not draw, [`ChatError::TooLong`] for a text that leaves no room for a picture,
/// [`ChatError::Generate`] for a choice that cannot be.
pub fn draw(
    model: &ChatModel,
    text: &str,
    brush: &Brush,
    mut hear: impl FnMut(usize) -> bool,
) -> Result<Option<Drawn>, ChatError> {
    brush.check()?;
    let mut canvas = Canvas::new(model, text, brush.guidance)?;
    let mut rng = Rng::new(brush.seed);
    while canvas.left() > 0 {
        let code = brush.sampling.draw(canvas.logits(), &mut rng)?;
        canvas.put(code)?;
        if !hear(canvas.codes.len()) {
            return Ok(None);
        }
    }
    Ok(Some(Drawn {
        grid: canvas.tower.config().grid(),
        read: canvas.read,
        codes: canvas.codes,
    }))
}

/// A picture on its way: what language model and token encoder keep of what came before.
#[derive(Debug)]
pub struct Canvas<'a> {
    llm: &'a Llm,
    tower: &'a Vit,
    eyes: &'a Eyes,
    drawing: &'a Drawing,
    guidance: f32,
    cache: LlmCache,
    meanings: CodeCache,
    /// Codes of a whole picture.
    each: usize,
    codes: Vec<u32>,
    read: usize,
    /// For the next code.
    logits: Vec<f32>,
}

impl<'a> Canvas<'a> {
    /// Reads what stands before the first code; with guidance other than 0 and 1 (see [`Brush::guidance`]) the text and none beside each other.
    ///
    /// # Errors
    /// As [`draw`].
    pub fn new(model: &'a ChatModel, text: &str, guidance: f32) -> Result<Self, ChatError> {
        let none = || ChatError::NoDrawing {
            name: model.name.clone(),
        };
        let (llm, eyes) = (model.llm()?, model.eyes.as_ref().ok_or_else(none)?);
        let drawing = eyes.drawing.as_ref().ok_or_else(none)?;
        let tower = eyes.vision.tower.token_encoder().ok_or_else(none)?;
        let each = tower.tokens_of_a_picture();
        let read = model.sequence(&Dialogue::pair(true, "", text))?;
        let texts: Vec<Sequence> = match guidance {
            1.0 => vec![after_its_text(&read)],
            0.0 => vec![after_nothing(&read)],
            _ => vec![after_its_text(&read), after_nothing(&read)],
        };
        let limit = llm.config().context;
        if let Some(rows) = texts.iter().map(|text| text.rows(each)).find(|&rows| rows > limit) {
            return Err(ChatError::TooLong { rows, limit });
        }
        let mut cache = LlmCache::new(llm, texts.len());
        let mut rows = Vec::new();
        for text in &texts {
            if !text.ids.is_empty() {
                rows.push(llm.rows_of(&text.ids));
            }
            rows.push(drawing.begin());
        }
        let counts: Vec<usize> = texts.iter().map(|text| text.ids.len() + 1).collect();
        let hidden = llm.extend(Tensor::cat(rows, 0), &counts, &mut cache);
        let hidden = hidden.map_err(GenerateError::from)?;
        let mut canvas = Self {
            llm,
            tower,
            eyes,
            drawing,
            guidance,
            cache,
            meanings: CodeCache::default(),
            each,
            codes: Vec::with_capacity(each),
            read: counts.iter().sum(),
            logits: Vec::new(),
        };
        canvas.logits = canvas.guided(hidden, &counts);
        Ok(canvas)
    }

    /// Codes that are still to come.
    pub fn left(&self) -> usize {
        self.each - self.codes.len()
    }

    /// Numbers for the next code; when the picture is whole, those for its last.
    ///
    /// # Shapes
    /// → `[codes that there are]`.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Puts the next code.
    ///
    /// # Errors
    /// [`ChatError::Codes`] for one that there is not, and when the picture is whole.
    pub fn put(&mut self, code: u32) -> Result<(), ChatError> {
        let look = beside(
            self.tower,
            &Arc::from([code]),
            self.tower.extend(&[code], &mut self.meanings)?,
        )?;
        self.codes.push(code);
        if self.left() == 0 {
            return Ok(());
        }
        let row = self.eyes.connector.forward(look, false);
        let counts = vec![1; self.cache.lengths().len()];
        let rows = Tensor::cat(vec![row; counts.len()], 0);
        let hidden = self.llm.extend(rows, &counts, &mut self.cache);
        self.logits = self.guided(hidden.map_err(GenerateError::from)?, &counts);
        Ok(())
    }

    /// Of the last row of each sequence.
    fn guided(&self, hidden: Tensor<2>, counts: &[usize]) -> Vec<f32> {
        let [rows, width] = hidden.dims();
        let logits = |row: usize| values(self.drawing.logits(hidden.clone().slice([row..row + 1, 0..width])));
        match counts {
            [with, _] => {
                let (with, without) = (logits(with - 1), logits(rows - 1));
                let guide = |(c, u): (f32, f32)| u + self.guidance * (c - u);
                with.into_iter().zip(without).map(guide).collect()
            }
            _ => logits(rows - 1),
        }
    }
}
