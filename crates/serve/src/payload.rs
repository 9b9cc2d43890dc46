//! The body of a request, read within its limits of size and time.

use std::pin::pin;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Multipart, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::Shared;
use crate::error::{Answer, ApiError};

/// Bodies are counted in these units, so that counts fit the semaphore on every platform.
pub(crate) const UNIT: usize = 1024;

/// A body in memory, and its share of what all bodies may take.
pub(crate) struct Payload {
    bytes: Bytes,
    content_type: String,
    _share: Share,
}

/// A form: texts by field, and files.
#[derive(Debug, Default)]
pub(crate) struct Form {
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) files: Vec<(String, Bytes)>,
}

impl Payload {
    pub(crate) fn is_form(&self) -> bool {
        self.is("multipart/form-data")
    }

    fn is(&self, kind: &str) -> bool {
        let essence = self.content_type.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(kind)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 415 for another content type, 400 for what is no JSON, 422 for JSON of another shape.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Answer<T> {
        // a page of another site can send any other type without asking first
        if !self.is("application/json") {
            return Err(ApiError::media(
                "send the request as JSON, with the header content-type: application/json",
            ));
        }
        serde_json::from_slice(&self.bytes).map_err(|error| {
            if error.is_data() {
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", error.to_string())
            } else {
                ApiError::malformed(format!("the body is not JSON: {error}"))
            }
        })
    }

    /// The body as a form.
    ///
    /// # Errors
    /// 400 for what is no form, 422 for fields that are no text.
    pub(crate) async fn form(&self) -> Answer<Form> {
        let mut request = Request::new(Body::from(self.bytes.clone()));
        let value = self
            .content_type
            .parse()
            .map_err(|_| ApiError::malformed("the content type is not text"))?;
        request.headers_mut().insert(header::CONTENT_TYPE, value);
        DefaultBodyLimit::disable().apply(&mut request);
        let malformed = |e: &dyn std::fmt::Display| ApiError::malformed(format!("the form cannot be read: {e}"));
        let mut parts = Multipart::from_request(request, &())
            .await
            .map_err(|e| malformed(&e.body_text()))?;
        let mut form = Form::default();
        while let Some(part) = parts.next_field().await.map_err(|e| malformed(&e.body_text()))? {
            let name = part.name().unwrap_or_default().to_owned();
            let file = part.file_name().is_some();
            let bytes = part.bytes().await.map_err(|e| malformed(&e.body_text()))?;
            if file {
                form.files.push((name, bytes));
            } else {
                let text = String::from_utf8(bytes.to_vec());
                let text =
                    text.map_err(|_| ApiError::field(&name, "the field is not UTF-8; send a picture as a file"))?;
                form.fields.push((name, text));
            }
        }
        Ok(form)
    }
}

impl Form {
    /// The last value of a field.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().rev().filter(|(field, _)| field == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// A field that is read from its text.
    ///
    /// # Errors
    /// 422 for a text that is no such value.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, name: &str) -> Answer<Option<T>> {
        let Some(text) = self.value(name).filter(|text| !text.trim().is_empty()) else {
            return Ok(None);
        };
        let parsed = text.trim().parse().ok();
        parsed
            .map(Some)
            .ok_or_else(|| ApiError::field(name, format!("{text:?} is not a value for {name}")))
    }

    /// All values of a field, written as `name` or `name[]`.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter();
        fields
            .filter(move |(field, _)| field.strip_suffix("[]").unwrap_or(field) == name)
            .map(|(_, v)| v.as_str())
    }
}

impl Payload {
    /// Reads a body. What it takes of the memory for bodies grows with what has arrived, so that a client which promises much and sends
    /// nothing takes nothing.
    ///
    /// # Errors
    /// 413 beyond the limit, 408 when it is slow, 429 when there is no memory left for bodies, 400 when it ends too early.
    pub(crate) async fn read(headers: &HeaderMap, body: Body, app: &Shared) -> Answer<Self> {
        let most = app.limits.body;
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let content_type = text(header::CONTENT_TYPE).unwrap_or_default().to_owned();
        let length = text(header::CONTENT_LENGTH).and_then(|l| l.parse::<usize>().ok());
        let too_large = || ApiError::too_large(format!("the body may have {most} bytes; send less at a time"));
        if length.is_some_and(|length| length > most) {
            return Err(too_large());
        }
        let read = async {
            let (mut body, mut bytes, mut share) = (pin!(body), Vec::new(), Share::new(&app.bodies));
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| ApiError::malformed("the body ended before it was complete"))?;
                let Ok(data) = frame.into_data() else {
                    continue; // trailers
                };
                if bytes.len() + data.len() > most {
                    return Err(too_large());
                }
                share.grow(bytes.len() + data.len())?;
                bytes.extend_from_slice(&data);
            }
            Ok((bytes, share))
        };
        let (bytes, share) = tokio::time::timeout(app.limits.body_time, read).await.map_err(|_| {
            let message = "the body did not arrive in time; send it faster or in parts";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", message)
        })??;
        Ok(Self {
            bytes: bytes.into(),
            content_type,
            _share: share,
        })
    }
}

/// What a body takes of the memory for all of them.
struct Share {
    all: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
    units: usize,
}

impl Share {
    fn new(all: &Arc<Semaphore>) -> Self {
        Self {
            all: all.clone(),
            taken: None,
            units: 0,
        }
    }

    fn grow(&mut self, bytes: usize) -> Answer<()> {
        let more = bytes.div_ceil(UNIT).saturating_sub(self.units);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let permit = self.all.clone().try_acquire_many_owned(more);
        let permit = permit.map_err(|_| ApiError::full("bodies", "too much is being uploaded already"))?;
        match &mut self.taken {
            Some(taken) => taken.merge(permit),
            none => *none = Some(permit),
        }
        self.units += more as usize;
        Ok(())
    }
}

/// The body was read before the handler was called (`guard::work`).
impl<S: Send + Sync> FromRequestParts<S> for Payload {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let payload = parts
            .extensions
            .remove::<Read>()
            .and_then(|read| read.0.lock().ok()?.take());
        payload.ok_or_else(ApiError::lost)
    }
}

/// A payload on its way to the handler; what travels with a request has to be `Clone`.
#[derive(Clone)]
pub(crate) struct Read(Arc<Mutex<Option<Payload>>>);

impl Read {
    pub(crate) fn new(payload: Payload) -> Self {
        Self(Arc::new(Mutex::new(Some(payload))))
    }
}
