//! The codebook: vectors on a sphere, each of which stands for the latents nearest to it.

use std::sync::Arc;

use bifocal_nn::engine::values;
use bifocal_nn::fused::{self, Activation};
use bifocal_nn::init::Rng;
use bifocal_nn::layers::Embedding;
use bifocal_nn::{Module, Tensor};

use crate::adapter::normalize;

/// Rows that are compared with all codes at a time: 16,384 codes make 32 MiB of them.
const ROWS: usize = 512;

/// A table of codes; latents and codes are compared, and handed on, as vectors of length 1.
#[derive(Module, Debug)]
pub struct Quantizer {
    /// `[codes, dim]`; rows need not have length 1.
    pub embedding: Embedding,
}

/// Latents and what has become of them.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// For each row its code.
    pub codes: Arc<[u32]>,
    /// The codes' vectors `[rows, dim]`, through which the latents' gradient passes as if they were the latents (straight-through, Bengio et al.
    /// 2013).
    pub z: Tensor<2>,
    /// Mean squared distance of codes from latents that stand still: it moves the codes. `[1]`
    pub codebook: Tensor<1>,
    /// The same of latents from codes that stand still: it keeps the encoder near its codes. Without a factor β. `[1]`
    pub commitment: Tensor<1>,
}

impl Quantizer {
    pub(super) fn new(codes: usize, dim: usize, rng: &mut Rng) -> Self {
        Self {
            // rows are normalised wherever they are used: any spherical distribution will do
            embedding: Embedding::new(codes, dim, 1.0, rng),
        }
    }

    /// For each latent the nearest code, the first of several.
    ///
    /// # Shapes
    /// `z` `[rows, dim]`, of any length.
    pub fn codes(&self, z: &Tensor<2>) -> Arc<[u32]> {
        let table = normalize(self.embedding.weight.val().without_autodiff());
        let z = normalize(z.clone().without_autodiff());
        nearest(&z, &table)
    }

    /// The vectors of codes, of length 1. Codes must be below the number of rows.
    ///
    /// # Shapes
    /// `[rows, dim]`.
    pub fn lookup(&self, codes: &Arc<[u32]>) -> Tensor<2> {
        normalize(self.embedding.forward(codes))
    }

    /// Latents to codes, with the losses of VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, equation 3).
    ///
    /// # Shapes
    /// `z` `[rows, dim]`, of any length.
    pub fn forward(&self, z: Tensor<2>) -> Quantized {
        let codes = self.codes(&z);
        let z = normalize(z);
        let found = self.lookup(&codes);
        let distance = |a: Tensor<2>, b: Tensor<2>| (a - b).powi_scalar(2).mean();
        Quantized {
            codebook: distance(found.clone(), z.clone().detach()),
            commitment: distance(z.clone(), found.clone().detach()),
            z: z.clone() + (found - z).detach(),
            codes,
        }
    }
}

/// For each row of `z` the row of `table` at the smallest distance, the first of several.
///
/// # Shapes
/// `z` `[rows, dim]`, `table` `[codes, dim]`, neither recorded for gradients → `[rows]`.
pub fn nearest(z: &Tensor<2>, table: &Tensor<2>) -> Arc<[u32]> {
    let [rows, dim] = z.dims();
    let [codes, _] = table.dims();
    // |z − e|² = |z|² + |e|² − 2 z·e, of which the first does not decide
    let squares = values(table.clone().powi_scalar(2).sum_dim(1));
    let mut found = Vec::with_capacity(rows);
    for first in (0..rows).step_by(ROWS) {
        let part = z.clone().slice([first..(first + ROWS).min(rows), 0..dim]);
        let products = values(fused::linear(part, table.clone(), None, Activation::Identity, None));
        found.extend(products.chunks_exact(codes.max(1)).map(|products| {
            let mut best = (f32::INFINITY, 0);
            for (code, (product, square)) in products.iter().zip(&squares).enumerate() {
                let distance = square - 2.0 * product;
                if distance < best.0 {
                    best = (distance, code as u32);
                }
            }
            best.1
        }));
    }
    found.into()
}
