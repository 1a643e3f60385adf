//! The message by which an annotator says what is, or is not, in an image.

use super::image_reference::{MessageError, parse_json};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What is known about one category in one image. What nobody mentioned is unknown and has no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabelState {
    /// The category is in the image.
    Present,
    /// The category is not in the image.
    Absent,
}

/// Labels for one image (the value of a message of the labels topic, JSON). Unknown fields are ignored.
///
/// Last write wins per (image, category); `retract` makes a category unknown again.
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

impl LabelEvent {
    /// Reads the value of a Kafka message.
    ///
    /// # Errors
    /// [`MessageError`] says what is wrong; a category named twice with different meanings is an error.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        let event: Self = parse_json(bytes, "label event")?;
        if event.image_id.is_empty() {
            return Err(MessageError::EmptyField { field: "image_id" });
        }
        let mut seen = std::collections::HashMap::new();
        for (list, names) in [
            ("present", &event.present),
            ("absent", &event.absent),
            ("retract", &event.retract),
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
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contradiction_is_refused() {
        let e = LabelEvent::from_json(br#"{"image_id":"a","present":["cat"],"absent":["cat"]}"#);
        assert!(e.unwrap_err().to_string().contains("cat"));
        assert!(LabelEvent::from_json(br#"{"image_id":"a","present":["cat","cat"]}"#).is_ok());
    }
}
