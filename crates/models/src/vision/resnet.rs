//! CLIP's residual network (He et al. 2016, changed by Radford et al. 2021): three convolutions at the beginning, average pooling in place of
//! strides, and attention in place of the last average.

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{self, Activation, ConvShape};
use bifocal_nn::layers::Linear;
use bifocal_nn::noise::{self, Rows};
use bifocal_nn::{Module, Param, Tensor, plain};
use burn::tensor::activation;
use serde::{Deserialize, Serialize};

use super::ImageBatch;
use super::conv_norm::{ConvNorm, Source};
use crate::blocks::{check_heads, check_sizes, qkv_parts};
use crate::load::{Loader, host_tensors};
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// The constant of batch normalisation, PyTorch's.
const EPS: f32 = 1e-5;
/// How much wider a block's output is than its filters.
const EXPANSION: usize = 4;
/// Pixels that make one position of the last feature map.
const STRIDE: usize = 32;

/// Sizes of a residual network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResNetConfig {
    /// Side of the square that it reads, in pixels; a multiple of 32.
    pub image_size: usize,
    /// Blocks of each stage.
    pub layers: [usize; 4],
    /// Width of the first stage's filters.
    pub width: usize,
    /// Attention heads of the pool.
    pub heads: usize,
    /// Width of an embedding.
    pub dim: usize,
}

/// Sizes of one block.
#[derive(Clone, Copy, Debug)]
struct BlockShape {
    input: usize,
    filters: usize,
    stride: usize,
}

impl ResNetConfig {
    /// Stage, place in it, and sizes of every block.
    fn blocks(&self) -> Vec<(usize, usize, BlockShape)> {
        let mut blocks = Vec::new();
        let mut input = self.width;
        for (stage, &layers) in self.layers.iter().enumerate() {
            let filters = self.width << stage;
            for i in 0..layers {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                blocks.push((stage + 1, i, BlockShape { input, filters, stride }));
                input = filters * EXPANSION;
            }
        }
        blocks
    }

    /// Channels of the last feature map.
    fn channels(&self) -> usize {
        self.width * 8 * EXPANSION
    }

    pub(super) fn grid(&self) -> usize {
        self.image_size / STRIDE
    }

    fn check(&self, source: &dyn TensorSource) -> Result<(), WeightsError> {
        let path = source.path();
        let refuse = |key: &str, problem: String| Err(WeightsError::metadata(path, key, problem));
        check_sizes(
            path,
            &[
                ("image_size", self.image_size),
                ("width", self.width),
                ("dim", self.dim),
            ],
        )?;
        check_sizes(path, &self.layers.map(|layers| ("layers", layers)))?;
        if self.width > 1 << 10 || !self.width.is_multiple_of(2) || self.layers.iter().any(|&n| n > 1 << 10) {
            return refuse("width", format!("is {} with layers {:?}", self.width, self.layers));
        }
        if self.image_size > crate::MAX_IMAGE_SIZE || !self.image_size.is_multiple_of(STRIDE) {
            let most = crate::MAX_IMAGE_SIZE;
            return refuse(
                "image_size",
                format!("is {}, not a multiple of 32 up to {most}", self.image_size),
            );
        }
        check_heads(path, self.channels(), self.heads)
    }
}

/// Three convolutions: narrow, as wide as the input, wide.
#[derive(Module, Debug)]
pub struct Bottleneck {
    reduce: ConvNorm,
    filter: ConvNorm,
    expand: ConvNorm,
    /// Brings the input to the shape of the output.
    shortcut: Option<ConvNorm>,
    #[module(skip)]
    shape: BlockShape,
}

/// Images of one size: number, rows, columns.
type Size = [usize; 3];

/// Mean of squares of `side`, which do not overlap.
fn average(x: Tensor<2>, size: Size, side: usize) -> (Tensor<2>, Size) {
    if side == 1 {
        return (x, size);
    }
    let [_, c] = x.dims();
    let shape = convolution(size, c, side, side, 0);
    let weight = tensor(vec![1.0 / (side * side) as f32; side * side * c], [side * side, c]);
    let x = fused::depthwise_conv2d(x, weight, None, Activation::Identity, &shape);
    (x, [size[0], shape.out_h(), shape.out_w()])
}

