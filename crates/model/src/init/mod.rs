//! From CLIP weights and a list of categories to a bundle that tags without having seen a label.

mod fit;
pub mod hub;
mod layout;
mod parity;

pub use super::categories::{CategoryList, CategoryListError};
pub use fit::{FitChoice, FitError, OwnFit, fit_in_words, own_fit};
pub use layout::{ClipFolder, LayoutError};
pub use parity::{Cosines, PrecisionParity, drawn};

use super::bundle::{
    Bundle, BundleError, BundleWriter, Calibration, Category, Dims, Draft, ENCODER_FILE, HEAD_FILE,
    HEAD_WEIGHTS_FILE, Lineage, TEXT_CONFIG_FILE, TEXT_WEIGHTS_FILE, TOKENIZER_FILE,
};
use super::categories::{WordFeatureError, text_features};
use super::clip::vision::{Tower, TowerError, TowerOptions, VisionConfigError};
use super::clip::weights::WeightsError;
use super::head::{ExportedHead, HeadError, ZeroShot};
use super::session::SessionError;
use super::source::EncoderFolder;
use super::text::{ClipTextEncoder, TextEncoderError};
use super::views::{Views, ViewsError};
use layout::{ClipParts, ClipSource};
use std::collections::BTreeMap;
use std::path::Path;
use tagstream_core::build;
use tagstream_image::preprocessing::Preprocessing;

/// What stands around a category's words in a prompt. No period: with one, zero-shot quality falls
/// on some towers.
pub const PROMPT_TEMPLATE: &str = "a photo of a {}";

/// What a bundle is made from.
#[derive(Debug, Clone)]
pub struct Init<'a> {
    /// The weights.
    pub clip: &'a ClipFolder,
    /// First part of the bundle's id.
    pub name: &'a str,
    /// Where the weights come from, for people.
    pub source: &'a str,
    /// What the new model looks for.
    pub categories: &'a CategoryList,
    /// How the vision tower is written. A ready-made encoder takes the defaults only.
    pub tower: TowerOptions,
    /// The views that the encoder takes of a picture.
    pub views: Views,
    /// How pictures are fitted to its input.
    pub fit: FitChoice,
}

/// A step of the work, for progress bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitStep {
    /// The vision tower is written.
    Vision,
    /// This many of the categories' prompts went through the text tower.
    Text(usize),
    /// Files are hashed and made durable.
    Write,
    /// This many images were compared with the tower in 32 bit.
    Parity(usize),
}

