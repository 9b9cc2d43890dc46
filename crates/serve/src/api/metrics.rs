//! `/metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::app::{Phase, Shared};
use crate::metrics::Now;
use crate::store;

pub(crate) async fn metrics(State(app): State<Shared>) -> impl IntoResponse {
    let engine = app.engine().ok();
    let vectors = match engine.and_then(|engine| engine.store.as_ref()) {
        Some(store) => store::ask(store, |store| Ok(store.count()?)).await.ok(),
        None => None,
    };
    let now = Now {
        depth: engine.map_or(0, |engine| engine.queue.depth()),
        room: engine.map_or_else(Default::default, |engine| engine.queue.room().used()),
        vectors,
        loaded: app.phase() != Phase::Loading,
    };
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        app.metrics.render(&now),
    )
}
