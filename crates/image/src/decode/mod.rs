//! Bytes of an image file to the pixels a model wants.
//!
//! The result is meant to equal what the reference preprocessing of CLIP does with Pillow: the picture turned upright by
//! its EXIF orientation, `convert("RGB")`, resized with Pillow's antialiased filter, cropped. In particular transparency
//! is dropped (not composited), colour profiles are ignored, CMYK is converted without a profile, and of an animation the
//! first frame counts. Two differences are on purpose: 16-bit grey keeps its high byte (Pillow clips it to white), and of a
//! JPEG much larger than needed only as much is decoded as shows: its low frequencies, or a reduced size.
//!
//! Input is hostile until proven otherwise. The format is told by content, never by name; declared sizes are checked
//! before anything is allocated; a file that ends early is an error, not half a picture; and a decoder that panics loses
//! its picture, not the process.

mod jpeg;
mod orientation;
mod raster;
mod resize;
mod scratch;
mod sequential;

pub use orientation::Orientation;

use crate::preprocessing::Preprocessing;
use image::ImageFormat;
use jpeg::Decoded;
use scratch::Scratch;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a picture may cost, checked against what its header declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest width times height.
    pub max_pixels: u64,
    /// Largest memory for decoding one picture, bytes.
    pub max_alloc_bytes: u64,
}

/// 64 megapixels and 512 MiB: the largest pictures of today's cameras, and what decoding one of them takes.
impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits {
            max_pixels: 64_000_000,
            max_alloc_bytes: 512 << 20,
        }
    }
}

impl DecodeLimits {
    fn check_pixels(&self, stored: ImageSize) -> Result<(), DecodeError> {
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

    fn check_alloc(&self, bytes: u64) -> Result<(), DecodeError> {
        if bytes > self.max_alloc_bytes {
            return Err(DecodeError::TooMuchMemory {
                max_alloc_bytes: self.max_alloc_bytes,
            });
        }
        Ok(())
    }
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSize {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// What a file says of itself, without decoding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageInfo {
    /// Lower-case name of the format (`jpeg`, `png`, ...).
    pub format: &'static str,
    /// Size of the upright picture.
    pub size: ImageSize,
    /// How the stored picture must be turned to be upright.
    pub orientation: Orientation,
}

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
        "the image declares {width} x {height} pixels, more than `decode.max_megapixels` allows ({max_pixels} pixels)"
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
        "decoding the image needs more memory than `decode.max_alloc_mib` allows ({max_alloc_bytes} bytes)"
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

/// Decodes `bytes`, fits the picture as `preprocessing` says and writes it to `pixels`: RGB, uint8, `[H, W, 3]`.
/// Returns the size of the upright original. Scratch memory is kept per thread and reused.
///
/// # Errors
/// [`DecodeError`]; `pixels` then holds nothing of use.
///
/// # Panics
/// If `pixels` is not exactly `height * width * 3` bytes long, or that is 0.
pub fn decode_into(
    bytes: &[u8],
    preprocessing: &Preprocessing,
    limits: &DecodeLimits,
    pixels: &mut [u8],
) -> Result<ImageSize, DecodeError> {
    let target = resize::target_size(preprocessing);
    assert_eq!(
        pixels.len(),
        target.width as usize * target.height as usize * 3,
        "the slice does not fit the preprocessing"
    );
    assert!(!pixels.is_empty(), "the preprocessing's size is 0");
    let format = sniff(bytes)?;
    contained(format, |scratch| {
        let picture = match decoded(
            bytes,
            format,
            limits,
            Some((preprocessing, &mut *pixels)),
            scratch,
        )? {
            Decoded::Fitted(size) => return Ok(size),
            Decoded::Stored(picture) => picture,
        };
        resize::fit(&picture, preprocessing, scratch, pixels);
        Ok(picture.upright_size())
    })
}

/// Decodes `bytes` at full size, upright.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_rgb(bytes: &[u8], limits: &DecodeLimits) -> Result<image::RgbImage, DecodeError> {
    let format = sniff(bytes)?;
    contained(format, |scratch| {
        let picture = match decoded(bytes, format, limits, None, scratch)? {
            Decoded::Stored(picture) => picture,
            Decoded::Fitted(_) => unreachable!("there is nothing to fit it into"),
        };
        let size = picture.upright_size();
        let mut upright = vec![0; size.width as usize * size.height as usize * 3];
        orientation::turn(
            picture.orientation,
            &scratch.rgb[..upright.len()],
            size,
            &mut upright,
        );
        Ok(image::RgbImage::from_raw(size.width, size.height, upright)
            .expect("the buffer was made for this size"))
    })
}

/// What decoding one picture writes on the way, bytes: for reckoning, not for serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeWork {
    /// Pixels out of the decoder, at the reduced size where it reduces; none where coefficients are resampled.
    pub decoded_bytes: u64,
    /// Between the two passes of resampling.
    pub resampled_bytes: u64,
}

