//! WebP by libwebp.
//!
//! Own code reads the container, so that libwebp gets nothing but one picture of a size that has
//! been checked: an animation's later frames, transparency, profiles and metadata it never sees. It
//! runs in helpers only, under their limits, as every decoder but that of plain JPEGs.
//!
//! | file | what happens there |
//! |---|---|
//! | `mod` | what a picture costs, and what becomes of libwebp's refusals |
//! | `container` | the chunk that holds the picture, and where on the canvas it lies |
//! | `library` | the calls of libwebp |

mod container;
mod library;

use super::error::DecodeError;
use super::format::Format;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::Stored;
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{metadata, resize, scratch};
use crate::preprocessing::Preprocessing;
use container::Picture;
use library::{Fault, Pixels};

/// Decodes into `scratch.rgb`, from where `fit` says how it goes on.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    fit: Option<&Preprocessing>,
    scratch: &mut Scratch,
) -> Result<Stored, DecodeError> {
    let picture = Picture::of(bytes).map_err(damaged)?;
    limits.check_pixels(picture.canvas)?;
    let orientation = metadata::of(bytes, Format::WebP);
    let resampled = fit.map_or(0, |preprocessing| {
        let window = Window::of(picture.canvas, orientation, preprocessing);
        resize::working_bytes(picture.canvas, window.target)
    });
    let pixels = |size: ImageSize| u64::from(size.width) * u64::from(size.height);
    // The library keeps a lossless picture as a whole, four bytes a pixel, beside the result.
    let inside = if picture.lossless {
        4 * pixels(picture.size)
    } else {
        0
    };
    limits.check_alloc((3 * pixels(picture.canvas)).saturating_add(inside + resampled))?;
    decode_rgb(&picture, scratch).map_err(|fault| refusal(fault, limits))?;
    Ok(Stored::whole(picture.canvas, orientation))
}

/// Reads stored size and orientation.
pub(super) fn probe(bytes: &[u8]) -> Result<(ImageSize, Orientation), DecodeError> {
    let picture = Picture::of(bytes).map_err(damaged)?;
    Ok((picture.canvas, metadata::of(bytes, Format::WebP)))
}

/// The canvas to `scratch.rgb`: black, as in Pillow, where the frame leaves it free.
fn decode_rgb(picture: &Picture<'_>, scratch: &mut Scratch) -> Result<(), Fault> {
    let stride = 3 * picture.canvas.width as usize;
    let rgb = scratch::sized(&mut scratch.rgb, stride * picture.canvas.height as usize);
    if !picture.is_whole() {
        rgb.fill(0);
    }
    let first = picture.top as usize * stride + 3 * picture.left as usize;
    let pixels = Pixels {
        rgb: &mut rgb[first..],
        stride,
    };
    library::decode_rgb(picture.coded, pixels)
}

fn damaged(reason: &str) -> DecodeError {
    DecodeError::Damaged {
        format: "webp",
        reason: reason.into(),
    }
}

fn refusal(fault: Fault, limits: &DecodeLimits) -> DecodeError {
    match fault {
        Fault::Memory => DecodeError::TooMuchMemory {
            max_alloc_bytes: limits.max_alloc_bytes,
        },
        Fault::Unsupported => DecodeError::UnsupportedFeature {
            format: "webp",
            reason: "libwebp does not read this variant".into(),
        },
        Fault::EndsEarly => damaged("it ends early"),
        Fault::Contradiction => damaged("its data contradict themselves"),
    }
}

#[cfg(test)]
mod tests;
