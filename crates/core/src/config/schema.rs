//! JSON Schemas of configuration files, for editors (`schemas/stage.schema.json`).
//!
//! Draft 7, which is what editors of TOML read. Keys keep the order of the file.

use super::reference::description;
use super::{Configuration, Key, Kind};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use toml::{Table, Value};

/// The text of the schema of a configuration.
pub fn schema<T: Configuration>() -> String {
    let defaults = Table::try_from(T::default()).expect("the defaults are plain data");
    let schema = Root {
        file: T::SHAPE.file,
        title: T::SHAPE.of,
        keys: T::SHAPE.keys,
        defaults: &Value::Table(defaults),
    };
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

struct Root<'a> {
    file: &'static str,
    title: &'static str,
    keys: &'static [Key],
    defaults: &'a Value,
}

impl Serialize for Root<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("$schema", "http://json-schema.org/draft-07/schema#")?;
        map.serialize_entry("$id", &self.file.replace(".toml", ".schema.json"))?;
        map.serialize_entry("title", self.title)?;
        object(&mut map, self.keys, Some(self.defaults))?;
        map.end()
    }
}

/// What is said of one key.
struct Property<'a> {
    key: &'a Key,
    default: Option<&'a Value>,
}

impl Serialize for Property<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("description", &description(self.key))?;
        match self.key.kind {
            Kind::Section(keys) => {
                object(&mut map, keys, self.default)?;
                return map.end();
            }
            Kind::Bool => map.serialize_entry("type", "boolean")?,
            Kind::Whole(most) => {
                map.serialize_entry("type", "integer")?;
                map.serialize_entry("minimum", &0)?;
                // Of 64 bits an editor's own numbers are the bound.
                if most < i64::MAX as u64 {
                    map.serialize_entry("maximum", &most)?;
                }
            }
            Kind::Number => map.serialize_entry("type", "number")?,
            Kind::Text | Kind::Secret => map.serialize_entry("type", "string")?,
            Kind::OneOf(names) => map.serialize_entry("enum", names)?,
            Kind::Texts => {
                map.serialize_entry("type", "array")?;
                map.serialize_entry("items", &Text)?;
            }
            Kind::Entries | Kind::Properties => {
                map.serialize_entry("type", "object")?;
                map.serialize_entry("additionalProperties", &Text)?;
            }
            Kind::Options(options) => {
                map.serialize_entry("type", "object")?;
                map.serialize_entry("additionalProperties", &false)?;
                map.serialize_entry("properties", &All(options.names.iter().map(|n| (*n, Text))))?;
                let long = format!("^{}", options.prefix);
                map.serialize_entry("patternProperties", &All([(long, Text)].into_iter()))?;
            }
        }
        if let Some(default) = self.default {
            map.serialize_entry("default", default)?;
        }
        map.end()
    }
}

/// The entries of an object with these keys and no others.
fn object<M: SerializeMap>(
    map: &mut M,
    keys: &'static [Key],
    defaults: Option<&Value>,
) -> Result<(), M::Error> {
    map.serialize_entry("type", "object")?;
    map.serialize_entry("additionalProperties", &false)?;
    let properties = keys.iter().map(|key| {
        let default = defaults.and_then(|defaults| defaults.get(key.name));
        (key.name, Property { key, default })
    });
    map.serialize_entry("properties", &All(properties))
}

/// `{"type": "string"}`.
#[derive(Clone)]
struct Text;

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([("type", "string")])
    }
}

/// Entries as a map, in their order.
struct All<I>(I);

impl<K: Serialize, V: Serialize, I: Iterator<Item = (K, V)> + Clone> Serialize for All<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.clone())
    }
}
