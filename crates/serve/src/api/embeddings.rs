//! `/v1/embeddings`: OpenAI's route, which infinity, Jina and vLLM have extended to pictures, each in its own way.
//!
//! | dialect | what is embedded |
//! |---|---|
//! | OpenAI | `input`: a string, strings, tokens, lists of tokens |
//! | infinity | `modality: "image"`, `input`: data URIs or URLs |
//! | Jina | `input`: objects `{text}` or `{image}`, the picture as URL, data URI or bare base64 |
//! | vLLM | `messages` in place of `input`: one row for all parts |
//! | forms | files `image`, fields `input`: a row for each, pictures first |
//!
//! The field `model` is not looked at: there is one model, and programs often cannot be told another name.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dialect;
use super::pack::pack;
use crate::app::Shared;
use crate::engine::{Engine, unit};
use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item, Picture};
use crate::json::Json;
use crate::payload::{Form, Payload};
use crate::picture;

/// The fields of all dialects; those that change nothing here (user, task, …) are passed over.
#[derive(Debug, Default, Deserialize)]
struct Request {
    input: Option<Value>,
    messages: Option<Value>,
    modality: Option<String>,
    encoding_format: Option<String>,
    /// Jina's name for the same.
    embedding_type: Option<String>,
    dimensions: Option<usize>,
    normalized: Option<bool>,
    truncate: Option<bool>,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Float,
    Base64,
    Binary,
    Ubinary,
}

/// `POST /v1/embeddings`.
pub(crate) async fn embeddings(State(app): State<Shared>, payload: Payload) -> Answer<Json<Value>> {
    let engine = app.engine()?;
    let (request, inputs) = if payload.is_form() {
        of_form(payload.form().await?)?
    } else {
        let mut request: Request = payload.json()?;
        let inputs = of_json(&mut request)?;
        (request, inputs)
    };
    drop(payload);
    let written = written(&request)?;
    let dimensions = dimensions(engine, request.dimensions)?;
    let inputs = Inputs {
        whole: request.truncate == Some(false),
        ..inputs
    };
    let inputs = picture::fetch_all(&app, inputs).await?;
    let mut embedded = engine.embed(inputs).await?;
    for row in &mut embedded.rows {
        shape(row, dimensions, request.normalized.unwrap_or(true))?;
    }
    let data: Vec<Value> = embedded
        .rows
        .iter()
        .enumerate()
        .map(|(index, row)| json!({ "object": "embedding", "index": index, "embedding": write(row, written) }))
        .collect();
    Ok(Json(json!({
        "object": "list",
        "data": data,
        "model": engine.id,
        "usage": { "prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens },
    })))
}

fn of_json(request: &mut Request) -> Answer<Inputs> {
    match (request.input.take(), request.messages.take()) {
        (Some(input), None) => dialect::input(input, request.modality.as_deref()),
        (None, Some(messages)) => dialect::messages(messages),
        (Some(_), Some(_)) => Err(ApiError::field("messages", "give input or messages, not both")),
        (None, None) => Err(ApiError::field(
            "input",
            "there is nothing to embed: the field input is missing",
        )),
    }
}

fn of_form(form: Form) -> Answer<(Request, Inputs)> {
    let mut items = Vec::new();
    for (name, bytes) in &form.files {
        if !matches!(
            name.trim_end_matches("[]"),
            "image" | "images" | "file" | "files" | "input"
        ) {
            return Err(ApiError::field(name, "files are sent in the field image"));
        }
        items.push(Item::Picture(Picture::Bytes(bytes.clone())));
    }
    items.extend(
        form.values("image")
            .map(|text| Ok(Item::Picture(picture::text::picture(text, false, "image")?)))
            .collect::<Answer<Vec<_>>>()?,
    );
    let texts = form.values("input").chain(form.values("text"));
    items.extend(texts.map(|text| Item::Text(text.to_owned())));
    let request = Request {
        encoding_format: form.value("encoding_format").map(str::to_owned),
        dimensions: form.parsed("dimensions")?,
        normalized: form.parsed("normalized")?,
        ..Request::default()
    };
    Ok((request, Inputs::each(items)))
}

fn written(request: &Request) -> Answer<Written> {
    let (name, value) = match (&request.encoding_format, &request.embedding_type) {
        (Some(value), _) => ("encoding_format", value),
        (None, Some(value)) => ("embedding_type", value),
        (None, None) => return Ok(Written::Float),
    };
    match value.as_str() {
        "float" => Ok(Written::Float),
        "base64" => Ok(Written::Base64),
        "binary" => Ok(Written::Binary),
        "ubinary" => Ok(Written::Ubinary),
        _ => Err(ApiError::field(name, "it must be float, base64, binary or ubinary")),
    }
}

/// To how many values rows are cut, if at all.
pub(super) fn dimensions(engine: &Engine, asked: Option<usize>) -> Answer<usize> {
    let dim = engine.model.dim();
    let Some(asked) = asked.filter(|&asked| asked != dim) else {
        return Ok(dim);
    };
    let nested = &engine.nested;
    if nested.allows(asked, dim) {
        return Ok(asked);
    }
    let hint = match nested.list(dim) {
        list if list.is_empty() => format!("the model was not trained to be cut; its embeddings have {dim} values"),
        list => format!("the model was trained to be cut to one of {list}"),
    };
    Err(ApiError::field("dimensions", hint))
}

/// Cuts a row, and gives it unit length unless it should keep its own. A row that is cut always has unit length.
pub(super) fn shape(row: &mut Vec<f32>, dimensions: usize, normalized: bool) -> Answer<()> {
    let cut = dimensions < row.len();
    row.truncate(dimensions);
    if normalized || cut {
        unit(row)?;
    }
    Ok(())
}

fn write(row: &[f32], written: Written) -> Value {
    match written {
        Written::Float => json!(row),
        Written::Base64 => {
            let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
            Value::String(STANDARD.encode(bytes))
        }
        Written::Binary => json!(
            pack(row)
                .into_iter()
                .map(|byte| i16::from(byte) - 128)
                .collect::<Vec<_>>()
        ),
        Written::Ubinary => json!(pack(row)),
    }
}
