//! Seeded initial values. The generator is fixed (ChaCha8), so that a seed means the same bits in every release.

use burn::tensor::Tensor;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::engine::tensor;

/// The generator of all initial values.
pub struct Rng(ChaCha8Rng);

impl Rng {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Uniform in [0, 1) with 24 bits.
    pub fn unit(&mut self) -> f32 {
        unit(self.0.next_u32())
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * f64::from(1.0 - self.unit()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * f64::from(self.unit())).cos()) as f32
    }

    /// Uniform below `n`, without bias worth speaking of for `n` below 2³².
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }
}

/// A random word as a number in [0, 1).
pub(crate) fn unit(word: u32) -> f32 {
    (word >> 8) as f32 / (1u32 << 24) as f32
}

/// How a parameter begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All the same.
    Constant(f32),
    /// Normal with this standard deviation.
    Normal(f32),
    /// Uniform in ± this bound.
    Uniform(f32),
}

impl Init {
    /// PyTorch's default for a linear layer: uniform in ±1/√fan_in, weight and bias alike.
    pub fn linear(fan_in: usize) -> Self {
        Self::Uniform(1.0 / (fan_in.max(1) as f32).sqrt())
    }

    /// A tensor of this shape.
    pub fn tensor<const D: usize>(self, shape: [usize; D], rng: &mut Rng) -> Tensor<D> {
        let n = shape.iter().product();
        let data = match self {
            Self::Constant(value) => vec![value; n],
            Self::Normal(std) => (0..n).map(|_| std * rng.normal()).collect(),
            Self::Uniform(bound) => (0..n).map(|_| bound * (2.0 * rng.unit() - 1.0)).collect(),
        };
        tensor(data, shape)
    }
}
