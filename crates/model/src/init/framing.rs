//! How pictures are fitted to a model's input, as the model's own files say: CLIP's processors
//! resize the short side and crop the centre, this program squashes the whole picture unless asked.
//! Embeddings can be mixed only with those of the same preprocessing.

use super::layout::{ClipFolder, LayoutError};
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use tagstream_image::preprocessing::{Filter, Fit};

/// How the bundle's pictures are fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FitChoice {
    /// The whole picture, whatever its shape, with the bicubic filter.
    #[default]
    Squash,
    /// The short side resized, the centre cropped, with the bicubic filter, as CLIP was trained.
    Crop,
    /// As the model's own preprocessing file says.
    Model,
}

/// Why a model's preprocessing cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// There is no file that says it.
    #[error("{place} has no {file}, which says how its pictures are fitted; choose squash or crop")]
    Missing {
        /// The folder.
        place: PathBuf,
        /// The file.
        file: &'static str,
    },
    /// It cannot be read.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It says something that no fit here does.
    #[error("{path}: {key} is {value}, which is not done here ({hint}); choose squash or crop")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is done.
        hint: &'static str,
    },
    /// The folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl FitChoice {
    /// Fit and filter for the model in `clip`.
    ///
    /// # Errors
    /// If the model's own files are asked and do not say it, or say what is not done here.
    pub(super) fn resolve(self, clip: &ClipFolder) -> Result<(Fit, Filter), FitError> {
        match self {
            FitChoice::Squash => Ok((Fit::Squash, Filter::Bicubic)),
            FitChoice::Crop => Ok((Fit::CenterCrop, Filter::Bicubic)),
            FitChoice::Model => of_files(clip),
        }
    }
}

const PREPROCESSOR: &str = "preprocessor_config.json";
const OPEN_CLIP: &str = "open_clip_config.json";

fn of_files(clip: &ClipFolder) -> Result<(Fit, Filter), FitError> {
    let (file, path) = match clip {
        ClipFolder::HuggingFace(folder) => (PREPROCESSOR, folder.join(PREPROCESSOR)),
        ClipFolder::OpenClip(folder) => (OPEN_CLIP, folder.join(OPEN_CLIP)),
        ClipFolder::Encoder(folder) => {
            (PREPROCESSOR, folder.encoder().with_file_name(PREPROCESSOR))
        }
    };
    if !path.is_file() {
        let place = path.parent().unwrap_or(&path).to_path_buf();
        return Err(FitError::Missing { place, file });
    }
    let json = std::fs::read_to_string(&path).map_err(|source| LayoutError::Io {
        path: path.clone(),
        source,
    })?;
    let said = Said { path: &path };
    if file == OPEN_CLIP {
        said.open_clip(&json)
    } else {
        said.hugging_face(&json)
    }
}

/// A file, for the errors about it.
struct Said<'a> {
    path: &'a Path,
}

/// `CLIPImageProcessor`, with its defaults.
#[derive(Deserialize)]
#[serde(default)]
struct HuggingFace {
    do_resize: bool,
    size: Value,
    do_center_crop: bool,
    crop_size: Value,
    resample: Value,
}

impl Default for HuggingFace {
    fn default() -> Self {
        HuggingFace {
            do_resize: true,
            size: Value::Null,
            do_center_crop: true,
            crop_size: Value::Null,
            resample: Value::Null,
        }
    }
}

#[derive(Deserialize)]
struct OpenClip {
    #[serde(default)]
    preprocess_cfg: OpenClipPreprocess,
}

#[derive(Deserialize, Default)]
struct OpenClipPreprocess {
    interpolation: Option<String>,
    resize_mode: Option<String>,
}

