//! Where a run computes.

use bifocal_nn::engine;
use serde::{Deserialize, Serialize};

use super::check::need;
use super::{ComputeSpec, Precision, RecipeError};

const KEY: &str = "compute.device";

/// What towers, losses and the optimizer run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor, by kernels of our own.
    #[default]
    Cpu,
    /// A graphics card, by operations composed of the engine's; a build with the feature `gpu` (or `metal`, `cuda`, `rocm`) has them: `docs/gpu.md`.
    Gpu,
}

impl Device {
    fn open(self) -> Result<bifocal_nn::Device, RecipeError> {
        match self {
            Self::Cpu => Ok(engine::cpu()),
            Self::Gpu => engine::gpu().map_err(|error| RecipeError::Value {
                key: KEY,
                message: error.to_string(),
            }),
        }
    }

    /// Runs `f` with all its tensors there. What it opens is of use inside of such a scope only.
    ///
    /// # Errors
    /// Those of `f`, and [`RecipeError::Value`] when this build, or this machine, has no card.
    pub fn scope<R, E: From<RecipeError>>(self, f: impl FnOnce() -> Result<R, E>) -> Result<R, E> {
        engine::scope(self.open()?, f)
    }
}

impl ComputeSpec {
    /// Refuses what only our own kernels can do. Whether there is a card is asked when a run begins, so that a run's recipe can be read anywhere.
    pub(super) fn check(&self) -> Result<(), RecipeError> {
        let kernels = self.device == Device::Cpu;
        need(kernels || self.precision == Precision::F32, "compute.precision", || {
            "products of bf16 are kernels of the CPU; set it to f32, or compute.device to cpu".to_owned()
        })?;
        need(kernels || !self.recompute, "compute.recompute", || {
            "blocks are computed again on the CPU only; set it to false and compute.micro_batch to what the card holds, or compute.device \
             to cpu"
                .to_owned()
        })
    }
}
