//! BLIP-2's connector (Li et al. 2023, arXiv 2301.12597): a picture's patches, a Q-Former, and a layer into the language model.

use bifocal_nn::engine::tensor;
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{LayerNorm, Linear};
use bifocal_nn::{Module, Param, Tensor};

use super::EPS;
use crate::connector::qformer::{QFormer, QFormerConfig};
use crate::text::TokenBatch;

/// What similarities are divided by at first (the authors' `temp`).
const TEMPERATURE: f32 = 0.07;
/// It does not fall below this: similarities are divided by it.
const COLDEST: f32 = 1e-3;

/// A norm over patches, a Q-Former, and a layer that makes its queries as wide as what reads them.
#[derive(Module, Debug)]
pub struct QFormerHead {
    /// Over each patch, before queries look at it (`ln_vision`).
    norm: LayerNorm,
    qformer: QFormer,
    /// `[1]`: similarities are divided by it. It takes part in the first stage's loss alone.
    temperature: Param<Tensor<1>>,
    /// `[width of the language model, c]`.
    out: Linear,
}

/// What pictures and their texts become in one pass.
#[derive(Clone, Debug)]
pub struct Read {
    /// `[n·queries, dim]`: each query in the joint space, of unit length.
    pub images: Tensor<2>,
    /// `[n, dim]`: each text there, read without its picture.
    pub texts: Tensor<2>,
    /// `[t, vocabulary]`: after each token, of a text that begins with [`QFormerHead::decoder`], numbers for the next.
    pub words: Tensor<2>,
}

impl QFormerHead {
    /// A Q-Former with initial values.
    pub(super) fn new(config: &QFormerConfig, width: usize, rng: &mut Rng) -> Self {
        Self {
            norm: LayerNorm::new(config.image_width, EPS),
            qformer: QFormer::new(config.clone(), rng),
            temperature: Param::from_tensor(tensor(vec![TEMPERATURE], [1])),
            out: Linear::new(config.width, width, true, rng),
        }
    }

    /// With another Q-Former of the same sizes.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(QFormer) -> QFormer) -> Self {
        self.qformer = change(self.qformer);
        self
    }

    /// Its sizes.
    pub fn config(&self) -> &QFormerConfig {
        self.qformer.config()
    }

    /// `[1]`: what similarities are divided by.
    pub fn temperature(&self) -> Tensor<1> {
        self.temperature.val().clamp_min(COLDEST)
    }

    /// The id with which a text begins that is to be described (`[DEC]`): the last of the vocabulary; `None` without texts.
    pub fn decoder(&self) -> Option<u32> {
        let text = self.config().text.as_ref()?;
        u32::try_from(text.vocabulary.checked_sub(1)?).ok()
    }

    /// Rows for a language model.
    ///
    /// # Shapes
    /// `patches` `[n·p, image width]` of `n` pictures → `[n·queries, width]`.
    pub fn rows(&self, patches: Tensor<2>, n: usize) -> Tensor<2> {
        self.out.forward(self.qformer.queries(self.norm.forward(patches), n))
    }

    /// What the first stage compares and foretells. One pass over pictures and texts serves contrast and description: queries don't see texts in either.
    ///
    /// # Shapes
    /// `patches` `[n·p, image width]`, a text for each picture; `None` when the Q-Former does not read texts.
    pub fn read(&self, patches: Tensor<2>, texts: &TokenBatch) -> Option<Read> {
        let decoder = self.decoder()?;
        let mut ids = texts.ids.to_vec();
        for bounds in texts.offsets.windows(2).filter(|bounds| bounds[0] < bounds[1]) {
            ids[bounds[0]] = decoder;
        }
        let told = TokenBatch {
            ids: ids.into(),
            ..texts.clone()
        };
        let (queries, tokens) = self.qformer.read(self.norm.forward(patches), &told)?;
        Some(Read {
            images: self.qformer.project(queries)?,
            texts: self.qformer.embed_texts(texts)?,
            words: self.qformer.words(tokens)?,
        })
    }

    /// Pictures in the joint space, query by query.
    ///
    /// # Shapes
    /// As [`QFormerHead::rows`] → `[n·queries, dim]`.
    pub fn embed_images(&self, patches: Tensor<2>, n: usize) -> Option<Tensor<2>> {
        self.qformer.embed_images(self.norm.forward(patches), n)
    }

    /// Texts in the joint space.
    ///
    /// # Shapes
    /// → `[n, dim]`.
    pub fn embed_texts(&self, texts: &TokenBatch) -> Option<Tensor<2>> {
        self.qformer.embed_texts(texts)
    }

    /// Whether each picture and its text belong together.
    ///
    /// # Shapes
    /// As [`QFormerHead::read`] → `[n, 2]`: numbers for no and yes.
    pub fn matches(&self, patches: Tensor<2>, texts: &TokenBatch) -> Option<Tensor<2>> {
        self.qformer.matches(self.norm.forward(patches), texts)
    }

    /// Width of its rows.
    pub fn dim(&self) -> usize {
        self.out.weight.val().dims()[0]
    }
}
