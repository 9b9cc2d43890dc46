//! One language model that reads pictures and draws them: TokLIP (Lin et al. 2025, arXiv 2505.05422, section on models for understanding and generation).
//!
//! A picture is n codes of a frozen autoencoder. What the language model reads of a code is two things side by side, its vector in the codebook and what the
//! token encoder, which is causal, takes it to mean among those before it; one linear layer makes a row of both ([`looks`]). The rows stand between two
//! learnt marks ([`Drawing::framed`]). A text after the picture is a caption, learnt as any text; a picture after a text is drawn: the row before each code
//! foretells it ([`Drawing::unfinished`], [`Drawing::logits`]). [`draw`] goes code by code, and the autoencoder's decoder makes the pixels.

mod paint;
mod sequence;

pub use paint::{Brush, Canvas, Drawn, draw};
pub use sequence::{after_its_text, after_nothing};

use std::sync::Arc;

use bifocal_nn::fused;
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::Linear;
use bifocal_nn::{Module, Param, Tensor};

use crate::vision::{CodesError, Vit};

/// Rows around a picture.
const MARKS: usize = 2;

/// What a language model needs beside a connector to draw.
#[derive(Module, Debug)]
pub struct Drawing {
    /// `[2, width]`: rows before and after a picture.
    marks: Param<Tensor<2>>,
    /// `[codes, width]`: from last vectors to a number for each code.
    head: Linear,
}

impl Drawing {
    /// With initial values, for a language model of this width and a codebook of so many codes.
    pub fn new(width: usize, codes: usize, rng: &mut Rng) -> Self {
        Self {
            marks: Param::from_tensor(Init::Normal((width as f32).powf(-0.5)).tensor([MARKS, width], rng)),
            head: Linear::new(width, codes, true, rng),
        }
    }

    /// Rows of a picture with so many codes, its marks included.
    pub fn rows(codes: usize) -> usize {
        codes + MARKS
    }

    /// Rows of whole pictures, each between its marks, as they are read.
    ///
    /// # Shapes
    /// `[n·each, width]` → `[n·(each + 2), width]`.
    ///
    /// # Panics
    /// When there are not `each` rows for each picture.
    pub fn framed(&self, rows: Tensor<2>, each: usize) -> Tensor<2> {
        self.order(rows, each, |first| [&[0][..], &first, &[1]].concat())
    }

    /// Rows from which the codes of pictures are foretold: the mark before each picture, and its rows but for the last.
    ///
    /// # Shapes
    /// `[n·each, width]` → `[n·each, width]`.
    ///
    /// # Panics
    /// When there are not `each` rows for each picture.
    pub fn unfinished(&self, rows: Tensor<2>, each: usize) -> Tensor<2> {
        self.order(rows, each, |first| [&[0][..], &first[..first.len() - 1]].concat())
    }

    /// The mark before a picture.
    ///
    /// # Shapes
    /// → `[1, width]`.
    pub fn begin(&self) -> Tensor<2> {
        fused::embedding(self.marks.val(), &Arc::from([0]))
    }

    /// `of` has the numbers of a picture's rows, to be put between those of the marks, 0 and 1.
    fn order(&self, rows: Tensor<2>, each: usize, of: impl Fn(Vec<u32>) -> Vec<u32>) -> Tensor<2> {
        let [there, _] = rows.dims();
        assert!(
            each > 0 && there.is_multiple_of(each),
            "drawing: {there} rows are not {each} for each picture"
        );
        let behind = |row: usize| (MARKS + row) as u32;
        let order: Vec<u32> = (0..there / each)
            .flat_map(|i| of((i * each..(i + 1) * each).map(behind).collect()))
            .collect();
        fused::embedding(Tensor::cat(vec![self.marks.val(), rows], 0), &order.into())
    }

    /// A number for each code that may come next, of last vectors of the language model.
    ///
    /// # Shapes
    /// `[t, width]` → `[t, codes]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.forward(hidden)
    }

    /// Codes that it draws with.
    pub fn codes(&self) -> usize {
        self.head.weight.val().dims()[0]
    }
}

/// What a connector reads of the codes of whole pictures: beside each code's vector of length 1 what the token encoder gives after its last norm.
///
/// # Shapes
/// `codes` `[n·codes of a picture]` → `[n·codes, vector + width of the tower]`.
///
/// # Errors
/// [`CodesError`] for a tower of pixels, codes that there are not, or a part of a picture.
pub fn looks(tower: &Vit, codes: &Arc<[u32]>) -> Result<Tensor<2>, CodesError> {
    let [_, meanings] = tower.embed_codes(codes)?;
    beside(tower, codes, meanings)
}

fn beside(tower: &Vit, codes: &Arc<[u32]>, meanings: Tensor<2>) -> Result<Tensor<2>, CodesError> {
    let vectors = tower.codec().and_then(|codec| codec.vectors(codes));
    Ok(Tensor::cat(vec![vectors.ok_or(CodesError::NoCodes)?, meanings], 1))
}

/// Width of what [`looks`] gives; `None` for a tower that reads no codes.
pub fn look_width(tower: &Vit) -> Option<usize> {
    Some(tower.codec()?.code_dim()? + tower.config().stack.width)
}
