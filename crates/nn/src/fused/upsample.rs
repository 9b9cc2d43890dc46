//! Nearest-neighbour upsampling of pictures.

use bifocal_kernels::conv as kernel;
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

#[derive(Clone, Debug)]
struct Upsample {
    size: [usize; 4],
}

impl Fused<1> for Upsample {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let [n, h, w, c] = self.size;
        (kernel::upsample(x, self.size), vec![4 * n * h * w, c], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(kernel::upsample_backward(grad, self.size))]
    }
}

/// Twice the height and the width of `n` pictures, each pixel four times.
///
/// # Shapes
/// `x` `[n·h·w, c]` → `[n·2h·2w, c]`.
pub fn upsample(x: Tensor<2>, n: usize, [h, w]: [usize; 2]) -> Tensor<2> {
    let [rows, c] = x.dims();
    assert_eq!(rows, n * h * w, "upsample: pictures do not fit the rows");
    if !on_cpu(&x) {
        return composed::upsample(x, n, [h, w]);
    }
    apply(Upsample { size: [n, h, w, c] }, [x.into()])
}
