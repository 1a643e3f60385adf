//! The message by which an annotator says what is, or is not, in an image.

use super::image_reference::parse_json;
use super::message_error::MessageError;
use super::time::readable_event_time;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// What is known about one category in one image. What nobody mentioned is unknown and has no
/// state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelState {
    /// The category is in the image.
    Present,
    /// The category is not in the image.
    Absent,
}

/// Labels for one image (the value of a message of the labels topic, JSON). Unknown fields are
/// ignored.
///
/// Last write wins per (image, category); `retract` makes a category unknown again.
///
/// ```
/// use tagstream_core::events::{LabelEvent, MessageError};
///
/// // Of all other categories nothing is said: they stay unknown.
/// let value = br#"{"image_id": "a", "present": ["cat"], "absent": ["dog"]}"#;
/// let event = LabelEvent::from_json(value)?;
/// assert_eq!((event.present, event.absent), (vec!["cat".to_owned()], vec!["dog".to_owned()]));
///
/// let contradiction = br#"{"image_id": "a", "present": ["cat"], "absent": ["cat"]}"#;
/// assert!(LabelEvent::from_json(contradiction).is_err());
/// # Ok::<(), MessageError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelEvent {
    /// The image's name, as in its image reference.
    pub image_id: String,
    /// Where the image's bytes are; may be empty where predictions already tell.
    #[serde(default)]
    pub uri: String,
    /// Categories that are in the image.
    #[serde(default)]
    pub present: Vec<String>,
    /// Categories that are not in the image.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Categories of which earlier labels are taken back.
    #[serde(default)]
    pub retract: Vec<String>,
    /// Who says so.
    #[serde(default)]
    pub annotator: String,
    /// When it was said; the Kafka timestamp if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_time: Option<DateTime<Utc>>,
}

/// How far ahead of this machine's clock a label may have been said: clocks differ.
const MOST_AHEAD: TimeDelta = TimeDelta::days(1);

/// A label that was said in the future would win over every later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{time} lies more than a day ahead of {now}: no later label could take it back")]
pub struct AheadOfTime {
    /// When it claims to be said.
    pub time: DateTime<Utc>,
    /// What is known to be later, or the clock.
    pub now: DateTime<Utc>,
}

/// Refuses a label's time that lies further ahead of `now` than clocks differ.
///
/// # Errors
/// [`AheadOfTime`] names both.
pub fn not_ahead(time: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), AheadOfTime> {
    match time.signed_duration_since(now) > MOST_AHEAD {
        true => Err(AheadOfTime { time, now }),
        false => Ok(()),
    }
}

impl AsRef<LabelEvent> for LabelEvent {
    fn as_ref(&self) -> &LabelEvent {
        self
    }
}

impl LabelEvent {
    /// An event about an image that says nothing yet.
    pub fn about(image_id: impl Into<String>, uri: impl Into<String>) -> Self {
        LabelEvent {
            image_id: image_id.into(),
            uri: uri.into(),
            present: Vec::new(),
            absent: Vec::new(),
            retract: Vec::new(),
            annotator: String::new(),
            event_time: None,
        }
    }

