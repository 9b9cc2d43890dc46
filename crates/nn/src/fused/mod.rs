//! Fused operations: the kernels of `bifocal-kernels` as differentiable operations on burn tensors.
//!
//! Each operation is a small value that knows its forward and its hand-written backward on plain
//! slices ([`Fused`]); [`apply`] is the only place that talks to the engine. Tensors that do not live on the CPU
//! take the composed path of [`crate::composed`], which burn differentiates by itself; the tests
//! hold both paths against each other and against finite differences.

mod after;
mod attention;
mod bottleneck;
mod cached;
mod choice;
mod contrastive;
mod conv;
mod dropout;
mod elastic;
mod embedding;
mod linear;
mod norm;
mod pool;
mod rope;
mod upsample;
mod vocabulary;

pub(crate) use after::{Source, linear_after};
pub use attention::{AttentionShape, attention};
pub use bottleneck::bottleneck;
pub use cached::{KeyValues, attention_after_first, attention_cached};
pub use choice::choice_loss;
pub use contrastive::{Divergence, Penalty, Softmax, Targets, distill_pairs, sigmoid_pairs, softmax_pairs, structure};
pub(crate) use conv::conv2d_prepared;
pub use conv::{ConvShape, conv2d, depthwise_conv2d};
pub(crate) use dropout::dropout;
pub use elastic::elastic;
pub use embedding::embedding;
pub(crate) use linear::{Activate, Gated, linear_prepared};
pub use linear::{Activation, activation, gated, linear};
pub use norm::{GroupShape, group_norm, head_rms_norm, layer_norm, rms_norm};
pub(crate) use norm::{LayerNorm, RmsNorm};
pub use pool::segment_mean;
pub use rope::{Rope, RopeStyle, frequencies, rope};
pub use upsample::upsample;
pub use vocabulary::{SharedVocabulary, Vocabulary, logits, token_loss};

use std::fmt::Debug;

use bifocal_kernels::trace;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind},
};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{BackendTensor, Bytes, DType, DispatchTensor, DispatchTensorKind, Flex};
use burn::tensor::{Shape, Tensor};

/// A differentiable operation of `N` float inputs and one output, on plain row-major slices.
pub(crate) trait Fused<const N: usize>: Clone + Debug + Send + 'static {
    /// What the forward pass keeps for the backward pass, besides the inputs.
    type Saved: Clone + Debug + Send + 'static;

    /// Which inputs the backward pass reads; the others are not kept alive.
    const READS: [bool; N];
    /// Whether the backward pass reads the output.
    const READS_OUTPUT: bool = false;

    /// Computes the output and its shape. `keep` says whether a backward pass may follow.
    fn forward(&self, inputs: [&[f32]; N], keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved);

    /// Gradients with respect to the inputs whose `need` is true. What is not read is empty.
    fn backward(
        &self,
        grad: &[f32],
        inputs: [&[f32]; N],
        output: &[f32],
        saved: Self::Saved,
        need: [bool; N],
    ) -> [Option<Vec<f32>>; N];
}

/// A float tensor of any rank on its way into a fused operation.
pub(crate) struct Input(DispatchTensor);

impl<const D: usize> From<Tensor<D>> for Input {
    fn from(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }
}

/// Stands for an input that an operation does without (a bias, a residual).
pub(crate) fn absent() -> Input {
    Tensor::<1>::from_primitive::<Flex>(flex(Vec::new(), vec![0])).into()
}

/// Whether a tensor lives where the kernels run.
pub(crate) fn on_cpu<const D: usize>(tensor: &Tensor<D>) -> bool {
    use burn::backend::DispatchDevice;
    matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// The storage of a tensor that lives on the CPU and is not recorded for gradients.
pub(crate) fn constant<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    if !on_cpu(tensor) {
        return None;
    }
    match primitive(tensor.clone().into_dispatch()) {
        Primitive::Plain(tensor) => Some(tensor),
        Primitive::Tracked(_) => None,
    }
}

type Recorded = burn::backend::tensor::FloatTensor<Autodiff<Flex>>;

enum Primitive {
    Plain(FlexTensor),
    Tracked(Recorded),
}

fn primitive(tensor: DispatchTensor) -> Primitive {
    match tensor.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(t)) => Primitive::Plain(t),
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(t)) => Primitive::Tracked(t),
            other => unreachable!("callers check `on_cpu` and floats are typed: {other:?}"),
        },
        other => unreachable!("callers check `on_cpu` and floats are typed: {other:?}"),
    }
}

