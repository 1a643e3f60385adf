//! The places of a message that a field can name, and what is found there.

use super::HeaderBytes;
use crate::events::MessageError;
use crate::events::fields::attribute;
use crate::events::json::Json;
use std::borrow::Cow;

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A JSON Pointer into the record.
    Record(Vec<String>),
    /// A JSON Pointer into the message's value.
    Message(Vec<String>),
    Header(String),
    CloudEvent(String),
    Key,
    Value,
    /// The address, which is found first.
    Uri,
}

/// What was found at a field's place.
pub(super) enum Found<'s, 'a> {
    Json(&'s Json<'a>),
    Text(Cow<'s, str>),
}

impl<'s> Found<'s, '_> {
    /// As text.
    pub(super) fn text(self, field: &str) -> Result<Option<Cow<'s, str>>, MessageError> {
        match self {
            Found::Text(text) => Ok(Some(text)),
            Found::Json(json) => Ok(attribute(json, field)?.map(Cow::Owned)),
        }
    }
}

/// The last header of that name: a later one stands for an earlier one.
pub(super) fn header<'h>(headers: HeaderBytes<'h>, name: &str) -> Option<&'h [u8]> {
    let (_, value) = headers.iter().rev().find(|(key, _)| key == name)?;
    value.as_deref()
}
