//! `/livez`, `/readyz`.

use axum::extract::State;

use crate::app::{Phase, Shared};
use crate::error::ApiError;

/// The process answers.
pub(crate) async fn live() -> &'static str {
    "ok\n"
}

/// The model has answered its self-test, and the service is not about to end.
pub(crate) async fn ready(State(app): State<Shared>) -> Result<&'static str, ApiError> {
    match app.phase() {
        Phase::Ready => Ok("ok\n"),
        Phase::Loading => Err(ApiError::unavailable("loading", "the model is being loaded")),
        Phase::Draining => Err(ApiError::unavailable("shutting_down", "the service is shutting down")),
    }
}
