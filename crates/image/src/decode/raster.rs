//! PNG, GIF and BMP by the `image` crate.

use super::error::DecodeError;
use super::format::Format;
use super::gif_screen::FirstFrame;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::Stored;
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{metadata, resize, scratch};
use crate::preprocessing::Preprocessing;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::io::Cursor;

/// Memory a decoder may take besides the picture itself (tables, rows, metadata).
const OVERHEAD_BYTES: u64 = 16 << 20;

/// Decodes into `scratch.rgb`, from where `fit` says how it goes on.
pub(super) fn decode(
    bytes: &[u8],
    format: Format,
    limits: &DecodeLimits,
    fit: Option<&Preprocessing>,
    scratch: &mut Scratch,
) -> Result<Stored, DecodeError> {
    if format == Format::Png {
        check_palette(bytes)?;
    }
    let ended;
    let bytes = match format {
        Format::Png if lacks_only_its_end(bytes) => {
            limits.check_alloc(bytes.len() as u64)?;
            ended = [bytes, PNG_END].concat();
            &ended
        }
        _ => bytes,
    };
    let decoder = open(bytes, format, limits)?;
    let size = size_of(&decoder, format)?;
    limits.check_pixels(size)?;
    let color = decoder.color_type();
    let pixels = size.width as usize * size.height as usize;
    let len = decoder.total_bytes();
    // The samples as read, once more inside some decoders, and as RGB.
    let rgb_len = pixels * 3;
    let direct = color == ColorType::Rgb8;
    let orientation = metadata::of(bytes, format);
    let resampled = fit.map_or(0, |preprocessing| {
        let window = Window::of(size, orientation, preprocessing);
        resize::working_bytes(size, window.target)
    });
    let decoded = len.saturating_mul(2) + if direct { 0 } else { rgb_len as u64 };
    limits.check_alloc(decoded.saturating_add(resampled))?;
    let refused = |e| refusal(e, format, limits);
    if direct {
        decoder
            .read_image(scratch::sized(&mut scratch.rgb, rgb_len))
            .map_err(refused)?;
    } else {
        let samples = scratch::sized(&mut scratch.samples, len as usize);
        decoder.read_image(samples).map_err(refused)?;
        let rgb = scratch::sized(&mut scratch.rgb, rgb_len);
        to_rgb(samples, color, rgb).ok_or_else(|| DecodeError::UnsupportedFeature {
            format: format.name(),
            reason: format!("samples of type {color:?}"),
        })?;
    }
    if format == Format::Gif
        && let Some(frame) = FirstFrame::of(bytes)
        && !frame.covers(size.width as usize, size.height as usize)
    {
        let rgb = scratch::sized(&mut scratch.rgb, rgb_len);
        frame.paint_around(size.width as usize, rgb);
    }
    Ok(Stored::whole(size, orientation))
}

/// Reads stored size and orientation.
pub(super) fn probe(
    bytes: &[u8],
    format: Format,
    limits: &DecodeLimits,
) -> Result<(ImageSize, Orientation), DecodeError> {
    let decoder = open(bytes, format, limits)?;
    let size = size_of(&decoder, format)?;
    Ok((size, metadata::of(bytes, format)))
}

