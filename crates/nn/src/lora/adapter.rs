//! One adapter, and what the adapters of a layer add to it.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::fused::{self, Activation};
use crate::noise;

/// An update of low rank to some rows of a layer's weight: `scale · b a`.
#[derive(Module, Debug)]
pub(crate) struct Adapter {
    /// `[rank, in]`.
    pub a: Param<Tensor<2>>,
    /// `[rows, rank]`.
    pub b: Param<Tensor<2>>,
    /// The part of the layer, when it is not all of it.
    #[module(skip)]
    pub part: Option<&'static str>,
    #[module(skip)]
    pub rows: Range<usize>,
    #[module(skip)]
    pub scale: f32,
    #[module(skip)]
    pub dropout: f32,
}

/// What adapters add to some rows of a layer, as a product that is still to be made: `h` `[t, Σ rank]` and `b` `[rows, Σ rank]`, in which each
/// adapter has its own columns. `None` when no adapter reaches the rows.
///
/// One product for all of them costs the same zeros for parts that have no adapter, which is little beside the layer's own product, and
/// writes the layer's output once.
pub(crate) fn low_rank(adapters: &[Adapter], x: &Tensor<2>, rows: Range<usize>) -> Option<(Tensor<2>, Tensor<2>)> {
    let mut narrow = Vec::new();
    let mut columns = Vec::new();
    for adapter in adapters {
        let (from, to) = (adapter.rows.start.max(rows.start), adapter.rows.end.min(rows.end));
        if from >= to {
            continue;
        }
        let dropped = noise::dropout(x.clone(), adapter.dropout);
        narrow.push(fused::linear(
            dropped,
            adapter.a.val(),
            None,
            Activation::Identity,
            None,
        ));
        let b = adapter.b.val();
        let [_, rank] = b.dims();
        let own = b.slice([from - adapter.rows.start..to - adapter.rows.start, 0..rank]) * adapter.scale;
        let zeros = |n: usize| Tensor::zeros([n, rank], &own.device());
        let (above, below) = (from - rows.start, rows.end - to);
        columns.push(match (above, below) {
            (0, 0) => own,
            _ => Tensor::cat(vec![zeros(above), own.clone(), zeros(below)], 0),
        });
    }
    match narrow.len() {
        0 => None,
        1 => narrow.pop().zip(columns.pop()),
        _ => Some((Tensor::cat(narrow, 1), Tensor::cat(columns, 1))),
    }
}
