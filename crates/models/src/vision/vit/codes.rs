//! TokLIP (Lin et al. 2025, arXiv 2505.05422): rows of a picture's codes in place of its patches. The codes are a frozen autoencoder's; two layers make
//! rows of the codes' vectors, and the tower's blocks, in which each code sees those before it, give them meaning.

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::fused::{Activation, KeyValues};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::{Embedding, Linear, Pictures};
use bifocal_nn::precision::{self, Precision};
use bifocal_nn::{Module, Tensor};

use super::{ImageBatch, Tokens, Vit, VitConfig, VitFamily};
use crate::load::{Loader, host_tensors};
use crate::vq::Codec;
use crate::weights::{HostTensor, WeightsError};

/// Between the two layers it is so many times as wide as the tower.
const WIDER: usize = 4;
/// Where [`Vit::tensors`] has the autoencoder.
const CODEC: &str = "patches.codec.";

/// From pictures to rows by way of their codes.
#[derive(Module, Debug)]
pub struct CodeTokens {
    /// `[codes, code]`: vectors that are learnt, in place of the autoencoder's.
    lookup: Option<Embedding>,
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
    pub lookup: &'static str,
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

/// What of a TokLIP is not as released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeOptions {
    /// Codes see all others, and not only those before them.
    pub bidirectional: bool,
    /// Each code has a vector that is learnt, in place of the one in the codebook.
    pub lookup: bool,
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
        // sides of towers are limited to far less
        let codec = Codec::from_tensors(loader.0, &name(names.codec), c.image_size as u32)?;
        let path = loader.0.path();
        let (dim, known) = match codec.code_dim().zip(codec.codes()) {
            Some(sizes) if codec.factor() == c.patch => sizes,
            _ => {
                let problem = format!("is {}, but a code stands for {} pixels", c.patch, codec.factor());
                return Err(WeightsError::metadata(path, "patch", problem));
            }
        };
        let (width, wide) = (c.stack.width, WIDER * c.stack.width);
        let lookup = || loader.embedding(&format!("{}.weight", name(names.lookup)), known, dim);
        Ok(Self {
            lookup: c.lookup.then(lookup).transpose()?,
            table: loader.linear(&name(names.table), dim, wide, true)?,
            mapping: loader.linear(&name(names.mapping), wide, width, true)?,
            codec: Arc::new(codec),
        })
    }

    fn new(config: &VitConfig, codec: Arc<Codec>, rng: &mut Rng) -> Option<Self> {
        let (dim, width) = (codec.code_dim()?, config.stack.width);
        let known = codec.codes()?;
        Some(Self {
            table: Linear::new(dim, WIDER * width, true, rng),
            mapping: Linear::new(WIDER * width, width, true, rng),
            // about as long as the vectors that they replace
            lookup: (config.lookup).then(|| Embedding::new(known, dim, (dim as f32).powf(-0.5), rng)),
            codec,
        })
    }

    /// `[n·area, c]`.
    pub(super) fn forward(&self, images: &ImageBatch) -> Tensor<2> {
        self.of_codes(&self.codes(images))
    }

    /// Codes of pictures, one picture after the other, row by row.
    fn codes(&self, images: &ImageBatch) -> Arc<[u32]> {
        let pictures = Pictures {
            x: images.pixels.clone(),
            n: images.n,
            size: [images.height, images.width],
        };
        // a picture has the same codes in training, whatever that multiplies in
        let codes = precision::scope(Precision::F32, || self.codec.read(&pictures));
        // a tower is not built on an autoencoder without codes
        codes.unwrap_or_else(|| unreachable!("the autoencoder has codes"))
    }

    /// Rows of codes that the autoencoder has.
    pub(super) fn of_codes(&self, codes: &Arc<[u32]>) -> Tensor<2> {
        let vectors = match &self.lookup {
            Some(own) => own.forward(codes),
            None => (self.codec.vectors(codes)).unwrap_or_else(|| unreachable!("codes were checked")),
        };
        self.mapping
            .forward(self.table.fused(vectors, Activation::GeluErf, None))
    }

    /// What is wrong with codes, if anything is.
    fn fault(&self, codes: &[u32]) -> Option<String> {
        let known = self.codec.codes().unwrap_or(0);
        let strange = codes.iter().any(|&code| code as usize >= known);
        strange.then(|| format!("a code is not below {known}, the number of codes that there are"))
    }
}

impl Vit {
    /// A TokLIP with initial values on a frozen autoencoder; `None` for one without codes, or when a code does not stand for a patch of the tower.
    pub fn of_codes(config: VitConfig, codec: Arc<Codec>, rng: &mut Rng) -> Option<Self> {
        let fits = config.family == VitFamily::TokLip && codec.factor() == config.patch;
        let codes = fits.then(|| CodeTokens::new(&config, codec, rng)).flatten()?;
        Some(Self::over(Tokens::Codes(codes), config, rng))
    }

