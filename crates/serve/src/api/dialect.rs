//! How other services' clients write inputs, as one list of items.

use serde_json::Value;

use crate::error::{Answer, ApiError};
use crate::input::{Inputs, Item};
use crate::picture::text::picture;

/// The field `input` of OpenAI, infinity and Jina.
pub(super) fn input(input: Value, modality: Option<&str>) -> Answer<Inputs> {
    let pictures = match modality {
        None | Some("text") => false,
        Some("image") => true,
        Some(_) => return Err(ApiError::field("modality", "it must be text or image")),
    };
    let items = match input {
        Value::Array(all) if all.first().is_some_and(Value::is_number) => vec![Item::Tokens(tokens(all, "input")?)],
        Value::Array(all) => all
            .into_iter()
            .enumerate()
            .map(|(at, value)| one(value, pictures, &format!("input[{at}]")))
            .collect::<Answer<_>>()?,
        value => vec![one(value, pictures, "input")?],
    };
    Ok(Inputs::each(items))
}

fn one(value: Value, pictures: bool, param: &str) -> Answer<Item> {
    match value {
        Value::String(text) if pictures => Ok(Item::Picture(picture(&text, true, param)?)),
        Value::String(text) => Ok(Item::Text(text)),
        Value::Array(ids) if !pictures => Ok(Item::Tokens(tokens(ids, param)?)),
        Value::Object(mut object) => match (object.remove("text"), object.remove("image")) {
            (Some(Value::String(text)), None) => Ok(Item::Text(text)),
            (None, Some(Value::String(image))) => Ok(Item::Picture(picture(&image, true, param)?)),
            _ => Err(ApiError::field(
                param,
                "an object must have one of text and image, a string",
            )),
        },
        _ if pictures => Err(ApiError::field(param, "a picture must be a data URI or a URL")),
        _ => Err(ApiError::field(
            param,
            "an input must be a text, a list of tokens, or an object with text or image",
        )),
    }
}

fn tokens(ids: Vec<Value>, param: &str) -> Answer<Vec<u32>> {
    if ids.is_empty() {
        return Err(ApiError::field(param, "a list of tokens must not be empty"));
    }
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
    ids.ok_or_else(|| ApiError::field(param, "tokens must be whole numbers that are not negative"))
}

/// vLLM's `messages`: one row for all their parts.
pub(super) fn messages(messages: Value) -> Answer<Inputs> {
    let Value::Array(messages) = messages else {
        return Err(ApiError::field("messages", "it must be a list of messages"));
    };
    let mut items = Vec::new();
    for (at, message) in messages.into_iter().enumerate() {
        let param = format!("messages[{at}]");
        let Value::Object(mut message) = message else {
            return Err(ApiError::field(
                param,
                "a message must be an object with role and content",
            ));
        };
        if message.get("role").and_then(Value::as_str) != Some("user") {
            return Err(ApiError::field(param, "only messages of the role user are embedded"));
        }
        match message.remove("content") {
            Some(Value::String(text)) => items.push(Item::Text(text)),
            Some(Value::Array(parts)) => items.extend(content(parts, &param)?),
            _ => return Err(ApiError::field(param, "content must be a text or a list of parts")),
        }
    }
    let mut inputs = Inputs::default();
    inputs.push(items);
    Ok(inputs)
}

/// Parts of a message: `{type: "text", text}` and `{type: "image_url", image_url: {url}}`.
pub(super) fn content(parts: Vec<Value>, param: &str) -> Answer<Vec<Item>> {
    let part = |(at, part): (usize, Value)| {
        let param = format!("{param}.content[{at}]");
        match part.get("type").and_then(Value::as_str) {
            Some("text") => match part.get("text") {
                Some(Value::String(text)) => Ok(Item::Text(text.clone())),
                _ => Err(ApiError::field(param, "a part of type text has a text")),
            },
            Some("image_url") => {
                let url = part
                    .get("image_url")
                    .and_then(|url| url.get("url").unwrap_or(url).as_str());
                let url = url.ok_or_else(|| ApiError::field(&param, "a part of type image_url has image_url.url"))?;
                Ok(Item::Picture(picture(url, false, &param)?))
            }
            _ => Err(ApiError::field(param, "the type of a part must be text or image_url")),
        }
    };
    parts.into_iter().enumerate().map(part).collect()
}
