//! How pictures are fitted to a model's input, as the model's own files say.
//!
//! CLIP's processors resize the short side and crop the centre; this program squashes the whole
//! picture unless asked. Embeddings can be mixed only with those of the same preprocessing.

use super::layout::{ClipFolder, LayoutError, PreprocessingFiles};
use serde_json::{Map, Value};
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
    /// As the model's own files say.
    Model,
}

/// Fit and filter, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnFit {
    /// Fit and filter.
    pub fit: (Fit, Filter),
    /// The file that says it; for OpenAI's archives, which hold none, the library.
    pub said_by: String,
}

/// Why a model's preprocessing cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// No file says it.
    #[error(
        "{} has no file that says how its pictures are fitted (preprocessor_config.json, \
         processor_config.json or open_clip_config.json); choose --fit squash or crop",
        .0.display()
    )]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It says something that no fit here does.
    #[error(
        "{}: {key} is {value}, which is not done here ({hint}); choose --fit squash or crop",
        .path.display()
    )]
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
    /// Two files say two things.
    #[error(
        "{} says {one}, {} says {two}: correct one of them, or choose --fit squash or crop",
        .first.display(), .second.display()
    )]
    Contradiction {
        /// One file.
        first: PathBuf,
        /// What it says.
        one: String,
        /// The other.
        second: PathBuf,
        /// What that says.
        two: String,
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
            FitChoice::Model => own_fit(clip).map(|own| own.fit),
        }
    }
}

/// In words, as `init` prints it.
pub fn fit_in_words((fit, filter): (Fit, Filter)) -> &'static str {
    match (fit, filter) {
        (Fit::Squash, Filter::Bicubic) => "squashed, bicubic",
        (Fit::Squash, Filter::Bilinear) => "squashed, bilinear",
        (Fit::CenterCrop, Filter::Bicubic) => "centre cropped, bicubic",
        (Fit::CenterCrop, Filter::Bilinear) => "centre cropped, bilinear",
    }
}

/// What the model's own files say.
///
/// # Errors
/// If they do not say it, contradict each other, or say what is not done here.
pub fn own_fit(clip: &ClipFolder) -> Result<OwnFit, FitError> {
    let mut found: Option<(PathBuf, (Fit, Filter))> = None;
    let (files, open_clip) = match clip.preprocessing_files() {
        PreprocessingFiles::HuggingFace(files) => (files, false),
        PreprocessingFiles::OpenClip(file) => (vec![file], true),
        PreprocessingFiles::OpenAi => {
            return Ok(OwnFit {
                fit: (Fit::CenterCrop, Filter::Bicubic),
                said_by: "OpenAI's library".to_owned(),
            });
        }
    };
    for path in files {
        let read = std::fs::read_to_string(&path);
        let json = read.map_err(|source| LayoutError::Io {
            path: path.clone(),
            source,
        })?;
        let said = Said { path: &path };
        let fit = match open_clip {
            true => Some(said.open_clip(&json)?),
            false => said.hugging_face(&json)?,
        };
        match (&found, fit) {
            (Some((first, one)), Some(two)) if *one != two => {
                return Err(FitError::Contradiction {
                    first: first.clone(),
                    one: fit_in_words(*one).to_owned(),
                    second: path,
                    two: fit_in_words(two).to_owned(),
                });
            }
            (None, Some(fit)) => found = Some((path, fit)),
            _ => {}
        }
    }
    let (path, fit) = found.ok_or_else(|| FitError::Missing(clip.folder().to_path_buf()))?;
    let name = path.file_name().unwrap_or_default();
    Ok(OwnFit {
        fit,
        said_by: name.to_string_lossy().into_owned(),
    })
}

/// A file, for the errors about it.
struct Said<'a> {
    path: &'a Path,
}

/// What a class of image processors does where its file says nothing.
struct Unsaid {
    /// Whether a size that is one number is a square's side, not the short side's.
    square: bool,
    /// Whether the centre is cropped.
    crop: bool,
    /// Whether the size need not be said.
    sized: bool,
}

impl Unsaid {
    fn of(class: &str) -> Self {
        let is = |names: &[&str]| names.iter().any(|name| class.starts_with(name));
        let cropping = class.is_empty() || is(&["CLIP", "ChineseCLIP", "AltCLIP"]);
        let squashing = is(&["Siglip", "SigLIP"]);
        Unsaid {
            square: !cropping,
            crop: cropping,
            sized: cropping || squashing,
        }
    }
}

