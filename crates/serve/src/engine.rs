//! The model and the store, once they are loaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bifocal_data::decode::decode_with;
use bifocal_models::bundle::Model;
use bifocal_search::Store;
use tokio::sync::Semaphore;

use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::nested::Nested;
use crate::queue::{Cost, Queue, Room, Work, work};

/// What the service serves.
pub struct Loaded {
    /// The model, already opened.
    pub model: Model,
    /// Where it was opened.
    pub path: PathBuf,
    /// What clients see as the model's id.
    pub id: String,
    /// A store of the model's embeddings; without one there is no search.
    pub store: Option<Arc<dyn Store>>,
}

/// See the module.
pub(crate) struct Engine {
    pub(crate) model: Arc<Model>,
    pub(crate) id: String,
    pub(crate) store: Option<Arc<dyn Store>>,
    /// To which widths embeddings may be cut.
    pub(crate) nested: Nested,
    pub(crate) queue: Arc<Queue>,
    limits: Limits,
    metrics: Arc<Metrics>,
    /// Threads that may make tokens or pixels at once: as many as there are processors.
    preparing: Arc<Semaphore>,
}

/// Rows of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embedded {
    /// `[rows][dim]`, with the lengths that the model gives for rows of one input; of unit length for rows of several.
    pub(crate) rows: Vec<Vec<f32>>,
    /// Tokens of all texts, special ones included.
    pub(crate) tokens: usize,
    /// Width and height of each picture as it was sent.
    pub(crate) pictures: Vec<(u32, u32)>,
}

/// An input that is ready for the model.
struct Prepared {
    work: Work,
    size: Option<(u32, u32)>,
}

impl Engine {
    /// Starts the thread that runs the model.
    pub(crate) fn start(loaded: Loaded, limits: &Limits, metrics: &Arc<Metrics>) -> std::io::Result<Self> {
        let queue = Queue::new(Room::new(limits));
        let model = Arc::new(loaded.model);
        let (jobs, embedder, measures) = (queue.clone(), model.clone(), metrics.clone());
        std::thread::Builder::new()
            .name("model".to_owned())
            .spawn(move || work(&jobs, &*embedder, &measures))?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            nested: Nested::of(&loaded.path),
            id: loaded.id,
            model,
            store: loaded.store,
            queue,
            limits: limits.clone(),
            metrics: metrics.clone(),
            preparing: Arc::new(Semaphore::new(processors)),
        })
    }

    pub(crate) fn store(&self) -> Answer<&Arc<dyn Store>> {
        let none = || ApiError::missing("this server has no store: start it with --store to search");
        self.store.as_ref().ok_or_else(none)
    }

    /// Embeds inputs together with those of other requests.
    pub(crate) async fn embed(&self, inputs: Inputs) -> Answer<Embedded> {
        inputs.check(self.limits.inputs)?;
        let pictures = inputs.pictures();
        let pixels = self.model.preprocess().map_or(0, |p| p.values() / 3);
        let cost = Cost {
            items: inputs.items.len(),
            tokens: 0,
            pixels: pixels.saturating_mul(pictures),
        };
        let _room = self.queue.room().reserve(cost)?;
        let (model, picture, metrics) = (self.model.clone(), self.limits.picture, self.metrics.clone());
        let whole = inputs.whole;
        let prepared = self
            .aside(move || prepare(&model, inputs.items, whole, &picture, &metrics))
            .await?;
        let tokens = prepared
            .iter()
            .map(|p| match &p.work {
                Work::Tokens(encoding) => encoding.ids.len(),
                Work::Pixels(_) => 0,
            })
            .sum();
        let cost = Cost {
            tokens,
            ..Cost::default()
        };
        let _room = self.queue.room().reserve(cost)?;
        let sizes = prepared.iter().filter_map(|p| p.size).collect();
        let works = prepared.into_iter().map(|p| p.work).collect();
        let rows = self.queue.embed(works).await?;
        Ok(Embedded {
            rows: join(rows, &inputs.rows, self.model.dim())?,
            tokens,
            pictures: sizes,
        })
    }

    /// Embeds inputs and gives rows of unit length.
    pub(crate) async fn embed_unit(&self, inputs: Inputs) -> Answer<Vec<Vec<f32>>> {
        let mut rows = self.embed(inputs).await?.rows;
        rows.iter_mut().try_for_each(|row| unit(row))?;
        Ok(rows)
    }

    /// Runs what keeps a processor busy on a thread of its own, only so many at a time.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Answer<T> + Send + 'static,
    ) -> Answer<T> {
        let permit = self.preparing.clone().acquire_owned().await;
        let called = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            call()
        });
        called.await.unwrap_or_else(|_| Err(ApiError::lost()))
    }
}

