//! `/v2/embed`: Cohere's.
//!
//! `texts`, `images` (data URIs) or `inputs` (parts that become one row each), at most 96 of them; `embedding_types` float, int8, uint8,
//! binary, ubinary, base64. Whole numbers are scaled by each row's largest value, so that cosines stay.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::dialect::content;
use super::embeddings::{dimensions, shape};
use super::pack::{pack, to_i8};
use crate::app::Shared;
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item};
use crate::json::Json;
use crate::payload::Payload;
use crate::picture;

/// Inputs of one request.
const MOST: usize = 96;

#[derive(Debug, Deserialize)]
struct Request {
    texts: Option<Vec<String>>,
    images: Option<Vec<String>>,
    inputs: Option<Vec<Composed>>,
    embedding_types: Option<Vec<String>>,
    output_dimension: Option<usize>,
    truncate: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Composed {
    content: Vec<Value>,
}

/// `POST /v2/embed`.
pub(crate) async fn embed(State(app): State<Shared>, payload: Payload) -> Answer<Json<Value>> {
    let engine = app.engine()?;
    let request: Request = payload.json()?;
    drop(payload);
    let mut inputs = inputs(&request)?;
    inputs.whole = match request.truncate.as_deref() {
        None | Some("END") => false,
        Some("NONE") => true,
        Some(_) => return Err(ApiError::field("truncate", "it must be END or NONE")),
    };
    if inputs.rows.len() > MOST {
        return Err(ApiError::field(
            "texts",
            format!("at most {MOST} inputs are taken in one request"),
        ));
    }
    let types = request.embedding_types.unwrap_or_else(|| vec!["float".to_owned()]);
    let dimensions = dimensions(engine, request.output_dimension).map_err(|e| e.at("output_dimension"))?;
    let (texts, inputs) = (request.texts, picture::fetch_all(&app, inputs).await?);
    let mut embedded = engine.embed(inputs).await?;
    for row in &mut embedded.rows {
        shape(row, dimensions, true)?;
    }
    let mut embeddings = Map::new();
    for kind in &types {
        let rows = embedded
            .rows
            .iter()
            .map(|row| write(row, kind))
            .collect::<Answer<Vec<Value>>>()?;
        embeddings.insert(kind.clone(), rows.into());
    }
    let mut billed = json!({});
    if embedded.tokens > 0 {
        billed["input_tokens"] = embedded.tokens.into();
    }
    if !embedded.pictures.is_empty() {
        billed["images"] = embedded.pictures.len().into();
    }
    let mut answer = json!({
        "id": "bifocal",
        "response_type": "embeddings_by_type",
        "embeddings": embeddings,
        "texts": texts.unwrap_or_default(),
        "meta": { "api_version": { "version": "2" }, "billed_units": billed },
    });
    if !embedded.pictures.is_empty() {
        let sizes = embedded.pictures.iter();
        let sizes = sizes
            .map(|(width, height)| json!({ "width": width, "height": height, "format": "image", "bit_depth": 24 }));
        answer["images"] = sizes.collect::<Vec<_>>().into();
    }
    Ok(Json(answer))
}

fn inputs(request: &Request) -> Answer<Inputs> {
    match (&request.texts, &request.images, &request.inputs) {
        (Some(texts), None, None) => Ok(Inputs::texts(texts.iter().cloned())),
        (None, Some(images), None) => {
            let item = |(at, image): (usize, &String)| {
                Ok(Item::Picture(picture::text::picture(
                    image,
                    false,
                    &format!("images[{at}]"),
                )?))
            };
            Ok(Inputs::each(
                images.iter().enumerate().map(item).collect::<Answer<_>>()?,
            ))
        }
        (None, None, Some(composed)) => {
            let mut inputs = Inputs::default();
            for (at, one) in composed.iter().enumerate() {
                inputs.push(content(one.content.clone(), &format!("inputs[{at}]"))?);
            }
            Ok(inputs)
        }
        _ => Err(ApiError::field("texts", "give one of texts, images and inputs")),
    }
}

fn write(row: &[f32], kind: &str) -> Answer<Value> {
    Ok(match kind {
        "float" => json!(row),
        "int8" => json!(to_i8(row)),
        "uint8" => json!(to_i8(row).into_iter().map(|v| i16::from(v) + 128).collect::<Vec<_>>()),
        "ubinary" => json!(pack(row)),
        "binary" => json!(
            pack(row)
                .into_iter()
                .map(|byte| i16::from(byte) - 128)
                .collect::<Vec<_>>()
        ),
        "base64" => json!(STANDARD.encode(row.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())),
        _ => {
            let message = "the types are float, int8, uint8, binary, ubinary and base64";
            return Err(ApiError::field("embedding_types", message));
        }
    })
}
