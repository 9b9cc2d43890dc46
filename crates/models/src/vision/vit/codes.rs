//! TokLIP (Lin et al. 2025, arXiv 2505.05422): rows of a picture's codes in place of its patches. The codes are a frozen autoencoder's; two layers make
//! rows of the codes' vectors, and the tower's blocks, in which each code sees those before it, give them meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::fused::{Activation, KeyValues};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{Linear, Pictures};
use bifocal_nn::{Module, Tensor};

use super::{ImageBatch, Tokens, Vit, VitConfig, VitFamily};
use crate::load::{Loader, host_tensors};
use crate::vq::{Codec, VqModel};
use crate::weights::{HostTensor, WeightsError, below};

/// Between the two layers it is so many times as wide as the tower.
const WIDER: usize = 4;
/// Where [`Vit::tensors`] has the autoencoder.
const CODEC: &str = "patches.codec.";

/// From pictures to rows by way of their codes.
#[derive(Module, Debug)]
pub struct CodeTokens {
    /// `[4c, code]`.
    table: Linear,
    /// `[c, 4c]`.
    mapping: Linear,
    /// Frozen, and so no parameter of the tower.
    #[module(skip)]
    codec: Arc<Codec>,
}

/// How a checkpoint calls the parts, after the tower's prefix.
pub(super) struct CodeNames {
    pub codec: &'static str,
    pub table: &'static str,
    pub mapping: &'static str,
}

/// Why codes are not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodesError {
    /// The tower reads pixels.
    #[error("the tower reads patches of pixels, not codes; take a TokLIP tower")]
    NoCodes,
    /// Codes see those after them.
    #[error("the tower looks at all codes at once, so it cannot go on code by code; take one that is causal")]
    LooksAhead,
    /// No such code, or more of them than a picture has.
    #[error("{0}")]
    Unfit(String),
}

/// Keys and values of the codes of a picture so far.
#[derive(Clone, Debug, Default)]
pub struct CodeCache {
    layers: Vec<KeyValues>,
    codes: usize,
}

impl CodeTokens {
    pub(super) fn load(c: &VitConfig, loader: Loader, prefix: &str, names: &CodeNames) -> Result<Self, WeightsError> {
        let name = |part: &str| format!("{prefix}{part}");
        let codec = Codec::Pixels(VqModel::load(&*below(Box::new(loader.0), &name(names.codec)))?);
        let path = loader.0.path();
        let dim = match codec.code_dim() {
            Some(dim) if codec.factor() == c.patch => dim,
            _ => {
                let problem = format!("is {}, but a code stands for {} pixels", c.patch, codec.factor());
                return Err(WeightsError::metadata(path, "patch", problem));
            }
        };
        let (width, wide) = (c.stack.width, WIDER * c.stack.width);
        Ok(Self {
            table: loader.linear(&name(names.table), dim, wide, true)?,
            mapping: loader.linear(&name(names.mapping), wide, width, true)?,
            codec: Arc::new(codec),
        })
    }

    /// `[n·area, c]`.
    pub(super) fn forward(&self, images: &ImageBatch) -> Tensor<2> {
        let pictures = Pictures {
            x: images.pixels.clone(),
            n: images.n,
            size: [images.height, images.width],
        };
        let vectors = self.codec.read(&pictures).and_then(|codes| self.codec.vectors(&codes));
        // a tower is not built on an autoencoder without codes
        self.rows(vectors.unwrap_or_else(|| unreachable!("the autoencoder has codes")))
    }

    fn rows(&self, vectors: Tensor<2>) -> Tensor<2> {
        self.mapping
            .forward(self.table.fused(vectors, Activation::GeluErf, None))
    }
}

impl Vit {
    /// A TokLIP with initial values on a frozen autoencoder of pixels; `None` for another one (a tiny one has no codes, and one on top of it cannot be saved
    /// with the tower yet), or when a code does not stand for a patch of the tower.
    pub fn of_codes(config: VitConfig, codec: Arc<Codec>, rng: &mut Rng) -> Option<Self> {
        let (dim, width) = (codec.code_dim()?, config.stack.width);
        let of_pixels = matches!(*codec, Codec::Pixels(_));
        let fits = of_pixels && config.family == VitFamily::TokLip && codec.factor() == config.patch;
        fits.then(|| {
            let codes = CodeTokens {
                table: Linear::new(dim, WIDER * width, true, rng),
                mapping: Linear::new(WIDER * width, width, true, rng),
                codec,
            };
            Self::over(Tokens::Codes(codes), config, rng)
        })
    }

    /// The autoencoder whose codes it reads.
    pub fn codec(&self) -> Option<&Arc<Codec>> {
        match &self.patches {
            Tokens::Codes(codes) => Some(&codes.codec),
            Tokens::Patches(_) => None,
        }
    }

    /// See [`super::super::VisionTower::tensors`].
    pub(in crate::vision) fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let mut all = host_tensors(self);
        if let Some(Codec::Pixels(vq)) = self.codec().map(|codec| &**codec) {
            let frozen = vq.tensors().into_iter();
            all.extend(frozen.map(|(name, tensor)| (format!("{CODEC}{name}"), tensor)));
        }
        all
    }

    /// What codes mean, after the final norm: every code of each picture, for a language model to read.
    ///
    /// # Shapes
    /// → `[n·tokens, c]`.
    ///
    /// # Panics
    /// As [`super::super::VisionTower::embed`].
    pub fn features(&self, images: &ImageBatch) -> Option<Tensor<2>> {
        let rows = self.hidden(images, self.blocks.len())?;
        Some(self.ln_post.forward(rows))
    }

    /// As [`Vit::features`], of the codes that come next in a picture, without running those before again: what a language model that draws needs.
    /// Nothing is recorded for gradients.
    ///
    /// # Shapes
    /// `codes` `[k]` → `[k, c]`.
    ///
    /// # Errors
    /// [`CodesError`]; the cache is then as it was.
    pub fn extend(&self, codes: &[u32], cache: &mut CodeCache) -> Result<Tensor<2>, CodesError> {
        let Tokens::Codes(tokens) = &self.patches else {
            return Err(CodesError::NoCodes);
        };
        if !self.config.causal() {
            return Err(CodesError::LooksAhead);
        }
        let (from, most) = (cache.codes, self.config.tokens(self.config.grid() * self.config.grid()));
        let until = from + codes.len();
        if until > most || codes.is_empty() {
            return Err(CodesError::Unfit(format!(
                "{until} codes are not 1…{most}, which a picture has"
            )));
        }
        let vectors = tokens.codec.vectors(&codes.into());
        let vectors = vectors.ok_or_else(|| {
            let known = tokens.codec.codes().unwrap_or(0);
            CodesError::Unfit(format!(
                "a code is not below {known}, the number of codes that there are"
            ))
        })?;
        let width = self.config.stack.width;
        let positions = self.positions([self.config.grid(); 2]).slice([from..until, 0..width]);
        let mut x = tokens.rows(vectors) + positions;
        cache.layers.resize(self.blocks.len(), KeyValues::default());
        let pass = self.pass(&Arc::from([0, codes.len()]));
        for (block, kept) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.extend(x, &pass, std::slice::from_mut(kept));
        }
        cache.codes = until;
        Ok(self.ln_post.forward(x))
    }
}
