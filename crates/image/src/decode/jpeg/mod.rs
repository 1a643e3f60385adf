//! JPEG: plain files that are much larger than the model's input by `sequential`, straight to that
//! size; all others by libjpeg-turbo, at a reduced size where the model needs fewer pixels.
//!
//! | file | what happens there |
//! |---|---|
//! | `mod` | tries: the file as it is, without what does not matter, without what is missing |
//! | `markers` | what the marker segments say, by own code |
//! | `clean` | the copy of an odd file that holds what pixels are made of |
//! | `survey` | how much of a damaged file is there |
//! | `plain` | which files a process decodes itself |
//! | `strip` | JPEGs that are strips of a TIFF |

mod clean;
mod markers;
mod plain;
mod strip;
mod survey;

pub(super) use plain::decode as decode_plain;
pub(super) use strip::{StripColours, decode_strip};

use super::error::DecodeError;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::{Decoded, Stored};
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{marker, metadata, resize, scratch};
use crate::preprocessing::Preprocessing;
use clean::{Tail, clean};
use markers::Markers;
use survey::Survey;
use turbojpeg::{Colorspace, DecompressHeader, Decompressor, Image, PixelFormat, ScalingFactor};

/// Sizes, in eighths, at which libjpeg-turbo's inverse cosine transform is vectorised.
const EIGHTHS: [u32; 4] = [1, 2, 4, 8];

/// What matters of a JPEG for how it is asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    /// CMYK, in one form or the other.
    ink: bool,
    /// Cannot be reduced.
    lossless: bool,
}

impl Kind {
    fn of(header: &DecompressHeader) -> Self {
        Kind {
            ink: matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK),
            lossless: header.is_lossless,
        }
    }
}

/// What libjpeg-turbo is asked for.
struct Request {
    /// By how many eighths of the original's sides it decodes.
    eighths: u32,
    /// The same, as its interface has it.
    factor: ScalingFactor,
    /// Size of what it writes.
    decoded: ImageSize,
    format: PixelFormat,
    /// Whether chroma may be repeated instead of interpolated.
    fast_upsample: bool,
}

impl Request {
    /// For the window of the original that is wanted, or for all of it at its own size.
    fn new(original: ImageSize, window: Option<&Window>, kind: Kind) -> Self {
        let eighths = match window {
            Some(window) if !kind.lossless => eighths_for(window),
            _ => 8,
        };
        let factor = ScalingFactor::new(eighths as usize, 8);
        Request {
            eighths,
            factor,
            decoded: ImageSize {
                width: factor.scale(original.width as usize) as u32,
                height: factor.scale(original.height as usize) as u32,
            },
            format: if kind.ink {
                PixelFormat::CMYK
            } else {
                PixelFormat::RGB
            },
            fast_upsample: window.is_some_and(|window| is_ample(window, 8)),
        }
    }

    /// Pixels that it writes.
    fn pixels(&self) -> usize {
        self.decoded.width as usize * self.decoded.height as usize
    }

    /// Bytes that it writes.
    fn len(&self) -> usize {
        self.pixels() * self.format.size()
    }
}

/// A file, or a copy of what matters in it.
#[derive(Clone, Copy)]
struct Source<'a> {
    bytes: &'a [u8],
    orientation: Orientation,
    /// Whether the pixels are all grey before it is decoded: those that are missing stay so.
    grey: bool,
}

/// Why a file was not simply decoded.
enum Trouble {
    /// It is not for us.
    Refused(DecodeError),
    /// libjpeg-turbo had something to say; if that was about the data, there are pixels all the
    /// same.
    Complaint {
        words: String,
        stored: Option<Stored>,
    },
}

impl Trouble {
    fn complaint(error: &turbojpeg::Error) -> Self {
        Trouble::Complaint {
            words: error.to_string(),
            stored: None,
        }
    }

    /// As an error, if nothing more is to be tried.
    fn into_error(self) -> DecodeError {
        match self {
            Trouble::Refused(error) => error,
            Trouble::Complaint { words, .. } => damaged(&words),
        }
    }
}

impl From<DecodeError> for Trouble {
    fn from(error: DecodeError) -> Self {
        Trouble::Refused(error)
    }
}

/// What the model gets, and where to.
type FitInto<'a> = Option<(&'a Preprocessing, &'a mut [u8])>;

