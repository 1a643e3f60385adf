//! What the tags say of how the picture is stored, and what of that is not read here.

use super::directory::Directory;
use super::{damaged, unsupported};
use crate::decode::error::DecodeError;
use crate::decode::size::ImageSize;

/// The tags that are read (TIFF 6.0, appendix A).
pub(super) mod tag {
    pub(in super::super) const WIDTH: u16 = 256;
    pub(in super::super) const HEIGHT: u16 = 257;
    pub(in super::super) const BITS: u16 = 258;
    pub(in super::super) const COMPRESSION: u16 = 259;
    pub(in super::super) const PHOTOMETRIC: u16 = 262;
    pub(in super::super) const FILL_ORDER: u16 = 266;
    pub(in super::super) const STRIP_OFFSETS: u16 = 273;
    pub(in super::super) const ORIENTATION: u16 = 274;
    pub(in super::super) const SAMPLES: u16 = 277;
    pub(in super::super) const ROWS_PER_STRIP: u16 = 278;
    pub(in super::super) const STRIP_BYTES: u16 = 279;
    /// More directories that belong to this one.
    pub(in super::super) const DIRECTORIES: u16 = 330;
    pub(in super::super) const DNG_VERSION: u16 = 50_706;
    pub(in super::super) const PLANAR: u16 = 284;
    pub(in super::super) const T4_OPTIONS: u16 = 292;
    pub(in super::super) const PREDICTOR: u16 = 317;
    pub(in super::super) const COLOR_MAP: u16 = 320;
    pub(in super::super) const TILE_WIDTH: u16 = 322;
    pub(in super::super) const TILE_HEIGHT: u16 = 323;
    pub(in super::super) const TILE_OFFSETS: u16 = 324;
    pub(in super::super) const TILE_BYTES: u16 = 325;
    pub(in super::super) const EXTRA_SAMPLES: u16 = 338;
    pub(in super::super) const SAMPLE_FORMAT: u16 = 339;
    pub(in super::super) const JPEG_TABLES: u16 = 347;
    pub(in super::super) const YCBCR_COEFFICIENTS: u16 = 529;
    pub(in super::super) const YCBCR_SUBSAMPLING: u16 = 530;
    pub(in super::super) const REFERENCE_BLACK_WHITE: u16 = 532;
    pub(in super::super) const XMP: u16 = 700;
}

/// How strips and tiles are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    None,
    /// CCITT modified Huffman coding: rows begin at bytes.
    FaxRows,
    /// CCITT group 3; whether rows may refer to the row above.
    Fax3 {
        two_dimensional: bool,
    },
    /// CCITT group 4.
    Fax4,
    Lzw,
    Deflate,
    PackBits,
    Jpeg,
}

impl Packing {
    fn of(directory: &Directory<'_>) -> Result<Self, DecodeError> {
        let name = match directory.value(tag::COMPRESSION, 0).unwrap_or(1) {
            1 => return Ok(Packing::None),
            2 => return Ok(Packing::FaxRows),
            3 => {
                let options = directory.value(tag::T4_OPTIONS, 0).unwrap_or(0);
                if options & 2 != 0 {
                    return Err(unsupported("group 3 coding in its uncompressed mode"));
                }
                return Ok(Packing::Fax3 {
                    two_dimensional: options & 1 != 0,
                });
            }
            4 => return Ok(Packing::Fax4),
            5 => return Ok(Packing::Lzw),
            7 => return Ok(Packing::Jpeg),
            8 | 32_946 => return Ok(Packing::Deflate),
            32_773 => return Ok(Packing::PackBits),
            6 => "old-style JPEG",
            32_766 => "NeXT",
            32_809 => "ThunderScan",
            32_908 | 32_909 => "Pixar",
            34_661 => "JBIG",
            34_676 | 34_677 => "SGI Log",
            33_003 | 33_005 | 34_712 => "JPEG 2000",
            34_887 => "LERC",
            34_892 => "lossy JPEG of DNG",
            34_925 => "LZMA",
            50_000 => "Zstandard",
            50_001 => "WebP",
            50_002 => "JPEG XL",
            other => return Err(unsupported(&format!("compression number {other}"))),
        };
        Err(unsupported(&format!("{name} compression")))
    }

