//! Strips and tiles, unpacked: never into more than the layout says they have.

use super::fax;
use super::layout::{Colour, Layout, Packing};
use super::{damaged, unsupported};
use crate::decode::error::DecodeError;
use crate::decode::jpeg::{StripColours, decode_strip};
use crate::decode::limits::DecodeLimits;
use std::io::Read;
use turbojpeg::Decompressor;
use weezl::decode::Decoder;
use weezl::{BitOrder, LzwStatus};

/// What unpacking takes beside the strip.
pub(super) struct Unpacker<'a> {
    pub layout: &'a Layout,
    /// Tables that the JPEG strips have in common.
    pub jpeg_tables: &'a [u8],
    pub limits: DecodeLimits,
    pub decompressor: &'a mut Option<Decompressor>,
}

impl Unpacker<'_> {
    /// Unpacks a strip or tile of so many rows into `out`, which has the length that it should
    /// have.
    ///
    /// # Errors
    /// If it has less, or cannot be unpacked.
    pub(super) fn unpack(
        &mut self,
        data: &[u8],
        rows: usize,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let layout = self.layout;
        if data.is_empty() {
            return Err(damaged("a strip or tile lies beyond its end"));
        }
        let reverse = layout.reversed_bits && layout.packing.has_fill_order();
        if reverse && !layout.packing.is_fax() {
            let reversed: Vec<u8> = data.iter().map(|byte| byte.reverse_bits()).collect();
            return self.unpack_in_order(&reversed, rows, out);
        }
        self.unpack_in_order(data, rows, out)
    }

    fn unpack_in_order(
        &mut self,
        data: &[u8],
        rows: usize,
        out: &mut [u8],
    ) -> Result<(), DecodeError> {
        let layout = self.layout;
        let complete = match layout.packing {
            Packing::None => match data.get(..out.len()) {
                Some(data) => {
                    out.copy_from_slice(data);
                    true
                }
                None => false,
            },
            Packing::PackBits => pack_bits(data, out),
            Packing::Lzw => lzw(data, out)?,
            Packing::Deflate => inflate(data, out),
            Packing::Jpeg => return self.unpack_jpeg(data, rows, out),
            Packing::FaxRows | Packing::Fax3 { .. } | Packing::Fax4 => {
                out.fill(0);
                let width = layout.chunk.0;
                fax::unpack(data, layout.packing, layout.reversed_bits, width, out)
            }
        };
        if complete {
            undo_predictor(layout, out);
            Ok(())
        } else {
            Err(damaged("a strip or tile ends early, or cannot be unpacked"))
        }
    }

    fn unpack_jpeg(&mut self, data: &[u8], rows: usize, out: &mut [u8]) -> Result<(), DecodeError> {
        let layout = self.layout;
        let colours = match (layout.chunk_samples(), layout.colour) {
            (1, _) => StripColours::Grey,
            (3, Colour::YCbCr) => StripColours::YCbCr,
            (3, _) => StripColours::ThreeAsTheyAre,
            (4, _) => StripColours::FourAsTheyAre,
            (n, _) => return Err(unsupported(&format!("JPEG strips of {n} components"))),
        };
        let size = (layout.chunk.0, rows, layout.chunk.1);
        let tables = self.jpeg_tables;
        let done = decode_strip(
            [tables, data],
            size,
            colours,
            &self.limits,
            self.decompressor,
            out,
        );
        done.map_err(|error| match error {
            DecodeError::Damaged { reason, .. } => damaged(&reason),
            DecodeError::UnsupportedFeature { reason, .. } => unsupported(&reason),
            other => other,
        })
    }
}

/// TIFF 6.0, section 9. Returns whether all of `out` was there.
fn pack_bits(mut data: &[u8], out: &mut [u8]) -> bool {
    let mut done = 0;
    while done < out.len() {
        let Some((&head, rest)) = data.split_first() else {
            return false;
        };
        let left = out.len() - done;
        match head {
            0..=127 => {
                let length = usize::from(head) + 1;
                let Some(run) = rest.get(..length) else {
                    return false;
                };
                let taken = length.min(left);
                out[done..done + taken].copy_from_slice(&run[..taken]);
                done += taken;
                data = &rest[length..];
            }
            128 => data = rest,
            129..=255 => {
                let Some((&byte, rest)) = rest.split_first() else {
                    return false;
                };
                let taken = (257 - usize::from(head)).min(left);
                out[done..done + taken].fill(byte);
                done += taken;
                data = rest;
            }
        }
    }
    true
}