    /// A SigLIP as the token encoder of a TokLIP: all of it but the patch embedding, in whose place come the codes of a frozen autoencoder and two layers
    /// with initial values. It reads as many codes as it did patches, so that its pictures are larger where a code stands for more pixels than a patch.
    ///
    /// # Errors
    /// [`CodesError::Unfit`] for a tower of another family, an autoencoder without codes, or pictures that would be too large.
    pub fn on_codes(self, codec: Arc<Codec>, how: CodeOptions, rng: &mut Rng) -> Result<Self, CodesError> {
        let unfit = |message: &str| Err(CodesError::Unfit(message.to_owned()));
        if self.config.family != VitFamily::SigLip {
            return unfit(
                "a token encoder begins as a vision transformer without a class token whose patches are pooled by attention; take a SigLIP",
            );
        }
        let (factor, grid) = (codec.factor(), self.config.trained_grid());
        if grid * factor > crate::MAX_IMAGE_SIZE {
            return unfit(
                "with so many codes of that size its pictures would have more than 4096 pixels on a side; take another autoencoder",
            );
        }
        let config = VitConfig {
            family: VitFamily::TokLip,
            patch: factor,
            image_size: grid * factor,
            trained_size: None,
            bidirectional: how.bidirectional,
            lookup: how.lookup,
            ..(*self.config).clone()
        };
        match CodeTokens::new(&config, codec, rng) {
            None => unfit("the autoencoder has no codes; train some on top of it (recipes/vq.toml)"),
            Some(codes) => Ok(Self {
                patches: Tokens::Codes(codes),
                config: Arc::new(config),
                patch_dropout: 0.0,
                ..self
            }),
        }
    }

    /// The same tower with codes that see all others, or only those before them; of another family, as it is.
    #[must_use]
    pub fn with_bidirectional(mut self, bidirectional: bool) -> Self {
        if self.config.family == VitFamily::TokLip {
            Arc::make_mut(&mut self.config).bidirectional = bidirectional;
        }
        self
    }

    /// The autoencoder whose codes it reads.
    pub fn codec(&self) -> Option<&Arc<Codec>> {
        match &self.patches {
            Tokens::Codes(codes) => Some(&codes.codec),
            Tokens::Patches(_) => None,
        }
    }

    /// Codes of pictures, as many of each as it reads, row by row; `None` for a tower that reads pixels.
    ///
    /// # Shapes
    /// → `[n·codes]`.
    ///
    /// # Panics
    /// For pictures whose sides are not multiples of what a code stands for.
    pub fn codes(&self, images: &ImageBatch) -> Option<Arc<[u32]>> {
        match &self.patches {
            Tokens::Codes(codes) => Some(codes.codes(images)),
            Tokens::Patches(_) => None,
        }
    }

    /// As [`Vit::embed`], of pictures whose codes are known, one picture after the other, and beside it what each code means ([`Vit::features`]).
    ///
    /// # Shapes
    /// `codes` `[n·codes]` → `[n, dim]` and `[n·codes, c]`.
    ///
    /// # Errors
    /// [`CodesError`] for a tower of pixels, codes that there are not, or a part of a picture.
    pub fn embed_codes(&self, codes: &Arc<[u32]>) -> Result<[Tensor<2>; 2], CodesError> {
        let (Tokens::Codes(tokens), Some(pool)) = (&self.patches, &self.pool) else {
            return Err(CodesError::NoCodes);
        };
        let (each, grid) = (self.tokens_of_a_picture(), self.config.grid());
        if codes.is_empty() || !codes.len().is_multiple_of(each) {
            let found = codes.len();
            return Err(CodesError::Unfit(format!("{found} codes are not pictures of {each}")));
        }
        if let Some(fault) = tokens.fault(codes) {
            return Err(CodesError::Unfit(fault));
        }
        let n = codes.len() / each;
        let x = self.placed(tokens.of_codes(codes), n, [grid; 2]).x;
        let offsets: Arc<[usize]> = (0..=n).map(|i| i * each).collect();
        let pass = self.pass(&offsets);
        let features = self.meanings(x, &pass);
        Ok([pool.forward(features.clone(), &pass), features])
    }

    /// See [`super::super::VisionTower::tensors`].
    pub(in crate::vision) fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let mut all = host_tensors(self);
        if let Some(codec) = self.codec() {
            let frozen = codec.tensors().into_iter();
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
        if let Some(fault) = tokens.fault(codes) {
            return Err(CodesError::Unfit(fault));
        }
        let width = self.config.stack.width;
        let positions = self.positions([self.config.grid(); 2]).slice([from..until, 0..width]);
        let mut x = tokens.of_codes(&codes.into()) + positions;
        cache.layers.resize(self.blocks.len(), KeyValues::default());
        let pass = self.pass(&Arc::from([0, codes.len()]));
        for (block, kept) in self.blocks.iter().zip(&mut cache.layers) {
            x = block.extend(x, &pass, std::slice::from_mut(kept));
        }
        cache.codes = until;
        Ok(self.ln_post.forward(x))
    }
}
