//! One file per group of routes.

pub(crate) mod chat;
pub(crate) mod classify;
pub(crate) mod cohere;
mod dialect;
pub(crate) mod embeddings;
pub(crate) mod health;
pub(crate) mod items;
pub(crate) mod map;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod openapi;
mod pack;
pub(crate) mod search;
pub(crate) mod similarity;

use axum::http::StatusCode;

use crate::error::ApiError;

pub(crate) async fn unknown_route() -> ApiError {
    ApiError::missing("there is no such route; /openapi.json lists all of them")
}

pub(crate) async fn other_method() -> ApiError {
    let message = "the route does not take this method; /openapi.json says which it takes";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
