//! What a request for the model can come to, beside an answer.

use crate::stage::decoding::dead_letter_kind;
use crate::stage::fetch::FetchError;
use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tagstream_core::events::DeadLetterKind;
use tagstream_image::decode::DecodeError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request is none that can be answered.
    #[error("{0}")]
    BadRequest(String),
    /// What was sent is larger than a picture may be.
    #[error("the request is larger than {0} bytes")]
    TooLarge(usize),
    /// What was sent is of a kind that is not taken.
    #[error("send application/json, image/*, or application/octet-stream")]
    MediaType,
    /// There is no model of this name.
    #[error("there is no such model; the one that serves is {0}")]
    NoSuchModel(String),
    /// The picture cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The picture cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The model has no text tower.
    #[error("the model that serves has no text tower: it embeds pictures only")]
    NoText,
    /// There is no model yet.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Too many requests wait.
    #[error("too many requests wait for the model")]
    Busy,
    /// The model failed, or this process did.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    /// The kind: for pictures that of the dead letter that the stage would make.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            ApiError::BadRequest(_) | ApiError::MediaType => "bad_request",
            ApiError::TooLarge(_) => DeadLetterKind::TooLarge.as_str(),
            ApiError::NoSuchModel(_) => "no_such_model",
            ApiError::Fetch(error) => error.kind().as_str(),
            ApiError::Decode(error) => {
                let kind = dead_letter_kind(error.fault());
                kind.map_or("unavailable", DeadLetterKind::as_str)
            }
            ApiError::NoText => "no_text_tower",
            ApiError::NotReady(_) => "not_ready",
            ApiError::Busy => "busy",
            ApiError::Internal(_) => DeadLetterKind::Inference.as_str(),
        }
    }

    /// What HTTP calls it.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            ApiError::BadRequest(_) | ApiError::NoText => StatusCode::BAD_REQUEST,
            ApiError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::NoSuchModel(_) => StatusCode::NOT_FOUND,
            ApiError::Fetch(error) => match error.kind() {
                DeadLetterKind::BadUri => StatusCode::BAD_REQUEST,
                DeadLetterKind::ForbiddenUri => StatusCode::FORBIDDEN,
                DeadLetterKind::NotFound => StatusCode::UNPROCESSABLE_ENTITY,
                DeadLetterKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
                DeadLetterKind::FetchTimeout => StatusCode::GATEWAY_TIMEOUT,
                _ => StatusCode::BAD_GATEWAY,
            },
            ApiError::Decode(error) => match dead_letter_kind(error.fault()) {
                Some(_) => StatusCode::UNPROCESSABLE_ENTITY,
                None => StatusCode::SERVICE_UNAVAILABLE,
            },
            ApiError::NotReady(_) | ApiError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = json!({"error": {"kind": self.kind(), "message": self.to_string()}});
        let mut answer = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}
