//! JPEG: plain files that are much larger than the model's input by `sequential`, straight to that
//! size; all others by libjpeg-turbo, at a reduced size where the model needs fewer pixels.

mod markers;
mod plain;

pub(super) use plain::decode as decode_plain;

use super::error::DecodeError;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::{Decoded, Stored};
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{marker, raster, resize, scratch};
use crate::preprocessing::Preprocessing;
use image::ImageFormat;
use markers::Markers;
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

/// Decodes into `scratch.rgb`, reduced as far as does no harm to what the preprocessing asks for,
/// or, where that can be done, straight into the pixels given with the preprocessing.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    fit: Option<(&Preprocessing, &mut [u8])>,
    scratch: &mut Scratch,
) -> Result<Decoded, DecodeError> {
    let mut decompressor = take_decompressor(scratch)?;
    let header = match decompressor.read_header(bytes) {
        Ok(header) => header,
        Err(error)
            if HEADER_WARNINGS
                .iter()
                .any(|w| error.to_string().contains(w)) =>
        {
            require_end(bytes)?;
            let fit = fit.map(|(preprocessing, _)| preprocessing);
            let stored = raster::decode(bytes, ImageFormat::Jpeg, limits, fit, scratch)?;
            return Ok(Decoded::Stored(stored));
        }
        Err(error) => return Err(damaged(&error.to_string())),
    };
    let markers = Markers::of(bytes);
    let original = size_of(&header, &markers)?;
    limits.check_pixels(original)?;
    let window = fit
        .as_ref()
        .map(|(preprocessing, _)| Window::of(original, markers.orientation, preprocessing));
    let request = Request::new(original, window.as_ref(), Kind::of(&header));
    let pixels = u64::from(original.width) * u64::from(original.height);
    let resampled = window.as_ref().map_or(0, |window| {
        resize::working_bytes(request.decoded, window.target)
    });
    limits.check_alloc(request.len() as u64 + markers.coefficient_bytes(pixels) + resampled)?;

    let stored = Stored {
        original,
        decoded: request.decoded,
        eighths: request.eighths,
        orientation: markers.orientation,
    };
    // Where the picture is reduced less, fewer pixels go into a sample of the result, and how other
    // readers round them shows more.
    let suits =
        request.eighths < 8 && matches!(header.colorspace, Colorspace::YCbCr | Colorspace::Gray);
    if let (true, Some((preprocessing, pixels))) = (suits, fit)
        && resize::fit_sequential(bytes, &stored, preprocessing, scratch, pixels)
    {
        scratch.decompressor = Some(decompressor);
        return Ok(Decoded::Fitted(stored.upright_size()));
    }
    decompressor
        .set_scan_limit(scan_limit(pixels, limits))
        .map_err(|e| damaged(&e.to_string()))?;
    decode_pixels(decompressor, bytes, &request, scratch)?;
    Ok(Decoded::Stored(stored))
}

/// Has libjpeg-turbo decode into `scratch.rgb`.
fn decode_pixels(
    mut decompressor: Decompressor,
    bytes: &[u8],
    request: &Request,
    scratch: &mut Scratch,
) -> Result<(), DecodeError> {
    decompressor
        .set_scaling_factor(request.factor)
        .and_then(|()| decompressor.set_fast_upsample(request.fast_upsample))
        .map_err(|e| damaged(&e.to_string()))?;
    let cmyk = request.format == PixelFormat::CMYK;
    let output = if cmyk {
        &mut scratch.samples
    } else {
        &mut scratch.rgb
    };
    let image = Image {
        pixels: scratch::sized(output, request.len()),
        width: request.decoded.width as usize,
        pitch: request.decoded.width as usize * request.format.size(),
        height: request.decoded.height as usize,
        format: request.format,
    };
    match decompressor.decompress(bytes, image) {
        Ok(()) => scratch.decompressor = Some(decompressor),
        Err(error) => tolerate(&error.to_string(), bytes)?,
    }
    if cmyk {
        let rgb = scratch::sized(&mut scratch.rgb, request.pixels() * 3);
        inverted_cmyk_to_rgb(&scratch.samples[..request.len()], rgb);
    }
    Ok(())
}

/// Reads stored size and orientation.
pub(super) fn probe(
    bytes: &[u8],
    scratch: &mut Scratch,
) -> Result<(ImageSize, Orientation), DecodeError> {
    let mut decompressor = take_decompressor(scratch)?;
    let header = decompressor
        .read_header(bytes)
        .map_err(|e| damaged(&e.to_string()))?;
    scratch.decompressor = Some(decompressor);
    let markers = Markers::of(bytes);
    Ok((size_of(&header, &markers)?, markers.orientation))
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

/// Warnings in the header, about things that do not matter for the pixels.
const HEADER_WARNINGS: [&str; 3] = [
    "extraneous bytes before marker",
    "unknown JFIF revision",
    "Unknown Adobe color transform",
];

/// libjpeg decodes what it can and reports its first warning. After most warnings the picture is
/// not whole; these are the exceptions.
fn tolerate(message: &str, bytes: &[u8]) -> Result<(), DecodeError> {
    // Padding between the last scan and the end marker: all pixels are there.
    let padding = message.contains("extraneous bytes before marker 0xd9");
    // Some cameras write a wrong spectral selection into the scan header of a sequential file. This
    // warning comes first and would hide a later one about missing data.
    let camera = message.contains("Invalid SOS parameters for sequential JPEG");
    if padding {
        Ok(())
    } else if camera {
        require_end(bytes)
    } else {
        Err(damaged(message))
    }
}

/// An error unless the end marker is there.
fn require_end(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes
        .windows(2)
        .rev()
        .any(|pair| pair == [0xff, marker::EOI])
    {
        Ok(())
    } else {
        Err(damaged("it ends early"))
    }
}

fn damaged(reason: &str) -> DecodeError {
    DecodeError::Damaged {
        format: "jpeg",
        reason: reason.trim_start_matches("TurboJPEG error: ").into(),
    }
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
