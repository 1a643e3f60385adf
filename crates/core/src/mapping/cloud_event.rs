//! CloudEvents as Kafka carries them: structured (the event is the value) or binary (its attributes
//! are headers that begin with `ce_`, and the value is its data).

use super::place::{Found, header};
use super::{HeaderBytes, MessageParts};
use crate::events::MessageError;
use crate::events::fields::{refused, text_of};
use crate::events::json::Json;

const PREFIX: &str = "ce_";

/// A CloudEvent's attributes.
pub(super) enum CloudEvent<'s, 'a> {
    /// They are members of an object.
    Structured(&'s Json<'a>),
    /// They are headers.
    Binary(HeaderBytes<'s>),
}

/// Whether the message is one in binary mode: its value is data then.
pub(super) fn is_binary(parts: &MessageParts<'_>) -> bool {
    let has = |name: &str| header(parts.headers, name).is_some();
    has("ce_specversion") || has("ce_id")
}

impl<'s, 'a> CloudEvent<'s, 'a> {
    /// The event that a message's value is.
    pub(super) fn structured(json: &'s Json<'a>) -> Result<Self, MessageError> {
        match json.get("specversion") {
            Some(_) => Ok(CloudEvent::Structured(json)),
            None => Err(MessageError::NotValid {
                what: "CloudEvent",
                reason: "it has neither headers that begin with `ce_` nor `specversion`".into(),
            }),
        }
    }

    /// An attribute, or extension.
    pub(super) fn attribute(
        &self,
        name: &str,
        field: &str,
    ) -> Result<Option<Found<'s, 'a>>, MessageError> {
        match self {
            CloudEvent::Structured(json) => {
                let json: &'s Json<'a> = json;
                let found = json.get(name).filter(|value| !value.is_null());
                Ok(found.map(Found::Json))
            }
            CloudEvent::Binary(headers) => {
                let of_type = name == "datacontenttype";
                let prefixed = format!("{PREFIX}{name}");
                let name = if of_type {
                    "content-type"
                } else {
                    prefixed.as_str()
                };
                let Some(bytes) = header(headers, name) else {
                    return Ok(None);
                };
                let broken = |_| refused(field, format!("is to be `{name}`, which is no text"));
                Ok(Some(Found::Text(text_of(bytes).map_err(broken)?)))
            }
        }
    }
}
