//! The HTTP service: embeddings as clients of other services ask for them, search in a store, and a page to search with.
//!
//! [`run`] listens at once, says that it is not ready until the model has answered a self-test, and ends in good order when it is told to.
//! What many clients ask becomes one batch of the model (`queue/`). Everything that a client sends has a limit before it is looked at
//! ([`Limits`]); every answer that is not the one asked for is an error in the shape of OpenAI's API.

mod access;
mod api;
mod app;
mod connections;
mod engine;
mod error;
mod guard;
mod input;
mod json;
mod limits;
mod metrics;
mod nested;
mod paced;
mod page;
mod payload;
mod picture;
mod queue;
mod store;
mod talk;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use bifocal_models::doctor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use access::ApiKey;
pub use engine::Loaded;
pub use limits::Limits;
pub use picture::{AllowError, AllowedHosts};

use access::Access;
use app::{App, Shared};
use engine::Engine;

/// How often it is asked whether the service should end.
const ASK_STOP: Duration = Duration::from_millis(50);

/// How the service is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes any that is free.
    pub listen: SocketAddr,
    /// What requests have to show.
    pub key: Option<ApiKey>,
    /// Names that a service on the loopback without a key answers to, besides those of this machine.
    pub names: Vec<String>,
    /// From where pictures may be fetched that are named by URL; from nowhere without it.
    pub hosts: Option<AllowedHosts>,
    /// What requests may cost.
    pub limits: Limits,
}

/// What happens to the service, for its operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Connections are accepted here.
    Listening(SocketAddr),
    /// The model answers.
    Ready,
    /// It was told to end, and finishes what it began.
    Draining,
}

/// Whatever loading fails with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another with --listen, or stop what listens there")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Model or store cannot be opened.
    #[error("the service has nothing to serve")]
    Load(#[source] BoxError),
    /// The model does not compute what it should.
    #[error("the model fails its self-test: {0}; `bifocal doctor` on it says more")]
    SelfTest(String),
    /// A thread cannot be started.
    #[error("the system does not let the service start its threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Serves until `stop` says that it should end, then finishes what was begun.
///
/// `load` runs on a thread of its own while the service already listens; `tell` hears what happens.
///
/// # Errors
/// [`ServeError`]; an error of one request never ends the service.
pub fn run(
    config: Config,
    load: impl FnOnce() -> Result<Loaded, BoxError> + Send + 'static,
    stop: impl Fn() -> bool + Send + Sync + 'static,
    tell: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("http")
        .enable_io()
        .enable_time()
        .build()?;
    let ended = runtime.block_on(serve(config, load, stop, tell));
    // a thread that still works for a client that is gone is not waited for
    runtime.shutdown_background();
    ended
}

async fn serve(
    config: Config,
    load: impl FnOnce() -> Result<Loaded, BoxError> + Send + 'static,
    stop: impl Fn() -> bool + Send + Sync + 'static,
    tell: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let address = config.listen;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let access = Access::new(config.key, address, config.names);
    let app = App::new(config.limits, access, config.hosts);
    tell(Event::Listening(address));
    let (failure, failed) = oneshot::channel();
    let (shared, told) = (app.clone(), tell.clone());
    std::thread::Builder::new().name("load".to_owned()).spawn(move || {
        match begin(&shared, load) {
            Ok(()) => told(Event::Ready),
            // nobody listens when the service has ended meanwhile
            Err(error) => drop(failure.send(error)),
        }
    })?;
    let stopped = async {
        while !stop() {
            tokio::time::sleep(ASK_STOP).await;
        }
    };
    let ended = async {
        match failed.await {
            Ok(error) => error,
            Err(_) => std::future::pending().await, // loaded
        }
    };
    let told = move || tell(Event::Draining);
    let result = connections::accept(listener, &app, stopped, ended, told).await;
    if let Ok(engine) = app.engine() {
        engine.queue.close();
    }
    result
}

/// Loads, tests, and lets requests in.
fn begin(app: &Shared, load: impl FnOnce() -> Result<Loaded, BoxError>) -> Result<(), ServeError> {
    let loaded = load().map_err(ServeError::Load)?;
    let problems = doctor::self_test(&loaded.path, &loaded.model);
    if !problems.is_empty() {
        let all: Vec<String> = problems.into_iter().map(|problem| problem.text).collect();
        return Err(ServeError::SelfTest(all.join("; ")));
    }
    app.serve(Engine::start(loaded, &app.limits, &app.metrics)?);
    Ok(())
}
