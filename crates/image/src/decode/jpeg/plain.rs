//! Which pictures a process decodes itself, and why that keeps its caps.
//!
//! Only plain JPEGs of moderate size: sequential Huffman coding of 8-bit samples, one scan, grey or
//! three components with the usual sampling, every table there. Own code in safe Rust reads all of
//! the headers and finds that out; libjpeg-turbo sees no header that this code has not read first.
//! Everything else, and what turns out to be odd later, goes to a helper process
//! ([`crate::decoders`]): all other formats, progressive and arithmetic coding, several scans,
//! CMYK, 12 bits, sizes above the caps here.
//!
//! **Memory.** The own reader ([`super::super::sequential`]) keeps one row of MCUs, at most 128
//! bytes for each pixel of its width ([`SIDE`] wide: 2 MiB), the sums of the result, and weights in
//! proportion to the two sides. libjpeg-turbo keeps for a file of one scan less than [`ROWS`] bytes
//! for each pixel of the width, because it has one row of MCUs with its neighbours at a time; its
//! coefficients are kept only for several scans. Beside that there are the pixels it writes and
//! what resampling needs, [`BYTES`] together at most. All of it follows from the headers and is
//! checked before it is allocated. A thread may still have as much from the pictures before
//! (`scratch`): 64 MiB in all.
//!
//! **Time.** Both readers look at each byte of the file and at each block of the picture once:
//! there is one scan, and a file that ends early is an error or, in the own reader, left. [`SIDE`]
//! and the cap on pixels bound the blocks, the cap on fetched bytes the file.

use super::super::error::DecodeError;
use super::super::limits::DecodeLimits;
use super::super::picture::{Decoded, Stored};
use super::super::resize;
use super::super::resize::Window;
use super::super::scratch::Scratch;
use super::super::sequential::Outline;
use super::super::size::ImageSize;
use super::markers::{Colours, Markers};
use super::{Kind, Request, Source, decode_pixels, metadata, take_decompressor};
use crate::preprocessing::Preprocessing;

/// Longest side, pixels.
const SIDE: u32 = 16_384;
/// Most pixels.
const PIXELS: u64 = 64_000_000;
/// Most bytes of pixels, decoded and half resampled.
const BYTES: u64 = 24 << 20;
/// Bytes that libjpeg-turbo keeps for each pixel of the width: three components, up to twenty rows
/// of samples, and the rows that they are interpolated to.
const ROWS: u64 = 72;

/// Decodes a plain file as [`super::decode`] does. `None`: it is not plain, or too large, or found
/// to be odd or damaged; then nothing was decoded, and a helper has to look.
pub(in super::super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    fit: Option<(&Preprocessing, &mut [u8])>,
    scratch: &mut Scratch,
) -> Option<Result<Decoded, DecodeError>> {
    let outline = Outline::of(bytes)?;
    let markers = Markers::of(bytes);
    let original = markers.size?;
    let sides = (outline.width, outline.height);
    if sides != (original.width as usize, original.height as usize) || markers.buffers_coefficients
    {
        return None;
    }
    let colours = match outline.components[..] {
        [_] => Colours::YCbCr,
        [a, b, c] => markers.colours([a, b, c])?,
        _ => return None,
    };
    let pixels = u64::from(original.width) * u64::from(original.height);
    if let Err(error) = limits.check_pixels(original) {
        return Some(Err(error));
    }
    if original.width > SIDE || original.height > SIDE || pixels > PIXELS {
        return None;
    }
    let source = Source {
        bytes,
        orientation: metadata::of_jpeg(bytes),
        grey: false,
    };
    let window = fit
        .as_ref()
        .map(|(preprocessing, _)| Window::of(original, source.orientation, preprocessing));
    let request = Request::new(original, window.as_ref(), Kind::default());
    let stored = Stored {
        decoded: request.decoded,
        eighths: request.eighths,
        ..Stored::whole(original, source.orientation)
    };
    let suits = limits.own_jpeg_reader && request.eighths < 8;
    if let (true, Colours::YCbCr, Some((preprocessing, pixels))) = (suits, colours, fit) {
        let size = stored.upright_size();
        if let Err(error) = limits.check_alloc(request.len() as u64) {
            return Some(Err(error));
        }
        return resize::fit_sequential(bytes, &stored, preprocessing, scratch, pixels)
            .then_some(Ok(Decoded::Fitted(size)));
    }
    let needed = working_bytes(&request, original, window.as_ref());
    if let Err(error) = limits.check_alloc(needed) {
        return Some(Err(error));
    }
    if needed > BYTES {
        return None;
    }
    // What is wrong with it, or how to put up with that, a helper says.
    let decompressor = take_decompressor(scratch).ok()?;
    decode_pixels(decompressor, source, &request, scratch).ok()?;
    Some(Ok(Decoded::Stored(stored)))
}

/// Bytes that decoding by libjpeg-turbo and resampling take, beside the result.
fn working_bytes(request: &Request, original: ImageSize, window: Option<&Window>) -> u64 {
    let resampled = window.map_or(0, |window| {
        resize::working_bytes(request.decoded, window.target)
    });
    request.len() as u64 + ROWS * u64::from(original.width) + resampled
}