    /// Whether neighbours may have been subtracted before packing.
    pub(super) fn has_predictor(self) -> bool {
        matches!(self, Packing::Lzw | Packing::Deflate)
    }

    /// Whether the order of bits in a byte matters before unpacking.
    pub(super) fn has_fill_order(self) -> bool {
        self != Packing::Jpeg
    }

    pub(super) fn is_fax(self) -> bool {
        matches!(
            self,
            Packing::FaxRows | Packing::Fax3 { .. } | Packing::Fax4
        )
    }
}

/// What samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    Palette,
    Cmyk,
    YCbCr,
    Lab,
}

/// Refuses a camera's raw file, whose first picture is a small one of what lies further inside.
fn refuse_raw(directory: &Directory<'_>) -> Result<(), DecodeError> {
    /// Colour filter array, and what was made linear of one.
    const RAW: [u64; 2] = [32_803, 34_892];
    if directory.count(tag::DNG_VERSION) > 0 {
        return Err(unsupported("a camera's raw file (DNG)"));
    }
    let mut inner = directory.named_by(tag::DIRECTORIES);
    let kind = |inner: Directory<'_>| inner.value(tag::PHOTOMETRIC, 0);
    match inner.any(|inner| kind(inner).is_some_and(|kind| RAW.contains(&kind))) {
        true => Err(unsupported("a camera's raw file (NEF, ARW and the like)")),
        false => Ok(()),
    }
}

impl Colour {
    fn of(directory: &Directory<'_>, samples: u64) -> Result<Self, DecodeError> {
        refuse_raw(directory)?;
        // Not everybody writes it.
        let usual = if samples >= 3 { 2 } else { 0 };
        let name = match directory.value(tag::PHOTOMETRIC, 0).unwrap_or(usual) {
            0 => return Ok(Colour::WhiteIsZero),
            1 => return Ok(Colour::BlackIsZero),
            2 => return Ok(Colour::Rgb),
            3 => return Ok(Colour::Palette),
            5 => return Ok(Colour::Cmyk),
            // Luma without chroma is grey.
            6 if samples == 1 => return Ok(Colour::BlackIsZero),
            6 => return Ok(Colour::YCbCr),
            8 => return Ok(Colour::Lab),
            4 => "a transparency mask",
            9 => "ICC L*a*b* colours",
            10 => "ITU L*a*b* colours",
            32_803 => "the colour filter array of a camera",
            32_844 | 32_845 => "logarithmic luminance",
            34_892 => "linear raw samples of a camera",
            other => return Err(unsupported(&format!("photometric interpretation {other}"))),
        };
        Err(unsupported(name))
    }

    fn samples(self) -> u64 {
        match self {
            Colour::WhiteIsZero | Colour::BlackIsZero | Colour::Palette => 1,
            Colour::Rgb | Colour::YCbCr | Colour::Lab => 3,
            Colour::Cmyk => 4,
        }
    }
}

/// What a sample's bits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleFormat {
    Unsigned,
    Signed,
    Float,
}

/// How the picture is stored.
#[derive(Debug)]
pub(super) struct Layout {
    pub size: ImageSize,
    pub packing: Packing,
    pub colour: Colour,
    pub format: SampleFormat,
    /// Bits of a sample.
    pub bits: usize,
    /// Samples of a pixel, those that are no colour included.
    pub samples: usize,
    /// Whether colours were multiplied by the sample behind them.
    pub premultiplied: bool,
    /// Whether every sample has strips or tiles of its own.
    pub planar: bool,
    /// 1: none. 2: differences between neighbours. 3: those of a float's bytes.
    pub predictor: u64,
    pub reversed_bits: bool,
    /// Whether numbers of several bytes have their highest byte first.
    pub big_endian: bool,
    /// Columns and rows of a strip or tile; those of the last strip may be fewer.
    pub chunk: (usize, usize),
    pub tiled: bool,
    /// Columns and rows of luma for each sample of chroma.
    pub subsampling: (usize, usize),
}

