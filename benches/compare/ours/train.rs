//! Training steps of a CLIP: forward, contrastive loss, backward, AdamW.

use std::path::{Path, PathBuf};

use bifocal_align::losses::{Positives, infonce};
use bifocal_models::adapter::normalize;
use bifocal_models::open::{TextOptions, open_text, open_vision};
use bifocal_models::text::{Pooling, TextTower, TokenBatch};
use bifocal_models::vision::{ImageBatch, VisionTower};
use bifocal_nn::engine::{scalar, tensor};
use bifocal_nn::optim::{Gradients, Optimizer, OptimizerConfig, OptimizerKind, Rate};
use bifocal_nn::precision::{Precision, scope};
use bifocal_nn::{Tensor, checkpoint, params};

use crate::{Outcome, Side, floats};

const CONFIG: OptimizerConfig = OptimizerConfig {
    kind: OptimizerKind::AdamW,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-6,
};

/// Command: `step`. Texts are those of `lines.txt`, or stay the rows of `texts.f32` where pictures alone learn.
pub struct Train {
    /// `None` only while a step changes them in place.
    towers: Option<(VisionTower, Option<TextTower>)>,
    pixels: ImageBatch,
    tokens: TokenBatch,
    pooling: Pooling,
    rows: Tensor<2>,
    precision: Precision,
    dropping: bool,
    optimizer: Optimizer,
}

impl Train {
    pub fn open(model: &str, folder: &str, precision: Precision, both: bool, dropping: bool) -> Outcome<Self> {
        let (model, folder) = (Path::new(model), PathBuf::from(folder));
        let vision = open_vision(model)?;
        let text = open_text(model, &TextOptions::default())?;
        let pixels = floats(&folder.join("images.f32"))?;
        let n = pixels.len() / vision.preprocess.values();
        let batch = ImageBatch::square(pixels, n, vision.tower.image_size())
            .ok_or("images.f32 does not hold whole pictures")?;
        let lines = std::fs::read_to_string(folder.join("lines.txt"))?;
        let encodings = text.tokenize(&lines.lines().collect::<Vec<_>>())?;
        let rows = floats(&folder.join("texts.f32"))?;
        let dim = rows.len() / n.max(1);
        Ok(Self {
            towers: Some(params::set_trainable(
                (vision.tower, both.then_some(text.tower)),
                |_| true,
            )),
            pixels: batch,
            tokens: TokenBatch::of(encodings.iter()),
            pooling: text.pooling,
            rows: tensor(rows, [n, dim]),
            precision,
            dropping,
            optimizer: Optimizer::new(CONFIG),
        })
    }

    fn step(&mut self) -> Option<f32> {
        let towers = self.towers.take()?;
        let (vision, text) = &towers;
        let (images, texts) = checkpoint::scope(self.dropping, || {
            scope(self.precision, || {
                let texts = text
                    .as_ref()
                    .map(|text| normalize(text.embed(&self.tokens, self.pooling)));
                (
                    normalize(vision.embed(&self.pixels)),
                    texts.unwrap_or_else(|| self.rows.clone()),
                )
            })
        });
        let positives = Positives::diagonal(self.rows.dims()[0]);
        let loss = infonce(images, texts, tensor(vec![1.0 / 0.07], [1]), &positives);
        let value = scalar(loss.clone());
        let grads = Gradients::collect(&towers, loss.backward());
        // everything decays, as in PyTorch's AdamW with one parameter group
        let rate = Rate {
            lr: 1e-4,
            weight_decay: 0.2,
        };
        self.towers = Some(self.optimizer.step(towers, &grads, 1.0, |_| rate));
        Some(value)
    }
}

impl Side for Train {
    fn answer(&mut self, command: &str) -> Outcome<Option<f32>> {
        Ok(if command == "step" { self.step() } else { None })
    }
}
