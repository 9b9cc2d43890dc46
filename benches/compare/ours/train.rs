//! Training steps of a vision tower with a text tower, with rows that stay, or with LLM2CLIP's adaptor over features: forward, contrastive loss, backward, AdamW.

use std::path::{Path, PathBuf};

use bifocal_align::losses::{Positives, infonce};
use bifocal_models::adapter::{Head, HeadConfig, HeadKind, normalize};
use bifocal_models::open::{TextOptions, open_text, open_vision};
use bifocal_models::text::{Pooling, TextTower, TokenBatch};
use bifocal_models::vision::{ImageBatch, VisionTower};
use bifocal_models::weights;
use bifocal_nn::engine::{scalar, tensor};
use bifocal_nn::init::Rng;
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

/// What gives the rows of texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextSide {
    /// A text tower that learns, of `lines.txt`.
    Tower,
    /// Nothing learns: they are those of `texts.f32`.
    Rows,
    /// LLM2CLIP's adaptor over the features of `texts.f32`; it begins as `adaptor.safetensors`.
    Adaptor,
}

impl TextSide {
    pub fn named(name: &str) -> Outcome<Self> {
        match name {
            "tower" => Ok(Self::Tower),
            "rows" => Ok(Self::Rows),
            "adaptor" => Ok(Self::Adaptor),
            other => Err(format!("{other}: give tower, rows or adaptor").into()),
        }
    }
}

/// What learns.
type Towers = (VisionTower, (Option<TextTower>, Option<Head>));

/// Command: `step`, which takes the next `batch` pictures of `images.f32`, and begins again after the last ones.
pub struct Train {
    /// `None` only while a step changes them in place.
    towers: Option<Towers>,
    /// Pictures and what `texts.f32` has for them.
    batches: Vec<(ImageBatch, Tensor<2>)>,
    next: usize,
    tokens: TokenBatch,
    pooling: Pooling,
    precision: Precision,
    dropping: bool,
    optimizer: Optimizer,
}

impl Train {
    pub fn open(
        model: &str,
        folder: &str,
        batch: usize,
        precision: Precision,
        texts: TextSide,
        dropping: bool,
    ) -> Outcome<Self> {
        let (model, folder) = (Path::new(model), PathBuf::from(folder));
        let vision = open_vision(model)?;
        let text = open_text(model, &TextOptions::default())?;
        let (pixels, rows) = (floats(&folder.join("images.f32"))?, floats(&folder.join("texts.f32"))?);
        let (values, size) = (vision.preprocess.values(), vision.tower.image_size());
        let n = pixels.len() / values;
        let dim = rows.len() / n.max(1);
        let pairs = pixels.chunks(batch * values).zip(rows.chunks(batch * dim));
        let batches = pairs.map(|(pixels, rows)| {
            let pixels = ImageBatch::square(pixels.to_vec(), batch, size)?;
            Some((pixels, tensor(rows.to_vec(), [batch, dim])))
        });
        let batches = batches
            .collect::<Option<Vec<_>>>()
            .ok_or("images.f32 does not hold whole batches")?;
        let lines = std::fs::read_to_string(folder.join("lines.txt"))?;
        let encodings = text.tokenize(&lines.lines().collect::<Vec<_>>())?;
        let head = match texts {
            TextSide::Adaptor => Some(adaptor(&folder, dim, vision.tower.dim())?),
            _ => None,
        };
        let tower = (texts == TextSide::Tower).then_some(text.tower);
        Ok(Self {
            towers: Some(params::set_trainable((vision.tower, (tower, head)), |_| true)),
            batches,
            next: 0,
            tokens: TokenBatch::of(encodings.iter()),
            pooling: text.pooling,
            precision,
            dropping,
            optimizer: Optimizer::new(CONFIG),
        })
    }

    fn step(&mut self) -> Option<f32> {
        let towers = self.towers.take()?;
        let (vision, (text, head)) = &towers;
        let (pixels, rows) = &self.batches[self.next];
        self.next = (self.next + 1) % self.batches.len();
        let (images, texts) = checkpoint::scope(self.dropping, || {
            scope(self.precision, || {
                let texts = match (text, head) {
                    (Some(text), _) => normalize(text.embed(&self.tokens, self.pooling)),
                    (_, Some(head)) => normalize(head.forward(rows.clone(), true)),
                    _ => rows.clone(),
                };
                (normalize(vision.embed(pixels)), texts)
            })
        });
        let positives = Positives::diagonal(rows.dims()[0]);
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

/// LLM2CLIP's adaptor of four blocks, with the values that Python wrote.
fn adaptor(folder: &Path, from: usize, to: usize) -> Outcome<Head> {
    let config = HeadConfig {
        kind: HeadKind::Residual,
        width: Some(to),
        ..HeadConfig::default()
    };
    let head = config.build(from, &mut Rng::new(0))?;
    let source = weights::open(&folder.join("adaptor.safetensors"))?;
    Ok(params::load(head, |name, _| {
        source.load(name).map(|found| Some(found.data))
    })?)
}
