//! JPEG in TIFF (technical note 2): strips and tiles that are JPEGs of their own, with tables that
//! they have in common.

use super::super::error::DecodeError;
use super::super::limits::DecodeLimits;
use super::super::marker;
use super::super::segments::{Segment, Segments};
use super::markers::Markers;
use super::{damaged, libjpegs};
use turbojpeg::{Decompressor, Image, PixelFormat};

/// What the components of a strip are; TIFF says that, not JPEG's own segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum StripColours {
    Grey,
    /// To become RGB.
    YCbCr,
    ThreeAsTheyAre,
    FourAsTheyAre,
}

impl StripColours {
    /// The transform that an Adobe segment names, and what libjpeg-turbo is asked for.
    fn asked_for(self) -> (u8, PixelFormat) {
        match self {
            StripColours::Grey => (0, PixelFormat::GRAY),
            StripColours::YCbCr => (1, PixelFormat::RGB),
            StripColours::ThreeAsTheyAre => (0, PixelFormat::RGB),
            StripColours::FourAsTheyAre => (0, PixelFormat::CMYK),
        }
    }
}

/// Decodes a strip of so many columns and rows into `out`. The last strip may have as many rows as
/// the others, which libtiff passes over, too.
///
/// # Errors
/// As for a JPEG that stands alone.
pub(in super::super) fn decode_strip(
    [tables, strip]: [&[u8]; 2],
    (columns, rows, most_rows): (usize, usize, usize),
    colours: StripColours,
    limits: &DecodeLimits,
    kept: &mut Option<Decompressor>,
    out: &mut [u8],
) -> Result<(), DecodeError> {
    let (transform, format) = colours.asked_for();
    let stream = joined(tables, strip, transform);
    let markers = Markers::of(&stream);
    if let Some(reason) = markers.unsupported() {
        return Err(DecodeError::UnsupportedFeature {
            format: "jpeg",
            reason,
        });
    }
    let words = |error: turbojpeg::Error| damaged(libjpegs(&error.to_string()));
    let mut decompressor = match kept.take() {
        Some(decompressor) => decompressor,
        None => Decompressor::new().map_err(words)?,
    };
    let header = decompressor.read_header(&stream).map_err(words)?;
    let size = markers.size.map(|s| (s.width as usize, s.height as usize));
    let heights = rows..=most_rows.next_multiple_of(16);
    let fits = size.is_some_and(|(w, h)| w == columns && heights.contains(&h));
    if !fits || size != Some((header.width, header.height)) {
        return Err(damaged(&format!(
            "a strip or tile of {columns} x {rows} pixels is a JPEG of {} x {}",
            header.width, header.height
        )));
    }
    let pixels = columns as u64 * header.height as u64;
    let row = columns * format.size();
    let spare = (header.height - rows) * row;
    limits.check_alloc(markers.coefficient_bytes(pixels) + (stream.len() + spare) as u64)?;
    decompressor
        .set_scaling_factor(turbojpeg::ScalingFactor::ONE)
        .and_then(|()| decompressor.set_fast_upsample(false))
        .and_then(|()| decompressor.set_scan_limit(64))
        .map_err(words)?;
    let mut more = vec![0; if spare > 0 { header.height * row } else { 0 }];
    let image = Image {
        pixels: if spare > 0 { &mut more[..] } else { &mut *out },
        width: columns,
        pitch: row,
        height: header.height,
        format,
    };
    decompressor.decompress(&stream, image).map_err(words)?;
    *kept = Some(decompressor);
    if spare > 0 {
        let length = out.len();
        out.copy_from_slice(&more[..length]);
    }
    Ok(())
}

/// The tables and the strip as one JPEG, of which nothing but TIFF says what its colours are.
fn joined(tables: &[u8], strip: &[u8], transform: u8) -> Vec<u8> {
    let mut stream = vec![0xff, marker::SOI];
    stream.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
    stream.push(transform);
    for Segment { code, whole, .. } in Segments::of(tables) {
        if !matches!(code, marker::APP0..=marker::APP15 | marker::COM) {
            stream.extend_from_slice(whole);
        }
    }
    for Segment {
        code, whole, end, ..
    } in Segments::of(strip)
    {
        match code {
            marker::APP0..=marker::APP15 | marker::COM => {}
            marker::SOS => {
                stream.extend_from_slice(whole);
                stream.extend_from_slice(&strip[end..]);
                return stream;
            }
            _ => stream.extend_from_slice(whole),
        }
    }
    stream
}
