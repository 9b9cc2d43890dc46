//! Objectives: pure functions of embeddings, one file each.
//!
//! They know nothing of towers, methods or files. Embeddings come in as they leave the heads; what a
//! loss needs normalised, its caller normalises. Several captions per picture are given by [`Positives`].

mod infonce;
mod sigmoid;
#[cfg(test)]
pub(crate) mod testing;

pub use infonce::infonce;
pub use sigmoid::{PairCount, sigmoid};

use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::engine::{cpu, tensor};
use burn::tensor::{Int, TensorData};

/// Which picture each text belongs to. Every picture has at least one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Positives {
    images: usize,
    of_text: Arc<[usize]>,
}

impl Positives {
    /// Text `j` belongs to picture `of_text[j]`. `None` if an index is not below `images` or a picture has no text.
    pub fn new(images: usize, of_text: Vec<usize>) -> Option<Self> {
        let mut seen = vec![false; images];
        for &image in &of_text {
            *seen.get_mut(image)? = true;
        }
        seen.iter().all(|&s| s).then(|| Self {
            images,
            of_text: of_text.into(),
        })
    }

    /// Text `i` belongs to picture `i`.
    pub fn diagonal(n: usize) -> Self {
        Self {
            images: n,
            of_text: (0..n).collect(),
        }
    }

    /// Number of pictures.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Picture of each text.
    pub fn of_text(&self) -> &[usize] {
        &self.of_text
    }

    /// For each text 1 / (number of texts of its picture).
    fn shares(&self) -> Tensor<2> {
        let mut count = vec![0usize; self.images];
        for &image in self.of_text.iter() {
            count[image] += 1;
        }
        let shares = self.of_text.iter().map(|&i| 1.0 / count[i] as f32);
        tensor(shares.collect(), [self.of_text.len(), 1])
    }

    /// 1 where a text belongs to a picture, −1 elsewhere, `[n, m]`.
    fn signs(&self) -> Tensor<2> {
        let m = self.of_text.len();
        let mut signs = vec![-1.0; self.images * m];
        for (j, &image) in self.of_text.iter().enumerate() {
            signs[image * m + j] = 1.0;
        }
        tensor(signs, [self.images, m])
    }

    /// The similarity of each text with its own picture.
    ///
    /// # Shapes
    /// `images` `[n, d]`, `texts` `[m, d]` → `[m, 1]`.
    fn own(&self, images: Tensor<2>, texts: Tensor<2>) -> Tensor<2> {
        let index: Vec<i64> = self.of_text.iter().map(|&i| i as i64).collect();
        let n = index.len();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [n]), &cpu());
        (images.select(0, index) * texts).sum_dim(1)
    }
}
