//! CCITT fax coding, in its three forms (T.4, T.6; TIFF 6.0, sections 10 and 11): runs of white and
//! black by turns, as lengths or as differences from the row above. The codes are those of the
//! crate `fax`, whose own readers know neither two-dimensional group 3 nor rows without an end.

use super::layout::Packing;
use fax::maps::{Mode, black, mode, white};
use fax::{BitReader, Bits};
use std::convert::Infallible;

/// An end of line: eleven zeros and a one.
const END_OF_LINE: Bits = Bits { data: 1, len: 12 };

/// Bits from the highest of each byte on, zeros behind the last.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Bits read so far.
    at: usize,
    reversed: bool,
}

impl Reader<'_> {
    fn byte(&self, index: usize) -> u32 {
        let byte = self.bytes.get(index).copied().unwrap_or(0);
        u32::from(if self.reversed {
            byte.reverse_bits()
        } else {
            byte
        })
    }

    /// Whether more was read than there is.
    fn is_over(&self) -> bool {
        self.at > 8 * self.bytes.len()
    }

    fn to_byte(&mut self) {
        self.at = self.at.next_multiple_of(8);
    }

    /// Passes what ends a line, if it is there, with the zeros before it.
    fn pass_end_of_line(&mut self) -> bool {
        let start = self.at;
        while self.at < 8 * self.bytes.len() && self.peek(12) == Some(0) {
            self.at += 1;
        }
        if self.expect(END_OF_LINE).is_ok() {
            self.at += 12;
            return true;
        }
        self.at = start;
        false
    }
}

impl BitReader for Reader<'_> {
    type Error = Infallible;

    fn peek(&self, bits: u8) -> Option<u16> {
        let first = self.at / 8;
        let three = self.byte(first) << 16 | self.byte(first + 1) << 8 | self.byte(first + 2);
        let shift = 24 - self.at % 8 - usize::from(bits);
        Some((three >> shift & ((1 << bits) - 1)) as u16)
    }

    fn consume(&mut self, bits: u8) -> Result<(), Infallible> {
        self.at += usize::from(bits);
        Ok(())
    }

    fn bits_to_byte_boundary(&self) -> u8 {
        (self.at.next_multiple_of(8) - self.at) as u8
    }
}

/// Where a row changes its colour, from white on; none of them at or beyond its end.
type Changes = Vec<usize>;

/// Unpacks rows of `width` bits each, black as ones, into `rows`, which is all zeros. Returns
/// whether all of them were there.
pub(super) fn unpack(
    bytes: &[u8],
    packing: Packing,
    reversed: bool,
    width: usize,
    rows: &mut [u8],
) -> bool {
    let mut reader = Reader {
        bytes,
        at: 0,
        reversed,
    };
    let (mut above, mut row) = (Changes::new(), Changes::new());
    for line in rows.chunks_exact_mut(width.div_ceil(8)) {
        row.clear();
        let read = match packing {
            Packing::Fax4 => read_by_row_above(&mut reader, width, &above, &mut row),
            Packing::Fax3 { two_dimensional } => {
                // The end of a line comes before the next one; then, if rows may refer to each
                // other, a bit says whether this one does not.
                let passed = reader.pass_end_of_line();
                if two_dimensional && !passed {
                    return false;
                }
                let alone = !two_dimensional || reader.peek(1) == Some(1);
                reader.at += usize::from(two_dimensional);
                if alone {
                    read_runs(&mut reader, width, &mut row)
                } else {
                    read_by_row_above(&mut reader, width, &above, &mut row)
                }
            }
            _ => {
                reader.to_byte();
                read_runs(&mut reader, width, &mut row)
            }
        };
        if read.is_none() || reader.is_over() {
            return false;
        }
        paint(&row, width, line);
        std::mem::swap(&mut above, &mut row);
    }
    true
}

/// A run: codes of 64 and more, and one of less.
fn run(reader: &mut Reader<'_>, is_black: bool) -> Option<usize> {
    let mut sum = 0;
    loop {
        let length = if is_black {
            black::decode(reader)
        } else {
            white::decode(reader)
        };
        let length = usize::from(length?);
        sum += length;
        if length < 64 {
            return Some(sum);
        }
        if reader.is_over() {
            return None;
        }
    }
}

/// A row of runs.
fn read_runs(reader: &mut Reader<'_>, width: usize, row: &mut Changes) -> Option<()> {
    let (mut at, mut is_black) = (0, false);
    while at < width {
        at += run(reader, is_black)?;
        push(row, at, width)?;
        is_black = !is_black;
        if reader.is_over() {
            return None;
        }
    }
    Some(())
}

/// Notes a change of colour; `None` if it lies beyond the row.
fn push(row: &mut Changes, at: usize, width: usize) -> Option<()> {
    if at > width {
        return None;
    }
    row.push(at);
    Some(())
}

/// A row as differences from the one above.
fn read_by_row_above(
    reader: &mut Reader<'_>,
    width: usize,
    above: &[usize],
    row: &mut Changes,
) -> Option<()> {
    // The position, or none before the first pixel, and its colour.
    let (mut at, mut is_black) = (None, false);
    // Changes above that lie behind the position: never before `next`.
    let mut next = 0;
    while at.unwrap_or(0) < width {
        if reader.is_over() {
            return None;
        }
        // The first change above to the right of the position, and to the other colour.
        while next > 0 && at.is_none_or(|at| above.get(next - 1).is_some_and(|&a| a > at)) {
            next -= 1;
        }
        while above
            .get(next)
            .is_some_and(|&change| at.is_some_and(|at| change <= at))
        {
            next += 1;
        }
        if next % 2 != usize::from(is_black) {
            next += 1;
        }
        let first = above.get(next).copied().unwrap_or(width);
        match mode::decode(reader)? {
            Mode::Pass => at = Some(above.get(next + 1).copied().unwrap_or(width)),
            Mode::Vertical(by) => {
                let change = first.checked_add_signed(isize::from(by))?;
                if at.is_some_and(|at| change < at) {
                    return None;
                }
                push(row, change, width)?;
                at = Some(change);
                is_black = !is_black;
            }
            Mode::Horizontal => {
                let mut end = at.unwrap_or(0);
                for is_black in [is_black, !is_black] {
                    end += run(reader, is_black)?;
                    push(row, end, width)?;
                }
                at = Some(end);
            }
            Mode::Extension | Mode::EOF => return None,
        }
    }
    Some(())
}

/// Sets the black bits of a row.
fn paint(changes: &[usize], width: usize, line: &mut [u8]) {
    for run in changes.chunks(2) {
        let (Some(&from), to) = (run.first(), run.get(1).copied().unwrap_or(width)) else {
            continue;
        };
        for at in from..to.min(width) {
            line[at / 8] |= 0x80 >> (at % 8);
        }
    }
}
