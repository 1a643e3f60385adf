//! Texts to unit vectors: the text tower and its tokenizer together.

use super::clip::text::{TextError, TextTower};
use super::clip::text_config::TextConfig;
use super::clip::tokenizer::{ClipTokenizer, TokenizerError};
use super::clip::weights::WeightFiles;
use std::path::PathBuf;

/// The three files of a text tower.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFiles {
    /// safetensors; a whole CLIP's is fine, only the text tensors are read.
    pub weights: PathBuf,
    /// `config.json` or `open_clip_config.json`.
    pub config: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
}

/// Why a text cannot be embedded.
#[derive(Debug, thiserror::Error)]
pub enum TextEncoderError {
    /// The tower.
    #[error(transparent)]
    Tower(#[from] TextError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A text tower and its tokenizer.
#[derive(Debug, Clone)]
pub struct ClipTextEncoder {
    /// From token ids to a vector in the space of the pictures.
    pub tower: TextTower,
    /// From words to token ids.
    pub tokenizer: ClipTokenizer,
}

/// Texts that go through the tower at once.
const BATCH: usize = 64;

impl ClipTextEncoder {
    /// Opens the three files.
    ///
    /// # Errors
    /// Names the file or tensor that does not fit.
    pub fn open(files: &TextFiles) -> Result<Self, TextEncoderError> {
        let config = TextTower::read_config(&files.config)?;
        let path = &files.tokenizer;
        let content = std::fs::read(path).map_err(|error| TokenizerError::Unreadable {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        let tokenizer = ClipTokenizer::for_tower(&content, path, &config)?;
        let weights = WeightFiles::open(&[&files.weights]).map_err(TextError::from)?;
        Ok(Self::new(&weights, config, tokenizer)?)
    }

    /// A tower of these weights with its tokenizer.
    ///
    /// # Errors
    /// If the weights do not fit the configuration.
    pub(crate) fn new(
        weights: &WeightFiles,
        mut config: TextConfig,
        tokenizer: ClipTokenizer,
    ) -> Result<Self, TextError> {
        // What texts begin with and are filled up with is the tokenizer's to say.
        config.padding = tokenizer.padding();
        config.begin = tokenizer.begins();
        let tower = TextTower::load(weights, config)?;
        Ok(Self { tower, tokenizer })
    }

    /// D.
    pub fn dim(&self) -> usize {
        self.tower.config().projection
    }

    /// Texts as rows of `[n, D]`, L2-normalised. `done` hears how many texts are ready.
    ///
    /// # Errors
    /// If a text is too long, or holds tokens that the tower does not know.
    pub fn embed<S: AsRef<str>>(
        &self,
        texts: &[S],
        mut done: impl FnMut(usize),
    ) -> Result<Vec<f32>, TextEncoderError> {
        let mut all = Vec::with_capacity(texts.len() * self.dim());
        for (i, texts) in texts.chunks(BATCH).enumerate() {
            let tokens = texts
                .iter()
                .map(|text| self.tokenizer.encode(text.as_ref()))
                .collect::<Result<Vec<_>, _>>()?;
            let features = self.tower.forward_tokens(&tokens)?;
            let rows: Vec<Vec<f32>> = features.to_vec2().map_err(TextError::from)?;
            for row in rows {
                let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let norm = square.sqrt().max(1e-12) as f32;
                all.extend(row.iter().map(|x| x / norm));
            }
            done(i * BATCH + texts.len());
        }
        Ok(all)
    }
}