/// Why a bundle cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The model's own word on how pictures are fitted.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The vision tower's configuration.
    #[error(transparent)]
    Config(#[from] VisionConfigError),
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The vision tower.
    #[error("writing the vision tower: {0}")]
    Tower(#[from] TowerError),
    /// The text tower.
    #[error("embedding the categories: {0}")]
    Text(#[from] WordFeatureError),
    /// The file of categories asks for what the text tower does not take.
    #[error(transparent)]
    Categories(CategoryListError),
    /// The text tower cannot be opened.
    #[error(transparent)]
    TextTower(#[from] TextEncoderError),
    /// The head.
    #[error("writing the head: {0}")]
    Head(#[from] HeadError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The views.
    #[error(transparent)]
    Views(#[from] ViewsError),
    /// The two towers do not meet.
    #[error(
        "the vision tower gives {vision} numbers, the text tower {text}: these are not towers of \
         one model"
    )]
    Dimensions {
        /// D of the vision tower.
        vision: usize,
        /// D of the text tower.
        text: usize,
    },
    /// Running both towers, to compare them.
    #[error("comparing with the tower in fp32: {0}")]
    Parity(#[from] SessionError),
    /// There is nothing to compare them on.
    #[error("there are no pictures to compare with the tower in fp32 on")]
    NoPictures,
    /// A ready-made encoder cannot be written anew.
    #[error(
        "the folder holds a ready-made encoder.onnx: precision, input size and dense mode are \
         what they are; leave those \
         options out"
    )]
    ReadyMade,
}

impl Init<'_> {
    /// Writes the bundle to `out`, which must not exist.
    ///
    /// # Errors
    /// [`InitError`]; nothing is left at `out` then.
    pub fn run(&self, out: &Path, mut progress: impl FnMut(InitStep)) -> Result<Bundle, InitError> {
        let mut writer = BundleWriter::new(out)?;
        progress(InitStep::Vision);
        let CopiedTowers {
            dims,
            preprocessing,
            text,
            logit,
        } = match self.clip.parts()? {
            ClipSource::Encoder(folder) => self.copy_towers(folder, &mut writer)?,
            ClipSource::Weights(parts) => self.write_towers(&parts, &mut writer)?,
        };
        if text.dim() != dims.embedding {
            return Err(InitError::Dimensions {
                vision: dims.embedding,
                text: text.dim(),
            });
        }
        let categories: Vec<&Category> = self.categories.iter().collect();
        let features = text_features(&categories, &text, |done| progress(InitStep::Text(done)));
        let features = features.map_err(|error| match self.categories.located(&error, Some) {
            Some(located) => InitError::Categories(located),
            None => InitError::Text(error),
        })?;
        let calibration = ZeroShot::from_logit(logit.0, logit.1);
        let head = ExportedHead::zero_shot(&features, dims.embedding, calibration);
        let files = head.to_files(Some(dims.grid_height * dims.grid_width), &[])?;

        progress(InitStep::Write);
        writer.add(HEAD_FILE, &files.onnx)?;
        writer.add(HEAD_WEIGHTS_FILE, &files.safetensors)?;
        Ok(writer.finish(Draft {
            name: self.name.to_owned(),
            parent: None,
            created: chrono::Utc::now(),
            categories: self.categories.iter().cloned().collect(),
            dims,
            preprocessing,
            calibration: Calibration { temperature: 1.0 },
            metrics: BTreeMap::new(),
            lineage: Lineage {
                method: "zero-shot".to_owned(),
                source: self.lineage(),
                code_version: build::name().to_owned(),
                ..Lineage::default()
            },
        })?)
    }

    /// Both towers of a ready-made encoder, as they are.
    fn copy_towers(
        &self,
        folder: &EncoderFolder,
        writer: &mut BundleWriter,
    ) -> Result<CopiedTowers, InitError> {
        if self.tower != TowerOptions::default() {
            return Err(InitError::ReadyMade);
        }
        let (fit, filter) = self.fit.resolve(self.clip)?;
        let text = folder.text();
        let path = folder.encoder();
        if self.views == Views::default() {
            writer.add_copy(ENCODER_FILE, &path)?;
        } else {
            let whole = std::fs::read(&path).map_err(BundleError::io(&path))?;
            let sides = folder.preprocessing();
            let sides = (sides.height, sides.width);
            let encoder = self.views.add_to(whole.into(), folder.dims(), sides)?;
            writer.add(ENCODER_FILE, &encoder)?;
        }
        writer.add(TEXT_WEIGHTS_FILE, &layout::text_weights(&text.weights)?)?;
        writer.add_copy(TEXT_CONFIG_FILE, &text.config)?;
        writer.add_copy(TOKENIZER_FILE, &text.tokenizer)?;
        Ok(CopiedTowers {
            dims: folder.dims(),
            preprocessing: Preprocessing {
                fit,
                filter,
                ..folder.preprocessing().clone()
            },
            logit: layout::encoder_logit(folder)?,
            text: ClipTextEncoder::open(&text)?,
        })
    }

    /// The vision tower as a graph, the text tower as it is.
    fn write_towers(
        &self,
        parts: &ClipParts,
        writer: &mut BundleWriter,
    ) -> Result<CopiedTowers, InitError> {
        let (fit, filter) = self.fit.resolve(self.clip)?;
        let tower = Tower::write(&parts.vision, &parts.weights, self.tower)?;
        if self.views == Views::default() {
            writer.add(ENCODER_FILE, &tower.onnx)?;
        } else {
            let sides = (tower.input_size, tower.input_size);
            let encoder = self.views.add_to(tower.onnx.into(), tower.dims, sides)?;
            writer.add(ENCODER_FILE, &encoder)?;
        }
        writer.add(TEXT_WEIGHTS_FILE, &parts.text_weights()?)?;
        writer.add(TEXT_CONFIG_FILE, parts.config.as_bytes())?;
        writer.add(TOKENIZER_FILE, &parts.tokenizer_json)?;
        Ok(CopiedTowers {
            dims: tower.dims,
            preprocessing: Preprocessing {
                height: tower.input_size,
                width: tower.input_size,
                fit,
                filter,
            },
            logit: parts.logit()?,
            text: parts.text_encoder()?,
        })
    }

    fn lineage(&self) -> String {
        let kind = self.clip.kind();
        let mut how = kind.to_string();
        if !self.clip.is_encoder() {
            let precision = self.tower.precision.name();
            let mode = self.tower.dense_mode.name();
            how = format!("{how}, {precision}, dense mode {mode}");
        }
        if self.views != Views::default() {
            how = format!("{how}, views {}", self.views.names());
        }
        format!("{} ({how})", self.source)
    }
}

/// What the towers' files say.
struct CopiedTowers {
    dims: Dims,
    preprocessing: Preprocessing,
    text: ClipTextEncoder,
    /// `logit_scale` (a logarithm) and `logit_bias`.
    logit: (Option<f32>, Option<f32>),
}

#[cfg(test)]
mod tests;