fn prepare(
    model: &Model,
    items: Vec<Item>,
    whole: bool,
    limits: &bifocal_data::Limits,
    metrics: &Metrics,
) -> Answer<Vec<Prepared>> {
    let begun = Instant::now();
    let texts: Vec<&str> = items.iter().filter_map(Item::text).collect();
    let mut encodings = Vec::new();
    if !texts.is_empty() {
        encodings = model.tokenize(&texts)?;
        if let Some(cut) = encodings
            .iter()
            .map(|encoding| encoding.cut)
            .find(|&cut| whole && cut > 0)
        {
            let message = format!("a text is {cut} tokens longer than the model reads; shorten it, or let it be cut");
            return Err(ApiError::field("input", message));
        }
        metrics.preprocess("text", begun.elapsed());
    }
    let mut encodings = encodings.into_iter();
    let begun = Instant::now();
    let mut pictures = 0;
    let mut all = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let work = match item {
            Item::Text(_) => (encodings.next().map(Work::Tokens).ok_or_else(ApiError::lost)?, None),
            Item::Tokens(ids) => {
                let encoding = model.tokens_of(ids);
                let at = |error: ApiError| error.at(format!("input[{at}]"));
                (Work::Tokens(encoding.map_err(|e| at(e.into()))?), None)
            }
            Item::Picture(picture) => {
                pictures += 1;
                let (pixels, size) = self::pixels(model, &picture, limits, &format!("input[{at}]"))?;
                (Work::Pixels(pixels), Some(size))
            }
        };
        let (work, size) = work;
        all.push(Prepared { work, size });
    }
    if pictures > 0 {
        metrics.preprocess("image", begun.elapsed());
    }
    Ok(all)
}

/// `[size, size, 3]` as the model reads it, and the picture's own size.
fn pixels(
    model: &Model,
    picture: &Picture,
    limits: &bifocal_data::Limits,
    param: &str,
) -> Answer<(Vec<f32>, (u32, u32))> {
    let Picture::Bytes(bytes) = picture else {
        return Err(ApiError::lost()); // fetched before
    };
    let preprocess = model.preprocess().ok_or_else(|| {
        ApiError::field(
            param,
            "the model reads texts only; serve one with a vision tower to embed pictures",
        )
    })?;
    let image = decode_with(bytes, limits, preprocess.conventions).map_err(|error| ApiError::picture(&error, param))?;
    let values = preprocess
        .apply(&image)
        .map_err(|e| ApiError::field(param, e.to_string()))?;
    Ok((values, (image.width(), image.height())))
}

/// One row for each group of inputs: the row itself for a group of one, else the direction of the sum of unit rows.
fn join(rows: Vec<Vec<f32>>, groups: &[usize], dim: usize) -> Answer<Vec<Vec<f32>>> {
    let mut rows = rows.into_iter();
    let mut joined = Vec::with_capacity(groups.len());
    for &count in groups {
        let mut group: Vec<Vec<f32>> = rows.by_ref().take(count).collect();
        if count == 1 {
            joined.append(&mut group);
            continue;
        }
        let parts: Vec<_> = group
            .iter()
            .map(|vector| bifocal_search::query::Part { weight: 1.0, vector })
            .collect();
        joined.push(bifocal_search::query::combine(&parts, dim)?);
    }
    Ok(joined)
}

/// Divides a row by its length.
pub(crate) fn unit(row: &mut [f32]) -> Answer<()> {
    let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return Err(ApiError::field(
            "input",
            "the model gives no direction for an input; leave it out",
        ));
    }
    row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    Ok(())
}