impl Layout {
    /// # Errors
    /// What is not read here, by name, or what cannot be.
    pub(super) fn of(directory: &Directory<'_>) -> Result<Self, DecodeError> {
        let size = size_of(directory)?;
        let packing = Packing::of(directory)?;
        let samples = directory.value(tag::SAMPLES, 0).unwrap_or_else(|| {
            // Not everybody writes it.
            directory.count(tag::BITS).max(1)
        });
        let colour = Colour::of(directory, samples)?;
        let most = colour.samples() + 4;
        if !(colour.samples()..=most).contains(&samples) {
            return Err(unsupported(&format!("{samples} samples a pixel")));
        }
        let bits = same(directory, tag::BITS, samples, 1)
            .ok_or_else(|| unsupported("samples of different sizes"))?;
        let format = same(directory, tag::SAMPLE_FORMAT, samples, 1)
            .ok_or_else(|| unsupported("samples of different kinds"))?;
        let format = match format {
            // 4: undefined
            0 | 1 | 4 => SampleFormat::Unsigned,
            2 => SampleFormat::Signed,
            3 => SampleFormat::Float,
            _ => return Err(unsupported("samples that are complex numbers")),
        };
        let (chunk, tiled) = chunk_of(directory, size)?;
        let planar = samples > 1 && directory.value(tag::PLANAR, 0) == Some(2);
        let mut subsampling = (1, 1);
        // Of JPEGs, the JPEG itself says it.
        if colour == Colour::YCbCr && (planar || packing != Packing::Jpeg) {
            let factor = |index| directory.value(tag::YCBCR_SUBSAMPLING, index).unwrap_or(2);
            subsampling = (factor(0) as usize, factor(1) as usize);
        }
        let layout = Layout {
            size,
            packing,
            colour,
            format,
            bits: bits as usize,
            samples: samples as usize,
            premultiplied: directory.value(tag::EXTRA_SAMPLES, 0) == Some(1),
            planar,
            predictor: if packing.has_predictor() {
                directory.value(tag::PREDICTOR, 0).unwrap_or(1)
            } else {
                1
            },
            reversed_bits: directory.value(tag::FILL_ORDER, 0) == Some(2),
            big_endian: directory.big_endian,
            chunk,
            tiled,
            subsampling,
        };
        match layout.flaw() {
            Some(reason) => Err(unsupported(&reason)),
            None => Ok(layout),
        }
    }

    /// What of it is not read here.
    fn flaw(&self) -> Option<String> {
        use SampleFormat::{Float, Signed, Unsigned};
        let grey = matches!(self.colour, Colour::WhiteIsZero | Colour::BlackIsZero);
        let read = match (self.colour, self.format, self.bits) {
            (Colour::YCbCr | Colour::Lab, _, bits) => bits == 8,
            (Colour::Palette, Unsigned, bits) => matches!(bits, 1 | 2 | 4 | 8),
            (Colour::Rgb | Colour::Cmyk, Unsigned, bits) => matches!(bits, 1 | 2 | 4 | 8 | 16),
            (_, Unsigned, bits) => matches!(bits, 1 | 2 | 4 | 8 | 12 | 16 | 32),
            (_, Signed, bits) if grey => matches!(bits, 8 | 16 | 32),
            (_, Float, bits) if grey => bits == 32,
            _ => false,
        };
        if !read {
            let kind = match self.format {
                Unsigned => "",
                Signed => "signed ",
                Float => "floating-point ",
            };
            let (bits, colour) = (self.bits, self.colour);
            return Some(format!(
                "{kind}samples of {bits} bits in {colour:?} colours"
            ));
        }
        let subsampled = self.subsampling != (1, 1);
        let odd = |factor| !matches!(factor, 1 | 2 | 4);
        if subsampled
            && (self.planar
                || odd(self.subsampling.0)
                || odd(self.subsampling.1)
                || self.samples != 3)
        {
            return Some("chroma sampled in a way that is not usual".into());
        }
        if self.packing.is_fax() && (self.bits != 1 || self.samples != 1) {
            return Some("fax coding of more than one bit a pixel".into());
        }
        if self.packing == Packing::Jpeg
            && (self.bits != 8 || !matches!(self.chunk_samples(), 1 | 3 | 4))
        {
            return Some("JPEG strips that are not of 8 bits in 1, 3 or 4 components".into());
        }
        match (self.predictor, self.bits, self.format) {
            (1, ..) | (2, 8 | 16 | 32, _) | (3, 32, Float) => None,
            // libtiff, too, subtracts nothing below a byte.
            (predictor, bits, _) => Some(format!("predictor {predictor} of {bits} bits")),
        }
    }

