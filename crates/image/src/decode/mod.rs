//! Bytes of an image file to the pixels a model wants.
//!
//! The result is meant to equal what the reference preprocessing of CLIP does with Pillow: the
//! picture turned upright by its EXIF orientation, `convert("RGB")`, resized with Pillow's
//! antialiased filter, cropped. In particular transparency is dropped (not composited), colour
//! profiles are ignored, CMYK is converted without a profile, and of an animation the first frame
//! counts. Three differences are on purpose: 16-bit grey keeps its high byte (Pillow clips it to
//! white); a JPEG much larger than needed is decoded only as far as it shows: its low frequencies,
//! or a reduced size; and a JPEG of which only the end marker is missing is read. docs/formats.md
//! has the table of what is read.
//!
//! Input is hostile until proven otherwise. The format is recognised by content, never by name;
//! declared sizes are checked before anything is allocated; a file that ends early is an error, not
//! half a picture, unless the limits allow for damage; and a decoder that panics loses its picture,
//! not the process.
//!
//! What a header does not declare, these checks do not see, and what a library does is its own: so
//! the functions here are for the helper process, for fuzzers and for benches. Whoever decodes what
//! others wrote asks [`crate::decoders::Decoders`], which decodes plain JPEGs itself (`jpeg::plain`
//! says which and why) and has a helper do the rest under limits of the operating system.
//!
//! # One more format
//!
//! Its name and content go into `format`, its decoder beside `raster` and into `decode` below, a
//! small picture of it into the helper's warm-up. It then runs in helpers only, under their limits,
//! without anything further: inside is what `jpeg::plain` lets in, and nothing else.
//!
//! # The road from bytes to pixels, file by file
//!
//! | file | what happens there |
//! |---|---|
//! | `mod` | the entry points: [`decode_into`], [`decode_rgb`], [`fit_rgb`], [`probe`] |
//! | `format`, `foreign` | the first bytes say which format it is, or what it looks like instead |
//! | `jpeg` | a JPEG's header is read, and one of the two ways below is chosen; `jpeg::plain` for files that need no helper |
//! | `sequential` | plain JPEGs much larger than needed: coefficients straight to the wanted size |
//! | `jpeg` again | all other JPEGs: libjpeg-turbo, at a reduced size where that is enough |
//! | `tiff` | TIFF: its directory by own code, its strips and tiles by a crate for each packing |
//! | `webp` | WebP: its container by own code, the picture in it by libwebp |
//! | `heif` | AVIF and HEIC: their container by own code, the picture in it by rav1d or libde265 |
//! | `jxl` | JPEG XL by jxl-oxide |
//! | `raster`, `gif_screen` | PNG, GIF and BMP by the `image` crate |
//! | `metadata` | what EXIF and XMP say of how the picture is to be turned |
//! | `resize` | the window that the preprocessing wants is resampled to the model's input |
//! | `orientation` | the result, small by now, is turned upright |
//!
//! Beside the road: `limits` says what a picture may cost, `error` why there is none, `size` and
//! `picture` what is known of one, `marker` how JPEG's segments are numbered, `segments` where they
//! are, `scratch` keeps memory from one picture to the next.

mod error;
mod foreign;
mod format;
mod gif_screen;
mod heif;
mod jpeg;
#[cfg(feature = "jpeg-xl")]
mod jxl;
mod limits;
mod marker;
mod metadata;
mod orientation;
mod picture;
mod raster;
mod resize;
mod scratch;
mod segments;
mod sequential;
mod size;
mod tiff;
mod webp;

pub use error::{DecodeError, DecodeFault};
pub(crate) use format::{index_of_name, name_at};
pub use heif::heic_library;
pub use limits::DecodeLimits;
pub use orientation::Orientation;
pub use picture::ImageInfo;
pub use size::ImageSize;

