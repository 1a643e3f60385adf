//! Where decoding meets the stage: limits out of its configuration, errors into its dead letters.

use super::{error::DecodeError, limits::DecodeLimits};
use crate::{config::DecodeConfig, events::DeadLetterKind};

impl From<&DecodeConfig> for DecodeLimits {
    fn from(config: &DecodeConfig) -> Self {
        DecodeLimits {
            max_pixels: config.max_megapixels * 1_000_000,
            max_alloc_bytes: config.max_alloc_mib << 20,
        }
    }
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self::from(&DecodeConfig::default())
    }
}

impl DecodeError {
    /// The kind of dead letter that an image with this error becomes.
    pub fn kind(&self) -> DeadLetterKind {
        match self {
            DecodeError::UnknownFormat { .. } | DecodeError::UnsupportedFeature { .. } => {
                DeadLetterKind::UnsupportedImage
            }
            DecodeError::Empty | DecodeError::Damaged { .. } => DeadLetterKind::BadImage,
            DecodeError::TooManyPixels { .. } | DecodeError::TooMuchMemory { .. } => {
                DeadLetterKind::TooLarge
            }
        }
    }
}
