//! From CLIP weights and a list of categories to a bundle that tags without having seen a label.

mod categories;
mod framing;
pub mod hub;
mod layout;

pub use categories::{CategoryList, CategoryListError};
pub use framing::{FitChoice, FitError};
pub use layout::{ClipFolder, LayoutError};

use super::bundle::{
    Bundle, BundleError, BundleWriter, Calibration, Category, Dims, Draft, ENCODER_FILE, HEAD_FILE,
    HEAD_WEIGHTS_FILE, Lineage, TEXT_CONFIG_FILE, TEXT_WEIGHTS_FILE, TOKENIZER_FILE,
};
use super::clip::vision::{Precision, Tower, TowerError, TowerOptions, VisionConfigError};
use super::clip::weights::WeightsError;
use super::head::{ExportedHead, HeadError, ZeroShot};
use super::text::{ClipTextEncoder, TextEncoderError};
use std::collections::BTreeMap;
use std::path::Path;
use tagstream_core::build;
use tagstream_image::preprocessing::Preprocessing;

/// What stands around a category's words in a prompt. No period: with one, zero-shot quality falls
/// on some towers.
pub const PROMPT_TEMPLATE: &str = "a photo of a {}";

/// The probability from which a category counts as a tag before any label was seen.
const THRESHOLD: f32 = 0.5;

/// What a bundle is made from.
#[derive(Debug, Clone)]
pub struct Init<'a> {
    /// The weights.
    pub clip: &'a ClipFolder,
    /// First part of the bundle's id.
    pub name: &'a str,
    /// Where the weights come from, for people.
    pub source: &'a str,
    /// The categories.
    pub categories: &'a CategoryList,
    /// How the vision tower is written. A ready-made encoder takes the defaults only.
    pub tower: TowerOptions,
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
    Text(#[from] TextEncoderError),
    /// The head.
    #[error("writing the head: {0}")]
    Head(#[from] HeadError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
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
        let (dims, preprocessing) = self.write_encoder(&mut writer)?;

        let text = ClipTextEncoder::open(&self.clip.text_files())?;
        if text.dim() != dims.embedding {
            return Err(InitError::Dimensions {
                vision: dims.embedding,
                text: text.dim(),
            });
        }
        let prompts: Vec<String> = self.categories.prompts(PROMPT_TEMPLATE).collect();
        let features = text.embed(&prompts, |done| progress(InitStep::Text(done)))?;
        let (logit_scale, logit_bias) = self.clip.logit()?;
        let calibration = ZeroShot::from_logit(logit_scale, logit_bias);
        let head = ExportedHead::zero_shot(&features, dims.embedding, calibration);
        let files = head.to_files(Some(dims.grid_height * dims.grid_width), &[])?;

        progress(InitStep::Write);
        writer.add(HEAD_FILE, &files.onnx)?;
        writer.add(HEAD_WEIGHTS_FILE, &files.safetensors)?;
        writer.add(TEXT_WEIGHTS_FILE, &self.clip.text_weights()?)?;
        let text_files = self.clip.text_files();
        writer.add_copy(TEXT_CONFIG_FILE, &text_files.config)?;
        writer.add_copy(TOKENIZER_FILE, &text_files.tokenizer)?;
        let categories = self.categories.iter().map(|(name, prompt)| Category {
            name: name.to_owned(),
            prompt: prompt.to_owned(),
            threshold: THRESHOLD,
        });
        Ok(writer.finish(Draft {
            name: self.name.to_owned(),
            parent: None,
            created: chrono::Utc::now(),
            categories: categories.collect(),
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

    fn write_encoder(&self, writer: &mut BundleWriter) -> Result<(Dims, Preprocessing), InitError> {
        let (fit, filter) = self.fit.resolve(self.clip)?;
        if let ClipFolder::Encoder(folder) = self.clip {
            if self.tower != TowerOptions::default() {
                return Err(InitError::ReadyMade);
            }
            writer.add_copy(ENCODER_FILE, &folder.encoder())?;
            let preprocessing = Preprocessing {
                fit,
                filter,
                ..folder.preprocessing().clone()
            };
            return Ok((folder.dims(), preprocessing));
        }
        let (config, weights) = self.clip.vision()?;
        let tower = Tower::write(&config, &weights, self.tower)?;
        writer.add(ENCODER_FILE, &tower.onnx)?;
        let preprocessing = Preprocessing {
            height: tower.input_size,
            width: tower.input_size,
            fit,
            filter,
        };
        Ok((tower.dims, preprocessing))
    }

    fn lineage(&self) -> String {
        match self.clip {
            ClipFolder::Encoder(_) => format!("{} (ready-made encoder)", self.source),
            _ => {
                let precision = match self.tower.precision {
                    Precision::Fp32 => "fp32",
                    Precision::Fp16 => "fp16",
                };
                let mode = self.tower.dense_mode.name();
                format!(
                    "{} ({}, {precision}, dense mode {mode})",
                    self.source,
                    self.clip.kind()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
