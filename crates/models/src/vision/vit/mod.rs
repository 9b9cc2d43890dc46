//! Vision transformers (Dosovitskiy et al. 2021) of several families: CLIP, SigLIP, DINOv2, EVA02.

mod codes;
mod config;
mod dropout;
mod load;
mod pool;
mod positions;

pub use codes::{CodeCache, CodeOptions, CodeTokens, CodesError};
pub use config::{VitConfig, VitFamily};
pub use pool::AttentionPool;
pub use positions::ImageSizeError;

use std::sync::Arc;

use bifocal_nn::fused::{self, Activation};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{Conv, LayerNorm, Linear, Pictures, zeros};
use bifocal_nn::noise::{self, Rows};
use bifocal_nn::{Module, Param, Tensor};

use super::ImageBatch;
use crate::blocks::{Block, Pass};

/// A vision transformer: patches and special tokens, pre-norm blocks, and the class token, or what attention pools, as the image's vector.
#[derive(Module, Debug)]
pub struct Vit {
    patches: Tokens,
    /// `[c]`.
    class: Option<Param<Tensor<1>>>,
    /// `[registers, c]`: tokens without a position, between the class token and the patches.
    registers: Option<Param<Tensor<2>>>,
    /// `[positions, c]`, the class token's first.
    positions: Param<Tensor<2>>,
    ln_pre: Option<LayerNorm>,
    blocks: Vec<Block>,
    ln_post: LayerNorm,
    pool: Option<AttentionPool>,
    /// `[dim, c]`.
    proj: Option<Linear>,
    #[module(skip)]
    config: Arc<VitConfig>,
    /// See [`Vit::with_patch_dropout`].
    #[module(skip)]
    patch_dropout: f64,
}

/// Rows of images of one size.
struct Placed {
    /// `[n·each, c]`.
    x: Tensor<2>,
    each: usize,
    /// Which of its image's tokens each row is, where some were left out.
    places: Option<Vec<u32>>,
}

/// What makes rows of pictures.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one in a tower
pub enum Tokens {
    /// Of their pixels: a step of the convolution is a patch. It is no linear layer, so that adapters pass it by.
    Patches(Conv),
    /// Of their codes.
    Codes(CodeTokens),
}

impl Vit {
    /// Initial values as OpenAI chose them; the patch embedding as PyTorch does. A TokLIP begins with [`Vit::of_codes`].
    ///
    /// # Panics
    /// For a TokLIP.
    pub fn new(config: VitConfig, rng: &mut Rng) -> Self {
        assert!(config.family != VitFamily::TokLip, "a TokLIP needs its codes");
        let (width, patch) = (config.stack.width, config.patch);
        let patches = Conv::new(patch, 3, width, config.family.patch_bias(), rng);
        Self::over(Tokens::Patches(patches), config, rng)
    }

    /// A tower with initial values on what makes its rows.
    fn over(patches: Tokens, config: VitConfig, rng: &mut Rng) -> Self {
        let (width, eps) = (config.stack.width, config.stack.eps);
        let family = config.family;
        let scale = Init::Normal((width as f32).powf(-0.5));
        Self {
            patches,
            class: family
                .has_class()
                .then(|| Param::from_tensor(scale.tensor([width], rng))),
            registers: (config.registers > 0).then(|| Param::from_tensor(scale.tensor([config.registers, width], rng))),
            positions: Param::from_tensor(scale.tensor([config.positions(), width], rng)),
            ln_pre: family.norm_before().then(|| LayerNorm::new(width, eps)),
            blocks: config.stack.init(rng),
            ln_post: LayerNorm::new(width, eps),
            pool: family.attention_pool().then(|| AttentionPool::new(&config.stack, rng)),
            proj: config.projection().map(|bias| {
                let weight = Param::from_tensor(scale.tensor([config.dim, width], rng));
                Linear::from_params(weight, bias.then(|| zeros([config.dim])))
            }),
            config: Arc::new(config),
            patch_dropout: 0.0,
        }
    }

    /// See [`super::VisionTower::embed`].
    pub fn embed(&self, images: &ImageBatch) -> Tensor<2> {
        self.embed_all(std::slice::from_ref(images))
    }

    /// See [`super::VisionTower::embed_all`].
    pub fn embed_all(&self, batches: &[ImageBatch]) -> Tensor<2> {
        let (mut x, pass) = self.tokens(batches);
        let offsets = &pass.offsets;
        let n = offsets.len() - 1;
        let pooled = if let Some(pool) = &self.pool {
            pool.forward(self.meanings(x, &pass), &pass)
        } else {
            // far fewer than 2³² rows fit into memory
            let classes: Arc<[u32]> = offsets[..n].iter().map(|&row| row as u32).collect();
            if let Some((last, rest)) = self.blocks.split_last() {
                for block in rest {
                    x = block.forward(x, &pass);
                }
                x = last.forward_rows(x, &pass, &classes);
            } else {
                x = fused::embedding(x, &classes);
            }
            self.ln_post.forward(x)
        };
        match &self.proj {
            Some(proj) => noise::rows(Rows::Items, || proj.forward(pooled)),
            None => pooled,
        }
    }

