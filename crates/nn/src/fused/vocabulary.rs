//! Cross-entropy of tokens over a vocabulary that stays as it is.

use std::fmt;
use std::sync::Arc;

use bifocal_kernels::{cross_entropy as kernel, trace};
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

use super::{Fused, apply, on_cpu};
use crate::engine::{tensor, values};
use crate::precision::{self, Precision};

pub use bifocal_kernels::cross_entropy::Vocabulary;

/// An output layer, in whatever form its rows are stored. It does not learn.
pub type SharedVocabulary = Arc<dyn Vocabulary + Send>;

#[derive(Clone)]
struct TokenLoss {
    vocabulary: SharedVocabulary,
    targets: Arc<[u32]>,
    precision: Precision,
}

impl fmt::Debug for TokenLoss {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TokenLoss({} of {})", self.targets.len(), self.vocabulary.rows())
    }
}

impl Fused<1> for TokenLoss {
    /// The logarithm of each row's sum.
    type Saved = Vec<f32>;
    const READS: [bool; 1] = [true];

    fn forward(&self, [x]: [&[f32]; 1], _keep: bool) -> (Vec<f32>, Vec<usize>, Self::Saved) {
        let found = kernel::token_loss(x, &*self.vocabulary, &self.targets, self.precision);
        (found.loss, vec![self.targets.len(), 1], found.lse)
    }

    fn backward(
        &self,
        grad: &[f32],
        [x]: [&[f32]; 1],
        _output: &[f32],
        lse: Self::Saved,
        _need: [bool; 1],
    ) -> [Option<Vec<f32>>; 1] {
        let vocabulary = &*self.vocabulary;
        let gradient = kernel::token_loss_backward(grad, x, vocabulary, &self.targets, &lse, self.precision);
        [Some(gradient)]
    }
}

/// −ln p of each row's target, where p is the softmax over the products with all rows of the vocabulary; these never exist for more than some of its rows
/// at once. The products are of the thread's [`precision`].
///
/// # Shapes
/// `x` `[t, width]`, `targets` `[t]` → `[t, 1]`.
///
/// # Panics
/// When the shapes do not fit each other, or a target is beyond the vocabulary.
pub fn token_loss(x: Tensor<2>, vocabulary: &SharedVocabulary, targets: &Arc<[u32]>) -> Tensor<2> {
    let [t, width] = x.dims();
    assert_eq!(width, vocabulary.width(), "token_loss: width of rows and vocabulary");
    assert_eq!(t, targets.len(), "token_loss: a target a row");
    if !on_cpu(&x) {
        return composed(x, vocabulary, targets);
    }
    let op = TokenLoss {
        vocabulary: Arc::clone(vocabulary),
        targets: Arc::clone(targets),
        precision: precision::current(),
    };
    apply(op, [x.into()])
}

/// With burn's own operations: all products at once.
fn composed(x: Tensor<2>, vocabulary: &SharedVocabulary, targets: &[u32]) -> Tensor<2> {
    let [t, width] = x.dims();
    let rows = vocabulary.rows();
    let mut all = Vec::new();
    vocabulary.expand(0..rows, &mut all);
    let device = x.device();
    let w: Tensor<2> = tensor(all, [rows, width]).to_device(&device);
    let mut chosen = vec![0.0; t * rows];
    for (line, &target) in chosen.chunks_exact_mut(rows).zip(targets) {
        line[target as usize] = -1.0;
    }
    let chosen: Tensor<2> = tensor(chosen, [t, rows]).to_device(&device);
    (log_softmax(x.matmul(w.transpose()), 1) * chosen).sum_dim(1)
}

/// x · wᵀ with all rows of a vocabulary, for a few rows of x.
///
/// # Shapes
/// `x` `[t, width]` → `[t, rows]`.
pub fn logits(x: Tensor<2>, vocabulary: &dyn Vocabulary) -> Vec<f32> {
    let [t, width] = x.dims();
    assert_eq!(width, vocabulary.width(), "logits: width of rows and vocabulary");
    let _span = trace::span("Logits");
    kernel::logits(&values(x), vocabulary, t)
}
