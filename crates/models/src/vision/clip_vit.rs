//! CLIP's vision transformer (Radford et al. 2021, after Dosovitskiy et al. 2021).

use std::sync::Arc;

use bifocal_nn::fused::{self, Activation, ConvShape};
use bifocal_nn::init::{Init, Rng};
use bifocal_nn::layers::{LayerNorm, Linear};
use bifocal_nn::{Module, Param, Tensor};
use serde::{Deserialize, Serialize};

use super::ImageBatch;
use crate::blocks::{Block, EPS, Names, StackConfig, check_sizes};
use crate::load::Loader;
use crate::weights::{TensorSource, WeightsError};

/// Sizes of a vision transformer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipVitConfig {
    /// Side of the square that it reads, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Width of an embedding.
    pub dim: usize,
    /// The transformer.
    pub stack: StackConfig,
}

impl ClipVitConfig {
    fn grid(&self) -> usize {
        self.image_size / self.patch
    }

    fn tokens(&self) -> usize {
        self.grid() * self.grid() + 1
    }

    fn check(&self, source: &dyn TensorSource) -> Result<(), WeightsError> {
        let path = source.path();
        check_sizes(
            path,
            &[
                ("image_size", self.image_size),
                ("patch", self.patch),
                ("dim", self.dim),
            ],
        )?;
        self.stack.check(path)?;
        let most = crate::MAX_IMAGE_SIZE;
        if self.image_size > most || self.patch > self.image_size {
            return Err(WeightsError::Metadata {
                path: path.to_owned(),
                key: "image_size".to_owned(),
                problem: format!(
                    "is {} with patches of {}; it may be at most {most}, a patch no larger",
                    self.image_size, self.patch
                ),
            });
        }
        Ok(())
    }
}

/// CLIP's vision transformer: patches and a class token, pre-norm blocks, the class token projected.
#[derive(Module, Debug)]
pub struct ClipVit {
    /// `[c, patch·patch·3]`, columns ordered row, column, channel.
    patches: Linear,
    /// `[c]`.
    class: Param<Tensor<1>>,
    /// `[tokens, c]`, the class token first.
    positions: Param<Tensor<2>>,
    ln_pre: LayerNorm,
    blocks: Vec<Block>,
    ln_post: LayerNorm,
    /// `[dim, c]`, without bias.
    proj: Linear,
    #[module(skip)]
    config: Arc<ClipVitConfig>,
}

impl ClipVit {
    /// Initial values as OpenAI chose them; the patch embedding as PyTorch does.
    pub fn new(config: ClipVitConfig, rng: &mut Rng) -> Self {
        let (width, patch) = (config.stack.width, config.patch);
        let scale = Init::Normal((width as f32).powf(-0.5));
        Self {
            patches: Linear::new(patch * patch * 3, width, false, rng),
            class: Param::from_tensor(scale.tensor([width], rng)),
            positions: Param::from_tensor(scale.tensor([config.tokens(), width], rng)),
            ln_pre: LayerNorm::new(width, EPS),
            blocks: config.stack.init(rng),
            ln_post: LayerNorm::new(width, EPS),
            proj: Linear::from_params(Param::from_tensor(scale.tensor([config.dim, width], rng)), None),
            config: Arc::new(config),
        }
    }

