//! Dropout whose mask is made again for the backward pass, so that it needs no memory.

use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::noise::Mask;

#[derive(Clone, Debug)]
struct Dropout {
    mask: Mask,
    width: usize,
}

impl Dropout {
    fn of(&self, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        self.mask.apply(&mut y, self.width);
        y
    }
}

impl Fused<1> for Dropout {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let rows = x.len() / self.width.max(1);
        (self.of(x), vec![rows, self.width], ())
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        [Some(self.of(grad))]
    }
}

/// x times a mask.
pub(crate) fn dropout(x: Tensor<2>, mask: Mask) -> Tensor<2> {
    let [rows, width] = x.dims();
    if !on_cpu(&x) {
        let mut values = vec![1.0; rows * width];
        mask.apply(&mut values, width);
        let values = crate::engine::tensor(values, [rows, width]).to_device(&x.device());
        return x * values;
    }
    apply(Dropout { mask, width }, [x.into()])
}