    /// What all tokens are after the final norm.
    fn meanings(&self, x: Tensor<2>, pass: &Pass) -> Tensor<2> {
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, pass));
        self.ln_post.forward(x)
    }

    /// See [`super::VisionTower::hidden`].
    pub fn hidden(&self, images: &ImageBatch, layer: usize) -> Option<Tensor<2>> {
        let blocks = self.blocks.get(..layer)?;
        let (x, pass) = self.tokens(std::slice::from_ref(images));
        Some(blocks.iter().fold(x, |x, block| block.forward(x, &pass)))
    }

    /// The tower whose embedding is what the projection, if there is one, would read.
    #[must_use]
    pub fn without_projection(mut self) -> Self {
        if self.proj.take().is_some() {
            let config = Arc::make_mut(&mut self.config);
            config.dim = config.stack.width;
            config.unprojected = true;
        }
        self
    }

    /// See [`super::VisionTower::patches`].
    pub fn patches(&self, images: &ImageBatch) -> Option<(Tensor<2>, usize)> {
        let x = self.hidden(images, self.blocks.len())?;
        let [rows, width] = x.dims();
        let tokens = rows / images.n.max(1);
        let area = tokens.saturating_sub(self.config.tokens(0));
        let x = x.reshape([images.n, tokens, width]);
        let x = x.slice([0..images.n, tokens - area..tokens]);
        Some((x.reshape([images.n * area, width]), area))
    }

    fn pass(&self, offsets: &Arc<[usize]>) -> Pass {
        Pass {
            rotation: self.config.rotation(),
            ..self.config.stack.pass(offsets, self.config.causal())
        }
    }

    /// What the first block reads, `[tokens, c]`, and what all blocks need besides.
    fn tokens(&self, batches: &[ImageBatch]) -> (Tensor<2>, Pass) {
        let mut offsets = vec![0];
        let mut rows = Vec::with_capacity(batches.len());
        let mut places = Vec::new();
        let mut at = 0;
        for images in batches {
            let placed = self.rows(images);
            for _ in 0..images.n {
                at += placed.each;
                offsets.push(at);
            }
            rows.push(placed.x);
            places.extend(placed.places);
        }
        let mut pass = self.pass(&offsets.into());
        if !places.is_empty() {
            pass.rotation = pass.rotation.map(|rotation| rotation.of_rows(&places.concat().into()));
        }
        (Tensor::cat(rows, 0), pass)
    }

    /// Rows of images of one size.
    fn rows(&self, images: &ImageBatch) -> Placed {
        let c = &*self.config;
        let ImageBatch { n, height, width, .. } = *images;
        if c.family == VitFamily::NaFlex {
            assert!(
                height >= c.patch && width >= c.patch,
                "vision transformer: less than a patch"
            );
        } else {
            let side = c.image_size;
            assert_eq!(
                [height, width],
                [side; 2],
                "vision transformer: the tower reads squares of {side} pixels"
            );
        }
        let patches = match &self.patches {
            Tokens::Patches(patches) => {
                let images = Pictures {
                    x: images.pixels.clone(),
                    n,
                    size: [height, width],
                };
                patches.padded(&images, c.patch, [0; 4], Activation::Identity).x
            }
            Tokens::Codes(codes) => codes.forward(images),
        };
        self.placed(patches, n, [height / c.patch, width / c.patch])
    }

    /// Rows of the patches of `n` images with positions and special tokens; in training some patches are left out.
    fn placed(&self, patches: Tensor<2>, n: usize, grid: [usize; 2]) -> Placed {
        let c = &*self.config;
        let (area, d) = (grid[0] * grid[1], c.stack.width);
        let mut x = patches.reshape([n, area, d]);
        if let Some(class) = &self.class {
            let class = class.val().reshape([1, 1, d]).expand([n, 1, d]);
            x = Tensor::cat(vec![class, x], 1);
        }
        let mut x = x + self.positions(grid).unsqueeze::<3>();
        if let Some(registers) = &self.registers {
            let special = c.registers;
            let registers = registers.val().reshape([1, special, d]).expand([n, special, d]);
            let class = x.clone().slice([0..n, 0..1]);
            let patches = x.slice([0..n, 1..1 + area]);
            x = Tensor::cat(vec![class, registers, patches], 1);
        }
        let all = Placed {
            x: x.reshape([n * c.tokens(area), d]),
            each: c.tokens(area),
            places: None,
        };
        let mut left = self.drop_patches(all, n, area);
        if let Some(norm) = &self.ln_pre {
            left.x = norm.forward(left.x);
        }
        left
    }

    /// How many tokens a picture of its size becomes.
    pub fn tokens_of_a_picture(&self) -> usize {
        self.config.tokens(self.config.grid() * self.config.grid())
    }

    /// Its sizes.
    pub fn config(&self) -> &VitConfig {
        &self.config
    }
}
