//! What decoding a picture may cost, and what may read it.

use super::error::DecodeError;
use super::size::ImageSize;
use crate::helper;

/// What a picture may cost, checked against what its header declares, and what may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest width times height.
    pub max_pixels: u64,
    /// Largest memory for decoding one picture, bytes.
    pub max_alloc_bytes: u64,
    /// Largest share of a JPEG that may be missing or wrong, percent; 0: none, such a picture is
    /// damaged.
    pub max_damaged_percent: u8,
    /// Whether plain JPEGs much larger than needed are read by own code; else libjpeg-turbo reads
    /// them, as it does all others.
    pub own_jpeg_reader: bool,
}

/// 64 megapixels and 512 MiB: the largest pictures of today's cameras, and what decoding one takes;
/// no damage; the own reader.
impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits {
            max_pixels: 64_000_000,
            max_alloc_bytes: 512 << 20,
            max_damaged_percent: 0,
            own_jpeg_reader: true,
        }
    }
}

impl DecodeLimits {
    pub(crate) fn check_pixels(&self, stored: ImageSize) -> Result<(), DecodeError> {
        let pixels = u64::from(stored.width) * u64::from(stored.height);
        if pixels > self.max_pixels {
            return Err(DecodeError::TooManyPixels {
                width: stored.width,
                height: stored.height,
                max_pixels: self.max_pixels,
            });
        }
        Ok(())
    }

    /// Before so much is allocated.
    pub(crate) fn check_alloc(&self, bytes: u64) -> Result<(), DecodeError> {
        if bytes > self.max_alloc_bytes {
            return Err(DecodeError::TooMuchMemory {
                max_alloc_bytes: self.max_alloc_bytes,
            });
        }
        if bytes > self.max_alloc_bytes / 2 {
            helper::make_room();
        }
        Ok(())
    }
}