/// The same for one of several tries.
fn again<'a>(fit: &'a mut FitInto<'_>) -> FitInto<'a> {
    let fit = fit.as_mut();
    fit.map(|(preprocessing, pixels)| (*preprocessing, &mut **pixels))
}

/// Decodes into `scratch.rgb`, reduced as far as does no harm to what the preprocessing asks for,
/// or, where that can be done, straight into the pixels given with the preprocessing.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    mut fit: FitInto<'_>,
    scratch: &mut Scratch,
) -> Result<Decoded, DecodeError> {
    let source = Source {
        bytes,
        orientation: metadata::of_jpeg(bytes),
        grey: false,
    };
    match attempt(source, limits, again(&mut fit), scratch) {
        Ok(decoded) => Ok(decoded),
        Err(Trouble::Refused(error)) => Err(error),
        Err(Trouble::Complaint { .. }) => decode_odd(source, limits, fit, scratch),
    }
}

/// Decodes a file that libjpeg-turbo does not like as it is: without what does not matter; then
/// without what may be padding; and at last, if that is allowed, without what is missing.
fn decode_odd(
    source: Source<'_>,
    limits: &DecodeLimits,
    mut fit: FitInto<'_>,
    scratch: &mut Scratch,
) -> Result<Decoded, DecodeError> {
    let Source {
        bytes, orientation, ..
    } = source;
    limits.check_alloc(bytes.len() as u64)?;
    let rest = DecodeLimits {
        max_alloc_bytes: limits.max_alloc_bytes - bytes.len() as u64,
        ..*limits
    };
    let mut attempt = |bytes: &[u8], grey| {
        let source = Source {
            bytes,
            orientation,
            grey,
        };
        attempt(source, &rest, again(&mut fit), scratch)
    };
    let markers = Markers::of(bytes);
    let mut copy = clean(bytes, &markers, Tail::Kept);
    let words = match attempt(&copy, false) {
        Ok(decoded) => return Ok(decoded),
        Err(Trouble::Refused(error)) => return Err(error),
        Err(Trouble::Complaint { words, .. }) => words,
    };
    if !markers.is_sequential_huffman() {
        drop(copy);
        let trimmed = clean(bytes, &markers, Tail::Trimmed);
        return attempt(&trimmed, false).map_err(|_| damaged(&words));
    }
    let Some(survey) = Survey::of(&copy) else {
        return Err(damaged(&words));
    };
    if survey.damaged == 0 {
        copy.truncate(survey.end);
        copy.extend([0xff, marker::EOI]);
        return attempt(&copy, false).map_err(Trouble::into_error);
    }
    let percent = survey.percent();
    if percent > limits.max_damaged_percent {
        return Err(damaged(&format!(
            "{} ({percent} % of it cannot be read; `decode.damaged` says how much may be missing)",
            libjpegs(&words)
        )));
    }
    match attempt(&copy, true) {
        Err(Trouble::Complaint {
            stored: Some(stored),
            ..
        }) if scratch.rgb.iter().any(|&byte| byte != GREY) => Ok(Decoded::Stored(Stored {
            damaged_percent: percent,
            ..stored
        })),
        other => other.map_err(Trouble::into_error),
    }
}

/// One try to decode `source`.
fn attempt(
    source: Source<'_>,
    limits: &DecodeLimits,
    fit: FitInto<'_>,
    scratch: &mut Scratch,
) -> Result<Decoded, Trouble> {
    let Source {
        bytes, orientation, ..
    } = source;
    let (decompressor, header, markers) = read_header(bytes, scratch)?;
    let original = size_of(&header, &markers)?;
    limits.check_pixels(original)?;
    let window = fit
        .as_ref()
        .map(|(preprocessing, _)| Window::of(original, orientation, preprocessing));
    let request = Request::new(original, window.as_ref(), Kind::of(&header));
    let pixels = u64::from(original.width) * u64::from(original.height);
    let resampled = window.as_ref().map_or(0, |window| {
        resize::working_bytes(request.decoded, window.target)
    });
    limits.check_alloc(request.len() as u64 + markers.coefficient_bytes(pixels) + resampled)?;

    let stored = Stored {
        decoded: request.decoded,
        eighths: request.eighths,
        ..Stored::whole(original, orientation)
    };
    // Where the picture is reduced less, fewer pixels go into a sample of the result, and how other
    // readers round them shows more.
    let suits = limits.own_jpeg_reader
        && request.eighths < 8
        && matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray);
    if let (true, Some((preprocessing, pixels))) = (suits, fit)
        && resize::fit_sequential(bytes, &stored, preprocessing, scratch, pixels)
    {
        scratch.decompressor = Some(decompressor);
        return Ok(Decoded::Fitted(stored.upright_size()));
    }
    let mut decompressor = decompressor;
    decompressor
        .set_scan_limit(scan_limit(pixels, limits))
        .map_err(|e| Trouble::complaint(&e))?;
    match decode_pixels(decompressor, source, &request, scratch) {
        Ok(()) => Ok(Decoded::Stored(stored)),
        Err(error) => Err(Trouble::Complaint {
            words: error.to_string(),
            stored: Some(stored),
        }),
    }
}

