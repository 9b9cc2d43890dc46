//! Flamingo's connector as a whole (Alayrac et al. 2022, arXiv 2204.14198): a resampler, the gated layers that stand before some of a frozen language model's,
//! and the row of the token that marks a picture's place.

use std::sync::Arc;

use bifocal_nn::init::{Init, Rng};
use bifocal_nn::{Module, Param, Tensor};
use serde::{Deserialize, Serialize};

use super::gated::{GatedConfig, GatedCross};
use super::resampler::{Resampler, ResamplerConfig};

/// Standard deviation of the mark's initial values, as of a new token's.
const SPREAD: f32 = 0.02;

/// Sizes of the connector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlamingoConfig {
    /// Width of the tower's patches, and of what they become.
    pub image_width: usize,
    /// Vectors that a picture becomes.
    pub latents: usize,
    /// Layers of the resampler.
    pub layers: usize,
    /// Heads of resampler and gated layers.
    pub heads: usize,
    /// Width of a head.
    pub head: usize,
    /// A gated layer stands before every so many-th layer of the language model.
    pub every: usize,
    /// Layers of the language model.
    pub text_layers: usize,
}

/// Resampler, gated layers, mark.
#[derive(Module, Debug)]
pub struct Flamingo {
    /// `[1, c]`: what stands in a text where a picture is (`<image>`).
    mark: Param<Tensor<2>>,
    resampler: Resampler,
    gated: Vec<GatedCross>,
    #[module(skip)]
    config: Arc<FlamingoConfig>,
}

impl Flamingo {
    /// For a language model of this width. Gates are closed: the model is what it was.
    pub fn new(config: FlamingoConfig, width: usize, rng: &mut Rng) -> Self {
        let c = &config;
        let resampler = ResamplerConfig {
            width: c.image_width,
            latents: c.latents,
            layers: c.layers,
            heads: c.heads,
            head: c.head,
        };
        let gated = GatedConfig {
            width,
            media: c.image_width,
            heads: c.heads,
            head: c.head,
        };
        Self {
            mark: Param::from_tensor(Init::Normal(SPREAD).tensor([1, width], rng)),
            resampler: Resampler::new(resampler, rng),
            gated: (0..c.text_layers / c.every.max(1))
                .map(|_| GatedCross::new(gated, rng))
                .collect(),
            config: Arc::new(config),
        }
    }

    /// Its sizes.
    pub fn config(&self) -> &FlamingoConfig {
        &self.config
    }

    /// Width of the language model.
    pub fn dim(&self) -> usize {
        self.mark.val().dims()[1]
    }

    /// The rows of so many pictures' marks.
    ///
    /// # Shapes
    /// → `[n, c]`.
    pub fn marks(&self, n: usize) -> Tensor<2> {
        self.mark.val().repeat_dim(0, n)
    }

    /// What pictures become.
    ///
    /// # Shapes
    /// `patches` `[n·p, image width]` → `[n·latents, image width]`.
    pub fn media(&self, patches: Tensor<2>, n: usize) -> Tensor<2> {
        self.resampler.forward(patches, n)
    }
}

/// What sequences of a language model look at between its layers: a picture each.
#[derive(Clone, Debug)]
pub struct Looks<'a> {
    flamingo: &'a Flamingo,
    /// `[sequences·latents, image width]`, or of one picture that all look at.
    media: Tensor<2>,
    /// Of each sequence the place of its picture's mark: it and what comes after it look at the picture; `None` for a sequence without.
    marks: Vec<Option<usize>>,
}

impl<'a> Looks<'a> {
    /// Sequences with the vectors of their pictures and the places of the marks.
    ///
    /// # Shapes
    /// `media` `[sequences·latents, image width]`, or `[latents, image width]` with one mark for all.
    pub fn new(flamingo: &'a Flamingo, media: Tensor<2>, marks: Vec<Option<usize>>) -> Self {
        Self { flamingo, media, marks }
    }

    /// The same picture with its mark at another place.
    pub fn mark_at(&mut self, place: Option<usize>) {
        self.marks = vec![place];
    }

    /// What a layer of the language model gets: `x`, after the gated layer that stands before it, if one does.
    ///
    /// `offsets` say where rows of each sequence begin, `before` how many rows each had already.
    pub(crate) fn before_layer(&self, layer: usize, x: Tensor<2>, offsets: &[usize], before: &[usize]) -> Tensor<2> {
        let every = self.flamingo.config.every.max(1);
        let gated = match (layer + 1).is_multiple_of(every) {
            true => self.flamingo.gated.get((layer + 1) / every - 1),
            false => None,
        };
        let Some(gated) = gated else { return x };
        let n = offsets.len().saturating_sub(1);
        let (media, mark) = match self.marks.as_slice() {
            [one] if n != 1 => (self.media.clone().repeat_dim(0, n), vec![*one; n]),
            all => (self.media.clone(), all.to_vec()),
        };
        let mut sees = Vec::with_capacity(x.dims()[0]);
        for ((bounds, mark), before) in offsets.windows(2).zip(mark).zip(before) {
            let places = *before..before + bounds[1] - bounds[0];
            sees.extend(places.map(|place| mark.is_some_and(|mark| place >= mark)));
        }
        gated.look(x, media, offsets, &sees)
    }
}
