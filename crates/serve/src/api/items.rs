//! `/v1/items`: what the store holds, its thumbnails and pictures.

use std::path::Path;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bifocal_data::decode;
use bifocal_data::source::{Finder, shard_of};
use bifocal_data::{DecodeError, Limits};
use bifocal_search::{ContentHash, Entry, Metadata};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::Shared;
use crate::error::{Answer, ApiError};
use crate::json::Json;
use crate::picture::thumbnail;
use crate::store;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// Which page.
#[derive(Debug, Deserialize)]
pub(crate) struct ListQuery {
    after: Option<String>,
    limit: Option<usize>,
    r#where: Option<String>,
}

/// Which item.
#[derive(Debug, Deserialize)]
pub(crate) struct KeyQuery {
    key: String,
}

/// As axum's, with our errors.
type Asked<T> = Result<Query<T>, axum::extract::rejection::QueryRejection>;

fn asked<T>(query: Asked<T>) -> Answer<T> {
    let refused = |error: axum::extract::rejection::QueryRejection| ApiError::field("query", error.body_text());
    query.map(|Query(query)| query).map_err(refused)
}

/// What is shown of an item wherever one is listed.
pub(super) fn show(key: &str, size: u64, modified_ns: i64, metadata: &Metadata) -> Value {
    let mut shown = json!({
        "key": key,
        "name": store::name(key),
        "size": size,
        // milliseconds since 1970, as JavaScript counts
        "modified": modified_ns / 1_000_000,
        "metadata": metadata,
        "thumbnail": store::thumbnail_url(key),
    });
    for side in ["width", "height"] {
        if let Some(length) = metadata.get(side).filter(|length| length.is_u64()) {
            shown[side] = length.clone();
        }
    }
    shown
}

/// `GET /v1/items`.
pub(crate) async fn list(State(app): State<Shared>, query: Asked<ListQuery>) -> Answer<Json<Value>> {
    let query = asked(query)?;
    let store = app.engine()?.store()?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(ApiError::field("limit", format!("limit must be 1 to {MAX_LIMIT}")));
    }
    let filter = query.r#where.filter(|expression| !expression.trim().is_empty());
    let page = store::ask(store, move |store| {
        store::page(store, query.after, limit, filter.as_ref())
    })
    .await?;
    let next = page.rows.last().filter(|_| page.more).map(|item| &item.file.key);
    let rows = page
        .rows
        .iter()
        .map(|item| show(&item.file.key, item.file.size, item.file.modified_ns, &item.metadata));
    let results: Vec<Value> = rows.collect();
    Ok(Json(json!({
        "items": page.items, "matched": page.matched, "next": next, "results": results,
    })))
}

/// `GET /v1/items/thumbnail`: a JPEG.
pub(crate) async fn thumbnail(
    State(app): State<Shared>,
    query: Asked<KeyQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let key = asked(query)?.key;
    let store = app.engine()?.store()?;
    let entry = store::ask(store, move |store| store::entry(store, &key)).await?;
    // named by content, so that a file that changed has another thumbnail
    let name = entry.item.file.hash.to_string();
    if let Some(answer) = unchanged(&headers, &name) {
        return Ok(answer);
    }
    let jpeg = match entry
        .item
        .thumbnail
        .clone()
        .map(Bytes::from)
        .or_else(|| app.thumbnails.get(&name))
    {
        Some(jpeg) => jpeg,
        None => {
            let limits = app.limits.picture;
            let made = app.engine()?.aside(move || {
                let bytes = read(&entry, &limits)?;
                thumbnail::make(&bytes, &limits).map_err(|error| ApiError::picture(&error, "key"))
            });
            let jpeg = made.await?;
            app.thumbnails.keep(&name, jpeg.clone());
            jpeg
        }
    };
    Ok(file(jpeg, "image/jpeg", &name))
}

/// `GET /v1/items/picture`: the file itself, if it still is a picture.
pub(crate) async fn picture(State(app): State<Shared>, query: Asked<KeyQuery>, headers: HeaderMap) -> Answer<Response> {
    let key = asked(query)?.key;
    let store = app.engine()?.store()?;
    let entry = store::ask(store, move |store| store::entry(store, &key)).await?;
    let limits = app.limits.picture;
    let checked = app.engine()?.aside(move || {
        let bytes = read(&entry, &limits)?;
        let hash = ContentHash::of_bytes(&bytes);
        // what was decoded when it was indexed need not be decoded again
        if hash != entry.item.file.hash {
            decode::decode(&bytes, &limits).map_err(|error| ApiError::picture(&error, "key"))?;
        }
        let format = image::guess_format(&bytes).map_err(|_| ApiError::media("the file is not a picture").at("key"))?;
        Ok((bytes, format.to_mime_type(), hash.to_string()))
    });
    let (bytes, kind, name) = checked.await?;
    Ok(unchanged(&headers, &name).unwrap_or_else(|| file(bytes, kind, &name)))
}

/// The picture of an item: a file, or a part of an archive or a table. Keys are paths without links, as indexing wrote them: a link in such
/// a place was put there later.
fn read(entry: &Entry, limits: &Limits) -> Answer<Bytes> {
    let path = Path::new(&entry.item.file.key);
    let gone = || ApiError::missing("the item's file is no longer there; index the folder again").at("key");
    let is_file = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    if !is_file(path) && !shard_of(path).is_some_and(is_file) {
        return Err(gone());
    }
    let image = Finder::default().find(path).ok_or_else(gone)?;
    let bytes = image.read(limits).map_err(|error| match error {
        DecodeError::Io { .. } => gone(),
        other => ApiError::picture(&other, "key"),
    })?;
    Ok(bytes.into())
}

fn tag(name: &str) -> String {
    format!("\"{}\"", &name[..name.len().min(32)])
}

/// 304 for a client that has it already.
fn unchanged(headers: &HeaderMap, name: &str) -> Option<Response> {
    let known = headers.get(header::IF_NONE_MATCH)?.to_str().ok()?;
    (known == tag(name)).then(|| {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        cached(&mut response, name);
        response
    })
}

fn file(bytes: Bytes, kind: &'static str, name: &str) -> Response {
    let mut response = bytes.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // opened by itself, it is a picture and nothing else
    let policy = HeaderValue::from_static("default-src 'none'; sandbox");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    cached(&mut response, name);
    response
}

fn cached(response: &mut Response, name: &str) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    if let Ok(tag) = HeaderValue::from_str(&tag(name)) {
        headers.insert(header::ETAG, tag);
    }
}