fn convolution([n, h, w]: Size, c: usize, kernel: usize, stride: usize, pad: usize) -> ConvShape {
    ConvShape {
        n,
        h,
        w,
        c,
        kh: kernel,
        kw: kernel,
        stride,
        pad: [pad; 4],
    }
}

impl Bottleneck {
    fn load<'a>(shape: BlockShape, source: impl Fn(Part) -> Source<'a>) -> Result<Self, WeightsError> {
        let BlockShape { input, filters, stride } = shape;
        let output = filters * EXPANSION;
        Ok(Self {
            reduce: source(Part::Reduce).dense(input, filters, 1)?,
            filter: source(Part::Filter).dense(filters, filters, 3)?,
            expand: source(Part::Expand).dense(filters, output, 1)?,
            shortcut: (stride > 1 || input != output)
                .then(|| source(Part::Shortcut).dense(input, output, 1))
                .transpose()?,
            shape,
        })
    }

    fn forward(&self, x: Tensor<2>, size: Size) -> (Tensor<2>, Size) {
        let BlockShape { filters, stride, .. } = self.shape;
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.pointwise(average(x.clone(), size, stride).0, Activation::Identity, None),
            None => x.clone(),
        };
        let x = self.reduce.pointwise(x, Activation::Relu, None);
        let x = self
            .filter
            .dense(x, Activation::Relu, &convolution(size, filters, 3, 1, 1));
        let (x, size) = average(x, size, stride);
        let x = self.expand.pointwise(x, Activation::Identity, Some(residual));
        (activation::relu(x), size)
    }
}

/// The convolutions of a block.
#[derive(Clone, Copy)]
enum Part {
    Reduce,
    Filter,
    Expand,
    Shortcut,
}

/// A residual network whose embedding is what attention makes of the last feature map, with the map's mean as query.
#[derive(Module, Debug)]
pub struct ResNet {
    stem: Vec<ConvNorm>,
    blocks: Vec<Bottleneck>,
    /// `[grid² + 1, c]`, the mean's first.
    positions: Param<Tensor<2>>,
    /// `[3c, c]`: query, keys, values.
    qkv: Linear,
    /// `[dim, c]`.
    proj: Linear,
    #[module(skip)]
    config: Arc<ResNetConfig>,
}

impl ResNet {
    /// Loads a checkpoint with the names of OpenAI and open_clip (`visual.layer1.0.conv1`, …).
    ///
    /// # Errors
    /// [`WeightsError`] when the sizes cannot be, a tensor is missing or has another shape.
    pub fn load(config: ResNetConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let at =
            |conv: &str, norm: &str| Source::torch(source, &format!("visual.{conv}"), &format!("visual.{norm}"), EPS);
        let stem = |i: usize| at(&format!("conv{}", i + 1), &format!("bn{}", i + 1));
        let block = |stage: usize, i: usize, part: Part| {
            let (conv, norm) = match part {
                Part::Reduce => ("conv1", "bn1"),
                Part::Filter => ("conv2", "bn2"),
                Part::Expand => ("conv3", "bn3"),
                Part::Shortcut => ("downsample.0", "downsample.1"),
            };
            at(&format!("layer{stage}.{i}.{conv}"), &format!("layer{stage}.{i}.{norm}"))
        };
        let pool = |part: &str| format!("visual.attnpool.{part}");
        let names = [pool("q_proj"), pool("k_proj"), pool("v_proj")];
        Self::build(
            config,
            source,
            stem,
            block,
            &pool("positional_embedding"),
            &names,
            &pool("c_proj"),
        )
    }

    pub(crate) fn from_tensors(config: ResNetConfig, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let at = |name: String| Source::own(source, &name, EPS);
        let numbers: BTreeMap<(usize, usize), usize> = (config.check(source).map(|()| config.blocks())?)
            .into_iter()
            .enumerate()
            .map(|(number, (stage, i, _))| ((stage, i), number))
            .collect();
        let stem = |i: usize| at(format!("stem.{i}"));
        let block = |stage: usize, i: usize, part: Part| {
            let part = match part {
                Part::Reduce => "reduce",
                Part::Filter => "filter",
                Part::Expand => "expand",
                Part::Shortcut => "shortcut",
            };
            at(format!("blocks.{}.{part}", numbers[&(stage, i)]))
        };
        Self::build(config, source, stem, block, "positions", &["qkv".to_owned()], "proj")
    }