/// What libjpeg-turbo and own code read in the header, and the decompressor that read it.
fn read_header(
    bytes: &[u8],
    scratch: &mut Scratch,
) -> Result<(Decompressor, DecompressHeader, Markers), Trouble> {
    let markers = Markers::of(bytes);
    if let Some(reason) = markers.unsupported() {
        return Err(Trouble::Refused(DecodeError::UnsupportedFeature {
            format: "jpeg",
            reason,
        }));
    }
    let mut decompressor = take_decompressor(scratch)?;
    let header = decompressor.read_header(bytes);
    let header = header.map_err(|e| Trouble::complaint(&e))?;
    Ok((decompressor, header, markers))
}

/// What pixels are that a damaged file does not have.
const GREY: u8 = 128;

/// Has libjpeg-turbo decode into `scratch.rgb`, which holds what it could decode after an error,
/// too.
fn decode_pixels(
    mut decompressor: Decompressor,
    source: Source<'_>,
    request: &Request,
    scratch: &mut Scratch,
) -> Result<(), turbojpeg::Error> {
    decompressor.set_scaling_factor(request.factor)?;
    decompressor.set_fast_upsample(request.fast_upsample)?;
    let cmyk = request.format == PixelFormat::CMYK;
    let output = if cmyk {
        &mut scratch.samples
    } else {
        &mut scratch.rgb
    };
    let pixels = scratch::sized(output, request.len());
    if source.grey {
        pixels.fill(GREY);
    }
    let image = Image {
        pixels,
        width: request.decoded.width as usize,
        pitch: request.decoded.width as usize * request.format.size(),
        height: request.decoded.height as usize,
        format: request.format,
    };
    let decoded = decompressor.decompress(source.bytes, image);
    if decoded.is_ok() {
        scratch.decompressor = Some(decompressor);
    }
    if cmyk {
        let rgb = scratch::sized(&mut scratch.rgb, request.pixels() * 3);
        inverted_cmyk_to_rgb(&scratch.samples[..request.len()], rgb);
    }
    decoded
}

/// Reads stored size and orientation.
pub(super) fn probe(
    bytes: &[u8],
    scratch: &mut Scratch,
) -> Result<(ImageSize, Orientation), DecodeError> {
    let (decompressor, header, markers) = match read_header(bytes, scratch) {
        Err(Trouble::Complaint { .. }) => {
            let copy = clean(bytes, &Markers::of(bytes), Tail::Kept);
            read_header(&copy, scratch).map_err(Trouble::into_error)?
        }
        read => read.map_err(Trouble::into_error)?,
    };
    scratch.decompressor = Some(decompressor);
    Ok((size_of(&header, &markers)?, metadata::of_jpeg(bytes)))
}

/// This thread's decompressor, or a new one. It is put back only after it worked without an error:
/// after an error in the header it would go on reading that header in the next file.
fn take_decompressor(scratch: &mut Scratch) -> Result<Decompressor, DecodeError> {
    match scratch.decompressor.take() {
        Some(decompressor) => Ok(decompressor),
        None => Decompressor::new().map_err(|e| damaged(&e.to_string())),
    }
}

/// The declared size. For a file without a frame header libjpeg-turbo repeats the size of the
/// picture before it, so the size counts only if the frame header found here says the same.
fn size_of(header: &DecompressHeader, markers: &Markers) -> Result<ImageSize, DecodeError> {
    let Some(size) = markers.size else {
        return Err(damaged("it has no frame header"));
    };
    if size.width == 0 || size.height == 0 {
        return Err(damaged("it declares no pixels"));
    }
    if (size.width as usize, size.height as usize) != (header.width, header.height) {
        return Err(damaged("its frame header is ambiguous"));
    }
    Ok(size)
}