fn flex(data: Vec<f32>, shape: Vec<usize>) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(data),
        Layout::contiguous(Shape::from(shape)),
        DType::F32,
    )
}

/// The tensor's values; it is made contiguous by [`contiguous`] first.
pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice::<f32>().unwrap_or(&[])
}

pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// The last part of a type's path, without its parameters, as traces call it.
pub(crate) fn name_of<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    let plain = path.split_once('<').map_or(path, |(plain, _)| plain);
    plain.rsplit("::").next().unwrap_or(plain)
}

fn forward<const N: usize, F: Fused<N>>(op: &F, inputs: [&[f32]; N], keep: bool) -> (Vec<f32>, Vec<usize>, F::Saved) {
    let _span = trace::span(name_of::<F>());
    op.forward(inputs, keep)
}

/// Runs an operation, recording it for the backward pass when one of the inputs asks for gradients.
pub(crate) fn apply<const N: usize, const D: usize, F: Fused<N>>(op: F, inputs: [Input; N]) -> Tensor<D> {
    let inputs = inputs.map(|input| primitive(input.0));
    if inputs.iter().all(|input| matches!(input, Primitive::Plain(_))) {
        let plain = inputs.map(|input| match input {
            Primitive::Plain(tensor) => contiguous(tensor),
            Primitive::Tracked(tensor) => contiguous(tensor.into_primitive()),
        });
        let (data, shape, _) = forward(&op, plain.each_ref().map(slice), false);
        return Tensor::from_primitive::<Flex>(flex(data, shape));
    }
    let parts = inputs.map(|input| {
        match input {
            Primitive::Plain(tensor) => Recorded::new(tensor),
            Primitive::Tracked(tensor) => tensor,
        }
        .into_parts()
    });
    let mut tensors = Vec::with_capacity(N);
    let guards: [NodeGuard; N] = parts.map(|(tensor, guard)| {
        tensors.push(contiguous(tensor));
        guard
    });
    let tensors: [FlexTensor; N] = match tensors.try_into() {
        Ok(tensors) => tensors,
        Err(_) => unreachable!("N tensors were pushed"),
    };
    let output = match Step(op.clone())
        .prepare::<NoCheckpointing>(guards)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prepared) => {
            let (data, shape, saved) = forward(&op, tensors.each_ref().map(slice), true);
            let shapes = tensors.each_ref().map(|t| t.layout().shape().to_vec());
            let mut reads = F::READS.into_iter();
            let kept = tensors.map(|tensor| match reads.next() {
                Some(true) => tensor,
                _ => flex(Vec::new(), vec![0]),
            });
            let output = flex(data, shape);
            let state = State {
                inputs: kept,
                shapes,
                output: F::READS_OUTPUT.then(|| output.clone()),
                saved,
            };
            prepared.finish(state, output)
        }
        OpsKind::UnTracked(prepared) => {
            let (data, shape, _) = forward(&op, tensors.each_ref().map(slice), false);
            prepared.finish(flex(data, shape))
        }
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

/// Records a step whose forward pass is done: its output, and what its backward pass needs.
pub(crate) fn record<const N: usize, const D: usize, B: Backward<Flex, N>>(
    step: B,
    inputs: [Input; N],
    state: B::State,
    output: FlexTensor,
) -> Tensor<D> {
    let guards = inputs.map(|input| {
        let recorded = match primitive(input.0) {
            Primitive::Plain(tensor) => Recorded::new(tensor),
            Primitive::Tracked(tensor) => tensor,
        };
        recorded.into_parts().1
    });
    let output = match step.prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(output)
}

#[derive(Clone, Debug)]
struct State<S, const N: usize> {
    inputs: [FlexTensor; N],
    shapes: [Vec<usize>; N],
    output: Option<FlexTensor>,
    saved: S,
}

#[derive(Clone, Debug)]
struct Step<F>(F);

impl<const N: usize, F: Fused<N>> Backward<Flex, N> for Step<F> {
    type State = State<F::Saved, N>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let need = ops.parents.each_ref().map(Option::is_some);
        let State {
            inputs,
            shapes,
            output,
            saved,
        } = ops.state;
        let span = trace::backward(name_of::<F>());
        let out = self.0.backward(
            slice(&grad),
            inputs.each_ref().map(slice),
            output.as_ref().map_or(&[], slice),
            saved,
            need,
        );
        drop(span);
        for ((parent, data), shape) in ops.parents.into_iter().zip(out).zip(shapes) {
            if let (Some(parent), Some(data)) = (parent, data) {
                grads.register::<Flex>(parent.id, flex(data, shape));
            }
        }
    }
}
