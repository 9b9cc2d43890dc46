//! `/v1/similarity`: cosines between texts and a picture, of the store or in the request.

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::Shared;
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item};
use crate::json::Json;
use crate::payload::Payload;
use crate::picture;
use crate::store;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    texts: Vec<String>,
    key: Option<String>,
    image: Option<String>,
}

/// `POST /v1/similarity`.
pub(crate) async fn similarity(State(app): State<Shared>, payload: Payload) -> Answer<Json<Value>> {
    let engine = app.engine()?;
    let request: Request = payload.json()?;
    drop(payload);
    if request.texts.is_empty() {
        return Err(ApiError::field("texts", "give at least one text"));
    }
    let picture = match (request.key, &request.image) {
        (Some(key), None) => store::ask(engine.store()?, move |store| store::vector(store, &key)).await?,
        (None, Some(image)) => {
            let item = Item::Picture(picture::text::picture(image, false, "image")?);
            let inputs = picture::fetch_all(&app, Inputs::each(vec![item])).await?;
            engine.embed_unit(inputs).await?.concat()
        }
        _ => return Err(ApiError::field("key", "give one of key and image")),
    };
    let rows = engine.embed_unit(Inputs::texts(request.texts)).await?;
    let cosine = |row: &Vec<f32>| {
        row.iter()
            .zip(&picture)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>()
    };
    let scores: Vec<f32> = rows.iter().map(|row| cosine(row) as f32).collect();
    Ok(Json(json!({ "scores": scores })))
}
