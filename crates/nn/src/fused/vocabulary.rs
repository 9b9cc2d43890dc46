//! Cross-entropy of tokens over a vocabulary that stays as it is.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bifocal_kernels::{cross_entropy as kernel, trace};
use burn::tensor::{Device, Tensor, TensorData};

use super::{Fused, apply, on_cpu};
use crate::composed;
use crate::engine::values;
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
/// at once. The products are of the thread's [`precision`], f32 in place of eight-bit integers.
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
        let w = sent(vocabulary, &x.device().without_autodiff());
        return composed::choice_loss(x.matmul(w.transpose()), targets);
    }
    let op = TokenLoss {
        vocabulary: Arc::clone(vocabulary),
        targets: Arc::clone(targets),
        precision: precision::current().recorded(),
    };
    apply(op, [x.into()])
}

/// A vocabulary's rows on a device, where they stay from one step to the next: until a vocabulary is sent after this one is gone.
fn sent(vocabulary: &SharedVocabulary, device: &Device) -> Tensor<2> {
    type Sent = (Weak<dyn Vocabulary + Send>, Device, Tensor<2>);
    static SENT: Mutex<Vec<Sent>> = Mutex::new(Vec::new());
    let mut all = SENT.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|(of, ..)| of.strong_count() > 0);
    let same = |of: &Weak<dyn Vocabulary + Send>| std::ptr::addr_eq(of.as_ptr(), Arc::as_ptr(vocabulary));
    if let Some((.., rows)) = all.iter().find(|(of, on, _)| same(of) && on == device) {
        return rows.clone();
    }
    let mut numbers = Vec::new();
    vocabulary.expand(0..vocabulary.rows(), &mut numbers);
    let data = TensorData::new(numbers, [vocabulary.rows(), vocabulary.width()]);
    let rows = Tensor::from_data(data, device);
    all.push((Arc::downgrade(vocabulary), device.clone(), rows.clone()));
    rows
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
