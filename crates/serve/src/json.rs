//! Answers as JSON. axum's own asks serde_json for a feature that nothing else here needs, and all that depends on it would be built with it.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::ApiError;

/// A value as the body of an answer.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            // not an answer in JSON again, which could fail in the same way
            Err(_) => ApiError::lost().status.into_response(),
        }
    }
}
