//! A loss over a large batch.

use crate::{Outcome, Side};

#[path = "../../../crates/align/tests/common/large_batch.rs"]
mod large_batch;

/// Command: `step`, forward and backward.
pub struct Loss {
    kind: large_batch::Loss,
    batch: large_batch::Batch,
}

impl Loss {
    pub fn open(name: &str, pairs: usize, width: usize) -> Outcome<Self> {
        let kind = large_batch::Loss::named(name).ok_or("no such loss")?;
        Ok(Self {
            kind,
            batch: large_batch::Batch::new(pairs, width),
        })
    }
}

impl Side for Loss {
    fn answer(&mut self, command: &str) -> Outcome<Option<f32>> {
        Ok((command == "step").then(|| large_batch::step(self.kind, &self.batch)))
    }
}
