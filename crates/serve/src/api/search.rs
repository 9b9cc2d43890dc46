//! `/v1/search`: items of the store by text, by picture, by another item, or by several of them with weights.

use std::time::Instant;

use axum::extract::State;
use bifocal_search::query::{combine, parse};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::Shared;
use crate::engine::Engine;
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};
use crate::json::Json;
use crate::payload::{Form, Payload};
use crate::picture;
use crate::store::{self, Wanted};

const DEFAULT_K: usize = 24;
const MAX_K: usize = 200;

/// What is asked.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    query: Option<String>,
    image: Option<String>,
    like: Option<String>,
    #[serde(default)]
    parts: Vec<PartRequest>,
    k: Option<usize>,
    min_score: Option<f32>,
    r#where: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartRequest {
    text: Option<String>,
    image: Option<String>,
    key: Option<String>,
    weight: Option<f32>,
}

/// Where a part's vector comes from.
enum Source {
    /// A row that the model gives, by its place.
    Embedded(usize),
    /// An item of the store.
    Key(String),
}

/// A query before it is a vector.
#[derive(Default)]
struct Query {
    inputs: Vec<Item>,
    parts: Vec<(f32, Source)>,
}

/// `POST /v1/search`.
pub(crate) async fn search(State(app): State<Shared>, payload: Payload) -> Answer<Json<Value>> {
    let begun = Instant::now();
    let engine = app.engine()?;
    let store = engine.store()?.clone();
    let mut query = Query::default();
    let request = if payload.is_form() {
        query.form(payload.form().await?)?
    } else {
        payload.json()?
    };
    query.add(&request)?;
    drop(payload);
    let k = request.k.unwrap_or(DEFAULT_K);
    if !(1..=MAX_K).contains(&k) {
        return Err(ApiError::field("k", format!("k must be 1 to {MAX_K}")));
    }
    if request.min_score.is_some_and(|score| !score.is_finite()) {
        return Err(ApiError::field("min_score", "min_score must be a finite number"));
    }
    let vector = vector(&app, engine, query).await?;
    let wanted = Wanted {
        k,
        min_score: request.min_score,
        filter: request.r#where.filter(|expression| !expression.trim().is_empty()),
        // "more like this" alone leaves the item itself out
        without: request.like,
    };
    let asked = Instant::now();
    let found = store::ask(&store, move |store| store::search(store, &vector, &wanted)).await?;
    app.metrics.search(store.kind(), asked.elapsed());
    let items = store::ask(&store, |store| Ok(store.count()?)).await?;
    let hits: Vec<Value> = found
        .hits
        .iter()
        .map(|hit| {
            let mut shown = super::items::show(&hit.key, hit.size, hit.modified_ns, &hit.metadata);
            shown["score"] = json!(hit.score);
            shown
        })
        .collect();
    let mut answer = json!({
        "items": items,
        "matched": found.matched,
        "hits": hits,
        "took_ms": begun.elapsed().as_secs_f64() * 1e3,
    });
    if let Some(scores) = found.scores {
        answer["stats"] = json!({ "mean": scores.mean, "deviation": scores.deviation });
    }
    Ok(Json(answer))
}

impl Query {
    /// Texts of a form, and its pictures as parts.
    fn form(&mut self, form: Form) -> Answer<Request> {
        for (name, bytes) in &form.files {
            if name != "image" {
                return Err(ApiError::field(name, "files are sent in the field image"));
            }
            self.embed(1.0, Item::Picture(Picture::Bytes(bytes.clone())));
        }
        let text = |name: &str| form.value(name).filter(|text| !text.is_empty()).map(str::to_owned);
        let parts = text("parts").map(|parts| serde_json::from_str(&parts));
        let parts = parts.transpose().map_err(|e| ApiError::field("parts", e.to_string()))?;
        Ok(Request {
            query: text("query"),
            image: text("image"),
            like: text("like"),
            parts: parts.unwrap_or_default(),
            k: form.parsed("k")?,
            min_score: form.parsed("min_score")?,
            r#where: text("where"),
        })
    }

    fn embed(&mut self, weight: f32, item: Item) {
        self.parts.push((weight, Source::Embedded(self.inputs.len())));
        self.inputs.push(item);
    }

    fn add(&mut self, request: &Request) -> Answer<()> {
        if let Some(text) = &request.query {
            // as on the command line: "red car - truck", "2:beach + sunset"
            for term in parse(text).map_err(|e| ApiError::field("query", e.to_string()))? {
                self.embed(term.weight, Item::Text(term.text));
            }
        }
        if let Some(image) = &request.image {
            self.embed(1.0, Item::Picture(picture::text::picture(image, false, "image")?));
        }
        if let Some(key) = &request.like {
            self.parts.push((1.0, Source::Key(key.clone())));
        }
        for (at, part) in request.parts.iter().enumerate() {
            let param = format!("parts[{at}]");
            let weight = part.weight.unwrap_or(1.0);
            if !weight.is_finite() {
                return Err(ApiError::field(param, "the weight must be a finite number"));
            }
            match (&part.text, &part.image, &part.key) {
                (Some(text), None, None) => self.embed(weight, Item::Text(text.clone())),
                (None, Some(image), None) => {
                    self.embed(weight, Item::Picture(picture::text::picture(image, false, &param)?));
                }
                (None, None, Some(key)) => self.parts.push((weight, Source::Key(key.clone()))),
                _ => return Err(ApiError::field(param, "a part has one of text, image and key")),
            }
        }
        if self.parts.is_empty() {
            return Err(ApiError::field(
                "query",
                "nothing to look for: give query, image, like or parts",
            ));
        }
        Ok(())
    }
}

/// The direction of a query.
async fn vector(app: &Shared, engine: &Engine, query: Query) -> Answer<Vec<f32>> {
    let mut rows = Vec::new();
    if !query.inputs.is_empty() {
        let inputs = picture::fetch_all(app, Inputs::each(query.inputs)).await?;
        rows = engine.embed_unit(inputs).await?;
    }
    let mut vectors = Vec::with_capacity(query.parts.len());
    for (weight, source) in query.parts {
        let vector = match source {
            Source::Embedded(at) => rows.get_mut(at).map(std::mem::take).ok_or_else(ApiError::lost)?,
            Source::Key(key) => store::ask(engine.store()?, move |store| store::vector(store, &key)).await?,
        };
        vectors.push((weight, vector));
    }
    Ok(combine(&vectors, engine.model.dim())?)
}