use crate::preprocessing::Preprocessing;
use format::Format;
use picture::{Decoded, Stored};
use scratch::Scratch;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Decodes `bytes`, fits the picture as `preprocessing` says and writes it to `pixels`: RGB, uint8,
/// `[H, W, 3]`. Returns the size of the upright original. Scratch memory is kept per thread and
/// reused.
///
/// # Errors
/// [`DecodeError`]; `pixels` then holds nothing of use.
///
/// # Panics
/// If `pixels` is not exactly `height * width * 3` bytes long, or that is 0.
///
/// # Examples
/// ```
/// use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};
/// use tagstream_image::decode::{DecodeError, DecodeLimits, ImageSize, decode_into};
///
/// // A red picture as a camera would write it.
/// let red = image::Rgb([200, 30, 30]);
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::from_pixel(640, 480, red).write_to(&mut file, image::ImageFormat::Jpeg)?;
/// let file = file.into_inner();
///
/// let preprocessing = Preprocessing {
///     height: 32,
///     width: 32,
///     fit: Fit::CenterCrop,
///     filter: Filter::Bicubic,
/// };
/// let limits = DecodeLimits::default();
/// let mut pixels = vec![0; 32 * 32 * 3];
/// let size = decode_into(&file, &preprocessing, &limits, &mut pixels)?;
/// assert_eq!(size, ImageSize { width: 640, height: 480 });
/// assert!(pixels.chunks(3).all(|p| p[0].abs_diff(200) < 4 && p[1].abs_diff(30) < 4));
///
/// // What ends early is damaged, not half a picture.
/// let half = &file[..file.len() / 2];
/// let error = decode_into(half, &preprocessing, &limits, &mut pixels);
/// assert!(matches!(error, Err(DecodeError::Damaged { format: "jpeg", .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    decode_told(bytes, preprocessing, limits, pixels).map(|info| info.size)
}

/// As [`decode_into`], with what is known of the picture; its pixels are upright.
pub(crate) fn decode_told(
    bytes: &[u8],
    preprocessing: &Preprocessing,
    limits: &DecodeLimits,
    pixels: &mut [u8],
) -> Result<ImageInfo, DecodeError> {
    let format = format::sniff(bytes)?;
    contained(format, |scratch| {
        let fit = Some((preprocessing, &mut *pixels));
        let picture = match decode(bytes, format, limits, fit, scratch)? {
            Decoded::Fitted(size) => return Ok(upright_info(format, size)),
            Decoded::Stored(picture) => picture,
        };
        resize::fit(&picture, preprocessing, scratch, pixels);
        Ok(picture.info(format))
    })
}

/// The part of an upright picture of `size` that [`decode_into`] shows: left, top, width and height
/// in fractions of the picture.
pub fn seen_part(preprocessing: &Preprocessing, size: ImageSize) -> [f64; 4] {
    if size.width == 0 || size.height == 0 {
        return [0.0, 0.0, 1.0, 1.0];
    }
    let window = resize::Window::of(size, Orientation::Upright, preprocessing);
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    [
        window.left / width,
        window.top / height,
        window.width / width,
        window.height / height,
    ]
}

fn upright_info(format: Format, size: ImageSize) -> ImageInfo {
    Stored::whole(size, Orientation::Upright).info(format)
}

/// Decodes `bytes` at full size, upright.
///
/// # Errors
/// [`DecodeError`].
///
/// # Examples
/// ```
/// use tagstream_image::decode::{DecodeError, DecodeLimits, decode_rgb};
///
/// let picture = image::RgbImage::from_pixel(3, 2, image::Rgb([1, 2, 3]));
/// let mut file = std::io::Cursor::new(Vec::new());
/// picture.write_to(&mut file, image::ImageFormat::Png)?;
/// assert_eq!(decode_rgb(file.get_ref(), &DecodeLimits::default())?, picture);
///
/// let strict = DecodeLimits { max_pixels: 5, ..DecodeLimits::default() };
/// let error = decode_rgb(file.get_ref(), &strict).unwrap_err();
/// assert!(matches!(error, DecodeError::TooManyPixels { width: 3, height: 2, .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode_rgb(bytes: &[u8], limits: &DecodeLimits) -> Result<image::RgbImage, DecodeError> {
    decode_rgb_told(bytes, limits).map(|(picture, _)| picture)
}

