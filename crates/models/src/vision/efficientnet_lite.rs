//! EfficientNet-Lite0 (Tan & Le 2019; the Lite variant has no squeeze-and-excitation and ReLU6 for swish).
//!
//! Batch normalisation runs on frozen statistics: it is an affine map per channel, folded into the convolution before it in each
//! forward pass. The fold is differentiable, so that convolution, scale and shift can still be fine-tuned.

use std::collections::BTreeMap;
use std::sync::Arc;

use bifocal_nn::engine::tensor;
use bifocal_nn::fused::{self, Activation, ConvShape};
use bifocal_nn::{Module, Param, Tensor};

use super::{ImageBatch, channels_last};
use crate::blocks::check_sizes;
use crate::load::{Loader, host_tensors, transpose};
use crate::weights::{HostTensor, TensorSource, WeightsError};

/// The constant of batch normalisation, as in TensorFlow's original.
const EPS: f32 = 1e-3;
/// Side of the square that it was trained on.
const IMAGE_SIZE: usize = 224;
/// Width of the first convolution.
const STEM: usize = 32;
/// Width of an embedding.
const DIM: usize = 1280;
/// Stages: repeats, kernel, stride of the first block, expansion, output channels.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
];

/// Sizes of one inverted bottleneck.
#[derive(Clone, Copy, Debug)]
struct BlockShape {
    input: usize,
    expanded: usize,
    output: usize,
    kernel: usize,
    stride: usize,
}

fn block_shapes() -> Vec<BlockShape> {
    let mut shapes = Vec::new();
    let mut input = STEM;
    for (repeats, kernel, stride, expansion, output) in STAGES {
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

/// A convolution without bias and the batch normalisation after it.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// Dense `[out, k·k·in]`; depthwise `[k·k, channels]`.
    weight: Param<Tensor<2>>,
    /// `[out]`: scale of the batch normalisation.
    gamma: Param<Tensor<1>>,
    /// `[out]`: its shift.
    beta: Param<Tensor<1>>,
    #[module(skip)]
    statistics: Arc<Statistics>,
}

/// Frozen statistics of a batch normalisation.
#[derive(Debug)]
struct Statistics {
    mean: Vec<f32>,
    var: Vec<f32>,
}

/// Where a [`ConvNorm`] is found in a file.
struct Source<'a> {
    loader: Loader<'a>,
    /// Names of the convolution's weight and of the batch normalisation's four tensors.
    names: [String; 5],
    /// Whether the weight is stored as PyTorch stores convolutions, channels before rows.
    channels_first: bool,
}

impl Source<'_> {
    fn dense(&self, input: usize, output: usize, kernel: usize) -> Result<ConvNorm, WeightsError> {
        let name = &self.names[0];
        let weight = if self.channels_first {
            let stored = self.loader.values(name, &[output, input, kernel, kernel])?;
            Param::from_tensor(channels_last(&stored, output, input, kernel))
        } else {
            self.loader.param(name, [output, kernel * kernel * input])?
        };
        self.norm(weight, output)
    }

    fn depthwise(&self, channels: usize, kernel: usize) -> Result<ConvNorm, WeightsError> {
        let (name, area) = (&self.names[0], kernel * kernel);
        let weight = if self.channels_first {
            let stored = self.loader.values(name, &[channels, 1, kernel, kernel])?;
            Param::from_tensor(tensor(transpose(&stored, channels, area), [area, channels]))
        } else {
            self.loader.param(name, [area, channels])?
        };
        self.norm(weight, channels)
    }

    fn norm(&self, weight: Param<Tensor<2>>, channels: usize) -> Result<ConvNorm, WeightsError> {
        let [_, gamma, beta, mean, var] = &self.names;
        Ok(ConvNorm {
            weight,
            gamma: self.loader.param(gamma, [channels])?,
            beta: self.loader.param(beta, [channels])?,
            statistics: Arc::new(Statistics {
                mean: self.loader.values(mean, &[channels])?,
                var: self.loader.values(var, &[channels])?,
            }),
        })
    }
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

impl ConvNorm {
    /// Scale and shift per channel.
    fn affine(&self) -> (Tensor<1>, Tensor<1>) {
        let Statistics { mean, var } = &*self.statistics;
        let channels = mean.len();
        let inverse = var.iter().map(|v| 1.0 / (v + EPS).sqrt()).collect();
        let scale = self.gamma.val() * tensor(inverse, [channels]);
        let shift = self.beta.val() - scale.clone() * tensor(mean.clone(), [channels]);
        (scale, shift)
    }

    fn dense(&self, x: Tensor<2>, act: Activation, shape: &ConvShape) -> Tensor<2> {
        let (scale, shift) = self.affine();
        let weight = self.weight.val() * scale.unsqueeze_dim::<2>(1);
        fused::conv2d(x, weight, Some(shift), act, shape)
    }

