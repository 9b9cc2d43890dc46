//! Objectives: pure functions of embeddings, one file each.
//!
//! They know nothing of towers, methods or files. Embeddings come in as they leave the heads; what a
//! loss needs normalised, its caller normalises. Several captions per picture are given by [`Positives`].
//! Losses over all pairs go over the batch in chunks and never hold the matrix of similarities, so that their memory is that of the embeddings.

mod blip2;
mod caption;
mod consolidation;
mod cosine;
mod distill;
mod elastic;
mod infonce;
mod proclip;
mod sigmoid;
#[cfg(test)]
pub(crate) mod testing;

pub use bifocal_nn::fused::{Divergence, Penalty};
pub use blip2::{hard_negatives, matching, query_contrast, query_similarities, word_losses};
pub use caption::{CAPTION_SCALE, caption_contrastive};
pub use consolidation::{Consolidation, consolidation};
pub use cosine::cosine;
pub use distill::{TeacherRows, reference_distillation, similarity_distillation};
pub use elastic::{Held, elastic};
pub use infonce::{infonce, infonce_local, infonce_with, smoothing};
pub use proclip::{SelfDistillation, instance_alignment, structure_alignment};
pub use sigmoid::{PairCount, sigmoid, sigmoid_local};

use std::ops::Range;
use std::sync::Arc;

use bifocal_nn::Tensor;
use bifocal_nn::fused::Targets;

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

    /// The first text of each picture, in the order of pictures.
    pub fn firsts(&self) -> Vec<u32> {
        let mut firsts = vec![0; self.images];
        for (text, &image) in self.of_text.iter().enumerate().rev() {
            // far fewer than 2³² texts fit into a batch
            firsts[image] = text as u32;
        }
        firsts
    }

    /// For each text 1 / (number of texts of its picture).
    fn shares(&self) -> Vec<f32> {
        let mut count = vec![0usize; self.images];
        for &image in self.of_text.iter() {
            count[image] += 1;
        }
        self.of_text.iter().map(|&i| 1.0 / count[i] as f32).collect()
    }

    /// The texts `0..m`, and `others` that belong to no picture after them, as columns of the pictures of `shard`.
    fn targets(&self, shard: Range<usize>, others: usize) -> Targets {
        let own = self.of_text.iter().enumerate().filter(|(_, i)| shard.contains(i));
        let pairs = own.map(|(j, &i)| (i - shard.start, j));
        match Targets::new(shard.len(), self.of_text.len() + others, pairs) {
            Some(targets) => targets,
            None => unreachable!("a text has one picture, and it is below `images`"),
        }
    }
}

/// The part of a batch that one of several processes holds; the rows of all, in this order, come from a gather that passes gradients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which of the batch's pictures.
    pub images: Range<usize>,
    /// Which of the batch's texts.
    pub texts: Range<usize>,
}

/// Rows of several tensors below each other. The engine joins only tensors that are all recorded or all not.
fn stack(parts: Vec<Tensor<2>>) -> Tensor<2> {
    if parts.iter().any(Tensor::is_autodiff) {
        return Tensor::cat(parts.into_iter().map(Tensor::autodiff).collect(), 0);
    }
    Tensor::cat(parts, 0)
}
