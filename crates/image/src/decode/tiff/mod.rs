//! TIFF: the directory by own code, strips and tiles by a crate for each packing.
//!
//! Read is what Pillow reads, with the exceptions that docs/formats.md names; what is not read is
//! refused by its name. One strip or tile is unpacked at a time, into a buffer whose length follows
//! from the directory and is checked before; whatever a strip unpacks to beyond that is not
//! unpacked.
//!
//! | file | what happens there |
//! |---|---|
//! | `directory` | tags and their values, in either byte order, BigTIFF too |
//! | `layout` | what they say of the picture, and what of that is not read |
//! | `unpack` | a strip or tile: LZW, deflate, PackBits, JPEG; predictors |
//! | `fax` | group 3, group 4, modified Huffman |
//! | `samples` | samples of any size and colour to RGB |
//! | `lab` | CIE L*a*b* |

mod directory;
mod fax;
mod lab;
mod layout;
mod samples;
mod unpack;

use super::error::DecodeError;
use super::limits::DecodeLimits;
use super::orientation::Orientation;
use super::picture::Stored;
use super::resize::Window;
use super::scratch::Scratch;
use super::size::ImageSize;
use super::{metadata, resize, scratch};
use crate::preprocessing::Preprocessing;
use directory::Directory;
use layout::{Layout, Packing, tag};
use samples::Converter;
use unpack::Unpacker;

const FORMAT: &str = "tiff";

fn damaged(reason: &str) -> DecodeError {
    DecodeError::Damaged {
        format: FORMAT,
        reason: reason.into(),
    }
}

fn unsupported(reason: &str) -> DecodeError {
    DecodeError::UnsupportedFeature {
        format: FORMAT,
        reason: reason.into(),
    }
}

/// Reads stored size and orientation of the first picture.
pub(super) fn probe(bytes: &[u8]) -> Result<(ImageSize, Orientation), DecodeError> {
    let directory = Directory::first(bytes)?;
    let layout = Layout::of(&directory)?;
    Ok((layout.size, orientation(&directory)))
}

fn orientation(directory: &Directory<'_>) -> Orientation {
    let xmp = directory.bytes(tag::XMP).unwrap_or_default();
    metadata::of_tags(directory.value(tag::ORIENTATION, 0), xmp)
}

/// Decodes the first picture into `scratch.rgb`.
pub(super) fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    fit: Option<&Preprocessing>,
    scratch: &mut Scratch,
) -> Result<Stored, DecodeError> {
    let directory = Directory::first(bytes)?;
    let layout = Layout::of(&directory)?;
    let (size, orientation) = (layout.size, orientation(&directory));
    limits.check_pixels(size)?;
    let resampled = fit.map_or(0, |preprocessing| {
        let window = Window::of(size, orientation, preprocessing);
        resize::working_bytes(size, window.target)
    });
    let rgb_bytes = 3 * u64::from(size.width) * u64::from(size.height);
    // Bytes whose bits are in the other order are copied before they are unpacked.
    let reversed = if layout.reversed_bits { bytes.len() } else { 0 };
    let needed = [
        rgb_bytes,
        layout.working_bytes(),
        resampled,
        reversed as u64,
    ];
    let needed = needed.into_iter().fold(0, u64::saturating_add);
    limits.check_alloc(needed)?;
    let rest = DecodeLimits {
        max_alloc_bytes: limits.max_alloc_bytes - needed,
        ..*limits
    };
    let Scratch {
        rgb,
        samples,
        decompressor,
        ..
    } = scratch;
    let mut reader = Reader {
        directory: &directory,
        layout: &layout,
        converter: Converter::new(&layout, &directory)?,
        unpacker: Unpacker {
            layout: &layout,
            jpeg_tables: directory.bytes(tag::JPEG_TABLES).unwrap_or_default(),
            limits: rest,
            decompressor,
        },
        unpacked: samples,
    };
    reader.read(scratch::sized(rgb, rgb_bytes as usize))?;
    Ok(Stored::whole(size, orientation))
}

impl Layout {
    /// Bytes taken for one strip or tile: unpacked, and once more as bytes side by side.
    fn working_bytes(&self) -> u64 {
        let unpacked = self.chunk_bytes(self.chunk.1);
        unpacked.saturating_add(self.samples_of_chunk())
    }

    fn samples_of_chunk(&self) -> u64 {
        let pixels = (self.chunk.0 as u64).saturating_mul(self.chunk.1 as u64);
        pixels.saturating_mul(self.samples as u64)
    }

    /// Whether the JPEG decoder makes RGB of it.
    fn is_jpeg_in_one_plane(&self) -> bool {
        self.packing == Packing::Jpeg && !self.planar
    }
}

