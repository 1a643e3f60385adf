//! Why an image could not be fetched.

use super::fault::{Resource, Symptom};
use std::time::Duration;
use tagstream_core::events::DeadLetterKind;
use tagstream_core::redact::redact;

/// Why an image could not be fetched. `uri` is always redacted (see [`redact`]).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not a URI, or one with a scheme or a form that is not known here.
    #[error("bad URI {uri}: {reason}")]
    BadUri {
        /// The URI, redacted.
        uri: String,
        /// What is wrong.
        reason: String,
    },
    /// The configuration does not allow it.
    #[error("not allowed: {uri}: {reason}")]
    Forbidden {
        /// The URI, redacted.
        uri: String,
        /// Which rule, and the key to change if it should be allowed.
        reason: String,
    },
    /// The source says that there is no such image.
    #[error("not found: {uri}: {reason}")]
    NotFound {
        /// The URI, redacted.
        uri: String,
        /// Who said so.
        reason: String,
    },
    /// The source refused us.
    #[error("access denied: {uri}: {reason}")]
    AccessDenied {
        /// The URI, redacted.
        uri: String,
        /// What the source said.
        reason: String,
    },
    /// More bytes than allowed.
    #[error("{uri} has more bytes than `fetch.max_mib` allows ({max_bytes} bytes)")]
    TooLarge {
        /// The URI, redacted.
        uri: String,
        /// The limit.
        max_bytes: u64,
    },
    /// The deadline passed.
    #[error("{uri} did not arrive within `fetch.timeout_ms` ({} ms)", timeout.as_millis())]
    Timeout {
        /// The URI, redacted.
        uri: String,
        /// The deadline.
        timeout: Duration,
    },
    /// The source failed, and again at every retry that fitted into the deadline.
    #[error("fetching {uri} failed after {attempts} attempt(s): {reason}")]
    Failed {
        /// The URI, redacted.
        uri: String,
        /// Attempts made.
        attempts: u32,
        /// What happened at the last one.
        reason: String,
    },
    /// The host, bucket or folder was down for longer than `fetch.outage_wait_ms`.
    #[error(
        "{uri} was not fetched: {place} has been down for {} s, longer than it is waited for \
         (`fetch.outage_wait_ms`): {reason}",
        lasted.as_secs()
    )]
    Outage {
        /// The URI, redacted.
        uri: String,
        /// What is down.
        place: String,
        /// For how long.
        lasted: Duration,
        /// What happened at the last attempt.
        reason: String,
    },
    /// This process, or its machine, lacks something; the message is not at fault.
    #[error(
        "{uri} cannot be fetched by this process ({resource}): {reason}; {}",
        .resource.remedy()
    )]
    Own {
        /// The URI, redacted.
        uri: String,
        /// What is lacking.
        resource: Resource,
        /// What the system or the store said.
        reason: String,
    },
    /// Whoever waited for the image was asked to leave.
    #[error("{uri} was left for the next reader")]
    Left {
        /// The URI, redacted.
        uri: String,
    },
}

impl FetchError {
    /// A body that was there and could not be loaded.
    pub fn unreadable(uri: &str, error: &std::io::Error) -> Self {
        FetchError::Failed {
            uri: redact(uri),
            attempts: 1,
            reason: error.to_string(),
        }
    }

    /// The dead letter this error makes.
    pub fn kind(&self) -> DeadLetterKind {
        match self {
            FetchError::BadUri { .. } => DeadLetterKind::BadUri,
            FetchError::Forbidden { .. } => DeadLetterKind::ForbiddenUri,
            FetchError::NotFound { .. } => DeadLetterKind::NotFound,
            FetchError::AccessDenied { .. } => DeadLetterKind::AccessDenied,
            FetchError::TooLarge { .. } => DeadLetterKind::TooLarge,
            FetchError::Timeout { .. } => DeadLetterKind::FetchTimeout,
            FetchError::Outage { .. } => DeadLetterKind::Outage,
            // The last two make none in the stage.
            FetchError::Failed { .. } | FetchError::Own { .. } | FetchError::Left { .. } => {
                DeadLetterKind::FetchFailed
            }
        }
    }
}

/// Why one attempt failed; the URI and the count of attempts are added outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    BadUri(String),
    Forbidden(String),
    TooLarge,
    /// What the place said or did; [`judge`](super::fault::judge) tells what that means.
    Source {
        symptom: Symptom,
        reason: String,
        /// How long it asked to be left alone.
        after: Option<Duration>,
    },
    /// The budget has no room for so many bytes now. Not an error: the attempt is repeated once
    /// there is room.
    NeedsRoom(u64),
}

impl Failure {
    pub(super) fn of(symptom: Symptom, reason: impl Into<String>) -> Self {
        Failure::Source {
            symptom,
            reason: reason.into(),
            after: None,
        }
    }
}