/// As [`decode_rgb`], with what is known of the picture, which is upright.
pub(crate) fn decode_rgb_told(
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<(image::RgbImage, ImageInfo), DecodeError> {
    let format = format::sniff(bytes)?;
    contained(format, |scratch| {
        let picture = match decode(bytes, format, limits, None, scratch)? {
            Decoded::Stored(picture) => picture,
            Decoded::Fitted(_) => unreachable!("there is nothing to fit it into"),
        };
        let info = picture.info(format);
        Ok((upright(&picture, limits, scratch)?, info))
    })
}

/// The picture in the scratch memory, all of it, upright.
fn upright(
    picture: &Stored,
    limits: &DecodeLimits,
    scratch: &mut Scratch,
) -> Result<image::RgbImage, DecodeError> {
    let size = picture.upright_size();
    let length = size.width as usize * size.height as usize * 3;
    let pixels = if picture.orientation == Orientation::Upright {
        let mut pixels = std::mem::take(&mut scratch.rgb);
        pixels.truncate(length);
        pixels
    } else {
        limits.check_alloc(2 * length as u64)?;
        let mut pixels = vec![0; length];
        orientation::turn(
            picture.orientation,
            &scratch.rgb[..length],
            size,
            &mut pixels,
        );
        pixels
    };
    let picture = image::RgbImage::from_raw(size.width, size.height, pixels);
    Ok(picture.expect("the buffer was made for this size"))
}

/// As [`decode_into`], if the picture is one that may be decoded anywhere (`jpeg::plain`); `None`
/// if it is not, or if only a helper can say what is wrong with it.
pub(crate) fn decode_plain_into(
    bytes: &[u8],
    preprocessing: &Preprocessing,
    limits: &DecodeLimits,
    pixels: &mut [u8],
) -> Option<Result<PlainJpeg, DecodeError>> {
    if !is_jpeg(bytes) {
        return None;
    }
    contained_plain(|scratch| {
        let fit = Some((preprocessing, &mut *pixels));
        let decoded = jpeg::decode_plain(bytes, limits, fit, scratch)?;
        Some(decoded.map(|decoded| match decoded {
            Decoded::Fitted(size) => PlainJpeg {
                size,
                by_own_reader: true,
            },
            Decoded::Stored(picture) => {
                resize::fit(&picture, preprocessing, scratch, pixels);
                PlainJpeg {
                    size: picture.upright_size(),
                    by_own_reader: false,
                }
            }
        }))
    })
}

/// A JPEG that was decoded without a helper.
pub(crate) struct PlainJpeg {
    /// Size of the upright original.
    pub size: ImageSize,
    /// Whether own code has read it, and not libjpeg-turbo.
    pub by_own_reader: bool,
}

/// As [`decode_rgb`], under the same condition as [`decode_plain_into`].
pub(crate) fn decode_plain_rgb(
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Option<Result<image::RgbImage, DecodeError>> {
    if !is_jpeg(bytes) {
        return None;
    }
    contained_plain(|scratch| {
        Some(match jpeg::decode_plain(bytes, limits, None, scratch)? {
            Ok(Decoded::Stored(picture)) => upright(&picture, limits, scratch),
            Ok(Decoded::Fitted(_)) => return None,
            Err(error) => Err(error),
        })
    })
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, marker::SOI, 0xff])
}

/// A panic, too, is for a helper to look at.
fn contained_plain<T>(work: impl FnOnce(&mut Scratch) -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(|| scratch::with(work))).unwrap_or(None)
}

/// Gives back what this thread keeps from one picture to the next.
pub(crate) fn forget_scratch() {
    scratch::forget();
}

/// Bytes of a file by which its format is told.
pub(crate) const FIRST_BYTES: usize = 256;

/// Why no decoder looks at these bytes at all.
pub(crate) fn refusal_by_first_bytes(bytes: &[u8]) -> Option<DecodeError> {
    format::sniff(bytes).err()
}