    /// Samples of a pixel in one strip or tile.
    pub(super) fn chunk_samples(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    /// Bytes of a row in a strip or tile, unpacked.
    pub(super) fn row_bytes(&self) -> u64 {
        let bits = self.bits as u64 * self.chunk_samples() as u64;
        (self.chunk.0 as u64).saturating_mul(bits).div_ceil(8)
    }

    /// Bytes of a strip or tile of so many rows, unpacked.
    pub(super) fn chunk_bytes(&self, rows: usize) -> u64 {
        let rows = rows as u64;
        if self.subsampling == (1, 1) {
            return self.row_bytes().saturating_mul(rows);
        }
        let (columns, lines) = (self.subsampling.0 as u64, self.subsampling.1 as u64);
        let units = (self.chunk.0 as u64).div_ceil(columns) * rows.div_ceil(lines);
        units.saturating_mul(columns * lines + 2)
    }
}

fn size_of(directory: &Directory<'_>) -> Result<ImageSize, DecodeError> {
    let side = |tag| {
        let side = directory.value(tag, 0);
        side.and_then(|side| u32::try_from(side).ok())
            .filter(|&side| side > 0)
            .ok_or_else(|| damaged("it declares no pixels"))
    };
    Ok(ImageSize {
        width: side(tag::WIDTH)?,
        height: side(tag::HEIGHT)?,
    })
}

/// The one value that all samples have.
fn same(directory: &Directory<'_>, tag: u16, samples: u64, usual: u64) -> Option<u64> {
    let first = directory.value(tag, 0).unwrap_or(usual);
    let count = directory.count(tag).min(samples);
    let all_same = (1..count).all(|index| directory.value(tag, index) == Some(first));
    all_same.then_some(first)
}

/// Columns and rows of strips or tiles, and whether they are tiles.
fn chunk_of(
    directory: &Directory<'_>,
    size: ImageSize,
) -> Result<((usize, usize), bool), DecodeError> {
    let (width, height) = (size.width as usize, size.height as usize);
    if directory.count(tag::STRIP_OFFSETS) + directory.count(tag::TILE_OFFSETS) == 0 {
        return Err(damaged("it has neither strips nor tiles"));
    }
    if directory.count(tag::TILE_WIDTH) > 0 {
        let side = |tag| {
            let side = directory.value(tag, 0).unwrap_or(0);
            match u32::try_from(side) {
                Ok(side @ 1..) => Ok(side as usize),
                _ => Err(damaged("its tiles have no size")),
            }
        };
        return Ok(((side(tag::TILE_WIDTH)?, side(tag::TILE_HEIGHT)?), true));
    }
    let rows = directory.value(tag::ROWS_PER_STRIP, 0);
    let rows = rows.filter(|&rows| rows > 0).unwrap_or(u64::MAX);
    let rows = usize::try_from(rows).unwrap_or(usize::MAX).min(height);
    Ok(((width, rows), false))
}
