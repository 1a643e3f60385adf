//! What a request of Label Studio can come to, beside an answer.

use crate::labelling::PublishError;
use crate::serve::api::ApiError;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::path::PathBuf;
use tagstream_train::labels::LabelsError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum StudioError {
    /// The configuration has nothing that could answer.
    #[error("{0}")]
    NotTaken(&'static str),
    /// What was sent is larger than it may be.
    #[error("the request is larger than {0} bytes")]
    TooLarge(usize),
    /// What was sent is of a kind that is not taken.
    #[error("send application/json")]
    MediaType,
    /// What was sent cannot be read.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// What was sent is no such request.
    #[error("{0}")]
    BadRequest(&'static str),
    /// What is remembered of annotations cannot be read or written.
    #[error("{path} (label_studio.state): {reason}")]
    Memory {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The broker did not take the label events.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The model does not answer.
    #[error(transparent)]
    Model(#[from] ApiError),
}

impl IntoResponse for StudioError {
    fn into_response(self) -> Response {
        let (status, kind) = match &self {
            StudioError::NotTaken(_) => (StatusCode::NOT_FOUND, "not_taken"),
            StudioError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            StudioError::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request"),
            StudioError::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            StudioError::Labels(LabelsError::Json { .. }) => (StatusCode::BAD_REQUEST, "no_json"),
            StudioError::Labels(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_labels"),
            StudioError::Memory { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "memory"),
            StudioError::Publish(_) => (StatusCode::BAD_GATEWAY, "not_published"),
            StudioError::Model(_) => (StatusCode::INTERNAL_SERVER_ERROR, "model"),
        };
        if let StudioError::Model(error) = self {
            return error.into_response();
        }
        // Label Studio tells nobody and does not ask again.
        tracing::warn!(
            status = status.as_u16(),
            "Label Studio was not answered: {self}"
        );
        let body = json!({"error": {"kind": kind, "message": self.to_string()}});
        (status, Json(body)).into_response()
    }
}
