//! Errors as clients of OpenAI's API read them: `{"error": {"message", "type", "param", "code"}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bifocal_data::DecodeError;
use bifocal_eval::EvalError;
use bifocal_models::bundle::BundleError;
use bifocal_models::open::OpenError;
use bifocal_search::StoreError;
use serde_json::{Value, json};

use crate::json::Json;

/// Seconds after which a client that was refused for lack of room may try again.
const RETRY_AFTER: &str = "1";

/// What a request is answered with when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    /// The field of the request that is wrong.
    pub(crate) param: Option<String>,
    /// For programs; also the label of refusals in the metrics.
    pub(crate) code: &'static str,
}

/// Put on a response that refuses, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal(pub(crate) &'static str);

pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            param: None,
            code,
        }
    }

    /// The body is no JSON, no form, or not complete.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", message)
    }

    /// A field has a value that cannot be.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_field", message).at(param)
    }

    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub(crate) fn media(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
    }

    /// No room: the client should wait and try again.
    pub(crate) fn full(code: &'static str, what: &str) -> Self {
        let message = format!("{what}; wait a moment and send the request again");
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
    }

    pub(crate) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    pub(crate) fn deadline() -> Self {
        let message = "the request was not done before its deadline; send less at a time, or try again later";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "deadline", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// A thread that worked for the request ended without an answer.
    pub(crate) fn lost() -> Self {
        Self::internal("the server failed while it worked on the request; please report what was sent")
    }

    pub(crate) fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// A picture that was refused; `param` says which.
    pub(crate) fn picture(error: &DecodeError, param: impl Into<String>) -> Self {
        let error = match error {
            DecodeError::TooLarge { .. } | DecodeError::Limit { .. } => Self::too_large(error.to_string()),
            DecodeError::LooksLikeText { .. }
            | DecodeError::Unknown { .. }
            | DecodeError::Unsupported { .. }
            | DecodeError::Empty => Self::media(error.to_string()),
            other => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "damaged_picture", other.to_string()),
        };
        error.at(param)
    }

    /// What clients read.
    pub(crate) fn value(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind(), "param": self.param, "code": self.code,
        }})
    }

    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            503 => "unavailable_error",
            504 => "timeout_error",
            500..=599 => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.value())).into_response();
        let headers = response.headers_mut();
        if matches!(self.status.as_u16(), 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // not Basic: the page asks for the key itself, and a browser's own question would come before it
            let challenge = HeaderValue::from_static("Bearer realm=\"bifocal\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(Refusal(self.code));
        response
    }
}

impl From<BundleError> for ApiError {
    fn from(error: BundleError) -> Self {
        match &error {
            BundleError::NoTower { .. } | BundleError::Open(OpenError::Tokens(_)) => {
                Self::field("input", error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Invalid { .. } | StoreError::NoDirection { .. } => Self::field("query", error.to_string()),
            // paths of the server are not the client's business
            _ => Self::internal("the store failed; the server's operator can run `bifocal search` on it to see why"),
        }
    }
}

impl From<EvalError> for ApiError {
    fn from(error: EvalError) -> Self {
        Self::field("labels", error.to_string())
    }
}
