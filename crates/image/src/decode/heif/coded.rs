//! What coded data say of a picture before it is decoded, whichever codec they are of.

use super::super::size::ImageSize;

/// What the coded data say of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coded {
    pub size: ImageSize,
    /// Bits of a sample: 8, 10 or 12.
    pub bits: u8,
    pub chroma: Chroma,
    /// Matrix coefficients (ITU-T H.273).
    pub matrix: u16,
    pub full_range: bool,
}

/// How much less there is of the two planes of colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// They are not there.
    None,
    /// 4:2:0.
    Quarter,
    /// 4:2:2.
    Half,
    /// 4:4:4.
    Full,
}

impl Chroma {
    /// By how many bits columns and rows are fewer.
    pub(super) fn shifts(self) -> (u32, u32) {
        match self {
            Chroma::Quarter => (1, 1),
            Chroma::Half => (1, 0),
            Chroma::None | Chroma::Full => (0, 0),
        }
    }
}

impl Coded {
    /// 1 or 2, by the bit depth.
    pub(super) fn sample_bytes(&self) -> u64 {
        if self.bits > 8 { 2 } else { 1 }
    }

    /// Bytes of all planes, whose sides the library rounds up.
    pub(super) fn bytes(&self) -> u64 {
        let side = |side: u32| u64::from(side).next_multiple_of(128);
        let pixels = side(self.size.width) * side(self.size.height);
        let (x, y) = self.chroma.shifts();
        let colour = match self.chroma {
            Chroma::None => 0,
            _ => 2 * (pixels >> (x + y)),
        };
        (pixels + colour) * self.sample_bytes()
    }
}

/// What an item is coded in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Av1,
    Hevc,
}

impl Codec {
    /// By the kind of an item.
    pub(super) fn of(kind: &[u8; 4]) -> Option<Self> {
        match kind {
            b"av01" => Some(Codec::Av1),
            b"hvc1" => Some(Codec::Hevc),
            _ => None,
        }
    }
}
