//! The layouts in which CLIP weights come.

use crate::bundle::{BundleError, ENCODER_FILE};
use crate::clip::vision::VisionConfig;
use crate::clip::weights::{WeightFile, WeightsError};
use crate::init::InitError;
use crate::source::{EncoderFolder, OpenError};
use crate::text::TextFiles;
use std::path::{Path, PathBuf};

/// Hugging Face's configuration and weights.
const HUGGING_FACE: [&str; 2] = ["config.json", "model.safetensors"];
/// OpenCLIP's configuration and weights.
const OPEN_CLIP: [&str; 2] = ["open_clip_config.json", "open_clip_model.safetensors"];
const TOKENIZER: &str = "tokenizer.json";
const PREPROCESSOR: &str = "preprocessor_config.json";

/// A folder with CLIP weights.
#[derive(Debug, Clone)]
pub enum ClipFolder {
    /// `config.json`, `model.safetensors`, `tokenizer.json`, optionally `preprocessor_config.json`.
    HuggingFace(PathBuf),
    /// `open_clip_config.json`, `open_clip_model.safetensors`, `tokenizer.json`.
    OpenClip(PathBuf),
    /// `encoder.onnx` with a text tower.
    Encoder(EncoderFolder),
}

/// Why a folder is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Nothing known is there.
    #[error(
        "{} holds no CLIP weights: looked for open_clip_config.json + \
         open_clip_model.safetensors, config.json + \
         model.safetensors, and encoder.onnx + text_encoder.safetensors{hint}", .folder.display()
    )]
    Unknown {
        /// The folder.
        folder: PathBuf,
        /// What to do about what was found instead.
        hint: &'static str,
    },
    /// A file is missing.
    #[error("{} lacks {missing}; {hint}", .folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file.
        missing: &'static str,
        /// Where it is had.
        hint: &'static str,
    },
    /// A ready-made encoder cannot be used.
    #[error(transparent)]
    Encoder(#[from] OpenError),
    /// A configuration cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ClipFolder {
    /// Finds out which layout `folder` has.
    ///
    /// # Errors
    /// [`LayoutError`] says what was looked for.
    pub fn open(folder: &Path) -> Result<Self, LayoutError> {
        let has = |name: &str| folder.join(name).is_file();
        if has(ENCODER_FILE) {
            return Ok(Self::Encoder(EncoderFolder::open(folder)?));
        }
        let found = if OPEN_CLIP.iter().all(|name| has(name)) {
            Self::OpenClip(folder.to_path_buf())
        } else if HUGGING_FACE.iter().all(|name| has(name)) {
            Self::HuggingFace(folder.to_path_buf())
        } else {
            let pickles = ["open_clip_pytorch_model.bin", "pytorch_model.bin"];
            let hint = if pickles.iter().any(|name| has(name)) {
                ". A PyTorch .bin file is a program, which is not run here: save it as \
                 safetensors first"
            } else if has("model.safetensors.index.json") {
                ". Weights in several files are not read: merge them into one model.safetensors"
            } else {
                ""
            };
            return Err(LayoutError::Unknown {
                folder: folder.to_path_buf(),
                hint,
            });
        };
        if !has(TOKENIZER) {
            return Err(LayoutError::Missing {
                folder: folder.to_path_buf(),
                missing: TOKENIZER,
                hint: "CLIP's is part of openai/clip-vit-base-patch32 on the Hugging Face hub",
            });
        }
        Ok(found)
    }

    /// Of the files that a repository holds, those that a layout needs; `None` if they make no
    /// layout.
    pub fn files_needed(available: &[String]) -> Option<Vec<&'static str>> {
        let has = |name: &str| available.iter().any(|file| file == name);
        for layout in [OPEN_CLIP, HUGGING_FACE] {
            if layout.iter().all(|name| has(name)) && has(TOKENIZER) {
                let mut files = vec![layout[0], TOKENIZER];
                if layout == HUGGING_FACE && has(PREPROCESSOR) {
                    files.push(PREPROCESSOR);
                }
                files.push(layout[1]);
                return Some(files);
            }
        }
        None
    }

    /// The layout's name, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HuggingFace(_) => "Hugging Face layout",
            Self::OpenClip(_) => "OpenCLIP layout",
            Self::Encoder(_) => "ready-made encoder",
        }
    }

    /// The text tower's files.
    pub fn text_files(&self) -> TextFiles {
        let files = |folder: &Path, [config, weights]: [&str; 2]| TextFiles {
            weights: folder.join(weights),
            config: folder.join(config),
            tokenizer: folder.join(TOKENIZER),
        };
        match self {
            Self::HuggingFace(folder) => files(folder, HUGGING_FACE),
            Self::OpenClip(folder) => files(folder, OPEN_CLIP),
            Self::Encoder(folder) => folder.text(),
        }
    }

    /// The vision tower's configuration and weights.
    ///
    /// # Panics
    /// If this is a ready-made encoder, which has none.
    pub(super) fn vision(&self) -> Result<(VisionConfig, WeightFile), InitError> {
        let read = |folder: &Path, name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(|source| LayoutError::Io { path, source })
        };
        match self {
            Self::HuggingFace(folder) => {
                let preprocessor = folder.join(PREPROCESSOR).is_file();
                let preprocessor = preprocessor
                    .then(|| read(folder, PREPROCESSOR))
                    .transpose()?;
                let config = read(folder, HUGGING_FACE[0])?;
                Ok((
                    VisionConfig::hugging_face(&config, preprocessor.as_deref())?,
                    WeightFile::open(folder.join(HUGGING_FACE[1]))?,
                ))
            }
            Self::OpenClip(folder) => Ok((
                VisionConfig::open_clip(&read(folder, OPEN_CLIP[0])?)?,
                WeightFile::open(folder.join(OPEN_CLIP[1]))?,
            )),
            Self::Encoder(_) => unreachable!("a ready-made encoder is copied"),
        }
    }

    /// What the weights say about logits: `logit_scale` (a logarithm) and `logit_bias`. A folder
    /// with a ready-made encoder says the first in its configuration, as `logit_scale_global`.
    pub(super) fn logit(&self) -> Result<(Option<f32>, Option<f32>), InitError> {
        let text = self.text_files();
        if let Self::Encoder(_) = self {
            let path = text.config;
            let json = std::fs::read(&path).map_err(|source| LayoutError::Io {
                path: path.clone(),
                source,
            })?;
            let config: serde_json::Value = serde_json::from_slice(&json)
                .map_err(|source| BundleError::Json { path, source })?;
            let number = |key: &str| config.get(key)?.as_f64().map(|x| x as f32);
            return Ok((number("logit_scale_global"), number("logit_bias_global")));
        }
        let weights = WeightFile::open(text.weights)?;
        Ok((
            weights.read_number("logit_scale")?,
            weights.read_number("logit_bias")?,
        ))
    }

    /// The text tower's tensors alone, as the content of a safetensors file, in the precision they
    /// come in.
    pub(super) fn text_weights(&self) -> Result<Vec<u8>, WeightsError> {
        let weights = WeightFile::open(self.text_files().weights)?;
        let vision = ["visual.", "vision_model.", "visual_projection."];
        weights.subset(|name| !vision.iter().any(|prefix| name.starts_with(prefix)))
    }
}
