//! What the stage says about one image.

use super::SourcePosition;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

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

/// A category whose calibrated probability reached its threshold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tag {
    /// Category name.
    pub category: String,
    /// Calibrated probability in `[0, 1]`.
    pub score: f32,
    /// Where the category was seen: the box around the high part of its saliency map.
    #[serde(rename = "box")]
    pub bounding_box: BoundingBox,
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
    /// The image's embedding, L2-normalised; only if configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Vec<f32>>,
}