/// What [`decode_into`] writes for this picture, beside its result.
///
/// # Errors
/// As [`decode_into`].
pub fn decode_work(
    bytes: &[u8],
    preprocessing: &Preprocessing,
    limits: &DecodeLimits,
) -> Result<DecodeWork, DecodeError> {
    let target = resize::target_size(preprocessing);
    let mut pixels = vec![0; target.width as usize * target.height as usize * 3];
    let format = sniff(bytes)?;
    contained(format, |scratch| {
        let fit = Some((preprocessing, &mut pixels[..]));
        let picture = match decoded(bytes, format, limits, fit, scratch)? {
            Decoded::Stored(picture) => picture,
            Decoded::Fitted(_) => {
                return Ok(DecodeWork {
                    decoded_bytes: 0,
                    resampled_bytes: scratch.sequential.working_bytes() as u64,
                });
            }
        };
        let (width, height) = (
            u64::from(picture.decoded.width),
            u64::from(picture.decoded.height),
        );
        // The first pass runs along the upright picture's rows.
        let across = if picture.orientation.swaps_sides() {
            width
        } else {
            height
        };
        Ok(DecodeWork {
            decoded_bytes: width * height * 3,
            resampled_bytes: u64::from(target.width) * across * 3,
        })
    })
}

/// Fits an upright RGB picture (`[height, width, 3]`) as [`decode_into`] does.
///
/// # Panics
/// If a slice does not fit its size.
pub fn fit_rgb(rgb: &image::RgbImage, preprocessing: &Preprocessing, pixels: &mut [u8]) {
    scratch::with(|scratch| {
        scratch.rgb.clear();
        scratch.rgb.extend_from_slice(rgb.as_raw());
        let size = ImageSize {
            width: rgb.width(),
            height: rgb.height(),
        };
        let picture = Stored::whole(size, Orientation::Upright);
        resize::fit(&picture, preprocessing, scratch, pixels);
    });
}

/// Reads format, upright size and orientation from the header.
///
/// # Errors
/// [`DecodeError`], limits included.
pub fn probe(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageInfo, DecodeError> {
    let format = sniff(bytes)?;
    contained(format, |scratch| {
        let (stored, orientation) = match format {
            ImageFormat::Jpeg => jpeg::probe(bytes, scratch)?,
            _ => raster::probe(bytes, format, limits)?,
        };
        limits.check_pixels(stored)?;
        Ok(ImageInfo {
            format: name(format),
            size: orientation.upright(stored),
            orientation,
        })
    })
}

/// A decoded picture in [`Scratch::rgb`], as stored (not yet upright), possibly reduced.
struct Stored {
    /// Size in the file.
    original: ImageSize,
    /// Size in the buffer.
    decoded: ImageSize,
    /// Decoded eighths of the original: 8 means not reduced. `decoded` is rounded up from `original * eighths / 8`.
    eighths: u32,
    orientation: Orientation,
}

impl Stored {
    fn whole(size: ImageSize, orientation: Orientation) -> Self {
        Stored {
            original: size,
            decoded: size,
            eighths: 8,
            orientation,
        }
    }

    fn upright_size(&self) -> ImageSize {
        self.orientation.upright(self.original)
    }
}

fn decoded(
    bytes: &[u8],
    format: ImageFormat,
    limits: &DecodeLimits,
    fit: Option<(&Preprocessing, &mut [u8])>,
    scratch: &mut Scratch,
) -> Result<Decoded, DecodeError> {
    match format {
        ImageFormat::Jpeg => jpeg::decode(bytes, limits, fit, scratch),
        _ => raster::decode(bytes, format, limits, scratch).map(Decoded::Stored),
    }
}

/// Runs a decoder such that a panic inside it costs this picture only.
fn contained<T>(
    format: ImageFormat,
    work: impl FnOnce(&mut Scratch) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    // The scratch buffers hold no invariants beyond their length, so that they may be seen after a panic.
    catch_unwind(AssertUnwindSafe(|| scratch::with(work))).unwrap_or_else(|_| {
        Err(DecodeError::Damaged {
            format: name(format),
            reason: "the decoder panicked".into(),
        })
    })
}

/// Tells the format by the first bytes.
fn sniff(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let unknown = |looks_like: &str| {
        Err(DecodeError::UnknownFormat {
            looks_like: looks_like.into(),
        })
    };
    match image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff),
        ) => Ok(format),
        Ok(other) => unknown(&format!("it looks like {other:?}")),
        Err(_) => {
            let head = &bytes[..bytes.len().min(256)];
            let text = String::from_utf8_lossy(head).to_ascii_lowercase();
            let text = text.trim_start_matches('\u{feff}').trim_start();
            match text {
                t if t.starts_with("<svg") || (t.starts_with("<?xml") && t.contains("<svg")) => {
                    unknown("it looks like SVG")
                }
                t if t.starts_with("<!doctype html") || t.starts_with("<html") => {
                    unknown("it looks like HTML")
                }
                t if t.starts_with('{') || t.starts_with('[') => unknown("it looks like JSON"),
                t if t.starts_with("%pdf") => unknown("it looks like PDF"),
                _ if bytes.get(4..8) == Some(b"ftyp") => unknown("it looks like HEIF or video"),
                _ => {
                    let hex: Vec<String> =
                        head.iter().take(8).map(|b| format!("{b:02x}")).collect();
                    unknown(&format!("it begins with the bytes {}", hex.join(" ")))
                }
            }
        }
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "jpeg",
        ImageFormat::Png => "png",
        ImageFormat::WebP => "webp",
        ImageFormat::Gif => "gif",
        ImageFormat::Bmp => "bmp",
        ImageFormat::Tiff => "tiff",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
