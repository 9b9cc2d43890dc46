//! EfficientNet-Lite (Tan & Le 2019; the Lite variant has no squeeze-and-excitation and ReLU6 for swish).

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{self, Activation, ConvShape};
use bifocal_nn::{Module, Tensor, precision, trace};
use serde::{Deserialize, Serialize};

use super::ImageBatch;
use super::conv_norm::{ConvNorm, Source};
use crate::blocks::check_sizes;
use crate::load::{Loader, host_tensors};
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// The constant of batch normalisation, as in TensorFlow's original.
const EPS: f32 = 1e-3;
/// Width of the first convolution.
const STEM: usize = 32;
/// Width of an embedding.
const DIM: usize = 1280;
/// Stages of Lite0: repeats, kernel, stride of the first block, expansion, output channels.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

/// Which of the five sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are the authors'
pub enum LiteSize {
    #[default]
    Lite0,
    Lite1,
    Lite2,
    Lite3,
    Lite4,
}

impl LiteSize {
    const ALL: [Self; 5] = [Self::Lite0, Self::Lite1, Self::Lite2, Self::Lite3, Self::Lite4];

    /// Tenths by which Lite0's channels and repeats are multiplied, and the side of an image in pixels.
    fn scaling(self) -> (usize, usize, usize) {
        match self {
            Self::Lite0 => (10, 10, 224),
            Self::Lite1 => (10, 11, 240),
            Self::Lite2 => (11, 12, 260),
            Self::Lite3 => (12, 14, 280),
            Self::Lite4 => (14, 18, 300),
        }
    }

    /// Side of the square that it was trained on, in pixels.
    pub fn image_size(self) -> usize {
        self.scaling().2
    }

    /// The size of a checkpoint of the PyTorch port: the one whose last block it has, as wide as it should be.
    pub(crate) fn of(source: &dyn TensorSource) -> Self {
        let fits = |size: &Self| {
            let shapes = size.blocks();
            let name = |i: usize| format!("_blocks.{i}._project_conv.weight");
            let last = source.shape(&name(shapes.len() - 1));
            let width = last.and_then(|shape| shape.first().copied());
            width == shapes.last().map(|shape| shape.output) && source.shape(&name(shapes.len())).is_none()
        };
        Self::ALL.into_iter().find(fits).unwrap_or_default()
    }

    fn blocks(self) -> Vec<BlockShape> {
        let (wider, deeper, _) = self.scaling();
        let mut shapes = Vec::new();
        let mut input = STEM;
        for (i, (repeats, kernel, stride, expansion, output)) in STAGES.into_iter().enumerate() {
            // the first and the last stage stay as deep as they are; so do the width of stem and head
            let inner = i > 0 && i + 1 < STAGES.len();
            let repeats = if inner {
                (repeats * deeper).div_ceil(10)
            } else {
                repeats
            };
            let output = eighths(output * wider);
            for repeat in 0..repeats {
                shapes.push(BlockShape {
                    input,
                    expanded: input * expansion,
                    output,
                    kernel,
                    stride: if repeat == 0 { stride } else { 1 },
                });
                input = output;
            }
        }
        shapes
    }
}

/// Tenths of channels to the nearest multiple of 8, but not less than nine tenths of them.
fn eighths(tenths: usize) -> usize {
    let near = (tenths + 40) / 80 * 8;
    if near * 100 < tenths * 9 { near + 8 } else { near }
}

/// Sizes of one inverted bottleneck.
#[derive(Clone, Copy, Debug)]
struct BlockShape {
    input: usize,
    expanded: usize,
    output: usize,
    kernel: usize,
    stride: usize,
}

/// One padded convolution: as TensorFlow's "same", the output is ⌈side / stride⌉ and an odd row or column of
/// padding goes to the bottom and the right.
fn same(n: usize, [h, w]: [usize; 2], c: usize, kernel: usize, stride: usize) -> ConvShape {
    let pad = |side: usize| {
        let total = ((side.div_ceil(stride) - 1) * stride + kernel).saturating_sub(side);
        (total / 2, total - total / 2)
    };
    let ((top, bottom), (left, right)) = (pad(h), pad(w));
    ConvShape {
        n,
        h,
        w,
        c,
        kh: kernel,
        kw: kernel,
        stride,
        pad: [top, bottom, left, right],
    }
}

/// An inverted bottleneck: expand, filter each channel, project; a residual connection when nothing changes shape.
#[derive(Module, Debug)]
pub struct InvertedBottleneck {
    expand: Option<ConvNorm>,
    filter: ConvNorm,
    project: ConvNorm,
    #[module(skip)]
    shape: BlockShape,
}

