//! The model bundle: a directory that holds all that is needed to tag, and what is needed to retrain.
//!
//! ```text
//! bundle.json        this file's types
//! encoder.onnx       pixels uint8 [B,H,W,3] -> dense [B,N,D], global [B,D]
//! head.onnx          dense, global -> logits [B,C], saliency [B,C,N], region [B,C,D], embedding [B,D]
//! head.safetensors   the head's initializers, and its trainable form
//! text/              text tower, its config and tokenizer (needed only to retrain)
//! ```

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The bundle format this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// `bundle.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format; others than [`FORMAT_VERSION`] are refused.
    pub format_version: u32,
    /// The model version that rows carry: a name and a short hash of everything else in here.
    pub id: String,
    /// The bundle this one was trained from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// When the bundle was made.
    pub created: DateTime<Utc>,
    /// Categories in the order of the score vector.
    pub categories: Vec<Category>,
    /// Sizes of the tensors.
    pub dims: Dims,
    /// How pixels are prepared before the encoder.
    pub preprocessing: Preprocessing,
    /// SHA-256 (hex) of the canonical JSON of `preprocessing`.
    pub preprocessing_hash: String,
    /// What turns logits into probabilities.
    pub calibration: Calibration,
    /// Every other file of the bundle, by path relative to it.
    pub files: BTreeMap<String, FileEntry>,
    /// Quality figures, by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Where the bundle comes from.
    pub lineage: Lineage,
}

/// One category.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The name that labels and tags use.
    pub name: String,
    /// The words that stand for it in prompts (underscores as spaces, or a better name).
    pub prompt: String,
    /// A tag is written where the calibrated probability is at least this.
    pub threshold: f32,
}

/// Sizes of the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dims {
    /// D: width of the joint image-text space.
    pub embedding: usize,
    /// Rows of the dense feature map; N = `grid_height * grid_width`.
    pub grid_height: usize,
    /// Columns of the dense feature map.
    pub grid_width: usize,
}

/// How an image becomes the encoder's `pixels`. Normalisation is inside the graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Height of the encoder's input, pixels.
    pub height: usize,
    /// Width of the encoder's input, pixels.
    pub width: usize,
    /// How the image's shape is fitted to the input's.
    pub fit: Fit,
    /// The resampling filter.
    pub filter: Filter,
}

/// How an image's shape is fitted to the input's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// Resized directly; the aspect ratio is not kept (what the multi-label literature does at test time).
    Squash,
    /// The short side resized to the input's, then the centre cropped (what CLIP was trained with).
    CenterCrop,
}

/// The resampling filter, antialiased (its support grows with the reduction), as Pillow does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Catmull-Rom (a = -0.5).
    Bicubic,
    /// Triangle.
    Bilinear,
}

/// probability = sigmoid(logit / temperature).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Greater than 0; 1 leaves logits as they are.
    pub temperature: f32,
}

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// SHA-256 of the content, hex.
    pub sha256: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// How the head was made (`zero-shot`, `trm-ml`, ...).
    pub method: String,
    /// What the encoder was made from, for people.
    pub source: String,
    /// Hash of the label snapshot the head was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_snapshot: Option<String>,
    /// Seed of the training run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Version of the code that made it.
    pub code_version: String,
}
