//! What a field may look into: one record, and the message around it.

use super::MessageParts;
use super::cloud_event::CloudEvent;
use super::place::{Found, Source, header};
use crate::events::MessageError;
use crate::events::fields::{refused, text_of};
use crate::events::json::Json;
use std::borrow::Cow;

/// One record and the message around it.
pub(super) struct Scope<'s, 'a> {
    pub parts: &'s MessageParts<'s>,
    /// The message's value, if anything looks into it.
    pub message: Option<&'s Json<'a>>,
    pub event: Option<&'s CloudEvent<'s, 'a>>,
    pub record: Option<&'s Json<'a>>,
    /// The address, once it is known.
    pub uri: Option<&'s str>,
}

fn at<'s, 'a>(json: Option<&'s Json<'a>>, steps: &[String]) -> Option<&'s Json<'a>> {
    let found = steps.iter().try_fold(json?, |json, step| json.get(step))?;
    (!found.is_null()).then_some(found)
}

fn text<'b>(
    bytes: Option<&'b [u8]>,
    what: &str,
    field: &str,
) -> Result<Option<Cow<'b, str>>, MessageError> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    match text_of(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(MessageError::Empty) => Ok(None),
        Err(_) => Err(refused(
            field,
            format!("is to be {what}, which is not UTF-8"),
        )),
    }
}

impl<'s, 'a> Scope<'s, 'a> {
    /// What stands at `source`.
    pub(super) fn find(
        &'s self,
        source: &Source,
        field: &str,
    ) -> Result<Option<Found<'s, 'a>>, MessageError> {
        let found = match source {
            Source::Record(steps) => return Ok(at(self.record, steps).map(Found::Json)),
            Source::Message(steps) => return Ok(at(self.message, steps).map(Found::Json)),
            Source::CloudEvent(name) => match self.event {
                Some(event) => return event.attribute(name, field),
                None => None,
            },
            Source::Header(name) => {
                let value = header(self.parts.headers, name);
                text(value, &format!("the header `{name}`"), field)?
            }
            Source::Key => text(self.parts.key, "the message's key", field)?,
            Source::Value => text(self.parts.value, "the message's value", field)?,
            Source::Uri => self.uri.map(Cow::Borrowed),
        };
        Ok(found.map(Found::Text))
    }
}
