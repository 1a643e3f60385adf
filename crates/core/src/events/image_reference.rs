//! The message that asks for one image to be tagged.

use super::message_error::MessageError;
use super::time::readable_event_time;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An image to tag (the value of a message of the images topic, JSON). Unknown fields are ignored.
///
/// ```
/// use tagstream_core::events::{ImageReference, MessageError};
///
/// let value = br#"{"image_id": "a", "uri": "s3://photos/a.jpg",
///     "event_time": "2026-01-01T00:00:00Z"}"#;
/// let reference = ImageReference::from_json(value)?;
/// assert_eq!(reference.uri, "s3://photos/a.jpg");
///
/// // What is wrong with a message is said by name; such a message becomes a dead letter.
/// let error = ImageReference::from_json(br#"{"image_id": "", "uri": "s3://photos/a.jpg"}"#);
/// assert_eq!(error.unwrap_err().to_string(), "the message's `image_id` is empty");
/// # Ok::<(), MessageError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageReference {
    /// The producer's name for the image; not empty.
    pub image_id: String,
    /// Where the bytes are: `file://`, `s3://`, `gs://`, `az://`, `http(s)://` or `data:`.
    pub uri: String,
    /// When the image came to be (RFC 3339); the Kafka timestamp if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<DateTime<Utc>>,
    /// Carried through to the output unchanged.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

pub(super) fn parse_json<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
) -> Result<T, MessageError> {
    let text = std::str::from_utf8(bytes).map_err(|e| MessageError::NotUtf8 {
        position: e.valid_up_to(),
    })?;
    // Structs can also be read from JSON arrays, field by field; the contract is an object.
    if text.trim_ascii_start().starts_with('[') {
        return Err(MessageError::NotValid {
            what,
            reason: "it is a JSON array, not an object".into(),
        });
    }
    serde_json::from_str(text).map_err(|e| MessageError::NotValid {
        what,
        reason: without_value(&e.to_string()),
    })
}

/// What the parser says, without the value that it found where another was expected: that may be an
/// address with a password.
fn without_value(said: &str) -> String {
    // `invalid type: string "...", expected a map at line 1 column 20`
    match said.rsplit_once(", expected ") {
        Some((found, expected)) => {
            let kind: Vec<&str> = found.split([' ', ':']).take(2).collect();
            format!("{}: expected {expected}", kind.join(" "))
        }
        None => said.to_owned(),
    }
}

impl ImageReference {
    /// Reads the value of a Kafka message.
    ///
    /// # Errors
    /// [`MessageError`] says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        let reference: Self = parse_json(bytes, "image reference")?;
        if reference.image_id.is_empty() {
            return Err(MessageError::EmptyField { field: "image_id" });
        }
        if reference.uri.is_empty() {
            return Err(MessageError::EmptyField { field: "uri" });
        }
        readable_event_time(reference.event_time)?;
        Ok(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_message_is_read() {
        let r = ImageReference::from_json(br#"{"image_id":"a","uri":"file:///a.jpg","extra":1}"#)
            .unwrap();
        assert_eq!((r.image_id.as_str(), r.event_time), ("a", None));
    }

    #[test]
    fn every_flaw_is_named() {
        let name = |b: &[u8]| ImageReference::from_json(b).unwrap_err();
        assert!(matches!(
            name(b"{\"image_id\":\"\xff"),
            MessageError::NotUtf8 { position: 13 }
        ));
        assert!(matches!(name(b"[1"), MessageError::NotValid { .. }));
        assert!(matches!(
            name(br#" ["a","file:///a.jpg"]"#),
            MessageError::NotValid { .. }
        ));
        assert!(name(br#"{"uri":"x"}"#).to_string().contains("image_id"));
        for (message, expected) in [
            (r#"{"image_id":"a","uri":"x","attributes":"hush"}"#, "a map"),
            (
                r#"{"image_id":"a","uri":"x","attributes":"hush, expected one"}"#,
                "a map",
            ),
            (r#"{"image_id":"a","uri":{"hush":1}}"#, "a string"),
            (r#"{"image_id":"a","uri":"x","event_time":"hush"}"#, ""),
            (r#""hush""#, "struct ImageReference"),
        ] {
            let said = name(message.as_bytes()).to_string();
            assert!(!said.contains("hush") && said.contains(expected), "{said}");
            assert!(said.contains("line 1 column "), "{said}");
        }
        assert_eq!(
            name(br#"{"image_id":"","uri":"x"}"#),
            MessageError::EmptyField { field: "image_id" }
        );
        assert_eq!(
            name(br#"{"image_id":"a","uri":""}"#),
            MessageError::EmptyField { field: "uri" }
        );
    }
}
