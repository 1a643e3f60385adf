//! Values as a file or a variable gives them, held against what a key can hold.

use super::{Kind, nearest};
use crate::address::options::OptionNames;
use toml::Value;
use toml::de::DeValue;

/// A value of a file; the error goes on behind the key's name and shows no value that may be
/// secret.
pub(super) fn from_file(value: &DeValue<'_>, kind: Kind) -> Result<Value, String> {
    let wrong = || format!("is {}, but must be {}", found(value), kind.expected());
    match (kind, value) {
        (Kind::Bool, DeValue::Boolean(value)) => Ok(Value::Boolean(*value)),
        (Kind::Whole(most), DeValue::Integer(value)) => {
            let number = i64::from_str_radix(value.as_str(), value.radix());
            whole(number.ok(), most).ok_or_else(wrong)
        }
        (Kind::Number, DeValue::Integer(value)) => {
            let number = i64::from_str_radix(value.as_str(), value.radix());
            number
                .map(|number| Value::Float(number as f64))
                .map_err(|_| wrong())
        }
        (Kind::Number, DeValue::Float(value)) => value
            .as_str()
            .parse()
            .map(Value::Float)
            .map_err(|_| wrong()),
        (Kind::Text | Kind::Secret, DeValue::String(text)) => Ok(Value::String(text.to_string())),
        (Kind::OneOf(names), DeValue::String(text)) => one_of(text, names),
        (Kind::Texts, DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(Value::String(text.to_string())),
                other => Err(format!(
                    "has {} in its list, but must be {}",
                    found(other),
                    kind.expected()
                )),
            })
            .collect::<Result<_, _>>()
            .map(Value::Array),
        _ => Err(wrong()),
    }
}

/// A value of a variable.
pub(super) fn from_variable(text: &str, kind: Kind) -> Result<Value, String> {
    let wrong = || format!("must be {}", kind.expected());
    match kind {
        Kind::Bool => text.trim().parse().map(Value::Boolean).map_err(|_| wrong()),
        Kind::Whole(most) => whole(text.trim().parse().ok(), most).ok_or_else(wrong),
        Kind::Number => text.trim().parse().map(Value::Float).map_err(|_| wrong()),
        Kind::Text | Kind::Secret => Ok(Value::String(text.to_owned())),
        Kind::OneOf(names) => one_of(text, names),
        Kind::Texts => {
            let parsed = toml::de::ValueDeserializer::parse(text).map_err(|_| wrong())?;
            let list: Vec<String> = serde::Deserialize::deserialize(parsed).map_err(|_| wrong())?;
            Ok(Value::Array(list.into_iter().map(Value::String).collect()))
        }
        Kind::Entries | Kind::Properties | Kind::Options(_) | Kind::Section(_) => Err(wrong()),
    }
}

/// Whether `name` can stand in an open table; `spell` says how the nearest right name is written
/// where this one stands.
pub(super) fn open_name(
    kind: Kind,
    name: &str,
    spell: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    match kind {
        Kind::Options(options) => refuse_unknown_option(options, name, spell),
        _ => Ok(()),
    }
}

/// Refuses a name of an option that a store does not have. `spell` says how the nearest right one
/// is written where this one stands.
///
/// # Errors
/// What is wrong, to stand behind the option's name.
pub fn refuse_unknown_option(
    options: &OptionNames,
    name: &str,
    spell: impl FnOnce(&str) -> String,
) -> Result<(), String> {
    if options.knows(name) {
        return Ok(());
    }
    let no = format!("is no option of {}", options.store);
    Err(match nearest(name, options.names.iter().copied()) {
        Some(near) => format!("{no}; did you mean `{}`?", spell(near)),
        None => format!("{no}; there are {}", options.names.join(", ")),
    })
}

fn whole(number: Option<i64>, most: u64) -> Option<Value> {
    let number = number?;
    let fits = u64::try_from(number).is_ok_and(|number| number <= most);
    fits.then_some(Value::Integer(number))
}

fn one_of(text: &str, names: &[&str]) -> Result<Value, String> {
    if names.contains(&text) {
        return Ok(Value::String(text.to_owned()));
    }
    let wrong = format!("is {text:?}, but must be {}", Kind::expected_of(names));
    Err(match nearest(text, names.iter().copied()) {
        Some(near) => format!("{wrong}; did you mean \"{near}\"?"),
        None => wrong,
    })
}

/// What a value is, without the value itself.
fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(value) if value.as_str().starts_with('-') => "a negative number",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