impl Said<'_> {
    fn object(&self, json: &str) -> Result<Map<String, Value>, FitError> {
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

    /// `preprocessor_config.json`, or the `processor_config.json` of transformers 5. None if it
    /// says nothing of pictures, as the latter does beside the former.
    fn hugging_face(&self, json: &str) -> Result<Option<(Fit, Filter)>, FitError> {
        let whole = self.object(json)?;
        let values = match whole.get("image_processor") {
            Some(Value::Object(values)) => values,
            Some(other) => {
                return Err(self.unsupported("image_processor", other, "a JSON object"));
            }
            None => {
                let of_pictures = |key: &String| {
                    ["do_", "image_", "crop_", "size", "resample"]
                        .iter()
                        .any(|start| key.starts_with(start))
                };
                if !whole.keys().any(of_pictures) {
                    return Ok(None);
                }
                &whole
            }
        };
        let class = ["image_processor_type", "feature_extractor_type"];
        let class = class.iter().find_map(|key| values.get(*key)?.as_str());
        let unsaid = Unsaid::of(class.unwrap_or_default());
        if !self.switch(values, "do_resize", true)? {
            return Err(self.unsupported("do_resize", "false", "pictures are always resized"));
        }
        let filter = self.filter(values)?;
        let crops = self.switch(values, "do_center_crop", unsaid.crop)?;
        Ok(Some((self.shape(values, &unsaid, crops)?, filter)))
    }

    fn switch(
        &self,
        values: &Map<String, Value>,
        key: &'static str,
        unsaid: bool,
    ) -> Result<bool, FitError> {
        match values.get(key) {
            None | Some(Value::Null) => Ok(unsaid),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.unsupported(key, other, "true or false")),
        }
    }

    fn filter(&self, values: &Map<String, Value>) -> Result<Filter, FitError> {
        // Pillow's numbers, or the names that torchvision gives them.
        let said = ["resample", "interpolation"].into_iter().find_map(|key| {
            let value = values.get(key).filter(|value| !value.is_null())?;
            Some((key, value))
        });
        let Some((key, value)) = said else {
            return Ok(Filter::Bicubic);
        };
        let name = value.as_str().map(str::to_ascii_lowercase);
        match (value.as_u64(), name.as_deref()) {
            (Some(2), _) | (_, Some("bilinear")) => Ok(Filter::Bilinear),
            (Some(3), _) | (_, Some("bicubic")) => Ok(Filter::Bicubic),
            _ => Err(self.unsupported(key, value, "2, bilinear, or 3, bicubic")),
        }
    }

    fn shape(
        &self,
        values: &Map<String, Value>,
        unsaid: &Unsaid,
        crops: bool,
    ) -> Result<Fit, FitError> {
        let square = self.switch(values, "default_to_square", unsaid.square)?;
        let size = values.get("size").filter(|size| !size.is_null());
        let both = |size: &Value| {
            let side = |key: &str| size.get(key)?.as_u64();
            side("height").zip(side("width"))
        };
        let crop = values.get("crop_size").filter(|_| crops);
        let crop = crop.and_then(|crop| crop.as_u64().map(|side| (side, side)).or(both(crop)));
        let (fit, sides) = match size {
            None if !unsaid.sized => {
                let hint = "the size is needed of a processor of this class";
                return Err(self.unsupported("size", "missing", hint));
            }
            None if square => (Fit::Squash, None),
            None => (Fit::CenterCrop, None),
            Some(size) => match (size.as_u64(), both(size), size.get("shortest_edge")) {
                (Some(side), _, _) if square => (Fit::Squash, Some((side, side))),
                (Some(side), _, _) => (Fit::CenterCrop, Some((side, side))),
                (_, Some(sides), _) => (Fit::Squash, Some(sides)),
                (_, _, Some(side)) if side.is_u64() && size.get("longest_edge").is_none() => {
                    (Fit::CenterCrop, side.as_u64().map(|side| (side, side)))
                }
                _ => {
                    let hint = "a height and a width, or a shortest_edge";
                    return Err(self.unsupported("size", size, hint));
                }
            },
        };
        if fit == Fit::CenterCrop && !crops {
            let hint = "a resized short side is followed by a crop";
            return Err(self.unsupported("do_center_crop", "false", hint));
        }
        match sides.zip(crop) {
            Some((sides, crop)) if sides != crop => {
                let sizes = format!("{}x{} of {}x{}", crop.0, crop.1, sides.0, sides.1);
                let hint = "pictures are resized to what is cropped";
                Err(self.unsupported("crop_size", sizes, hint))
            }
            _ => Ok(fit),
        }
    }

    /// `preprocess_cfg`, with OpenCLIP's own defaults.
    fn open_clip(&self, json: &str) -> Result<(Fit, Filter), FitError> {
        let whole = self.object(json)?;
        let said = |key: &str| {
            let value = whole.get("preprocess_cfg")?.get(key)?;
            (!value.is_null()).then_some(value)
        };
        let filter = match said("interpolation") {
            None => Filter::Bicubic,
            Some(value) => match value.as_str() {
                Some("bicubic" | "random") => Filter::Bicubic,
                Some("bilinear") => Filter::Bilinear,
                _ => {
                    return Err(self.unsupported("interpolation", value, "bicubic or bilinear"));
                }
            },
        };
        match said("resize_mode") {
            None => Ok((Fit::CenterCrop, filter)),
            Some(mode) => match mode.as_str() {
                Some("shortest") => Ok((Fit::CenterCrop, filter)),
                Some("squash") => Ok((Fit::Squash, filter)),
                _ => Err(self.unsupported("resize_mode", mode, "shortest or squash")),
            },
        }
    }
}

#[cfg(test)]
mod tests;
