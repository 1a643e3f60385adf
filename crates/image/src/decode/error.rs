//! Why a picture could not be decoded.

/// What this build reads, for people.
const SUPPORTED: &str = match (cfg!(feature = "heic"), cfg!(feature = "jpeg-xl")) {
    (true, true) => "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC and JPEG XL",
    (true, false) => "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC",
    (false, true) => "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and JPEG XL",
    (false, false) => "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF",
};

/// Why a picture could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes.
    #[error("the image is empty (0 bytes)")]
    Empty,
    /// The bytes are of no format that is decoded here.
    #[error("not a supported image ({looks_like}); supported are {SUPPORTED}")]
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
    /// Decoding took longer than allowed.
    #[error("decoding the image takes longer than `decode.timeout_ms` allows ({timeout_ms} ms)")]
    TooMuchTime {
        /// The limit.
        timeout_ms: u64,
    },
    /// The process that decoded it died of it.
    #[error("the decoder died of the image: {cause}")]
    Died {
        /// What ended the process.
        cause: String,
    },
    /// There is no process to decode it in, which says nothing about the image.
    #[error("the image cannot be decoded now: {reason}")]
    Unavailable {
        /// Why there is none, and what to do.
        reason: String,
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
    /// None of the picture's: the decoder is not there.
    NoDecoder,
}

impl DecodeError {
    /// What is wrong with the picture, in one word.
    pub fn fault(&self) -> DecodeFault {
        match self {
            DecodeError::UnknownFormat { .. } | DecodeError::UnsupportedFeature { .. } => {
                DecodeFault::Unsupported
            }
            DecodeError::Empty | DecodeError::Damaged { .. } | DecodeError::Died { .. } => {
                DecodeFault::Damaged
            }
            DecodeError::TooManyPixels { .. }
            | DecodeError::TooMuchMemory { .. }
            | DecodeError::TooMuchTime { .. } => DecodeFault::TooLarge,
            DecodeError::Unavailable { .. } => DecodeFault::NoDecoder,
        }
    }
}
