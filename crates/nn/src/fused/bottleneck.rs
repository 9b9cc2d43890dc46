//! Inverted bottlenecks that do not learn, in one go.

use bifocal_kernels::conv::{self as kernel, ConvShape};
use bifocal_kernels::trace;
use burn::backend::Flex;
use burn::tensor::Tensor;

use super::{Activation, constant, contiguous, flex, slice};
use crate::precision;

/// Weight and bias of a layer.
pub type Layer = (Tensor<2>, Tensor<1>);

/// project(act(filter(act(expand(x))))), plus x when `residual`: what [`super::linear`], [`super::depthwise_conv2d`] and [`super::linear`] give one after the other, to the bit,
/// without what lies between them ever being whole. `None` when a gradient may be asked for, or there are no kernels for the device: then take the layers.
///
/// # Shapes
/// `x` `[n·h·w, input]`; `expand` `[c, input]`, `filter` `[kh·kw, c]`, `project` `[output, c]` → `[n·oh·ow, output]`.
pub fn bottleneck(
    x: &Tensor<2>,
    expand: Option<&Layer>,
    filter: &Layer,
    project: &Layer,
    act: Activation,
    shape: &ConvShape,
    residual: bool,
) -> Option<Tensor<2>> {
    let [_, input] = x.dims();
    let [output, _] = project.0.dims();
    let layer = |(weight, bias): &Layer| Some([contiguous(constant(weight)?), contiguous(constant(bias)?)]);
    let x = contiguous(constant(x)?);
    let expand = match expand {
        Some(expand) => Some(layer(expand)?),
        None => None,
    };
    let (filter, project) = (layer(filter)?, layer(project)?);
    // as the two layers would be multiplied
    let product = |k| precision::of_product(precision::current(), k, false);
    let precisions = [product(input), precision::careful(|| product(shape.c))];
    let _span = trace::span("Bottleneck");
    let block = kernel::Bottleneck {
        expand: expand.as_ref().map(|layer| layer.each_ref().map(slice)),
        filter: filter.each_ref().map(slice),
        project: project.each_ref().map(slice),
        act,
        shape: *shape,
        input,
        output,
        residual,
    };
    let y = kernel::bottleneck(slice(&x), &block, precisions);
    let rows = y.len() / output.max(1);
    Some(Tensor::from_primitive::<Flex>(flex(y, vec![rows, output])))
}