    fn pointwise(&self, x: Tensor<2>, act: Activation, residual: Option<Tensor<2>>) -> Tensor<2> {
        let (scale, shift) = self.affine();
        let weight = self.weight.val() * scale.unsqueeze_dim::<2>(1);
        fused::linear(x, weight, Some(shift), act, residual)
    }

    fn depthwise(&self, x: Tensor<2>, act: Activation, shape: &ConvShape) -> Tensor<2> {
        let (scale, shift) = self.affine();
        let weight = self.weight.val() * scale.unsqueeze_dim::<2>(0);
        fused::depthwise_conv2d(x, weight, Some(shift), act, shape)
    }

    fn statistics(&self, name: &str, into: &mut BTreeMap<String, HostTensor>) {
        let Statistics { mean, var } = &*self.statistics;
        for (part, values) in [("mean", mean), ("var", var)] {
            let tensor = HostTensor {
                shape: vec![values.len()],
                data: values.clone(),
            };
            into.insert(format!("{name}.{part}"), tensor);
        }
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
        let s = &self.shape;
        let residual = (s.stride == 1 && s.input == s.output).then(|| x.clone());
        let x = match &self.expand {
            Some(expand) => expand.pointwise(x, Activation::Relu6, None),
            None => x,
        };
        let shape = same(n, size, s.expanded, s.kernel, s.stride);
        let x = self.filter.depthwise(x, Activation::Relu6, &shape);
        let x = self.project.pointwise(x, Activation::Identity, residual);
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

/// EfficientNet-Lite0. An embedding is the mean over positions of the last feature map, what its classifier reads.
#[derive(Module, Debug)]
pub struct EfficientNetLite {
    stem: ConvNorm,
    blocks: Vec<InvertedBottleneck>,
    head: ConvNorm,
    #[module(skip)]
    classifier: Option<Arc<Classifier>>,
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
        let at = |conv: String, norm: String| Source {
            loader: Loader(source),
            names: [
                format!("{conv}.weight"),
                format!("{norm}.weight"),
                format!("{norm}.bias"),
                format!("{norm}.running_mean"),
                format!("{norm}.running_var"),
            ],
            channels_first: true,
        };
        let block = |i: usize, part: Part| {
            let (conv, norm) = match part {
                Part::Expand => ("_expand_conv", "_bn0"),
                Part::Filter => ("_depthwise_conv", "_bn1"),
                Part::Project => ("_project_conv", "_bn2"),
            };
            at(format!("_blocks.{i}.{conv}"), format!("_blocks.{i}.{norm}"))
        };
        let classes = source
            .shape("_fc.bias")
            .and_then(|shape| shape.first().copied())
            .unwrap_or(0);
        Self::build(
            &at("_conv_stem".into(), "_bn0".into()),
            block,
            &at("_conv_head".into(), "_bn1".into()),
            Classifier::load(classes, source, "_fc")?,
        )
    }

    pub(crate) fn from_tensors(classes: usize, source: &dyn TensorSource) -> Result<Self, WeightsError> {
        let at = |name: String| Source {
            loader: Loader(source),
            names: ["weight", "gamma", "beta", "mean", "var"].map(|part| format!("{name}.{part}")),
            channels_first: false,
        };
        let block = |i: usize, part: Part| {
            let part = match part {
                Part::Expand => "expand",
                Part::Filter => "filter",
                Part::Project => "project",
            };
            at(format!("blocks.{i}.{part}"))
        };
        Self::build(
            &at("stem".into()),
            block,
            &at("head".into()),
            Classifier::load(classes, source, "classifier")?,
        )
    }

    fn build<'a>(
        stem: &Source,
        block: impl Fn(usize, Part) -> Source<'a>,
        head: &Source,
        classifier: Option<Classifier>,
    ) -> Result<Self, WeightsError> {
        let shapes = block_shapes();
        let last = shapes.last().map_or(STEM, |shape| shape.output);
        Ok(Self {
            stem: stem.dense(3, STEM, 3)?,
            blocks: (0..)
                .zip(shapes)
                .map(|(i, shape)| InvertedBottleneck::load(shape, |part| block(i, part)))
                .collect::<Result<_, _>>()?,
            head: head.dense(last, DIM, 1)?,
            classifier: classifier.map(Arc::new),
        })
    }

    /// See [`super::VisionTower::embed`]; any image size will do, 224 is what it was trained on.
    pub fn embed(&self, images: &ImageBatch) -> Tensor<2> {
        let ImageBatch { n, height, width, .. } = *images;
        let shape = same(n, [height, width], 3, 3, 2);
        let pixels = images.pixels.clone();
        let mut x = self.stem.dense(pixels, Activation::Relu6, &shape);
        let mut size = [shape.out_h(), shape.out_w()];
        for block in &self.blocks {
            (x, size) = block.forward(x, n, size);
        }
        let x = self.head.pointwise(x, Activation::Relu6, None);
        let area = size[0] * size[1];
        fused::segment_mean(x, &(0..=n).map(|i| i * area).collect())
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

    /// Side of the square that it was trained on, in pixels.
    pub fn image_size(&self) -> usize {
        IMAGE_SIZE
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
