//! The thread that runs the model.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bifocal_models::bundle::{BundleError, Model};
use bifocal_models::tokenizer::Encoding;

use super::{Job, Queue, Tower, Work};
use crate::error::ApiError;
use crate::metrics::Metrics;

/// What embeds: a model, or in tests something that can be looked into.
pub(crate) trait Embedder: Send + Sync {
    /// `[n, dim]`.
    fn texts(&self, texts: &[Encoding]) -> Result<Vec<f32>, BundleError>;
    /// `pixels` `[n, size, size, 3]` → `[n, dim]`.
    fn pictures(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, BundleError>;
    /// Width of a row.
    fn dim(&self) -> usize;
}

impl Embedder for Model {
    fn texts(&self, texts: &[Encoding]) -> Result<Vec<f32>, BundleError> {
        self.embed_tokens_raw(texts)
    }

    fn pictures(&self, pixels: &[f32], n: usize) -> Result<Vec<f32>, BundleError> {
        self.embed_images_raw(pixels, n)
    }

    fn dim(&self) -> usize {
        Model::dim(self)
    }
}

/// Embeds batch after batch until the queue is closed and empty.
pub(crate) fn work(queue: &Queue, model: &dyn Embedder, metrics: &Metrics) {
    while let Some(batch) = queue.next_batch() {
        let begun = Instant::now();
        for job in &batch {
            metrics
                .queue_seconds
                .observe(begun.duration_since(job.since).as_secs_f64());
        }
        let rows = embed(model, &batch);
        if let Some(tower) = batch.first().map(|job| job.work.tower()) {
            let size = batch.iter().map(|job| job.work.size()).sum::<usize>();
            metrics.batch(tower, batch.len(), size, begun.elapsed());
        }
        match rows {
            Ok(rows) => {
                for (job, row) in batch.iter().zip(rows) {
                    queue.deliver(job, Ok(row));
                }
            }
            // one input that cannot be embedded must not fail those of others
            Err(_) if batch.len() > 1 => {
                for job in &batch {
                    let row = embed(model, std::slice::from_ref(job)).map(|mut rows| rows.remove(0));
                    queue.deliver(job, row);
                }
            }
            Err(error) => queue.deliver(&batch[0], Err(error)),
        }
    }
}

/// As many rows as jobs; a panic of the model is an error like any other.
fn embed(model: &dyn Embedder, batch: &[Job]) -> Result<Vec<Vec<f32>>, ApiError> {
    let rows = catch_unwind(AssertUnwindSafe(|| run(model, batch))).map_err(|_| ApiError::lost())??;
    let dim = model.dim();
    if dim == 0 || rows.len() != batch.len() * dim {
        return Err(ApiError::lost());
    }
    Ok(rows.chunks_exact(dim).map(<[f32]>::to_vec).collect())
}

fn run(model: &dyn Embedder, batch: &[Job]) -> Result<Vec<f32>, BundleError> {
    match batch.first().map(|job| job.work.tower()) {
        None => Ok(Vec::new()),
        Some(Tower::Text) => {
            let texts: Vec<Encoding> = batch
                .iter()
                .filter_map(|job| match &job.work {
                    Work::Tokens(encoding) => Some(encoding.clone()),
                    Work::Pixels(_) => None,
                })
                .collect();
            model.texts(&texts)
        }
        Some(Tower::Vision) => {
            let mut pixels = Vec::new();
            for job in batch {
                if let Work::Pixels(values) = &job.work {
                    pixels.extend_from_slice(values);
                }
            }
            model.pictures(&pixels, batch.len())
        }
    }
}
