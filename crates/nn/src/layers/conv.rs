//! Layers on pictures: convolution and group norm.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{ones, zeros};
use crate::fused::{self, Activation, ConvShape, GroupShape};
use crate::init::{Init, Rng};
use crate::packed::PackedWeight;

/// Pictures on their way through layers: rows of pixels, channels last.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// `[n·height·width, channels]`.
    pub x: Tensor<2>,
    /// Number of pictures.
    pub n: usize,
    /// Height and width.
    pub size: [usize; 2],
}

impl Pictures {
    /// The same pictures with other values, as many to a pixel as one likes.
    #[must_use]
    pub fn with(&self, x: Tensor<2>) -> Self {
        Self { x, ..*self }
    }

    /// Pixels of a picture.
    pub fn area(&self) -> usize {
        self.size[0] * self.size[1]
    }
}

/// A dense square convolution. Its weight has rows as [`fused::conv2d`] reads them: the kernel's rows, its columns, the input's channels.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, kernel·kernel·in]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kernel: usize,
    #[module(skip)]
    packed: PackedWeight,
}

impl Conv {
    /// A layer with PyTorch's default initialisation.
    pub fn new(kernel: usize, input: usize, output: usize, bias: bool, rng: &mut Rng) -> Self {
        let fan_in = kernel * kernel * input;
        let init = Init::linear(fan_in);
        let weight = Param::from_tensor(init.tensor([output, fan_in], rng));
        let bias = bias.then(|| Param::from_tensor(init.tensor([output], rng)));
        Self::from_params(kernel, weight, bias)
    }

    /// A layer of a weight `[out, kernel·kernel·in]` and a bias `[out]`.
    pub fn from_params(kernel: usize, weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self {
            weight,
            bias,
            kernel,
            packed: PackedWeight::default(),
        }
    }

    /// Rows and columns of the kernel.
    pub fn kernel(&self) -> usize {
        self.kernel
    }

    /// Output of the same size, with an odd kernel: half of it stands out on all sides. What is added and what is done to the sum as in
    /// [`fused::linear`].
    pub fn same(&self, x: &Pictures, act: Activation) -> Pictures {
        self.padded(x, 1, [self.kernel / 2; 4], act)
    }

    /// Steps of `stride` over a picture with zeros at its top, bottom, left and right.
    pub fn padded(&self, x: &Pictures, stride: usize, pad: [usize; 4], act: Activation) -> Pictures {
        let [_, c] = x.x.dims();
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Param::val));
        if self.kernel == 1 && stride == 1 && pad == [0; 4] {
            let prepared = self.packed.of(&weight, x.n * x.area());
            return x.with(fused::linear_prepared(x.x.clone(), weight, prepared, bias, act, None));
        }
        let shape = ConvShape {
            n: x.n,
            h: x.size[0],
            w: x.size[1],
            c,
            kh: self.kernel,
            kw: self.kernel,
            stride,
            pad,
        };
        let prepared = self.packed.of(&weight, x.n * shape.out_h() * shape.out_w());
        Pictures {
            x: fused::conv2d_prepared(x.x.clone(), weight, prepared, bias, act, &shape),
            n: x.n,
            size: [shape.out_h(), shape.out_w()],
        }
    }
}

/// Group normalisation with weight and bias.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[c]`.
    pub weight: Param<Tensor<1>>,
    /// `[c]`.
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    eps: f32,
}

impl GroupNorm {
    /// Weight 1, bias 0.
    ///
    /// # Panics
    /// When the groups do not divide the width.
    pub fn new(width: usize, groups: usize, eps: f32) -> Self {
        assert!(
            groups > 0 && width.is_multiple_of(groups),
            "{groups} groups of {width} channels"
        );
        Self {
            weight: ones([width]),
            bias: zeros([width]),
            groups,
            eps,
        }
    }

    /// Pictures of the same size.
    pub fn forward(&self, x: &Pictures) -> Pictures {
        let [_, c] = x.x.dims();
        let shape = GroupShape {
            n: x.n,
            area: x.area(),
            c,
            groups: self.groups,
            eps: self.eps,
        };
        x.with(fused::group_norm(
            x.x.clone(),
            self.weight.val(),
            self.bias.val(),
            &shape,
        ))
    }
}