    /// Loads a checkpoint with the names of OpenAI and open_clip (`visual.…`) or of Hugging Face (`vision_model.…`).
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: ClipVitConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        config.check(source)?;
        let loader = Loader(source);
        let native = source.shape("visual.conv1.weight").is_some();
        let [patch, class, positions, pre, stack, post, proj] = if native {
            [
                "visual.conv1.weight",
                "visual.class_embedding",
                "visual.positional_embedding",
                "visual.ln_pre",
                "visual.transformer",
                "visual.ln_post",
                "visual.proj",
            ]
        } else {
            [
                "vision_model.embeddings.patch_embedding.weight",
                "vision_model.embeddings.class_embedding",
                "vision_model.embeddings.position_embedding.weight",
                "vision_model.pre_layrnorm", // so spelt in the files
                "vision_model.encoder",
                "vision_model.post_layernorm",
                "visual_projection",
            ]
        };
        let width = config.stack.width;
        let names = if native { Names::OpenAi } else { Names::HuggingFace };
        Ok(Self {
            patches: patch_embedding(loader, patch, width, config.patch)?,
            class: loader.param(class, [width])?,
            positions: loader.param(positions, [config.tokens(), width])?,
            ln_pre: loader.layer_norm(pre, width, EPS)?,
            blocks: config.stack.load(loader, stack, names)?,
            ln_post: loader.layer_norm(post, width, EPS)?,
            proj: if native {
                Linear::from_params(loader.transposed(proj, width, config.dim)?, None)
            } else {
                loader.linear(proj, width, config.dim, false)?
            },
            config: Arc::new(config),
        })
    }

    pub(crate) fn from_tensors(config: ClipVitConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        config.check(source)?;
        let loader = Loader(source);
        let (width, patch) = (config.stack.width, config.patch);
        Ok(Self {
            patches: loader.linear("patches", patch * patch * 3, width, false)?,
            class: loader.param("class", [width])?,
            positions: loader.param("positions", [config.tokens(), width])?,
            ln_pre: loader.layer_norm("ln_pre", width, EPS)?,
            blocks: config.stack.load(loader, "blocks", Names::Own)?,
            ln_post: loader.layer_norm("ln_post", width, EPS)?,
            proj: loader.linear("proj", width, config.dim, false)?,
            config: Arc::new(config),
        })
    }

    /// See [`super::VisionTower::embed`].
    pub fn embed(&self, images: &ImageBatch) -> Tensor<2> {
        let c = &*self.config;
        let ImageBatch { n, height, width, .. } = *images;
        assert_eq!(
            [height, width],
            [c.image_size; 2],
            "clip vision: the tower reads squares of {} pixels",
            c.image_size
        );
        let shape = ConvShape {
            n,
            h: height,
            w: width,
            c: 3,
            kh: c.patch,
            kw: c.patch,
            stride: c.patch,
            pad: [0; 4],
        };
        let (grid, d, tokens) = (c.grid(), c.stack.width, c.tokens());
        let patches = fused::conv2d(
            images.pixels.clone(),
            self.patches.weight.val(),
            None,
            Activation::Identity,
            &shape,
        );
        let class = self.class.val().reshape([1, 1, d]).expand([n, 1, d]);
        let x = Tensor::cat(vec![class, patches.reshape([n, grid * grid, d])], 1);
        let x = x + self.positions.val().unsqueeze::<3>();
        let mut x = self.ln_pre.forward(x.reshape([n * tokens, d]));
        let offsets: Arc<[usize]> = (0..=n).map(|i| i * tokens).collect();
        let attention = c.stack.attention(false);
        // far fewer than 2³² rows fit into memory
        let classes: Arc<[u32]> = offsets[..n].iter().map(|&row| row as u32).collect();
        let (last, rest) = self
            .blocks
            .split_last()
            .expect("a tower has blocks: its sizes were checked");
        for block in rest {
            x = block.forward(x, &offsets, &attention, c.stack.gelu);
        }
        let pooled = last.forward_rows(x, &offsets, &attention, c.stack.gelu, &classes);
        self.proj.forward(self.ln_post.forward(pooled))
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        self.config.dim
    }

    /// Side of the square that the tower reads, in pixels.
    pub fn image_size(&self) -> usize {
        self.config.image_size
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipVitConfig {
        &self.config
    }
}

/// `[out, 3, p, p]` as files store it → `[out, p·p·3]`.
fn patch_embedding(loader: Loader, name: &str, width: usize, patch: usize) -> Result<Linear, WeightsError> {
    let stored = loader.values(name, &[width, 3, patch, patch])?;
    let weight = super::channels_last(&stored, width, 3, patch);
    Ok(Linear::from_params(Param::from_tensor(weight), None))
}
