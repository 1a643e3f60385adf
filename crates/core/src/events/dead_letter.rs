//! Messages that yield no row: the closed list of reasons and the headers that carry them.
//!
//! A dead letter keeps the original key, value and headers, and adds the headers of [`header`].

use serde::{Deserialize, Serialize};
use std::fmt;

/// Header names of a dead letter.
pub mod header {
    /// One of [`crate::events::dead_letter::DeadLetterKind`]'s names.
    pub const ERROR_KIND: &str = "error.kind";
    /// What went wrong, for people.
    pub const ERROR_MESSAGE: &str = "error.message";
    /// The topic the message was read from.
    pub const SOURCE_TOPIC: &str = "source.topic";
    /// The partition the message was read from.
    pub const SOURCE_PARTITION: &str = "source.partition";
    /// The message's offset.
    pub const SOURCE_OFFSET: &str = "source.offset";
    /// The message's time, milliseconds since 1970, if it had one.
    pub const SOURCE_TIMESTAMP: &str = "source.timestamp";
    /// Stands in place of a value that the topic has no room for: its length.
    pub const VALUE_OMITTED: &str = "error.value_omitted_bytes";
    /// Stands in place of the original's headers: their number.
    pub const HEADERS_OMITTED: &str = "error.headers_omitted";
    /// Stands in place of a key: its length.
    pub const KEY_OMITTED: &str = "error.key_omitted_bytes";
    /// On an original that was sent again: its time, milliseconds since 1970, if it had one. The
    /// new message has the time at which it was sent, else a topic's retention would take what is
    /// old before it is read.
    pub const REPLAY_TIME: &str = "replay.time";
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a message yields no row. A closed list: it labels metrics and is part of the
        /// contract.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum DeadLetterKind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl DeadLetterKind {
            /// Every kind.
            pub const ALL: &'static [DeadLetterKind] = &[$(DeadLetterKind::$variant),*];

            /// The kind's name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(DeadLetterKind::$variant => $name),* }
            }
        }
    };
}

kinds! {
    /// Not UTF-8, not JSON, or not an image reference.
    BadMessage = "bad_message",
    /// The URI cannot be parsed, or its scheme is not one we know.
    BadUri = "bad_uri",
    /// The URI's scheme, host, address or path is not allowed by the configuration.
    ForbiddenUri = "forbidden_uri",
    /// The source says that there is no such image.
    NotFound = "not_found",
    /// The source refused us (credentials, permissions).
    AccessDenied = "access_denied",
    /// The source failed in a way that retries did not cure.
    FetchFailed = "fetch_failed",
    /// The image did not arrive before its deadline.
    FetchTimeout = "fetch_timeout",
    /// The host, bucket or folder was down for longer than `fetch.outage_wait_ms`; nothing is
    /// wrong with the message.
    Outage = "outage",
    /// More bytes or more pixels than the configuration allows.
    TooLarge = "too_large",
    /// The bytes are no image of a supported format.
    UnsupportedImage = "unsupported_image",
    /// The bytes claim to be an image, but cannot be decoded.
    BadImage = "bad_image",
    /// The model failed on this image.
    Inference = "inference",
    /// Processes died while they worked on this message and no other.
    Poison = "poison",
}

impl fmt::Display for DeadLetterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_lists_the_kinds_and_the_headers() {
        let published: serde_json::Value =
            serde_json::from_str(include_str!("../../../../schemas/dead_letter.schema.json"))
                .unwrap();
        let kinds = published["properties"]["error.kind"]["oneOf"].as_array();
        let kinds = kinds.unwrap().iter().map(|kind| kind["const"].as_str());
        let ours = DeadLetterKind::ALL.iter().map(|kind| Some(kind.as_str()));
        assert!(kinds.eq(ours), "{}", published["properties"]["error.kind"]);
        for name in [
            header::ERROR_KIND,
            header::ERROR_MESSAGE,
            header::SOURCE_TOPIC,
            header::SOURCE_PARTITION,
            header::SOURCE_OFFSET,
            header::SOURCE_TIMESTAMP,
            header::VALUE_OMITTED,
            header::HEADERS_OMITTED,
            header::KEY_OMITTED,
        ] {
            assert!(published["properties"][name].is_object(), "{name}");
        }
    }
}
