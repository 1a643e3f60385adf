//! The message that asks for one image to be tagged.

use super::fields::{address, attributes, json_text, name, not_valid, object, time};
use super::json::Json;
use super::message_error::MessageError;
use chrono::{DateTime, FixedOffset, Utc};
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

impl ImageReference {
    /// Reads the value of a Kafka message that has the form of this type. What is meant is taken:
    /// numbers as names and attributes, times without a zone (as UTC), blanks around the address.
    ///
    /// # Errors
    /// [`MessageError`] says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        const WHAT: &str = "image reference";
        let text = json_text(bytes, WHAT)?;
        let json = Json::read(&text).map_err(not_valid(WHAT))?;
        let json = object(&json, WHAT)?;
        let missing = |field: &'static str| MessageError::Missing {
            field,
            place: format!("/{field}"),
        };
        let of = |field: &str| json.get(field);
        let image_id = of("image_id").map(|v| name(v, "image_id")).transpose()?;
        let uri = of("uri").map(|v| address(v, "uri")).transpose()?;
        let utc = FixedOffset::east_opt(0);
        let event_time = of("event_time").map(|v| time(v, "event_time", utc));
        let said = of("attributes").map(|v| attributes(v, "attributes"));
        Ok(ImageReference {
            image_id: image_id.flatten().ok_or_else(|| missing("image_id"))?,
            uri: uri.flatten().ok_or_else(|| missing("uri"))?,
            event_time: event_time.transpose()?.flatten(),
            attributes: said.transpose()?.unwrap_or_default(),
        })
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
    fn what_is_meant_is_taken() {
        let read = |text: &str| ImageReference::from_json(text.as_bytes()).unwrap();
        let plain = r#"{"image_id":"a","uri":"x"}"#;
        for same in [
            "\u{feff}{\"image_id\":\"a\",\"uri\":\"x\"}",
            r#"{"image_id":"a","uri":" x ","attributes":null,"event_time":null}"#,
            r#"{"image_id":"a","uri":"\ufeffx\n","attributes":{"camera":null}}"#,
            r#"{"image_id":"b","uri":"x","image_id":"a","n":1e999}"#,
        ] {
            assert_eq!(read(same), read(plain), "{same}");
        }
        let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let units = "\u{feff}".encode_utf16().chain(plain.encode_utf16());
            units.flat_map(bytes).collect()
        };
        for bytes in [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)] {
            assert_eq!(ImageReference::from_json(&bytes).unwrap(), read(plain));
        }
        let number = read(r#"{"image_id":18446744073709551617,"uri":"x"}"#);
        assert_eq!(number.image_id, "18446744073709551617");
        let said = read(
            r#"{"image_id":"a","uri":"x","event_time":"2026-01-31T12:00:00",
                "attributes":{"iso":100,"f":1.80,"flash":false,"at":{"lat": 1},"none":null}}"#,
        );
        assert_eq!(
            said.event_time.unwrap().to_rfc3339(),
            "2026-01-31T12:00:00+00:00"
        );
        let attributes = [
            ("iso", "100"),
            ("f", "1.80"),
            ("flash", "false"),
            ("at", "{\"lat\": 1}"),
        ];
        let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(said.attributes, attributes.into());
    }

    #[test]
    fn every_flaw_is_named_and_no_value_is_repeated() {
        let name = |b: &[u8]| ImageReference::from_json(b).unwrap_err();
        assert!(matches!(
            name(b"{\"image_id\":\"\xff"),
            MessageError::NotUtf8 { position: 13 }
        ));
        assert_eq!(name(b" \n"), MessageError::Empty);
        assert!(matches!(name(b"[1"), MessageError::NotValid { .. }));
        assert!(matches!(
            name(br#" ["a","file:///a.jpg"]"#),
            MessageError::NotValid { .. }
        ));
        for (message, expected) in [
            (r#"{"uri":"x"}"#, "`image_id`"),
            (r#"{"image_id":null,"uri":"x"}"#, "`image_id`"),
            (r#"{"image_id":1.5,"uri":"x"}"#, "`image_id`"),
            (r#"{"image_id":["hush"],"uri":"x"}"#, "`image_id`"),
            (r#"{"image_id":"hush\ud800","uri":"x"}"#, "`image_id`"),
            (r#"{"image_id":"a","uri":{"hush":1}}"#, "`uri`"),
            (r#"{"image_id":"a","uri":7}"#, "`uri`"),
            (r#"{"image_id":"a","uri":"x","attributes":"hush"}"#, "a map"),
            (
                r#"{"image_id":"a","uri":"x","attributes":["hush"]}"#,
                "`attributes`",
            ),
            (
                r#"{"image_id":"a","uri":"x","event_time":"hush"}"#,
                "`event_time`",
            ),
            (
                r#"{"image_id":"a","uri":"x","event_time":""}"#,
                "`event_time`",
            ),
            (
                r#"{"image_id":"a","uri":"x","event_time":true}"#,
                "`event_time`",
            ),
            (r#""hush""#, "not an object"),
            (
                "\0\0\0\0\u{7}{\"image_id\":\"a\",\"uri\":\"x\"}",
                "schema registry",
            ),
        ] {
            let said = name(message.as_bytes()).to_string();
            assert!(!said.contains("hush") && said.contains(expected), "{said}");
        }
        assert_eq!(
            name(br#"{"image_id":"","uri":"x"}"#),
            MessageError::EmptyField { field: "image_id" }
        );
        assert_eq!(
            name(br#"{"image_id":"a","uri":" "}"#),
            MessageError::EmptyField { field: "uri" }
        );
    }
}
