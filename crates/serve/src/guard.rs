//! What stands around every handler: the key, limits, deadlines, measures, and the last guard against panics.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::{Phase, Shared};
use crate::error::{ApiError, Refusal};
use crate::paced::held;
use crate::payload::{Payload, Read};

/// Around everything: a panic becomes an answer, and every answer is measured.
pub(crate) async fn outermost(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    // a route's pattern, not what was asked for: clients must not make up labels
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let response = caught(next.run(request))
        .await
        .unwrap_or_else(|| ApiError::lost().into_response());
    let mut response = held(&app, response).await;
    let route = route.as_deref().unwrap_or("(none)");
    app.metrics.request(route, response.status().as_u16(), begun.elapsed());
    if let Some(Refusal(reason)) = response.extensions().get() {
        app.metrics.reject(reason);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if app.phase() == Phase::Draining {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// `None` when it panicked.
async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Some),
        Err(_) => Poll::Ready(None),
    })
    .await
}

/// Around everything but health: the key and the host.
pub(crate) async fn access(State(app): State<Shared>, request: Request, next: Next) -> Result<Response, ApiError> {
    app.access.check(request.headers())?;
    Ok(next.run(request).await)
}

/// Around what looks things up: a deadline.
pub(crate) async fn look(State(app): State<Shared>, request: Request, next: Next) -> Result<Response, ApiError> {
    let answer = tokio::time::timeout(app.limits.deadline, next.run(request)).await;
    answer.map_err(|_| ApiError::deadline())
}

/// Around what needs the model: the body, so many requests at once, and for each of them a deadline.
pub(crate) async fn work(State(app): State<Shared>, request: Request, next: Next) -> Result<Response, ApiError> {
    app.engine()?;
    let (parts, body) = request.into_parts();
    // read before a slot is taken: slow clients must not keep others out
    let payload = Payload::read(&parts.headers, body, &app).await?;
    let mut request = Request::from_parts(parts, Body::empty());
    request.extensions_mut().insert(Read::new(payload));
    let slot = app.requests.clone().try_acquire_owned();
    let _slot = slot.map_err(|_| ApiError::full("requests", "too many requests are being worked on"))?;
    let answer = tokio::time::timeout(app.limits.deadline, next.run(request)).await;
    answer.map_err(|_| ApiError::deadline())
}