    /// Reads the value of a Kafka message.
    ///
    /// # Errors
    /// [`MessageError`] says what is wrong; a category named twice with different meanings is an
    /// error.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        let event: Self = parse_json(bytes, "label event")?;
        event.validate()?;
        Ok(event)
    }

    /// Whether this may be sent: what the stage would refuse is refused.
    ///
    /// # Errors
    /// [`MessageError`] names what is wrong.
    pub fn validate(&self) -> Result<(), MessageError> {
        if self.image_id.is_empty() {
            return Err(MessageError::EmptyField { field: "image_id" });
        }
        readable_event_time(self.event_time)?;
        let mut seen = std::collections::HashMap::new();
        for (list, names) in [
            ("present", &self.present),
            ("absent", &self.absent),
            ("retract", &self.retract),
        ] {
            for name in names {
                if name.is_empty() {
                    return Err(MessageError::EmptyField { field: list });
                }
                if let Some(other) = seen.insert(name.as_str(), list).filter(|o| *o != list) {
                    return Err(MessageError::NotValid {
                        what: "label event",
                        reason: format!("category {name:?} stands in both `{other}` and `{list}`"),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn a_contradiction_is_refused() {
        let e = LabelEvent::from_json(br#"{"image_id":"a","present":["cat"],"absent":["cat"]}"#);
        assert!(e.unwrap_err().to_string().contains("cat"));
        assert!(LabelEvent::from_json(br#"{"image_id":"a","present":["cat","cat"]}"#).is_ok());
    }

    /// Whether a value is as the schema says: the part of JSON Schema that ours uses.
    pub(in crate::events) fn fits(schema: &Value, root: &Value, value: &Value) -> bool {
        if let Some(pointer) = schema["$ref"].as_str() {
            return fits(root.pointer(&pointer[1..]).unwrap(), root, value);
        }
        match schema["type"].as_str().unwrap() {
            "string" => value.as_str().is_some_and(|text| {
                let long_enough = text.len() as u64 >= schema["minLength"].as_u64().unwrap_or(0);
                let time = schema["format"] == "date-time";
                let listed = schema["enum"].as_array();
                long_enough
                    && (!time || text.parse::<DateTime<Utc>>().is_ok())
                    && listed.is_none_or(|listed| listed.iter().any(|one| one == text))
            }),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "array" => value
                .as_array()
                .is_some_and(|all| all.iter().all(|v| fits(&schema["items"], root, v))),
            "object" => value.as_object().is_some_and(|object| {
                let required = schema["required"].as_array().unwrap();
                let properties = schema["properties"].as_object().unwrap();
                required
                    .iter()
                    .all(|name| object.contains_key(name.as_str().unwrap()))
                    && object
                        .iter()
                        .all(|(name, v)| properties.get(name).is_none_or(|s| fits(s, root, v)))
            }),
            other => panic!("no rule for {other}"),
        }
    }

    #[test]
    fn the_published_schema_and_the_code_accept_the_same_events() {
        let schema: Value =
            serde_json::from_str(include_str!("../../../../schemas/label_event.schema.json"))
                .unwrap();
        let full = LabelEvent {
            image_id: "a".into(),
            uri: "s3://b/a.jpg".into(),
            present: vec!["cat".into()],
            absent: vec!["dog".into()],
            retract: vec!["owl".into()],
            annotator: "x".into(),
            event_time: Some(DateTime::UNIX_EPOCH),
        };
        let written = serde_json::to_value(&full).unwrap();
        let ours: Vec<&String> = written.as_object().unwrap().keys().collect();
        let theirs: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        assert_eq!(ours, theirs);
        for (good, text) in [
            (true, written.to_string().as_str()),
            (true, r#"{"image_id":"a"}"#),
            (true, r#"{"image_id":"a","note":[1],"present":[]}"#),
            (
                true,
                r#"{"image_id":"a","event_time":"2026-01-01T00:00:00+02:00"}"#,
            ),
            (false, r#"{"present":["cat"]}"#),
            (false, r#"{"image_id":""}"#),
            (false, r#"{"image_id":7}"#),
            (false, r#"{"image_id":"a","uri":null}"#),
            (false, r#"{"image_id":"a","present":"cat"}"#),
            (false, r#"{"image_id":"a","absent":[""]}"#),
            (false, r#"{"image_id":"a","retract":[1]}"#),
            (false, r#"{"image_id":"a","event_time":"yesterday"}"#),
            (false, r#"["a"]"#),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(fits(&schema, &schema, &value), good, "the schema: {text}");
            let read = LabelEvent::from_json(text.as_bytes());
            assert_eq!(read.is_ok(), good, "the code: {text}");
        }
    }
}
