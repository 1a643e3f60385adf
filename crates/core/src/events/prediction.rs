//! What the stage says about one image.

use super::SourcePosition;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A rectangle in fractions of the image's width and height; all values lie in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoundingBox {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width.
    pub w: f32,
    /// Height.
    pub h: f32,
}

/// One of the places where a tag was seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TagBox {
    /// Where it is.
    #[serde(flatten)]
    pub bounding_box: BoundingBox,
    /// The tag's score times the share of the best region's evidence that this one has.
    pub score: f32,
}

impl BoundingBox {
    /// The whole picture: what stands for a box where none is known.
    pub const WHOLE: BoundingBox = BoundingBox {
        x: 0.0,
        y: 0.0,
        w: 1.0,
        h: 1.0,
    };
}

/// A category whose calibrated probability reached its threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tag {
    /// Category name.
    pub category: String,
    /// What people are shown for it, if that is not the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// Calibrated probability in `[0, 1]`.
    pub score: f32,
    /// The best of `boxes`, the whole picture if there is none.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
    /// Where the category was seen, the surest first; empty where no region of the picture supports
    /// it. `None`: written by a build that knew one box only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Vec<TagBox>>,
}

impl Tag {
    /// What people are shown for it.
    pub fn shown(&self) -> &str {
        self.display.as_deref().unwrap_or(&self.category)
    }

    /// The boxes to show: those of regions that support the tag.
    pub fn shown_boxes(&self) -> Vec<BoundingBox> {
        match &self.boxes {
            Some(boxes) => boxes.iter().map(|found| found.bounding_box).collect(),
            None if self.bounding_box == BoundingBox::WHOLE => Vec::new(),
            None => vec![self.bounding_box],
        }
    }
}

/// A field of a prediction that its topic had no room for. The table's row has it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShortenedField {
    /// Left out.
    Embedding,
    /// Its beginning, then `…`.
    Uri,
    /// Left out.
    Attributes,
    /// The headers of the message that asked for it: left out.
    Headers,
    /// Its beginning, then `…sha256:` and the hash of the whole; so is the message's key.
    ImageId,
    /// The best of them.
    Tags,
}

/// The value of a message of the predictions topic (JSON); the message key is `image_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The image's name, from its reference.
    pub image_id: String,
    /// The image's address, from its reference.
    pub uri: String,
    /// The reference's event time, or its Kafka timestamp.
    pub event_time: DateTime<Utc>,
    /// The bundle that made the prediction.
    pub model_version: String,
    /// The message that asked for it. With `model_version` the key that makes duplicates
    /// recognisable.
    pub source: SourcePosition,
    /// Tags at or above their thresholds, best first.
    pub tags: Vec<Tag>,
    /// Carried through from the reference; absent if it has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The image's embedding, L2-normalised; only if configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
    /// Fields that were shortened because the topic has no room for them; absent if none was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shortened: Vec<ShortenedField>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Offset;

    fn schema() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../../schemas/prediction.schema.json")).unwrap()
    }

    #[test]
    fn the_published_schema_lists_the_fields_that_are_written() {
        let prediction = Prediction {
            image_id: "a".into(),
            uri: "file:///a.jpg".into(),
            event_time: DateTime::UNIX_EPOCH,
            model_version: "m".into(),
            source: SourcePosition {
                topic: "images".into(),
                partition: 0,
                offset: Offset(1),
                record: 2,
            },
            tags: Vec::new(),
            attributes: [("site".to_owned(), "north".to_owned())].into(),
            embedding: Some(vec![0.5]),
            shortened: vec![
                ShortenedField::Embedding,
                ShortenedField::Uri,
                ShortenedField::Attributes,
                ShortenedField::Headers,
                ShortenedField::ImageId,
                ShortenedField::Tags,
            ],
        };
        let written = serde_json::to_value(&prediction).unwrap();
        let published = schema();
        let names = |value: &serde_json::Value| -> Vec<String> {
            let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(names(&written), names(&published["properties"]));
        let source = &published["properties"]["source"]["properties"];
        assert_eq!(names(&written["source"]), names(source));
        let fields = &published["properties"]["shortened"]["items"]["enum"];
        assert_eq!(fields, &written["shortened"]);
    }

    /// Tags of builds that knew one box only, and of this one, are read alike.
    #[test]
    fn a_tag_shows_the_boxes_that_it_has() {
        let read = |text: &str| serde_json::from_str::<Tag>(text).unwrap();
        let place = r#"{"x": 0.25, "y": 0.5, "w": 0.5, "h": 0.25}"#;
        let old = read(&format!(
            r#"{{"category": "a", "score": 0.5, "box": {place}}}"#
        ));
        assert_eq!(old.shown_boxes(), [old.bounding_box]);
        let whole = r#"{"category": "a", "score": 0.5, "box": {"x": 0, "y": 0, "w": 1, "h": 1}"#;
        assert!(read(&format!("{whole}}}")).shown_boxes().is_empty());
        let nowhere = read(&format!(r#"{whole}, "boxes": []}}"#));
        assert!(nowhere.shown_boxes().is_empty());
        let written = serde_json::to_value(&nowhere).unwrap();
        assert_eq!(written["boxes"], serde_json::json!([]));
        assert!(serde_json::to_value(&old).unwrap().get("boxes").is_none());
    }

    /// What builds before this field wrote.
    #[test]
    fn a_prediction_without_the_list_is_whole() {
        let old = r#"{"image_id": "a", "uri": "u", "event_time": "2026-01-01T00:00:00Z",
            "model_version": "m", "source": {"topic": "t", "partition": 0, "offset": 1},
            "tags": []}"#;
        let read: Prediction = serde_json::from_str(old).unwrap();
        assert!(read.shortened.is_empty());
        let written = serde_json::to_string(&read).unwrap();
        assert!(!written.contains("shortened"), "{written}");
    }
}