/// Refuses palettes that are not 1 to 256 whole colours: the decoder takes that for granted, and
/// panics (png 0.18.1).
fn check_palette(bytes: &[u8]) -> Result<(), DecodeError> {
    const SIGNATURE: usize = 8;
    const COLOUR_TYPE: usize = 25;
    const INDEXED: u8 = 3;
    if bytes.get(COLOUR_TYPE) != Some(&INDEXED) {
        return Ok(());
    }
    // Chunks: length, name, data, checksum. The decoder refuses what is no chunk.
    let mut rest = bytes.get(SIGNATURE..).unwrap_or_default();
    while let Some((&[a, b, c, d, ref kind @ ..], data)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match kind {
            b"PLTE" if !length.is_multiple_of(3) || !(1..=256).contains(&(length / 3)) => {
                return Err(DecodeError::Damaged {
                    format: Format::Png.name(),
                    reason: format!("its palette has {length} bytes, not 1 to 256 colours of 3"),
                });
            }
            b"PLTE" | b"IDAT" => return Ok(()),
            _ => rest = data.get(length.saturating_add(4)..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// The chunk that ends a PNG.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// Whether all chunks of a PNG are whole, and the one that ends it is not there: every pixel is. If
/// data is missing all the same, the decoder says so.
fn lacks_only_its_end(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(8..).unwrap_or_default();
    let mut has_data = false;
    while let Some((&[a, b, c, d, ref kind @ ..], behind)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match behind.get(length.saturating_add(4)..) {
            _ if kind == b"IEND" => return false,
            Some(next) => rest = next,
            None => return false,
        }
        has_data |= kind == b"IDAT";
    }
    has_data && rest.is_empty()
}

fn open<'a>(
    bytes: &'a [u8],
    format: Format,
    limits: &DecodeLimits,
) -> Result<impl ImageDecoder + 'a, DecodeError> {
    if format == Format::Png && bytes.get(12..16) == Some(b"CgBI") {
        return Err(DecodeError::UnsupportedFeature {
            format: format.name(),
            reason: "Apple's own form of PNG (CgBI)".into(),
        });
    }
    let library = match format {
        Format::Gif => ImageFormat::Gif,
        Format::Bmp => ImageFormat::Bmp,
        _ => ImageFormat::Png,
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), library);
    let mut reader_limits = Limits::default();
    reader_limits.max_alloc = Some(limits.max_alloc_bytes + OVERHEAD_BYTES);
    reader.limits(reader_limits);
    reader
        .into_decoder()
        .map_err(|e| refusal(e, format, limits))
}

fn size_of(decoder: &impl ImageDecoder, format: Format) -> Result<ImageSize, DecodeError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(DecodeError::Damaged {
            format: format.name(),
            reason: format!("it declares {width} x {height} pixels"),
        });
    }
    Ok(ImageSize { width, height })
}

/// Samples to RGB: alpha dropped, grey repeated, 16 bits cut to the high byte. None for types that
/// have no obvious RGB.
fn to_rgb(samples: &[u8], color: ColorType, rgb: &mut [u8]) -> Option<()> {
    // The high byte of a 16-bit sample, which the decoder gives in the machine's order.
    const HIGH: usize = if cfg!(target_endian = "little") { 1 } else { 0 };
    // Bytes per pixel, and the offsets of red, green and blue.
    let (pixel_bytes, [r, g, b]) = match color {
        ColorType::L8 => (1, [0, 0, 0]),
        ColorType::La8 => (2, [0, 0, 0]),
        ColorType::Rgb8 => (3, [0, 1, 2]),
        ColorType::Rgba8 => (4, [0, 1, 2]),
        ColorType::L16 => (2, [HIGH; 3]),
        ColorType::La16 => (4, [HIGH; 3]),
        ColorType::Rgb16 => (6, [HIGH, HIGH + 2, HIGH + 4]),
        ColorType::Rgba16 => (8, [HIGH, HIGH + 2, HIGH + 4]),
        _ => return None,
    };
    for (out, pixel) in rgb
        .chunks_exact_mut(3)
        .zip(samples.chunks_exact(pixel_bytes))
    {
        out[0] = pixel[r];
        out[1] = pixel[g];
        out[2] = pixel[b];
    }
    Some(())
}

/// What the `image` crate refuses, as this room's error.
fn refusal(error: ImageError, format: Format, limits: &DecodeLimits) -> DecodeError {
    match error {
        ImageError::Limits(_) => DecodeError::TooMuchMemory {
            max_alloc_bytes: limits.max_alloc_bytes,
        },
        ImageError::Unsupported(e) => DecodeError::UnsupportedFeature {
            format: format.name(),
            reason: e.to_string(),
        },
        other => DecodeError::Damaged {
            format: format.name(),
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_type_becomes_rgb() {
        let one = |samples: &[u8], color| {
            let mut rgb = [0; 3];
            to_rgb(samples, color, &mut rgb).map(|()| rgb)
        };
        let wide =
            |samples: &[u16]| -> Vec<u8> { samples.iter().flat_map(|s| s.to_ne_bytes()).collect() };
        assert_eq!(one(&[7], ColorType::L8), Some([7, 7, 7]));
        assert_eq!(one(&[7, 0], ColorType::La8), Some([7, 7, 7]));
        assert_eq!(one(&[1, 2, 3, 0], ColorType::Rgba8), Some([1, 2, 3]));
        assert_eq!(
            one(&wide(&[0x80ff]), ColorType::L16),
            Some([0x80, 0x80, 0x80])
        );
        assert_eq!(one(&wide(&[0x12ff, 0]), ColorType::La16), Some([0x12; 3]));
        assert_eq!(
            one(&wide(&[0x1000, 0x20ff, 0x3001, 0]), ColorType::Rgba16),
            Some([0x10, 0x20, 0x30])
        );
        assert_eq!(one(&[0; 12], ColorType::Rgb32F), None);
    }
}