impl InvertedBottleneck {
    fn load<'a>(shape: BlockShape, source: impl Fn(Part) -> Source<'a>) -> Result<Self, WeightsError> {
        let expands = shape.expanded != shape.input;
        Ok(Self {
            expand: expands
                .then(|| source(Part::Expand).dense(shape.input, shape.expanded, 1))
                .transpose()?,
            filter: source(Part::Filter).depthwise(shape.expanded, shape.kernel)?,
            project: source(Part::Project).dense(shape.expanded, shape.output, 1)?,
            shape,
        })
    }

    /// `[n·h·w, input]` → `[n·oh·ow, output]` and the new height and width.
    fn forward(&self, x: Tensor<2>, n: usize, size: [usize; 2]) -> (Tensor<2>, [usize; 2]) {
        let _span = trace::span("InvertedBottleneck");
        let s = &self.shape;
        let shape = same(n, size, s.expanded, s.kernel, s.stride);
        let keeps = s.stride == 1 && s.input == s.output;
        let expand = self.expand.as_ref().map(ConvNorm::rows);
        let (filter, project) = (self.filter.columns(), self.project.rows());
        let at_once = fused::bottleneck(&x, expand.as_ref(), &filter, &project, Activation::Relu6, &shape, keeps);
        let x = at_once.unwrap_or_else(|| {
            let residual = keeps.then(|| x.clone());
            let x = match expand {
                Some((weight, bias)) => fused::linear(x, weight, Some(bias), Activation::Relu6, None),
                None => x,
            };
            let (weight, bias) = filter;
            let x = fused::depthwise_conv2d(x, weight, Some(bias), Activation::Relu6, &shape);
            let (weight, bias) = project;
            precision::careful(|| fused::linear(x, weight, Some(bias), Activation::Identity, residual))
        });
        (x, [shape.out_h(), shape.out_w()])
    }
}

/// The convolutions of an inverted bottleneck.
#[derive(Clone, Copy)]
enum Part {
    Expand,
    Filter,
    Project,
}

/// EfficientNet-Lite. An embedding is the mean over positions of the last feature map, what its classifier reads.
#[derive(Module, Debug)]
pub struct EfficientNetLite {
    stem: ConvNorm,
    blocks: Vec<InvertedBottleneck>,
    head: ConvNorm,
    #[module(skip)]
    classifier: Option<Arc<Classifier>>,
    #[module(skip)]
    size: LiteSize,
}

/// The classifier that came with the weights. It is not a parameter of the tower: an embedding does not depend on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Classifier {
    /// Number of classes.
    pub classes: usize,
    /// `[classes, dim]`.
    pub weight: Vec<f32>,
    /// `[classes]`.
    pub bias: Vec<f32>,
}

impl EfficientNetLite {
    /// Loads a checkpoint with the names of the PyTorch port (`_conv_stem`, `_blocks.0._depthwise_conv`, …); the
    /// classifier `_fc` may be missing.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor is missing or has another shape.
    pub fn load(source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let at = |conv: &str, norm: &str| Source::torch(source, conv, norm, EPS);
        let block = |i: usize, part: Part| {
            let (conv, norm) = match part {
                Part::Expand => ("_expand_conv", "_bn0"),
                Part::Filter => ("_depthwise_conv", "_bn1"),
                Part::Project => ("_project_conv", "_bn2"),
            };
            at(&format!("_blocks.{i}.{conv}"), &format!("_blocks.{i}.{norm}"))
        };
        let classes = source
            .shape("_fc.bias")
            .and_then(|shape| shape.first().copied())
            .unwrap_or(0);
        Self::build(
            LiteSize::of(source),
            &at("_conv_stem", "_bn0"),
            block,
            &at("_conv_head", "_bn1"),
            Classifier::load(classes, source, "_fc")?,
        )
    }

    pub(crate) fn from_tensors(
        size: LiteSize,
        classes: usize,
        source: &dyn TensorSource,
    ) -> Result<Self, WeightsError> {
        let at = |name: &str| Source::own(source, name, EPS);
        let block = |i: usize, part: Part| {
            let part = match part {
                Part::Expand => "expand",
                Part::Filter => "filter",
                Part::Project => "project",
            };
            at(&format!("blocks.{i}.{part}"))
        };
        Self::build(
            size,
            &at("stem"),
            block,
            &at("head"),
            Classifier::load(classes, source, "classifier")?,
        )
    }

