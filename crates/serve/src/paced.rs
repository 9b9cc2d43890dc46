//! What a client that does not read may cost: time of its connection, and memory of its answer.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::app::Shared;
use crate::error::ApiError;
use crate::payload::UNIT;

/// Bytes a second that a client has to take of an answer, on average: a bad line of a telephone.
const RATE: u64 = 16 << 10;
/// Bytes of an answer that are given to the connection at a time; smaller answers are not counted.
const PIECE: usize = 64 << 10;

/// A connection that fails when the client takes its answer too slowly: since it was first waited for, `patience` and a second for each
/// [`RATE`] bytes that it has taken then have passed.
pub(crate) struct Paced<S> {
    stream: S,
    patience: Duration,
    answer: Option<Answer>,
}

/// An answer that has to wait for its client.
struct Answer {
    since: Instant,
    taken: u64,
    alarm: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            answer: None,
        }
    }

    /// What came of a try to write. What fits into the system's buffers is not the client's doing, and says nothing about its pace.
    fn wrote(&mut self, cx: &mut Context<'_>, written: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if let Poll::Ready(result) = written {
            if let (Some(answer), Ok(n)) = (&mut self.answer, &result) {
                answer.taken += *n as u64;
            }
            return Poll::Ready(result);
        }
        let patience = self.patience;
        let answer = self.answer.get_or_insert_with(|| {
            let since = Instant::now();
            Answer {
                since,
                taken: 0,
                alarm: Box::pin(sleep_until(since + patience)),
            }
        });
        let end = answer.since + patience + Duration::from_millis(answer.taken.saturating_mul(1000) / RATE);
        answer.alarm.as_mut().reset(end);
        ready!(answer.alarm.as_mut().poll(cx));
        Poll::Ready(Err(Error::new(
            ErrorKind::TimedOut,
            "the client does not take its answer",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        // the next request, whose answer has a time of its own
        if buf.filled().len() > before {
            self.answer = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A large answer with its share of the memory for answers, which it has until its last piece is given to the connection.
struct Held {
    rest: Bytes,
    _share: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Self::Error>>> {
        let n = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(n);
        Poll::Ready((n > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Counts a large answer among those that are on their way, of which so many bytes may be in memory.
pub(crate) async fn held(app: &Shared, response: Response) -> Response {
    let size = response.body().size_hint().exact();
    let Some(size) = size.and_then(|size| usize::try_from(size).ok()).filter(|n| *n > PIECE) else {
        return response;
    };
    // one that is larger than all of the memory for answers is sent alone
    let units = u32::try_from(size.div_ceil(UNIT).min(app.limits.answers / UNIT)).unwrap_or(u32::MAX);
    let Ok(share) = app.answers.clone().try_acquire_many_owned(units) else {
        let full = "too many large answers are waiting for clients that read slowly";
        return ApiError::full("answers", full).into_response();
    };
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            let rest = body.to_bytes();
            let body = Body::new(Held { rest, _share: share });
            Response::from_parts(parts, body)
        }
        // answers are bytes in memory, which cannot fail to be read
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
