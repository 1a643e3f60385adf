//! Why an image could not be fetched.

use std::time::Duration;
use tagstream_core::events::DeadLetterKind;

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
    #[error("not found: {uri}")]
    NotFound {
        /// The URI, redacted.
        uri: String,
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
            FetchError::Failed { .. } => DeadLetterKind::FetchFailed,
        }
    }
}

/// Why one attempt failed; the URI and the count of attempts are added outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    BadUri(String),
    Forbidden(String),
    NotFound,
    AccessDenied(String),
    TooLarge,
    /// May be cured by trying again, not before `after` if the source said so.
    Transient {
        reason: String,
        after: Option<Duration>,
        timed_out: bool,
    },
    /// Will not be cured by trying again.
    Permanent(String),
    /// The budget has no room for so many bytes now. Not an error: the attempt is repeated once
    /// there is room.
    NeedsRoom(u64),
}

impl Failure {
    pub(super) fn transient(reason: impl Into<String>) -> Self {
        Failure::Transient {
            reason: reason.into(),
            after: None,
            timed_out: false,
        }
    }
}

/// Longest URI shown.
const SHOWN_CHARS: usize = 200;

/// A URI as it may be logged: without user name, password, query (signatures!), fragment or data,
/// without control characters, and cut to a bearable length.
pub fn redact(uri: &str) -> String {
    let is_data = uri
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"));
    if is_data {
        let media = uri[5..].split([',', ';']).next().unwrap_or_default();
        let media = if media.len() <= 40 { media } else { "..." };
        return printable(&format!("data:{media},({} bytes)", uri.len()));
    }
    let (address, query) = match uri.find(['?', '#']) {
        Some(at) => (&uri[..at], "?***"),
        None => (uri, ""),
    };
    // Everything up to the last `@` of the authority may be a password; `\` counts as `/` in web
    // addresses.
    let shown = match address.find(':') {
        Some(colon) => {
            let rest = address[colon + 1..].trim_start_matches(['/', '\\']);
            let start = address.len() - rest.len();
            let authority = rest.split(['/', '\\']).next().unwrap_or_default();
            match authority.rfind('@') {
                Some(at) => format!("{}***{}", &address[..start], &address[start + at..]),
                None => address.to_string(),
            }
        }
        None => address.to_string(),
    };
    printable(&(shown + query))
}

/// A message of a library, with the URLs in it redacted.
pub(super) fn scrub(message: &str) -> String {
    let words: Vec<String> = message
        .split_whitespace()
        .map(|word| {
            if word.contains("://") || word.contains('?') {
                redact(word)
            } else {
                word.to_string()
            }
        })
        .collect();
    printable(&words.join(" "))
}

fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(SHOWN_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().count() > SHOWN_CHARS {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_survive_redaction() {
        for uri in [
            "https://user:hunter2@example.org/a.jpg",
            "https://example.org/a.jpg?X-Amz-Signature=hunter2",
            "https://example.org/a.jpg#hunter2",
            "s3://AKIA:hunter2@bucket/key",
            "https:\\\\user:hunter2@example.org\\a",
            "https:user:hunter2@example.org",
            "https://a@hunter2@example.org/a",
            "data:image/png;base64,hunter2",
            "data:hunter2 is a media type that is far too long to be one",
        ] {
            let shown = redact(uri);
            assert!(!shown.contains("hunter2"), "{uri} became {shown}");
        }
        assert_eq!(
            redact("https://example.org:8443/a/b.jpg"),
            "https://example.org:8443/a/b.jpg"
        );
        assert_eq!(
            redact("https://u:p@example.org/a.jpg?q=1"),
            "https://***@example.org/a.jpg?***"
        );
        let scrubbed = scrub("error sending (https://x.org/k?sig=hunter2): closed");
        assert!(!scrubbed.contains("hunter2"), "{scrubbed}");
    }

    #[test]
    fn a_uri_cannot_forge_log_lines() {
        let shown = redact("https://example.org/\n{\"level\":\"error\"}\x1b[31m");
        assert!(!shown.contains(['\n', '\x1b']), "{shown}");
        assert!(redact(&"ä".repeat(1000)).chars().count() <= SHOWN_CHARS + 1);
    }
}
