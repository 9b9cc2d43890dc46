//! `/v1/models`.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::app::Shared;
use crate::engine::Engine;
use crate::error::{Answer, ApiError};
use crate::json::Json;
use crate::talk::Talker;

/// The model that embeds, and the one that talks if there is one.
pub(crate) async fn list(State(app): State<Shared>) -> Answer<Json<Value>> {
    let engine = app.engine()?;
    let mut models = vec![describe(engine)];
    models.extend(engine.talker.as_ref().map(speaks));
    Ok(Json(json!({ "object": "list", "data": models })))
}

/// The model by its id.
pub(crate) async fn one(State(app): State<Shared>, id: Result<Path<String>, PathRejection>) -> Answer<Json<Value>> {
    let Path(id) = id.map_err(|error| ApiError::malformed(error.body_text()))?;
    let engine = app.engine()?;
    if id == engine.id {
        return Ok(Json(describe(engine)));
    }
    let talker = engine.talker.as_ref().filter(|talker| talker.id == id);
    let none = || ApiError::missing("there is no such model; GET /v1/models says which ones are served").at("model");
    talker.map(|talker| Json(speaks(talker))).ok_or_else(none)
}

fn speaks(talker: &Talker) -> Value {
    let modalities: &[&str] = if talker.sees() { &["text", "image"] } else { &["text"] };
    json!({
        "id": talker.id,
        "object": "model",
        "created": 0,
        "owned_by": "bifocal",
        "chat": true,
        "modalities": modalities,
        "max_tokens": talker.context(),
        "fingerprint": talker.fingerprint(),
    })
}

fn describe(engine: &Engine) -> Value {
    let model = &engine.model;
    let modalities = [("text", model.text().is_some()), ("image", model.vision().is_some())];
    let modalities: Vec<&str> = modalities.into_iter().filter(|m| m.1).map(|m| m.0).collect();
    json!({
        "id": engine.id,
        "object": "model",
        "created": 0,
        "owned_by": "bifocal",
        "dimensions": model.dim(),
        "normalized": true,
        "modalities": modalities,
        "max_tokens": model.text().map(|text| text.max_tokens),
        "image_size": model.preprocess().map(|preprocess| preprocess.size),
        "logit_scale": model.logit_scale(),
        "fingerprint": model.fingerprint(),
        "store": engine.store.is_some(),
    })
}
