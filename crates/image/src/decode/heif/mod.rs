//! AVIF and HEIC: their container (HEIF) by own code, the picture in it by rav1d, dav1d in Rust,
//! or by libde265 (feature `heic`).
//!
//! Own code reads the boxes, so that a decoder gets nothing but the coded data of one picture of
//! a size that was checked: later pictures, thumbnails, depth maps and metadata it never sees, and
//! transparency only where colours were multiplied with it. It runs in helpers only, under their
//! limits, as every decoder but that of plain JPEGs.
//!
//! | file | what happens there |
//! |---|---|
//! | `mod` | what a picture costs, and its rows of pixels |
//! | `boxes`, `items` | the container: items, where their data lie, what is said of them |
//! | `picture` | the item that the file is about: one coded picture, or a grid of them |
//! | `part`, `coded` | a coded picture of either kind: what its headers say, its planes |
//! | `av1` | the calls of rav1d |
//! | `hevc` | HEVC's headers, and the calls of libde265 |
//! | `colour` | samples to RGB |

mod av1;
mod boxes;
mod coded;
mod colour;
mod fault;
mod hevc;
mod items;
mod part;
mod picture;

use super::error::DecodeError;
use super::format::Format;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::Stored;
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{resize, scratch};
use crate::preprocessing::Preprocessing;
use colour::{Converter, Rows, colour_rows, divide};
use fault::Fault;
pub use hevc::heic_library;
use items::Items;
use picture::{Aperture, Grid, Picture};

/// Decodes into `scratch.rgb`, from where `fit` says how it goes on.
pub(super) fn decode(
    bytes: &[u8],
    format: Format,
    limits: &DecodeLimits,
    fit: Option<&Preprocessing>,
    scratch: &mut Scratch,
) -> Result<Stored, DecodeError> {
    let refused = |fault| refusal(fault, format, limits);
    let items = Items::of(bytes).map_err(refused)?;
    let picture = Picture::of(&items).map_err(refused)?;
    limits.check_pixels(picture.size)?;
    let resampled = fit.map_or(0, |preprocessing| {
        let window = Window::of(picture.size, picture.orientation, preprocessing);
        resize::working_bytes(picture.size, window.target)
    });
    let pixels = u64::from(picture.size.width) * u64::from(picture.size.height);
    let color = picture.colour.prepare(&items).map_err(refused)?;
    let alpha = picture.alpha.as_ref().map(|alpha| alpha.prepare(&items));
    let alpha = alpha.transpose().map_err(refused)?;
    let planes = color.bytes() + alpha.as_ref().map_or(0, |alpha| alpha.bytes());
    limits.check_alloc(
        (3 * pixels)
            .saturating_add(planes)
            .saturating_add(resampled),
    )?;
    let color = color.decode().map_err(refused)?;
    let converter = Converter::new(&color.coded, color.is_smooth()).map_err(refused)?;
    let alpha = alpha.map(picture::Prepared::decode).transpose();
    let alpha = alpha.map_err(refused)?;
    let rgb = scratch::sized(&mut scratch.rgb, 3 * pixels as usize);
    write(picture.size, &converter, &color, alpha.as_ref(), rgb).map_err(refused)?;
    crop(rgb, picture.size, picture.aperture);
    Ok(Stored::whole(picture.aperture.size, picture.orientation))
}

/// Moves the rows of a part of the picture to the beginning.
fn crop(rgb: &mut [u8], whole: ImageSize, part: Aperture) {
    if part.size == whole {
        return;
    }
    let bytes = |columns: u32| 3 * columns as usize;
    for row in 0..part.size.height {
        let from = bytes(whole.width) * (part.top + row) as usize + bytes(part.left);
        let length = bytes(part.size.width);
        rgb.copy_within(from..from + length, length * row as usize);
    }
}

/// Reads stored size and orientation.
pub(super) fn probe(
    bytes: &[u8],
    format: Format,
    limits: &DecodeLimits,
) -> Result<(ImageSize, Orientation), DecodeError> {
    let picture = Items::of(bytes).and_then(|items| Picture::of(&items));
    let picture = picture.map_err(|fault| refusal(fault, format, limits))?;
    Ok((picture.aperture.size, picture.orientation))
}

/// Writes all rows of pixels.
fn write(
    size: ImageSize,
    converter: &Converter,
    color: &Grid,
    alpha: Option<&Grid>,
    rgb: &mut [u8],
) -> Result<(), Fault> {
    let width = size.width as usize;
    let (shift_x, shift_y) = color.coded.chroma.shifts();
    let columns = width.div_ceil(1 << shift_x);
    let rows = size.height.div_ceil(1 << shift_y) as usize;
    let mut luma = vec![0; width];
    let mut colours = [
        [vec![0; columns], vec![0; columns]],
        [vec![0; columns], vec![0; columns]],
    ];
    let mut alpha = match alpha {
        Some(grid) => Some((grid, Converter::new(&grid.coded, true)?, vec![0.0; width])),
        None => None,
    };
    for (y, rgb) in rgb.chunks_exact_mut(3 * width).enumerate() {
        color.copy_row(0, y, &mut luma);
        if color.has_colour() {
            let wanted = colour_rows(y, shift_y, rows);
            for (plane, rows) in colours.iter_mut().enumerate() {
                for (row, out) in wanted.into_iter().zip(rows) {
                    color.copy_row(plane + 1, row, out);
                }
            }
        }
        let pairs = colours
            .each_ref()
            .map(|pair| pair.each_ref().map(|row| &row[..]));
        converter.convert(
            &Rows {
                luma: &luma,
                colour: pairs,
            },
            rgb,
        );
        if let Some((grid, converter, shares)) = &mut alpha {
            grid.copy_row(0, y, &mut luma);
            converter.alpha(&luma, shares);
            divide(rgb, shares);
        }
    }
    Ok(())
}

fn refusal(fault: Fault, format: Format, limits: &DecodeLimits) -> DecodeError {
    let format = format.name();
    match fault {
        Fault::Memory => DecodeError::TooMuchMemory {
            max_alloc_bytes: limits.max_alloc_bytes,
        },
        Fault::Unsupported(reason) => DecodeError::UnsupportedFeature { format, reason },
        Fault::Damaged(reason) => DecodeError::Damaged {
            format,
            reason: reason.into(),
        },
    }
}

#[cfg(test)]
mod tests;
