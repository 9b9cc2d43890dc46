//! Mean over the rows of each segment.

use std::sync::Arc;

use bifocal_kernels::pool as kernel;
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

#[derive(Clone, Debug)]
struct SegmentMean {
    offsets: Arc<[usize]>,
    width: usize,
}

impl Fused<1> for SegmentMean {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let y = kernel::segment_mean(x, &self.offsets, self.width);
        (y, vec![self.offsets.len() - 1, self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(kernel::segment_mean_backward(grad, &self.offsets, self.width))]
    }
}

/// Mean of the rows of each segment: mean pooling of packed tokens, average pooling of image positions. An empty
/// segment gives zeros.
///
/// # Shapes
/// `x` `[t, c]`, `offsets` `[n + 1]` → `[n, c]`.
pub fn segment_mean(x: Tensor<2>, offsets: &Arc<[usize]>) -> Tensor<2> {
    let [t, width] = x.dims();
    assert_eq!(
        offsets.last().copied(),
        Some(t),
        "segment_mean: offsets do not end at the number of rows"
    );
    if !on_cpu(&x) {
        return composed::segment_mean(x, offsets);
    }
    let op = SegmentMean {
        offsets: Arc::clone(offsets),
        width,
    };
    apply(op, [x.into()])
}
