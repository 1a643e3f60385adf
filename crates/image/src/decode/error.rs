//! Why a picture could not be decoded.

/// Why a picture could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes.
    #[error("the image is empty (0 bytes)")]
    Empty,
    /// The bytes are of no format that is decoded here.
    #[error(
        "not a supported image ({looks_like}); supported are JPEG, PNG, WebP, GIF, BMP and TIFF"
    )]
    UnknownFormat {
        /// What the first bytes suggest.
        looks_like: String,
    },
    /// A supported format, in a variant that is not.
    #[error("{format} image with an unsupported feature: {reason}")]
    UnsupportedFeature {
        /// The format.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The bytes break the rules of their format, or end early.
    #[error("damaged {format} image: {reason}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// The header declares more pixels than allowed.
    #[error(
        "the image declares {width} x {height} pixels, more than `decode.max_megapixels` allows \
         ({max_pixels} pixels)"
    )]
    TooManyPixels {
        /// Stored columns.
        width: u32,
        /// Stored rows.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// Decoding would need more memory than allowed.
    #[error(
        "decoding the image needs more memory than `decode.max_alloc_mib` allows \
         ({max_alloc_bytes} bytes)"
    )]
    TooMuchMemory {
        /// The limit.
        max_alloc_bytes: u64,
    },
}

/// The kinds of reasons why a picture is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeFault {
    /// A format, or a variant of one, that is not read here.
    Unsupported,
    /// The file contradicts itself or ends early.
    Damaged,
    /// It would cost more than its limits.
    TooLarge,
}

impl DecodeError {
    /// What is wrong with the picture, in one word.
    pub fn fault(&self) -> DecodeFault {
        match self {
            DecodeError::UnknownFormat { .. } | DecodeError::UnsupportedFeature { .. } => {
                DecodeFault::Unsupported
            }
            DecodeError::Empty | DecodeError::Damaged { .. } => DecodeFault::Damaged,
            DecodeError::TooManyPixels { .. } | DecodeError::TooMuchMemory { .. } => {
                DecodeFault::TooLarge
            }
        }
    }
}
