//! Connections: so many at once, with limits of time, and an end in good order.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::ServeError;
use crate::app::{Shared, router};
use crate::paced::Paced;

/// Bytes of a request's head.
const HEAD: usize = 64 * 1024;
/// Headers of a request.
const HEADERS: usize = 100;
/// After accepting failed (no file handles are left, say).
const PAUSE: Duration = Duration::from_millis(100);

/// The first of several futures to be done.
enum First<T> {
    Accepted(T),
    Stopped,
    Failed(ServeError),
}

/// Accepts connections until `stopped`, then for a moment longer, and waits for what was begun. Ends at once with what `failed` gives.
pub(crate) async fn accept(
    listener: TcpListener,
    app: &Shared,
    stopped: impl Future<Output = ()>,
    failed: impl Future<Output = ServeError>,
    draining: impl FnOnce(),
) -> Result<(), ServeError> {
    let (end, ended) = watch::channel(false);
    let slots = Arc::new(Semaphore::new(app.limits.connections));
    let server = Server {
        service: TowerToHyperService::new(router(app.clone())),
        app,
        ended,
    };
    let (mut stopped, mut failed) = (pin!(stopped), pin!(failed));
    loop {
        let next = pin!(next(&listener, &slots));
        match first(next, stopped.as_mut(), failed.as_mut()).await {
            First::Accepted((stream, slot)) => server.serve(stream, slot),
            First::Failed(error) => return Err(error),
            First::Stopped => break,
        }
    }
    app.drain();
    draining();
    // connections that come now are still answered, also to say that the service is not ready
    let lingering = async {
        loop {
            let (stream, slot) = next(&listener, &slots).await;
            server.serve(stream, slot);
        }
    };
    let _ = tokio::time::timeout(app.limits.linger, lingering).await;
    drop(listener);
    let _ = end.send(true);
    // all slots are free again when all connections have ended
    let all = u32::try_from(app.limits.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(app.limits.drain, slots.acquire_many(all)).await;
    Ok(())
}

/// The next connection, once there is a slot for it.
async fn next(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // the semaphore is never closed
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn first<T>(
    mut accepted: std::pin::Pin<&mut impl Future<Output = T>>,
    mut stopped: std::pin::Pin<&mut impl Future<Output = ()>>,
    mut failed: std::pin::Pin<&mut impl Future<Output = ServeError>>,
) -> First<T> {
    use std::task::Poll;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(error) = failed.as_mut().poll(cx) {
            return Poll::Ready(First::Failed(error));
        }
        if stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(First::Stopped);
        }
        accepted.as_mut().poll(cx).map(First::Accepted)
    })
    .await
}

/// What every connection is served with.
struct Server<'a> {
    service: TowerToHyperService<axum::Router>,
    app: &'a Shared,
    ended: watch::Receiver<bool>,
}

impl Server<'_> {
    fn serve(&self, stream: TcpStream, slot: Option<OwnedSemaphorePermit>) {
        // answers are small and whole: waiting to fill packets only delays them
        let _ = stream.set_nodelay(true);
        let (service, mut ended) = (self.service.clone(), self.ended.clone());
        let header_time = self.app.limits.header_time;
        let stream = Paced::new(stream, self.app.limits.answer_time);
        tokio::spawn(async move {
            let _slot = slot;
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(header_time)
                .max_headers(HEADERS)
                .max_buf_size(HEAD);
            let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
            let mut told = false;
            let mut end = Box::pin(async move { ended.wait_for(|ended| *ended).await.is_ok() });
            let done = std::future::poll_fn(|cx| {
                if !told && end.as_mut().poll(cx).is_ready() {
                    told = true;
                    // idle connections end now, others after their answer
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(cx)
            });
            // a connection that fails is the client's matter
            let _ = done.await;
        });
    }
}
