//! A picture on the way: what its file says of it, and where its pixels are.

use super::format::Format;
use super::orientation::Orientation;
use super::size::ImageSize;

/// What a file says of itself, without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Lower-case name of the format (`jpeg`, `png`, ...).
    pub format: &'static str,
    /// Size of the upright picture.
    pub size: ImageSize,
    /// How the stored picture must be turned to be upright.
    pub orientation: Orientation,
    /// The share of it that could not be read and is grey, percent, rounded up; 0 for all but
    /// damaged pictures that are accepted.
    pub damaged_percent: u8,
}

/// A decoded picture in the scratch memory's `rgb`, as stored (not yet upright), possibly reduced.
pub(super) struct Stored {
    /// Size in the file.
    pub original: ImageSize,
    /// Size in the buffer: `original * eighths / 8`, rounded up.
    pub decoded: ImageSize,
    /// By how many eighths of the original's sides it was decoded: 8 means not reduced.
    pub eighths: u32,
    pub orientation: Orientation,
    /// The share that is missing, percent, rounded up.
    pub damaged_percent: u8,
}

impl Stored {
    /// A picture that was not reduced.
    pub(super) fn whole(size: ImageSize, orientation: Orientation) -> Self {
        Stored {
            original: size,
            decoded: size,
            eighths: 8,
            orientation,
            damaged_percent: 0,
        }
    }

    /// Size of the upright original.
    pub(super) fn upright_size(&self) -> ImageSize {
        self.orientation.upright(self.original)
    }

    /// What is known of it once it is upright.
    pub(super) fn info(&self, format: Format) -> ImageInfo {
        ImageInfo {
            format: format.name(),
            size: self.upright_size(),
            orientation: Orientation::Upright,
            damaged_percent: self.damaged_percent,
        }
    }
}

/// How far a decoder took a picture.
pub(super) enum Decoded {
    /// To the pixels that the model gets. The size is that of the upright original.
    Fitted(ImageSize),
    /// To the scratch memory's `rgb`.
    Stored(Stored),
}
