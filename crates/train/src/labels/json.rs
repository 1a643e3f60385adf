//! JSON as exporters write it: ids as numbers or text, nulls where nothing is, and errors that name
//! the key.

use super::error::{LabelsError, record};
use serde_json::{Map, Value};

/// Keys in the file's order.
pub(super) type Object = Map<String, Value>;

/// What a value is, for messages; never the value, which may be an address.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A name or an id as text: numbers without a fraction are integers, however they are written.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
                Some(format!("{}", float as i64))
            }
            _ => Some(number.to_string()),
        },
        _ => None,
    }
}

/// What stands under `key`; null is nothing.
pub(super) fn get<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// The list under `key`; nothing and null are an empty one.
pub(super) fn list<'a>(
    object: &'a Object,
    key: &str,
    place: &str,
) -> Result<&'a [Value], LabelsError> {
    match get(object, key) {
        None => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(other) => {
            let reason = format!("`{key}` is {}, and a list is read", kind(other));
            Err(record(place, reason))
        }
    }
}

/// An object of a list.
pub(super) fn object<'a>(
    value: &'a Value,
    place: &str,
    key: &str,
) -> Result<&'a Object, LabelsError> {
    value.as_object().ok_or_else(|| {
        let reason = format!("`{key}` holds {}, and objects are read", kind(value));
        record(place, reason)
    })
}

/// Whether a switch is on: exporters write null, 0 and 1, too.
pub(super) fn is_on(object: &Object, key: &str) -> bool {
    match object.get(key) {
        Some(Value::Bool(on)) => *on,
        Some(Value::Number(number)) => number.as_f64() == Some(1.0),
        Some(Value::String(text)) => text.eq_ignore_ascii_case("true") || text == "1",
        _ => false,
    }
}

/// The keys of an object, for messages.
pub(super) fn keys<'a>(keys: impl Iterator<Item = &'a String>) -> String {
    let mut shown: Vec<String> = keys.take(12).map(|key| format!("`{key}`")).collect();
    if shown.is_empty() {
        shown.push("nothing".into());
    }
    shown.join(", ")
}