/// How many times larger than the model's input a picture must stay on both sides for the cheaper
/// ways of decoding: at a reduced size, and with chroma repeated instead of interpolated. Below
/// this the resampled picture differs visibly from the one decoded in full (a reduction to just the
/// input's size costs up to 3 % of an embedding's cosine, this less than 0.1 %;
/// scripts/check_preprocessing.py measures it).
const KEPT_RATIO: f64 = 2.5;

/// Whether a picture decoded to so many eighths is still [`KEPT_RATIO`] times as large as needed.
fn is_ample(window: &Window, eighths: u32) -> bool {
    let reduction = f64::from(eighths) / 8.0 / KEPT_RATIO;
    window.width * reduction >= f64::from(window.target.width)
        && window.height * reduction >= f64::from(window.target.height)
}

/// The smallest size that is still ample.
fn eighths_for(window: &Window) -> u32 {
    EIGHTHS
        .into_iter()
        .find(|&eighths| is_ample(window, eighths))
        .unwrap_or(8)
}

/// How many scans a picture this large may have. An ordinary progressive file has about ten; a
/// hostile one has thousands that each touch every coefficient for a few bytes of input.
fn scan_limit(pixels: u64, limits: &DecodeLimits) -> u32 {
    (16 * limits.max_pixels / pixels.max(1)).clamp(16, 256) as u32
}

fn damaged(reason: &str) -> DecodeError {
    DecodeError::Damaged {
        format: "jpeg",
        reason: libjpegs(reason).into(),
    }
}

/// The words of libjpeg-turbo, without those of the crate around it.
fn libjpegs(words: &str) -> &str {
    words.trim_start_matches("TurboJPEG error: ")
}

/// CMYK JPEGs hold inverted values (Adobe's convention, which everybody follows): 255 is no ink.
fn inverted_cmyk_to_rgb(cmyk: &[u8], rgb: &mut [u8]) {
    for (rgb, cmyk) in rgb.chunks_exact_mut(3).zip(cmyk.chunks_exact(4)) {
        let paper = u32::from(cmyk[3]);
        for (out, &ink) in rgb.iter_mut().zip(cmyk) {
            // x * y / 255, rounded, without a division.
            let product = u32::from(ink) * paper + 128;
            *out = (((product >> 8) + product) >> 8) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocessing::{Filter, Fit};

    fn square(side: usize, fit: Fit) -> Preprocessing {
        Preprocessing {
            height: side,
            width: side,
            fit,
            filter: Filter::Bicubic,
        }
    }

    #[test]
    fn the_reduction_leaves_more_than_the_model_needs() {
        let eighths = |width, height, side, fit| {
            let original = ImageSize { width, height };
            eighths_for(&Window::of(
                original,
                Orientation::Upright,
                &square(side, fit),
            ))
        };
        assert_eq!(eighths(4480, 4480, 224, Fit::Squash), 1);
        assert_eq!(eighths(4479, 4480, 224, Fit::Squash), 2);
        assert_eq!(eighths(4000, 1119, 224, Fit::Squash), 8);
        assert_eq!(eighths(4000, 1120, 224, Fit::Squash), 4);
        // The crop's scale is that of the short side.
        assert_eq!(eighths(4000, 1120, 224, Fit::CenterCrop), 4);
        assert_eq!(eighths(100, 100, 224, Fit::CenterCrop), 8);
    }

    #[test]
    fn scans_are_bounded_by_the_work_they_cause() {
        let limits = DecodeLimits {
            max_pixels: 64_000_000,
            max_alloc_bytes: u64::MAX,
            ..DecodeLimits::default()
        };
        assert_eq!(scan_limit(64_000_000, &limits), 16);
        assert_eq!(scan_limit(16_000_000, &limits), 64);
        assert_eq!(scan_limit(10_000, &limits), 256);
    }

    #[test]
    fn ink_is_inverted() {
        let mut rgb = [0; 9];
        inverted_cmyk_to_rgb(
            &[255, 255, 255, 255, 0, 255, 255, 255, 255, 255, 255, 0],
            &mut rgb,
        );
        assert_eq!(rgb, [255, 255, 255, 0, 255, 255, 0, 0, 0]);
    }
}
