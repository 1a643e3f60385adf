//! Environment variables over a file: `TAGSTREAM_FETCH__TIMEOUT_MS=2000` sets `fetch.timeout_ms`.
//!
//! Two underscores part the path of a key. Below `kafka.properties` an underscore stands for a dot,
//! as no shell sets a name with one: `TAGSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD` sets the property
//! `sasl.password`. Options of object stores keep their underscores.
//!
//! A deployment gives all its processes one environment, so each leaves alone what names a key of
//! another's configuration. A variable that is a key of none is a mistake, and all say so.

use super::file::Said;
use super::nearest::nearest_key;
use super::values::{from_variable, open_name};
use super::{Kind, Mistake, Origin, Shape};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use toml::de::ValueDeserializer;
use toml::{Table, Value};

/// What the names of our variables begin with.
const PREFIX: &str = "TAGSTREAM_";
/// What stands between the parts of a key's path. Variables without it are no keys.
const BETWEEN: &str = "__";
/// The properties of librdkafka that can be set by a string and have an underscore in their names.
const UNDERSCORED: [&str; 1] = ["log_level"];

/// Puts what the variables say over what the file said.
pub(super) fn overlay(
    said: &mut Said,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    own: &Shape,
    others: &[Shape],
) {
    for (variable, value) in variables {
        let variable = variable.to_string_lossy();
        let Some(path) = path_named_by(&variable) else {
            continue;
        };
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut refuse = |key: &str, reason: String| {
            said.mistakes.push(Mistake {
                origin: Origin::Variable(variable.clone().into_owned()),
                key: key.to_owned(),
                reason,
            });
        };
        let Some(place) = Place::of(&parts, own) else {
            if !others.iter().any(|other| other.has(&parts)) {
                refuse("", unknown(&parts, own, others));
            }
            continue;
        };
        let key = place.path.join(".");
        match place.value(value.to_str()) {
            Ok(value) => {
                insert(&mut said.values, &place.path, value);
                let origin = Origin::Variable(variable.into_owned());
                said.origins.insert(key, origin);
            }
            Err(reason) => refuse(&key, reason),
        }
    }
}

/// What a variable sets.
struct Place {
    /// The key, or the name within an open table.
    path: Vec<String>,
    kind: Kind,
    /// The open table that it lies in.
    within: Option<Kind>,
}

impl Place {
    fn of(parts: &[&str], own: &Shape) -> Option<Place> {
        let mut keys = own.keys;
        for (depth, part) in parts.iter().enumerate() {
            let key = keys.iter().find(|key| key.name == *part)?;
            let rest = &parts[depth + 1..];
            if rest.is_empty() {
                let path = parts.iter().map(ToString::to_string).collect();
                let (kind, within) = (key.kind, None);
                return Some(Place { path, kind, within });
            }
            if let Some(kind) = key.kind.entries() {
                let above = parts[..=depth].iter().map(ToString::to_string);
                let path = above.chain([entry(rest, key.kind)]).collect();
                let within = Some(key.kind);
                return Some(Place { path, kind, within });
            }
            keys = key.kind.keys();
        }
        None
    }

    fn value(&self, text: Option<&str>) -> Result<Value, String> {
        let text = text.ok_or("is not UTF-8")?;
        let (name, above) = self.path.split_last().ok_or("names no key")?;
        if let Some(table) = self.within {
            open_name(table, name, |near| {
                variable(&[above, &[near.to_owned()]].concat())
            })?;
        }
        if self.kind.entries().is_none() {
            return from_variable(text, self.kind);
        }
        let wrong = "must be a table, as { name = \"value\" }";
        let parsed = ValueDeserializer::parse(text).map_err(|_| wrong)?;
        let entries = BTreeMap::<String, String>::deserialize(parsed).map_err(|_| wrong)?;
        for name in entries.keys() {
            open_name(self.kind, name, str::to_owned)?;
        }
        let entries = entries
            .into_iter()
            .map(|(name, text)| (name, Value::String(text)));
        Ok(Value::Table(entries.collect()))
    }
}

/// The name in an open table that the last parts of a variable mean.
fn entry(parts: &[&str], table: Kind) -> String {
    let name = parts.join(BETWEEN);
    match table {
        Kind::Properties if !UNDERSCORED.contains(&&*name) => {
            name.replace(BETWEEN, ".").replace('_', ".")
        }
        _ => name,
    }
}

fn unknown(path: &[&str], own: &Shape, others: &[Shape]) -> String {
    let shapes = || std::iter::once(own).chain(others);
    let near = shapes().find_map(|shape| nearest_key(path, shape));
    let near: Option<Vec<String>> = near.map(|key| key.split('.').map(str::to_owned).collect());
    let files: Vec<&str> = shapes().map(|shape| shape.file).collect();
    let no = format!("names no key of {}", files.join(" or "));
    match near {
        // A section alone cannot be a variable.
        Some(near) if near.len() > 1 => format!("{no}; did you mean {}?", variable(&near)),
        _ => format!("{no}: correct or unset it"),
    }
}

/// The variable that names a key.
fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join(BETWEEN).to_ascii_uppercase())
}

fn insert(values: &mut Table, path: &[String], value: Value) {
    let Some((name, above)) = path.split_last() else {
        return;
    };
    let mut at = values;
    for section in above {
        let entry = at
            .entry(section.clone())
            .or_insert_with(|| Value::Table(Table::new()));
        match entry {
            Value::Table(table) => at = table,
            // Sections are tables: reading has seen to it.
            _ => return,
        }
    }
    at.insert(name.clone(), value);
}

/// The path of the key that a variable names: `fetch`, `timeout_ms`.
fn path_named_by(variable: &str) -> Option<Vec<String>> {
    let (prefix, path) = variable.split_at_checked(PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) || !path.contains(BETWEEN) {
        return None;
    }
    let path = path.to_ascii_lowercase();
    Some(path.split(BETWEEN).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_with_two_underscores_name_keys() {
        let named = |name| path_named_by(name).unwrap_or_default().join(".");
        assert_eq!(named("TAGSTREAM_FETCH__TIMEOUT_MS"), "fetch.timeout_ms");
        assert_eq!(
            named("tagstream_object_store__s3__region"),
            "object_store.s3.region"
        );
        for none in [
            "TAGSTREAM_CACHE",
            "TAGSTREAM_RETRAIN_CONFIG",
            "FETCH__TIMEOUT_MS",
        ] {
            assert_eq!(path_named_by(none), None);
        }
    }

    #[test]
    fn underscores_are_dots_in_properties_and_stay_in_options() {
        let options = Kind::Options(&crate::address::options::S3);
        for (parts, table, name) in [
            (&["sasl_password"][..], Kind::Properties, "sasl.password"),
            (&["sasl.password"], Kind::Properties, "sasl.password"),
            (&["sasl", "password"], Kind::Properties, "sasl.password"),
            (&["log_level"], Kind::Properties, "log_level"),
            (&["access_key_id"], options, "access_key_id"),
        ] {
            assert_eq!(entry(parts, table), name);
        }
    }
}
