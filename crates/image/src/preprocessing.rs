//! How an image becomes what an encoder takes: the size, the fit and the filter.

use serde::{Deserialize, Serialize};

/// How an image becomes the encoder's `pixels`. Normalisation is inside the graph.
///
/// ```
/// use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};
///
/// // As it stands in a bundle's manifest.
/// let text = r#"{"height": 224, "width": 224, "fit": "center_crop", "filter": "bicubic"}"#;
/// let preprocessing: Preprocessing = serde_json::from_str(text)?;
/// assert_eq!((preprocessing.height, preprocessing.width), (224, 224));
/// assert_eq!((preprocessing.fit, preprocessing.filter), (Fit::CenterCrop, Filter::Bicubic));
/// # Ok::<(), serde_json::Error>(())
/// ```
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
    /// Resized directly; the aspect ratio is not kept (what the multi-label literature does at test
    /// time).
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
