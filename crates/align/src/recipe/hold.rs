//! The parts of a recipe that hold a model near what it was, beside `[consolidate]` and `[merge]`.

use serde::{Deserialize, Serialize};

use super::{DataSpec, Recipe, SourceSpec};

/// `[elastic]`: a spring on each weight that former tasks have come to need (EWC).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ElasticSpec {
    /// λ: half of this times importance times squared distance is added to the loss.
    pub weight: f32,
    /// Batches whose squared gradients, at the finished weights, make the importance that the run leaves. A contrastive loss is one of a batch, so that
    /// a batch stands where EWC has a sample.
    pub batches: u64,
    /// `importance.safetensors` of the run before; empty: there is nothing yet to hold on to.
    pub former: String,
}

impl Default for ElasticSpec {
    fn default() -> Self {
        Self {
            weight: 1e3,
            batches: 64,
            former: String::new(),
        }
    }
}

/// `[reference]`: pictures and texts of no task, on which the model is to go on as it was (ZSCL).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceSpec {
    /// What the pictures are compared by, and with: a bundle or the folder of a CLIP, which ZSCL takes as it was before its first task. Empty: the model
    /// that the run starts from.
    pub teacher: String,
    /// Pictures per step, each with one caption; 0: as many as `data.batch`.
    pub batch: usize,
    /// Weight beside the loss of the task, of each direction; 0: none.
    pub weight: f32,
    /// Scaled cosines are divided by it.
    pub temperature: f32,
    /// As `data.sources`, which they are when there are none here.
    pub sources: Vec<SourceSpec>,
}

impl Default for ReferenceSpec {
    fn default() -> Self {
        Self {
            teacher: String::new(),
            batch: 0,
            weight: 1.0,
            temperature: 2.0,
            sources: Vec::new(),
        }
    }
}

impl ReferenceSpec {
    /// What is looked at, beside the data of a task.
    pub(crate) fn sources<'a>(&'a self, task: &'a DataSpec) -> &'a [SourceSpec] {
        match self.sources.as_slice() {
            [] => &task.sources,
            own => own,
        }
    }

    /// Pictures per step.
    pub(crate) fn pictures(&self, task: &DataSpec) -> usize {
        match self.batch {
            0 => task.batch,
            own => own,
        }
    }
}

impl Recipe {
    /// Whether its method looks at reference pictures.
    pub(crate) fn has_reference(&self) -> bool {
        self.method == "zscl" && self.reference.weight > 0.0
    }
}
