//! The fields of messages as producers write them: what is meant is taken, what cannot be is
//! refused by the field's name. No refusal repeats a value: it may be an address with a password.

use super::json::{Json, Parsed};
use super::message_error::MessageError;
use super::time::{read_time, readable_time, time_of_number};
use chrono::{DateTime, FixedOffset, Utc};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The text of a message: UTF-8, with a byte-order mark or without, or UTF-16 with one.
///
/// # Errors
/// [`MessageError::Empty`] or [`MessageError::NotUtf8`].
pub(crate) fn text_of(bytes: &[u8]) -> Result<Cow<'_, str>, MessageError> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        _ => None,
    };
    let text = match text {
        Some(text) => Cow::Owned(text),
        None => {
            let text = std::str::from_utf8(bytes).map_err(|e| MessageError::NotUtf8 {
                position: e.valid_up_to(),
            })?;
            Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text))
        }
    };
    match text.trim_ascii().is_empty() {
        true => Err(MessageError::Empty),
        false => Ok(text),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let pairs = bytes.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let units: Vec<u16> = pairs.map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16(&units).ok()
}

/// Why `text` is no JSON of a `what`.
pub(crate) fn not_valid(what: &'static str) -> impl Fn(String) -> MessageError {
    move |reason| MessageError::NotValid { what, reason }
}

/// The text of a message that is to be JSON.
///
/// # Errors
/// As [`text_of`], and for messages that are framed for a schema registry.
pub(crate) fn json_text<'a>(
    bytes: &'a [u8],
    what: &'static str,
) -> Result<Cow<'a, str>, MessageError> {
    // Confluent's framing: a zero byte and the schema's number.
    if bytes.len() > 5 && bytes[0] == 0 {
        let reason = "it begins with a zero byte, as messages framed for a schema registry do \
                      (those of the images topic are read where `source.registry.url` names it)";
        return Err(not_valid(what)(reason.into()));
    }
    text_of(bytes)
}

/// A refusal of a field.
pub(crate) fn refused(field: &str, reason: impl Into<String>) -> MessageError {
    MessageError::Field {
        field: field.to_owned(),
        reason: reason.into(),
    }
}

fn expected(field: &str, value: &Json<'_>, expected: &str) -> MessageError {
    let reason = format!("is {}: expected {expected}", value.kind());
    refused(field, reason)
}

fn parsed<'v, 'a>(value: &'v Json<'a>, field: &str) -> Result<&'v Parsed<'a>, MessageError> {
    let broken = |reason| refused(field, format!("is no proper JSON string: {reason}"));
    value.parsed().map_err(broken)
}

/// A name: a string, or a whole number as it is written. `None` if it is null.
///
/// # Errors
/// [`MessageError`] names the field.
pub(crate) fn name(value: &Json<'_>, field: &'static str) -> Result<Option<String>, MessageError> {
    let name = match parsed(value, field)? {
        Parsed::Null => return Ok(None),
        Parsed::Text(text) => text.clone().into_owned(),
        Parsed::Number(digits) if !digits.contains(['.', 'e', 'E']) => (*digits).to_owned(),
        _ => return Err(expected(field, value, "a string or a whole number")),
    };
    match name.is_empty() {
        true => Err(MessageError::EmptyField { field }),
        false => Ok(Some(name)),
    }
}

/// An address, without the blanks and the byte-order mark around it. `None` if it is null.
///
/// # Errors
/// [`MessageError`] names the field.
pub(crate) fn address(
    value: &Json<'_>,
    field: &'static str,
) -> Result<Option<String>, MessageError> {
    match parsed(value, field)? {
        Parsed::Null => Ok(None),
        Parsed::Text(text) => Ok(Some(address_text(text, field)?.to_owned())),
        _ => Err(expected(field, value, "a string")),
    }
}

/// The same, of text.
pub(crate) fn address_text<'t>(
    text: &'t str,
    field: &'static str,
) -> Result<&'t str, MessageError> {
    let blank = |c: char| c <= ' ' || c.is_whitespace() || c == '\u{feff}';
    match text.trim_matches(blank) {
        "" => Err(MessageError::EmptyField { field }),
        trimmed => Ok(trimmed),
    }
}

