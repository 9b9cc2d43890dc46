//! Rotary positions.

use std::sync::Arc;

use bifocal_kernels::rope as kernel;
use burn::tensor::Tensor;

use super::{Fused, apply, on_cpu};
use crate::composed;

pub use bifocal_kernels::rope::{RopeStyle, frequencies};

/// How heads are rotated (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// `[head_dim / 2]`: how far each pair turns from one position to the next, in radians; see [`frequencies`].
    pub frequencies: Arc<[f32]>,
    /// Which coordinates make a pair.
    pub style: RopeStyle,
    /// Heads at the front of a packed row that are rotated: queries and keys.
    pub rotated_heads: usize,
    /// All heads of a packed row.
    pub heads: usize,
}

impl Rope {
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.frequencies.len()
    }
}

#[derive(Clone, Debug)]
struct RopeOp {
    rope: Rope,
    positions: Arc<[u32]>,
}

impl RopeOp {
    fn run(&self, qkv: &[f32], inverse: bool) -> Vec<f32> {
        let r = &self.rope;
        kernel::rope(
            qkv,
            &self.positions,
            r.rotated_heads,
            r.heads,
            &r.frequencies,
            r.style,
            inverse,
        )
    }
}

impl Fused<1> for RopeOp {
    type Saved = ();
    const READS: [bool; 1] = [false];

    fn forward(&self, [qkv]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, ()) {
        let shape = vec![self.positions.len(), self.rope.heads * self.rope.head_dim()];
        (self.run(qkv, false), shape, ())
    }

    fn backward(
        &self,
        grad: &[f32],
        _inputs: [&[f32]; 1],
        _output: &[f32],
        _saved: (),
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        // A rotation's transpose is the rotation by the negative angle.
        [Some(self.run(grad, true))]
    }
}

/// Rotates the query and key heads of packed rows by their positions.
///
/// # Shapes
/// `qkv` and the result `[t, heads·head_dim]`; `positions` `[t]`.
pub fn rope(qkv: Tensor<2>, positions: &Arc<[u32]>, rope: &Rope) -> Tensor<2> {
    let [t, width] = qkv.dims();
    assert_eq!(t, positions.len(), "rope: one position a token");
    assert_eq!(width, rope.heads * rope.head_dim(), "rope: heads do not fit");
    if !on_cpu(&qkv) {
        return composed::rope(qkv, positions, rope);
    }
    let op = RopeOp {
        rope: rope.clone(),
        positions: Arc::clone(positions),
    };
    apply(op, [qkv.into()])
}