impl Said<'_> {
    fn parse<'de, T: Deserialize<'de>>(&self, json: &'de str) -> Result<T, FitError> {
        serde_json::from_str(json).map_err(|error| FitError::Malformed {
            path: self.path.to_path_buf(),
            reason: error.to_string(),
        })
    }

    fn unsupported(&self, key: &'static str, value: impl ToString, hint: &'static str) -> FitError {
        FitError::Unsupported {
            path: self.path.to_path_buf(),
            key,
            value: value.to_string(),
            hint,
        }
    }

    fn hugging_face(&self, json: &str) -> Result<(Fit, Filter), FitError> {
        let said: HuggingFace = self.parse(json)?;
        // Pillow's numbers.
        let filter = match said.resample.as_u64() {
            None => Filter::Bicubic,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            Some(other) => {
                return Err(self.unsupported("resample", other, "2, bilinear, or 3, bicubic"));
            }
        };
        if !said.do_resize {
            return Err(self.unsupported("do_resize", "false", "pictures are always resized"));
        }
        let both =
            |size: &Value| Some((size.get("height")?.as_u64()?, size.get("width")?.as_u64()?));
        let crop = said.crop_size.as_u64().or_else(|| {
            let (height, width) = both(&said.crop_size)?;
            (height == width).then_some(height)
        });
        if both(&said.size).is_some() {
            return Ok((Fit::Squash, filter));
        }
        // A number alone is the short side's, in files of older versions.
        let short = said
            .size
            .get("shortest_edge")
            .unwrap_or(&said.size)
            .as_u64();
        if !said.do_center_crop {
            let hint = "a resized short side is followed by a crop";
            return Err(self.unsupported("do_center_crop", "false", hint));
        }
        match (short, crop) {
            (Some(short), Some(crop)) if short != crop => {
                let hint = "the short side is resized to what is cropped";
                let sizes = format!("{crop} of {short}");
                Err(self.unsupported("crop_size", sizes, hint))
            }
            _ => Ok((Fit::CenterCrop, filter)),
        }
    }

    fn open_clip(&self, json: &str) -> Result<(Fit, Filter), FitError> {
        let said = self.parse::<OpenClip>(json)?.preprocess_cfg;
        let filter = match said.interpolation.as_deref() {
            Some("bilinear") => Filter::Bilinear,
            // OpenCLIP takes everything else for it.
            _ => Filter::Bicubic,
        };
        match said.resize_mode.as_deref().unwrap_or("shortest") {
            "shortest" => Ok((Fit::CenterCrop, filter)),
            "squash" => Ok((Fit::Squash, filter)),
            other => Err(self.unsupported("resize_mode", other, "shortest or squash")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Said<'static> {
        Said {
            path: Path::new("m/preprocessor_config.json"),
        }
    }

    #[test]
    fn hugging_faces_files_are_read_in_all_their_forms() {
        let crop = (Fit::CenterCrop, Filter::Bicubic);
        for (json, expected) in [
            (
                r#"{"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}"#,
                crop,
            ),
            (
                r#"{"size": 224, "crop_size": 224, "do_center_crop": true, "resample": 3}"#,
                crop,
            ),
            (
                r#"{"size": 224, "resample": 2}"#,
                (Fit::CenterCrop, Filter::Bilinear),
            ),
            ("{}", crop),
            (
                r#"{"size": {"height": 224, "width": 224}, "do_center_crop": false}"#,
                (Fit::Squash, Filter::Bicubic),
            ),
        ] {
            assert_eq!(said().hugging_face(json).unwrap(), expected, "{json}");
        }
        for (json, key) in [
            (
                r#"{"size": 256, "crop_size": 224}"#,
                "crop_size is 224 of 256",
            ),
            (
                r#"{"size": 224, "do_center_crop": false}"#,
                "do_center_crop",
            ),
            (r#"{"do_resize": false}"#, "do_resize"),
            (r#"{"resample": 1}"#, "resample is 1"),
            (r#"{"do_resize": 7}"#, "preprocessor_config.json"),
        ] {
            let error = said().hugging_face(json).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains("m/preprocessor"),
                "{error}"
            );
        }
    }

    #[test]
    fn open_clips_file_is_read() {
        let of = |preprocess: &str| {
            said().open_clip(&format!(
                r#"{{"model_cfg": {{}}, "preprocess_cfg": {preprocess}}}"#
            ))
        };
        let crop = (Fit::CenterCrop, Filter::Bicubic);
        assert_eq!(of(r#"{"mean": [0, 0, 0]}"#).unwrap(), crop);
        assert_eq!(said().open_clip("{}").unwrap(), crop);
        let squash = r#"{"resize_mode": "squash", "interpolation": "bilinear"}"#;
        assert_eq!(of(squash).unwrap(), (Fit::Squash, Filter::Bilinear));
        let error = of(r#"{"resize_mode": "longest"}"#).unwrap_err().to_string();
        assert!(error.contains("resize_mode is longest"), "{error}");
    }
}