/// A time: text, or a number since 1970. `None` if it is null. A time that names no zone is of
/// `zone`; without one it is refused.
///
/// # Errors
/// [`MessageError`] names the field.
pub(crate) fn time(
    value: &Json<'_>,
    field: &'static str,
    zone: Option<FixedOffset>,
) -> Result<Option<DateTime<Utc>>, MessageError> {
    match parsed(value, field)? {
        Parsed::Null => Ok(None),
        Parsed::Text(text) => time_text(text, field, zone).map(Some),
        Parsed::Number(digits) => {
            let time = time_of_number(digits);
            let time = time.ok_or_else(|| refused(field, "is a number that is no time"))?;
            in_range(time).map(Some)
        }
        _ => Err(expected(field, value, "a time, as 2026-01-31T12:00:00Z")),
    }
}

/// The same, of text.
pub(crate) fn time_text(
    text: &str,
    field: &'static str,
    zone: Option<FixedOffset>,
) -> Result<DateTime<Utc>, MessageError> {
    let time = read_time(text, zone).map_err(|reason| refused(field, reason))?;
    in_range(time)
}

fn in_range(time: DateTime<Utc>) -> Result<DateTime<Utc>, MessageError> {
    readable_time(time, "`event_time`")?;
    Ok(time)
}

/// What an attribute says, as text: numbers as they are written, lists and objects as JSON. `None`
/// if it is null.
///
/// # Errors
/// [`MessageError`] names the field.
pub(crate) fn attribute(value: &Json<'_>, field: &str) -> Result<Option<String>, MessageError> {
    Ok(match parsed(value, field)? {
        Parsed::Null => None,
        Parsed::Text(text) => Some(text.clone().into_owned()),
        _ => Some(value.raw().to_owned()),
    })
}

/// Attributes: an object whose values become text; what is null is left out.
///
/// # Errors
/// [`MessageError`] names the field, and the attribute.
pub(crate) fn attributes(
    value: &Json<'_>,
    field: &str,
) -> Result<BTreeMap<String, String>, MessageError> {
    let members = match parsed(value, field)? {
        Parsed::Null => return Ok(BTreeMap::new()),
        Parsed::Object(members) => members,
        _ => return Err(expected(field, value, "a map of names and texts")),
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in members {
        if let Some(text) = attribute(value, &format!("{field}.{name}"))? {
            attributes.insert(name.clone().into_owned(), text);
        }
    }
    Ok(attributes)
}

/// A list of strings; null is an empty one.
///
/// # Errors
/// [`MessageError`] names the field.
pub(super) fn strings(value: &Json<'_>, field: &'static str) -> Result<Vec<String>, MessageError> {
    let items = match parsed(value, field)? {
        Parsed::Null => return Ok(Vec::new()),
        Parsed::Array(items) => items,
        _ => return Err(expected(field, value, "a list of strings")),
    };
    let one = |item: &Json<'_>| match parsed(item, field)? {
        Parsed::Text(text) => Ok(text.clone().into_owned()),
        _ => {
            let reason = format!("has {} in its list: expected strings", item.kind());
            Err(refused(field, reason))
        }
    };
    items.iter().map(one).collect()
}

/// Some text, empty where there is none.
///
/// # Errors
/// [`MessageError`] names the field.
pub(super) fn text(value: &Json<'_>, field: &'static str) -> Result<String, MessageError> {
    match parsed(value, field)? {
        Parsed::Null => Ok(String::new()),
        Parsed::Text(text) => Ok(text.clone().into_owned()),
        Parsed::Number(digits) => Ok((*digits).to_owned()),
        _ => Err(expected(field, value, "a string")),
    }
}

/// The members of the object that a message is to be.
///
/// # Errors
/// [`MessageError`] says what it is instead.
pub(super) fn object<'v, 'a>(
    json: &'v Json<'a>,
    what: &'static str,
) -> Result<&'v Json<'a>, MessageError> {
    match json.parsed() {
        Ok(Parsed::Object(_)) => Ok(json),
        _ => Err(not_valid(what)(format!(
            "it is {}, not an object",
            json.kind()
        ))),
    }
}
