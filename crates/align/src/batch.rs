//! What a method sees of the data in one step.

use bifocal_models::text::{Pooling, TokenBatch};
use bifocal_models::vision::ImageBatch;
use bifocal_nn::Tensor;

use crate::losses::Positives;

/// The pictures of a batch.
#[derive(Clone, Debug)]
pub enum Images {
    /// For a vision tower that learns.
    Pixels(ImageBatch),
    /// What a frozen vision tower makes of them, `[n, width]`.
    Features(Tensor<2>),
}

/// The texts of a batch.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // there is one of them a step
pub enum Texts {
    /// For a text tower that learns, and how its tokens become one vector.
    Tokens(TokenBatch, Pooling),
    /// What a frozen text tower makes of them, `[m, width]`.
    Features(Tensor<2>),
}

/// Pictures and texts of one step.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `n` pictures.
    pub images: Images,
    /// `m ≥ n` texts.
    pub texts: Texts,
    /// Which text belongs to which picture.
    pub positives: Positives,
}
