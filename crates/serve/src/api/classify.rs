//! `/v1/classify`: which of some labels fits a picture (or a text).

use axum::extract::State;
use bifocal_eval::{TemplateSet, class_weights, rank_classes};
use serde::Deserialize;
use serde_json::{Value, json};

use super::dialect;
use crate::app::Shared;
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};
use crate::json::Json;
use crate::payload::{Form, Payload};
use crate::picture;
use crate::store;

const DEFAULT_K: usize = 5;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(rename = "model")]
    _model: Option<String>,
    labels: Vec<String>,
    templates: Option<Templates>,
    /// As in `/v1/embeddings`.
    input: Option<Value>,
    image: Option<String>,
    key: Option<String>,
    k: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    Named(String),
    Listed(Vec<String>),
}

/// `POST /v1/classify`.
pub(crate) async fn classify(State(app): State<Shared>, payload: Payload) -> Answer<Json<Value>> {
    let engine = app.engine()?;
    let (mut request, mut items) = if payload.is_form() {
        of_form(payload.form().await?)?
    } else {
        (payload.json::<Request>()?, Vec::new())
    };
    drop(payload);
    if let Some(input) = request.input.take() {
        items.extend(dialect::input(input, None)?.items);
    }
    if let Some(image) = &request.image {
        items.push(Item::Picture(picture::text::picture(image, false, "image")?));
    }
    let prompts = prompts(&request)?;
    let each = prompts.len() / request.labels.len();
    let mut rows = Vec::new();
    if !items.is_empty() {
        let inputs = picture::fetch_all(&app, Inputs::each(items)).await?;
        rows = engine.embed_unit(inputs).await?;
    }
    if let Some(key) = request.key.take() {
        rows.push(store::ask(engine.store()?, move |store| store::vector(store, &key)).await?);
    }
    if rows.is_empty() {
        return Err(ApiError::field(
            "image",
            "there is nothing to classify: give image, input, key, or a file",
        ));
    }
    let embedded = engine.embed(Inputs::texts(prompts)).await?;
    let weights = class_weights(&embedded.rows.concat(), each, engine.model.dim())?;
    let k = request.k.unwrap_or(DEFAULT_K).clamp(1, request.labels.len());
    let scale = engine.model.logit_scale();
    let results: Vec<Value> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| {
            let best = rank_classes(row, &weights, scale);
            let labels = best.iter().take(k);
            let labels =
                labels.map(|r| json!({ "label": request.labels[r.class], "score": r.cosine, "share": r.share }));
            json!({ "index": index, "labels": labels.collect::<Vec<_>>() })
        })
        .collect();
    let tokens = embedded.tokens;
    Ok(Json(json!({
        "model": engine.id, "results": results, "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

fn of_form(form: Form) -> Answer<(Request, Vec<Item>)> {
    let files = form
        .files
        .iter()
        .map(|(_, bytes)| Item::Picture(Picture::Bytes(bytes.clone())));
    let templates: Vec<String> = form.values("templates").map(str::to_owned).collect();
    let request = Request {
        labels: form
            .values("labels")
            .flat_map(|list| list.split(','))
            .map(|l| l.trim().to_owned())
            .collect(),
        templates: match templates.len() {
            0 => None,
            1 if !templates[0].contains('{') => templates.into_iter().next().map(Templates::Named),
            _ => Some(Templates::Listed(templates)),
        },
        k: form.parsed("k")?,
        key: form.value("key").map(str::to_owned),
        ..Request::default()
    };
    Ok((request, files.collect()))
}

/// All prompts of the first label first.
fn prompts(request: &Request) -> Answer<Vec<String>> {
    if request.labels.is_empty() {
        return Err(ApiError::field("labels", "give at least one label"));
    }
    let set = match &request.templates {
        None => return Ok(request.labels.clone()),
        // a name only: a client must not read files of the server
        Some(Templates::Named(name)) => TemplateSet::named(name).ok_or_else(|| {
            let names = TemplateSet::names().join(", ");
            ApiError::field("templates", format!("there is no set {name:?}; there are {names}"))
        })?,
        Some(Templates::Listed(list)) => {
            TemplateSet::new("request", list).map_err(|e| ApiError::field("templates", e.to_string()))?
        }
    };
    Ok(set.prompts(&request.labels))
}