/// Bytes that decoding one picture writes between the file and the result: for the bench's
/// arithmetic, not for serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeWork {
    /// Pixels out of the decoder, at the reduced size where it reduces; none where coefficients are
    /// resampled.
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
    let format = format::sniff(bytes)?;
    contained(format, |scratch| {
        let fit = Some((preprocessing, &mut pixels[..]));
        let picture = match decode(bytes, format, limits, fit, scratch)? {
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
        let upright_rows = if picture.orientation.swaps_sides() {
            width
        } else {
            height
        };
        Ok(DecodeWork {
            decoded_bytes: width * height * 3,
            resampled_bytes: u64::from(target.width) * upright_rows * 3,
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
///
/// # Examples
/// ```
/// use tagstream_image::decode::{DecodeLimits, Orientation, probe};
///
/// let mut file = std::io::Cursor::new(Vec::new());
/// image::RgbImage::new(64, 48).write_to(&mut file, image::ImageFormat::WebP)?;
/// let info = probe(file.get_ref(), &DecodeLimits::default())?;
/// assert_eq!((info.format, info.size.width, info.size.height), ("webp", 64, 48));
/// assert_eq!(info.orientation, Orientation::Upright);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn probe(bytes: &[u8], limits: &DecodeLimits) -> Result<ImageInfo, DecodeError> {
    let format = format::sniff(bytes)?;
    contained(format, |scratch| {
        let (stored, orientation) = match format {
            Format::Jpeg => jpeg::probe(bytes, scratch)?,
            Format::Tiff => tiff::probe(bytes)?,
            Format::WebP => webp::probe(bytes)?,
            Format::Avif | Format::Heic => heif::probe(bytes, format, limits)?,
            #[cfg(feature = "jpeg-xl")]
            Format::JpegXl => jxl::probe(bytes, limits)?,
            _ => raster::probe(bytes, format, limits)?,
        };
        limits.check_pixels(stored)?;
        Ok(ImageInfo {
            orientation,
            ..Stored::whole(stored, orientation).info(format)
        })
    })
}

/// Decodes `bytes` into the scratch memory, or, if there is a `fit`, perhaps straight into its
/// pixels.
fn decode(
    bytes: &[u8],
    format: Format,
    limits: &DecodeLimits,
    fit: Option<(&Preprocessing, &mut [u8])>,
    scratch: &mut Scratch,
) -> Result<Decoded, DecodeError> {
    match format {
        Format::Jpeg => jpeg::decode(bytes, limits, fit, scratch),
        Format::WebP => {
            let fit = fit.map(|(preprocessing, _)| preprocessing);
            webp::decode(bytes, limits, fit, scratch).map(Decoded::Stored)
        }
        Format::Avif | Format::Heic => {
            let fit = fit.map(|(preprocessing, _)| preprocessing);
            heif::decode(bytes, format, limits, fit, scratch).map(Decoded::Stored)
        }
        #[cfg(feature = "jpeg-xl")]
        Format::JpegXl => {
            let fit = fit.map(|(preprocessing, _)| preprocessing);
            jxl::decode(bytes, limits, fit, scratch).map(Decoded::Stored)
        }
        Format::Tiff => {
            let fit = fit.map(|(preprocessing, _)| preprocessing);
            tiff::decode(bytes, limits, fit, scratch).map(Decoded::Stored)
        }
        _ => {
            let fit = fit.map(|(preprocessing, _)| preprocessing);
            raster::decode(bytes, format, limits, fit, scratch).map(Decoded::Stored)
        }
    }
}

/// Runs a decoder such that a panic inside it costs this picture only.
fn contained<T>(
    format: Format,
    work: impl FnOnce(&mut Scratch) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    // The scratch buffers promise nothing but their length, so using them after a panic is safe.
    catch_unwind(AssertUnwindSafe(|| scratch::with(work))).unwrap_or_else(|_| {
        Err(DecodeError::Damaged {
            format: format.name(),
            reason: "the decoder panicked".into(),
        })
    })
}

#[cfg(test)]
mod tests;
