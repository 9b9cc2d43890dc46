//! The output layer of a language model: from the last vectors to a number for each token.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bifocal_kernels::activation::Activation;
use bifocal_kernels::gemm::{Grid, Precision};
use bifocal_kernels::linear::{Weight, linear};
use bifocal_nn::engine::values;
use bifocal_nn::fused::{self, SharedVocabulary, Vocabulary};
use bifocal_nn::{Tensor, pool};

use super::{Llm, LlmNames};
use crate::weights::{StoredRows, TensorSource, WeightsError};

/// An output layer whose rows take at most this many bytes as f32 is kept so as well: it is read as a whole for each token.
const MAX_EXPANDED: usize = 1 << 30;

/// Rows as they are stored, often those of the table of tokens, and expanded once they are needed.
#[derive(Debug)]
pub(super) struct OutputLayer {
    stored: Arc<StoredRows>,
    expanded: OnceLock<Option<Vec<f32>>>,
    /// The same in levels, where it is on a grid: of four bits a fifth is read for each token then, of eight a third.
    grid: OnceLock<Option<Grid>>,
}

impl OutputLayer {
    fn new(stored: Arc<StoredRows>) -> Self {
        Self {
            stored,
            expanded: OnceLock::new(),
            grid: OnceLock::new(),
        }
    }

    fn expanded(&self) -> Option<&[f32]> {
        let expand = || {
            let (rows, width) = (self.stored.rows(), self.stored.width());
            let fits = rows
                .checked_mul(width)
                .is_some_and(|n| n <= MAX_EXPANDED / size_of::<f32>());
            fits.then(|| self.gather(0..rows))
        };
        self.expanded.get_or_init(expand).as_deref()
    }

    fn gather(&self, rows: Range<usize>) -> Vec<f32> {
        // ids are 32 bits wide in every file
        let ids: Vec<u32> = rows.map(|row| row as u32).collect();
        match self.stored.gather(&ids) {
            Ok(rows) => rows.data,
            Err(error) => unreachable!("rows below the number of rows are there: {error}"),
        }
    }
}

impl Vocabulary for OutputLayer {
    fn rows(&self) -> usize {
        self.stored.rows()
    }

    fn width(&self) -> usize {
        self.stored.width()
    }

    fn expand(&self, rows: Range<usize>, out: &mut Vec<f32>) {
        out.clear();
        match self.expanded() {
            Some(all) => out.extend_from_slice(&all[rows.start * self.width()..rows.end * self.width()]),
            None => *out = self.gather(rows),
        }
    }
}

impl Llm {
    /// Gives the model its output layer: its own rows (`output.weight`, `lm_head.weight`) where the file has some, and those of its table of tokens
    /// otherwise ("tied").
    ///
    /// # Errors
    /// [`WeightsError`] for a layer of another shape.
    pub fn with_output(mut self, source: &dyn TensorSource, names: LlmNames) -> Result<Self, WeightsError> {
        let shape = [self.config.vocabulary, self.config.width];
        let found = names.outputs().into_iter().find(|name| source.shape(name).is_some());
        let stored = match found {
            None => Arc::clone(&self.table),
            Some(name) => match source.shape(&name) {
                Some(found) if found != shape => {
                    return Err(WeightsError::ShapeMismatch {
                        path: source.path().to_owned(),
                        name,
                        found,
                        expected: shape.to_vec(),
                    });
                }
                _ => Arc::new(source.stored_rows(&name)?),
            },
        };
        self.output = Some(Arc::new(OutputLayer::new(stored)));
        Ok(self)
    }

    /// The output layer, for losses; `None` for a model that was opened without.
    pub fn output(&self) -> Option<SharedVocabulary> {
        let output = self.output.clone()?;
        Some(output)
    }

    /// A number for each token that may come next, of last vectors as [`Llm::hidden`] gives them; `None` for a model without output layer.
    ///
    /// # Shapes
    /// `[t, width]` → `[t, vocabulary]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Option<Vec<f32>> {
        let output = self.output.as_ref()?;
        let [t, width] = hidden.dims();
        Some(pool::pass(|| match output.expanded() {
            None => fused::logits(hidden, &**output),
            Some(rows) => {
                let (x, count) = (values(hidden), output.rows());
                let grid = output.grid.get_or_init(|| Grid::of(rows, width, count));
                let weight = Weight::new(rows, None).with_grid(grid.as_ref());
                let identity = Activation::Identity;
                linear(&x, weight, None, identity, None, t, width, count, false, Precision::F32).y
            }
        }))
    }
}