/// TIFF 6.0, section 13; and as the first programs wrote it, with the bits of codes in the other
/// order.
fn lzw(mut data: &[u8], out: &mut [u8]) -> Result<bool, DecodeError> {
    let old = matches!(data, [0, second, ..] if second & 1 == 1);
    let mut decoder = if old {
        Decoder::new(BitOrder::Lsb, 8)
    } else {
        Decoder::with_tiff_size_switch(BitOrder::Msb, 8)
    };
    let mut done = 0;
    while done < out.len() {
        let result = decoder.decode_bytes(data, &mut out[done..]);
        data = &data[result.consumed_in..];
        done += result.consumed_out;
        match result.status {
            Ok(LzwStatus::Ok) if result.consumed_in + result.consumed_out > 0 => {}
            Ok(_) => break,
            Err(error) => return Err(damaged(&error.to_string())),
        }
    }
    Ok(done == out.len())
}

fn inflate(data: &[u8], out: &mut [u8]) -> bool {
    flate2::read::ZlibDecoder::new(data).read_exact(out).is_ok()
}

/// TIFF 6.0, section 14, and Adobe's technical note 3 for floats.
fn undo_predictor(layout: &Layout, out: &mut [u8]) {
    let row = layout.row_bytes() as usize;
    let samples = layout.chunk_samples();
    if row == 0 {
        return;
    }
    for row in out.chunks_mut(row) {
        match (layout.predictor, layout.bits) {
            (2, 8) => {
                for at in samples..row.len() {
                    row[at] = row[at].wrapping_add(row[at - samples]);
                }
            }
            (2, bits) => add_wide(row, bits / 8, samples, layout.big_endian),
            (3, bits) => {
                for at in samples..row.len() {
                    row[at] = row[at].wrapping_add(row[at - samples]);
                }
                join_float_bytes(row, bits / 8, layout.big_endian);
            }
            _ => {}
        }
    }
}

/// Adds to every number of so many bytes the one a pixel before it.
fn add_wide(row: &mut [u8], bytes: usize, samples: usize, big_endian: bool) {
    let step = bytes * samples;
    for at in (step..row.len().saturating_sub(bytes - 1)).step_by(bytes) {
        let mut carry = 0;
        for i in 0..bytes {
            let byte = if big_endian { bytes - 1 - i } else { i };
            let sum = u16::from(row[at + byte]) + u16::from(row[at + byte - step]) + carry;
            row[at + byte] = sum as u8;
            carry = sum >> 8;
        }
    }
}

/// A row holds the highest bytes of all numbers first, then the next ones, and so on, whatever the
/// file's order.
fn join_float_bytes(row: &mut [u8], bytes: usize, big_endian: bool) {
    let planes = row.to_vec();
    let count = planes.len() / bytes;
    for (index, number) in row.chunks_exact_mut(bytes).enumerate() {
        for (i, byte) in number.iter_mut().enumerate() {
            let plane = if big_endian { i } else { bytes - 1 - i };
            *byte = planes[plane * count + index];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_bits_are_unpacked_and_never_beyond_their_room() {
        let mut out = [9; 6];
        assert!(pack_bits(&[2, 1, 2, 3, 128, 0xfe, 7], &mut out));
        assert_eq!(out, [1, 2, 3, 7, 7, 7]);
        assert!(pack_bits(&[0x81, 5], &mut out));
        assert!(!pack_bits(&[0xfe, 7], &mut out));
        assert!(!pack_bits(&[5, 1, 2], &mut out));
        assert!(!pack_bits(&[0x81], &mut out));
    }

    #[test]
    fn wide_numbers_are_added_in_both_orders() {
        let mut row = [0x01, 0xff, 0x00, 0x02];
        add_wide(&mut row, 2, 1, true);
        assert_eq!(row, [0x01, 0xff, 0x02, 0x01]);
        let mut row = [0xff, 0x01, 0x02, 0x00];
        add_wide(&mut row, 2, 1, false);
        assert_eq!(row, [0xff, 0x01, 0x01, 0x02]);
    }

    #[test]
    fn bytes_of_floats_come_together() {
        let mut row = [1, 5, 2, 6, 3, 7, 4, 8];
        join_float_bytes(&mut row, 4, true);
        assert_eq!(row, [1, 2, 3, 4, 5, 6, 7, 8]);
        let mut row = [1, 5, 2, 6, 3, 7, 4, 8];
        join_float_bytes(&mut row, 4, false);
        assert_eq!(row, [4, 3, 2, 1, 8, 7, 6, 5]);
    }
}