    fn build<'a>(
        size: LiteSize,
        stem: &Source,
        block: impl Fn(usize, Part) -> Source<'a>,
        head: &Source,
        classifier: Option<Classifier>,
    ) -> Result<Self, WeightsError> {
        let shapes = size.blocks();
        let last = shapes.last().map_or(STEM, |shape| shape.output);
        Ok(Self {
            stem: stem.dense(3, STEM, 3)?,
            blocks: (0..)
                .zip(shapes)
                .map(|(i, shape)| InvertedBottleneck::load(shape, |part| block(i, part)))
                .collect::<Result<_, _>>()?,
            head: head.dense(last, DIM, 1)?,
            classifier: classifier.map(Arc::new),
            size,
        })
    }

    /// See [`super::VisionTower::embed`]; any image size will do, [`LiteSize::image_size`] is what it was trained on.
    pub fn embed(&self, images: &ImageBatch) -> Tensor<2> {
        let (x, area) = self.patches(images);
        fused::segment_mean(x, &(0..=images.n).map(|i| i * area).collect())
    }

    /// See [`super::VisionTower::patches`].
    pub fn patches(&self, images: &ImageBatch) -> (Tensor<2>, usize) {
        let (x, size) = self.blocks(images, |_| ());
        (self.head.pointwise(x, Activation::Relu6, None), size[0] * size[1])
    }

    /// The last features at each resolution, from half of the picture's down, for those who compare pictures by them.
    ///
    /// # Shapes
    /// → five times `[n·h·w, channels]`.
    pub fn maps(&self, images: &ImageBatch) -> Vec<Tensor<2>> {
        let mut maps = Vec::new();
        let (last, _) = self.blocks(images, |x| maps.push(x));
        maps.push(last);
        maps
    }

    /// What the blocks make of images, with its height and width; `halved` gets what they had made before each step to a lower resolution.
    fn blocks(&self, images: &ImageBatch, mut halved: impl FnMut(Tensor<2>)) -> (Tensor<2>, [usize; 2]) {
        let ImageBatch { n, height, width, .. } = *images;
        let shape = same(n, [height, width], 3, 3, 2);
        let pixels = images.pixels.clone();
        let mut x = self.stem.dense(pixels, Activation::Relu6, &shape);
        let mut size = [shape.out_h(), shape.out_w()];
        for block in &self.blocks {
            if block.shape.stride > 1 {
                halved(x.clone());
            }
            (x, size) = block.forward(x, n, size);
        }
        (x, size)
    }

    /// Scores of the classes for embeddings; `None` when the weights came without a classifier.
    ///
    /// # Shapes
    /// `[n, dim]` → `[n, classes]`.
    pub fn logits(&self, embeddings: Tensor<2>) -> Option<Tensor<2>> {
        let classifier = self.classifier.as_deref()?;
        let classes = classifier.classes;
        let weight = tensor(classifier.weight.clone(), [classes, DIM]);
        let bias = tensor(classifier.bias.clone(), [classes]);
        Some(fused::linear(
            embeddings,
            weight,
            Some(bias),
            Activation::Identity,
            None,
        ))
    }

    /// The classifier that came with the weights.
    pub fn classifier(&self) -> Option<&Classifier> {
        self.classifier.as_deref()
    }

    pub(crate) fn classes(&self) -> usize {
        self.classifier.as_ref().map_or(0, |c| c.classes)
    }

    pub(crate) fn tensors(&self) -> BTreeMap<String, HostTensor> {
        let mut all = host_tensors(self);
        self.stem.statistics("stem", &mut all);
        self.head.statistics("head", &mut all);
        for (i, block) in self.blocks.iter().enumerate() {
            let name = |part: &str| format!("blocks.{i}.{part}");
            if let Some(expand) = &block.expand {
                expand.statistics(&name("expand"), &mut all);
            }
            block.filter.statistics(&name("filter"), &mut all);
            block.project.statistics(&name("project"), &mut all);
        }
        if let Some(classifier) = &self.classifier {
            let tensor = |shape: &[usize], data: &[f32]| HostTensor {
                shape: shape.to_vec(),
                data: data.to_vec(),
            };
            let classes = classifier.classes;
            let weight = tensor(&[classes, DIM], &classifier.weight);
            all.insert("classifier.weight".into(), weight);
            all.insert("classifier.bias".into(), tensor(&[classes], &classifier.bias));
        }
        all
    }

    /// Width of an embedding.
    pub fn dim(&self) -> usize {
        DIM
    }

    /// Which of the five it is.
    pub fn size(&self) -> LiteSize {
        self.size
    }
}

impl Classifier {
    fn load(classes: usize, source: &dyn TensorSource, prefix: &str) -> Result<Option<Self>, WeightsError> {
        if classes == 0 {
            return Ok(None);
        }
        check_sizes(source.path(), &[("classes", classes)])?;
        let loader = Loader(source);
        Ok(Some(Self {
            classes,
            weight: loader.values(&format!("{prefix}.weight"), &[classes, DIM])?,
            bias: loader.values(&format!("{prefix}.bias"), &[classes])?,
        }))
    }
}
