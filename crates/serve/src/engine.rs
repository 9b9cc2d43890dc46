//! The model and the store, once they are loaded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bifocal_data::Preprocess;
use bifocal_data::decode::decode_with;
use bifocal_models::bundle::{BundleError, Model};
use bifocal_models::chat::ChatModel;
use bifocal_models::tokenizer::Encoding;
use bifocal_search::Store;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::nested::Nested;
use crate::queue::{Cost, Queue, Room, Work, work};
use crate::talk::Talker;

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
    /// A language model to talk with, and what clients see as its id.
    pub chat: Option<(ChatModel, String)>,
}

/// See the module.
pub(crate) struct Engine {
    pub(crate) model: Arc<Model>,
    pub(crate) id: String,
    pub(crate) store: Option<Arc<dyn Store>>,
    /// To which widths embeddings may be cut.
    pub(crate) nested: Nested,
    pub(crate) queue: Arc<Queue>,
    pub(crate) talker: Option<Talker>,
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
            talker: loaded.chat.map(|(model, id)| Talker::new(model, id, limits.talks)),
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
        let prepared = self.prepare(inputs.items, inputs.whole).await?;
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
        aside(self.preparing.clone(), call).await
    }

    /// Tokens of all texts at once, and pixels picture by picture: in turn with those of other requests, and no more of them once the client is
    /// gone.
    async fn prepare(&self, items: Vec<Item>, whole: bool) -> Answer<Vec<Prepared>> {
        let mut prepared: Vec<Option<Prepared>> = items.iter().map(|_| None).collect();
        let (mut texts, mut pictures) = (Vec::new(), JoinSet::new());
        for (at, item) in items.into_iter().enumerate() {
            let Item::Picture(picture) = item else {
                texts.push((at, item));
                continue;
            };
            let (model, limits, metrics) = (self.model.clone(), self.limits.picture, self.metrics.clone());
            let pixels = move || {
                let begun = Instant::now();
                let prepared = pixels(&model, &picture, &limits, &format!("input[{at}]"))?;
                metrics.preprocess("image", begun.elapsed());
                Ok((at, prepared))
            };
            pictures.spawn(aside(self.preparing.clone(), pixels));
        }
        if !texts.is_empty() {
            let (model, metrics) = (self.model.clone(), self.metrics.clone());
            let tokens = move || {
                let begun = Instant::now();
                let tokens = tokens(&model, texts, whole)?;
                metrics.preprocess("text", begun.elapsed());
                Ok(tokens)
            };
            for (at, encoding) in self.aside(tokens).await? {
                let work = Work::Tokens(encoding);
                prepared[at] = Some(Prepared { work, size: None });
            }
        }
        while let Some(done) = pictures.join_next().await {
            let (at, one) = done.map_err(|_| ApiError::lost())??;
            prepared[at] = Some(one);
        }
        prepared.into_iter().collect::<Option<_>>().ok_or_else(ApiError::lost)
    }
}

async fn aside<T: Send + 'static>(
    threads: Arc<Semaphore>,
    call: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    let permit = threads.acquire_owned().await;
    let called = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        call()
    });
    called.await.unwrap_or_else(|_| Err(ApiError::lost()))
}

/// Tokens of texts, with their places.
fn tokens(model: &Model, items: Vec<(usize, Item)>, whole: bool) -> Answer<Vec<(usize, Encoding)>> {
    let texts: Vec<&str> = items.iter().filter_map(|(_, item)| item.text()).collect();
    let mut encodings = model.tokenize(&texts)?.into_iter();
    let mut all = Vec::with_capacity(items.len());
    for (at, item) in items {
        let encoding = match item {
            Item::Tokens(ids) => {
                let refused = |error: BundleError| ApiError::from(error).at(format!("input[{at}]"));
                model.tokens_of(ids).map_err(refused)?
            }
            _ => encodings.next().ok_or_else(ApiError::lost)?,
        };
        if whole && encoding.cut > 0 {
            let cut = encoding.cut;
            let message = format!("the text is {cut} tokens longer than the model reads; shorten it, or let it be cut");
            return Err(ApiError::field(format!("input[{at}]"), message));
        }
        all.push((at, encoding));
    }
    Ok(all)
}

/// `[size, size, 3]` as the model reads it, and the picture's own size.
fn pixels(model: &Model, picture: &Picture, limits: &bifocal_data::Limits, param: &str) -> Answer<Prepared> {
    let preprocess = model.preprocess().ok_or_else(|| {
        ApiError::field(
            param,
            "the model reads texts only; serve one with a vision tower to embed pictures",
        )
    })?;
    let (values, size) = prepare(preprocess, picture, limits, param)?;
    Ok(Prepared {
        work: Work::Pixels(values),
        size: Some(size),
    })
}

/// A picture as a tower reads it, `[size, size, 3]`, and its own width and height.
pub(crate) fn prepare(
    preprocess: &Preprocess,
    picture: &Picture,
    limits: &bifocal_data::Limits,
    param: &str,
) -> Answer<(Vec<f32>, (u32, u32))> {
    let Picture::Bytes(bytes) = picture else {
        return Err(ApiError::lost()); // fetched before
    };
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
        let parts: Vec<_> = group.iter().map(|vector| (1.0, vector)).collect();
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