/// What reading takes.
struct Reader<'a> {
    directory: &'a Directory<'a>,
    layout: &'a Layout,
    converter: Converter,
    unpacker: Unpacker<'a>,
    /// The strip or tile, unpacked, and behind it its samples as bytes, side by side.
    unpacked: &'a mut Vec<u8>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, rgb: &mut [u8]) -> Result<(), DecodeError> {
        let (width, height) = (
            self.layout.size.width as usize,
            self.layout.size.height as usize,
        );
        let (columns, rows) = self.layout.chunk;
        let across = width.div_ceil(columns);
        let chunks = across * height.div_ceil(rows);
        let unpacked_bytes = self.layout.chunk_bytes(rows) as usize;
        let sample_bytes = self.layout.samples_of_chunk() as usize;
        let mut buffer = std::mem::take(self.unpacked);
        let both = scratch::sized(&mut buffer, unpacked_bytes + sample_bytes);
        let (unpacked, samples) = both.split_at_mut(unpacked_bytes);
        let mut result = Ok(());
        for chunk in 0..chunks {
            let (left, top) = (chunk % across * columns, chunk / across * rows);
            // Tiles are whole at the edges, strips are not.
            let (there, wanted) = (rows, rows.min(height - top));
            let there = if self.layout.tiled { there } else { wanted };
            result = self.read_chunk(chunk, chunks, there, unpacked, samples);
            if result.is_err() {
                break;
            }
            let visible = columns.min(width - left);
            let row_samples = columns * self.layout.samples;
            for (y, row) in samples.chunks_exact(row_samples).take(wanted).enumerate() {
                let start = 3 * ((top + y) * width + left);
                let out = &mut rgb[start..start + 3 * visible];
                self.converter.row(row, out);
            }
        }
        *self.unpacked = buffer;
        result
    }

    /// Fills `samples` with those of one strip or tile of so many rows, from all planes.
    fn read_chunk(
        &mut self,
        chunk: usize,
        chunks: usize,
        rows: usize,
        unpacked: &mut [u8],
        samples: &mut [u8],
    ) -> Result<(), DecodeError> {
        let layout = self.layout;
        let unpacked = &mut unpacked[..layout.chunk_bytes(rows) as usize];
        let columns = layout.chunk.0;
        let planes = if layout.planar { layout.samples } else { 1 };
        let mut plane_row = vec![0; if layout.planar { columns } else { 0 }];
        for plane in 0..planes {
            let data = self.data((plane * chunks + chunk) as u64, unpacked.len())?;
            self.unpacker.unpack(data, rows, unpacked)?;
            if layout.subsampling != (1, 1) {
                spread_chroma(layout, rows, unpacked, samples);
                continue;
            }
            let row_bytes = layout.row_bytes() as usize;
            let row_samples = columns * layout.samples;
            for (row, samples) in unpacked
                .chunks_exact(row_bytes)
                .zip(samples.chunks_exact_mut(row_samples))
            {
                if layout.planar {
                    samples::to_bytes(layout, row, &mut plane_row);
                    for (pixel, &sample) in samples.chunks_exact_mut(layout.samples).zip(&plane_row)
                    {
                        pixel[plane] = sample;
                    }
                } else {
                    samples::to_bytes(layout, row, samples);
                }
            }
        }
        Ok(())
    }

    /// The packed bytes of a strip or tile.
    fn data(&self, index: u64, unpacked: usize) -> Result<&'a [u8], DecodeError> {
        let of = |tags: [u16; 2]| {
            tags.into_iter()
                .find_map(|tag| self.directory.value(tag, index))
        };
        let at = of([tag::TILE_OFFSETS, tag::STRIP_OFFSETS])
            .ok_or_else(|| damaged("a strip or tile is not there"))?;
        // Not everybody writes how long they are.
        let length = of([tag::TILE_BYTES, tag::STRIP_BYTES]).filter(|&length| length > 0);
        let length = match (length, self.layout.packing) {
            (_, Packing::None) => unpacked as u64,
            (Some(length), _) => length,
            (None, _) => u64::MAX,
        };
        Ok(self.directory.data(at, length))
    }
}

/// Samples of pixels from data units of several pixels' luma and their chroma (TIFF 6.0, section
/// 21).
fn spread_chroma(layout: &Layout, rows: usize, unpacked: &[u8], samples: &mut [u8]) {
    let (across, down) = layout.subsampling;
    let columns = layout.chunk.0;
    let unit_bytes = across * down + 2;
    let units_across = columns.div_ceil(across);
    for (index, unit) in unpacked.chunks_exact(unit_bytes).enumerate() {
        let (left, top) = (index % units_across * across, index / units_across * down);
        for (at, &luma) in unit[..across * down].iter().enumerate() {
            let (x, y) = (left + at % across, top + at / across);
            if x < columns && y < rows {
                let pixel = 3 * (y * columns + x);
                let chroma = &unit[across * down..];
                samples[pixel..pixel + 3].copy_from_slice(&[luma, chroma[0], chroma[1]]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
