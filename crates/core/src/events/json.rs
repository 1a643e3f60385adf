//! JSON that is taken apart only where somebody looks: what nobody asks for may be as deep and as
//! strange as it likes, and a number stays as it is written.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

/// A value of a document. What lies in it is parsed when it is asked for.
#[derive(Debug)]
pub(crate) struct Json<'a> {
    raw: &'a str,
    parsed: OnceCell<Result<Parsed<'a>, String>>,
}

/// A value taken apart by one level.
#[derive(Debug)]
pub(crate) enum Parsed<'a> {
    Null,
    Bool,
    /// As it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// Reads a document; the error says what of its syntax is wrong, and where.
    pub(crate) fn read(text: &'a str) -> Result<Self, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
        Ok(Json::of(raw))
    }

    fn of(raw: &'a RawValue) -> Self {
        Json {
            raw: raw.get(),
            parsed: OnceCell::new(),
        }
    }

    /// As it is written.
    pub(crate) fn raw(&self) -> &'a str {
        self.raw
    }

    /// The value, one level of it; the error says why a string is none.
    pub(crate) fn parsed(&self) -> Result<&Parsed<'a>, String> {
        let parsed = self.parsed.get_or_init(|| parse(self.raw));
        parsed.as_ref().map_err(Clone::clone)
    }

    /// The member of an object, or the element of an array. Of members with the same name the last
    /// one counts.
    pub(crate) fn get(&self, name: &str) -> Option<&Json<'a>> {
        match self.parsed().ok()? {
            Parsed::Object(members) => {
                let of_name = members.iter().rev().find(|(key, _)| key == name);
                of_name.map(|(_, value)| value)
            }
            Parsed::Array(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub(crate) fn is_null(&self) -> bool {
        self.raw == "null"
    }

    /// What it is, without what it says.
    pub(crate) fn kind(&self) -> &'static str {
        match self.raw.as_bytes().first() {
            Some(b'"') => "a string",
            Some(b'{') => "an object",
            Some(b'[') => "a JSON array",
            Some(b't' | b'f') => "true or false",
            Some(b'n') => "null",
            _ if self.raw.contains(['.', 'e', 'E']) => "a number with a fraction",
            _ => "a whole number",
        }
    }
}

fn parse(raw: &str) -> Result<Parsed<'_>, String> {
    Ok(match raw.as_bytes().first() {
        Some(b'n') => Parsed::Null,
        Some(b't') => Parsed::Bool,
        Some(b'f') => Parsed::Bool,
        Some(b'"') => {
            let text: Text<'_> = serde_json::from_str(raw).map_err(|e| e.to_string())?;
            Parsed::Text(text.0)
        }
        Some(b'{' | b'[') => {
            let level: Level<'_> = serde_json::from_str(raw).map_err(|e| e.to_string())?;
            level.0
        }
        _ => Parsed::Number(raw),
    })
}

/// A string that borrows where it can; `Cow` alone never does.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Level<'a>(Parsed<'a>);

impl<'de> Deserialize<'de> for Level<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneLevel;

        impl<'de> Visitor<'de> for OneLevel {
            type Value = Level<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or an array")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((name, raw)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    members.push((name.0, Json::of(raw)));
                }
                Ok(Level(Parsed::Object(members)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(raw) = seq.next_element::<&RawValue>()? {
                    items.push(Json::of(raw));
                }
                Ok(Level(Parsed::Array(items)))
            }
        }

        deserializer.deserialize_any(OneLevel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_asks_for_is_not_taken_apart() {
        let deep = format!(
            r#"{{"a":{{"b":[1, "x\u00e9"]}},"deep":{}{},"n":1e999,"broken":"\ud800"}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        let json = Json::read(&deep).unwrap();
        let b = json.get("a").and_then(|a| a.get("b")).unwrap();
        assert_eq!(b.get("0").unwrap().raw(), "1");
        let text = b.get("1").unwrap().parsed().unwrap();
        assert!(matches!(text, Parsed::Text(text) if text == "xé"));
        assert!(json.get("broken").unwrap().parsed().is_err());
        assert_eq!(json.get("n").unwrap().raw(), "1e999");
        assert!(json.get("a").unwrap().get("c").is_none());
    }

    #[test]
    fn the_last_of_two_members_with_one_name_counts() {
        let json = Json::read(r#"{"a":1,"a":2}"#).unwrap();
        assert_eq!(json.get("a").unwrap().raw(), "2");
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        for text in ["{", "[1", "{} {}", "nul", "", "{\"a\":NaN}", "{'a':1}"] {
            let said = Json::read(text).unwrap_err();
            assert!(said.contains("line 1"), "{text}: {said}");
        }
    }
}