    fn build<'a>(
        config: ResNetConfig,
        source: &dyn TensorSource,
        stem: impl Fn(usize) -> Source<'a>,
        block: impl Fn(usize, usize, Part) -> Source<'a>,
        positions: &str,
        qkv: &[String],
        proj: &str,
    ) -> Result<Self, WeightsError> {
        config.check(source)?;
        let loader = Loader(source);
        let (width, channels) = (config.width, config.channels());
        let widths = [3, width / 2, width / 2, width];
        let rows = 3 * channels / qkv.len();
        let qkv: Vec<(&str, usize)> = qkv.iter().map(|name| (name.as_str(), rows)).collect();
        Ok(Self {
            stem: (0..3)
                .map(|i| stem(i).dense(widths[i], widths[i + 1], 3))
                .collect::<Result<_, _>>()?,
            blocks: config
                .blocks()
                .into_iter()
                .map(|(stage, i, shape)| Bottleneck::load(shape, |part| block(stage, i, part)))
                .collect::<Result<_, _>>()?,
            positions: loader.param(positions, [config.grid() * config.grid() + 1, channels])?,
            qkv: (loader.stacked(&qkv, channels, true)?).with_parts(&qkv_parts(channels, channels)),
            proj: loader.linear(proj, channels, config.dim, true)?,
            config: Arc::new(config),
        })
    }

    /// See [`super::VisionTower::embed`].
    pub fn embed(&self, images: &ImageBatch) -> Tensor<2> {
        let ImageBatch { n, height, width, .. } = *images;
        let side = self.config.image_size;
        assert_eq!(
            [height, width],
            [side; 2],
            "residual network: the tower reads squares of {side} pixels"
        );
        let (mut x, mut size) = (images.pixels.clone(), [n, height, width]);
        for (i, layer) in self.stem.iter().enumerate() {
            let [_, c] = x.dims();
            let shape = convolution(size, c, 3, if i == 0 { 2 } else { 1 }, 1);
            x = layer.dense(x, Activation::Relu, &shape);
            size = [n, shape.out_h(), shape.out_w()];
        }
        (x, size) = average(x, size, 2);
        for block in &self.blocks {
            (x, size) = block.forward(x, size);
        }
        self.pool(x, n, size[1] * size[2])
    }

    /// `[n·area, c]` → `[n, dim]`.
    fn pool(&self, x: Tensor<2>, n: usize, area: usize) -> Tensor<2> {
        let [_, c] = x.dims();
        let mean = fused::segment_mean(x.clone(), &(0..=n).map(|i| i * area).collect());
        let x = Tensor::cat(vec![mean.reshape([n, 1, c]), x.reshape([n, area, c])], 1);
        let x = x + self.positions.val().unsqueeze::<3>();
        let query = x.clone().slice([0..n, 0..1]).reshape([n, c]);
        let x = x.reshape([n * (area + 1), c]);
        let offsets = (0..=n).map(|i| i * (area + 1)).collect();
        let query = noise::rows(Rows::Items, || self.qkv.rows(query, 0..c));
        let pooled = plain::attend(query, self.qkv.rows(x, c..3 * c), &offsets, self.config.heads);
        noise::rows(Rows::Items, || self.proj.forward(pooled))
    }

    pub(crate) fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let mut all = host_tensors(self);
        for (i, layer) in self.stem.iter().enumerate() {
            layer.statistics(&format!("stem.{i}"), &mut all);
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{i}.{part}");
            block.reduce.statistics(&name("reduce"), &mut all);
            block.filter.statistics(&name("filter"), &mut all);
            block.expand.statistics(&name("expand"), &mut all);
            if let Some(shortcut) = &block.shortcut {
                shortcut.statistics(&name("shortcut"), &mut all);
            }
        }
        all
    }

    /// Its sizes.
    pub fn config(&self) -> &ResNetConfig {
        &self.config
    }
}
