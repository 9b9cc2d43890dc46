//! The routes and what they share.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::engine::Engine;
use crate::error::{Answer, ApiError};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::payload::UNIT;
use crate::picture::AllowedHosts;
use crate::picture::thumbnail::Thumbnails;
use crate::{api, guard, page};

pub(crate) type Shared = Arc<App>;

/// Where the service is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Loading = 0,
    Ready = 1,
    Draining = 2,
}

/// What all requests share.
pub(crate) struct App {
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access: Access,
    pub(crate) hosts: Option<AllowedHosts>,
    /// Kilobytes that bodies may still take.
    pub(crate) bodies: Arc<Semaphore>,
    /// Kilobytes that large answers may still take.
    pub(crate) answers: Arc<Semaphore>,
    /// Requests that may still begin.
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) thumbnails: Thumbnails,
    pub(crate) map: api::map::Cache,
    engine: OnceLock<Engine>,
    phase: AtomicU8,
}

impl App {
    pub(crate) fn new(limits: Limits, access: Access, hosts: Option<AllowedHosts>) -> Shared {
        let units = limits
            .bodies
            .max(limits.body)
            .div_ceil(UNIT)
            .min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            bodies: Arc::new(Semaphore::new(units)),
            answers: Arc::new(Semaphore::new((limits.answers / UNIT).min(Semaphore::MAX_PERMITS))),
            requests: Arc::new(Semaphore::new(limits.requests)),
            thumbnails: Thumbnails::new(limits.thumbnails),
            map: api::map::Cache::default(),
            metrics: Arc::new(Metrics::new()),
            engine: OnceLock::new(),
            phase: AtomicU8::new(Phase::Loading as u8),
            limits,
            access,
            hosts,
        })
    }

    /// The model and the store.
    ///
    /// # Errors
    /// 503 until they are loaded.
    pub(crate) fn engine(&self) -> Answer<&Engine> {
        let loading = || ApiError::unavailable("loading", "the model is being loaded; try again in a moment");
        self.engine.get().ok_or_else(loading)
    }

    /// From now on requests are answered.
    pub(crate) fn serve(&self, engine: Engine) {
        if self.engine.set(engine).is_ok() {
            let (from, to) = (Phase::Loading as u8, Phase::Ready as u8);
            // a service that is told to end while it loads stays so
            let _ = self
                .phase
                .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    pub(crate) fn drain(&self) {
        self.phase.store(Phase::Draining as u8, Ordering::SeqCst);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Loading,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

/// All routes.
pub(crate) fn router(app: Shared) -> Router {
    let work = Router::new()
        .route("/v1/embeddings", post(api::embeddings::embeddings))
        .route("/v2/embed", post(api::cohere::embed))
        .route("/v1/classify", post(api::classify::classify))
        .route("/v1/similarity", post(api::similarity::similarity))
        .route("/v1/search", post(api::search::search))
        .route("/v1/chat/completions", post(api::chat::completions))
        .layer(from_fn_with_state(app.clone(), guard::work));
    let look = Router::new()
        .route("/v1/models", get(api::models::list))
        .route("/v1/models/{id}", get(api::models::one))
        .route("/v1/map", get(api::map::map))
        .route("/v1/items", get(api::items::list))
        .route("/v1/items/thumbnail", get(api::items::thumbnail))
        .route("/v1/items/picture", get(api::items::picture))
        .layer(from_fn_with_state(app.clone(), guard::look));
    Router::new()
        .merge(work)
        .merge(look)
        .route("/metrics", get(api::metrics::metrics))
        .route("/openapi.json", get(api::openapi::openapi))
        .layer(from_fn_with_state(app.clone(), guard::access))
        // the page holds nothing of the collection, and has to be there to ask its user for the key
        .route("/", get(page::index))
        .route("/assets/{name}", get(page::asset))
        .route("/livez", get(api::health::live))
        .route("/readyz", get(api::health::ready))
        .fallback(api::unknown_route)
        .method_not_allowed_fallback(api::other_method)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), guard::outermost))
        .with_state(app)
}
