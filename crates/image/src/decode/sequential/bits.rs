//! The scan's coded data as a stream of bits, without the stuffed zero bytes.

use super::unfit::Unfit;

/// Bytes that the buffer is filled up to.
const FILLED_BYTES: usize = 16 << 10;
/// More than an MCU of six blocks can take: 64 codes a block of 16 bits, with 11 bits of value
/// each.
const MCU_BYTES: usize = 2 << 10;
const BUFFER: usize = FILLED_BYTES + MCU_BYTES + 64;
/// Stands for a marker where the file ends without one.
const NO_MARKER: u8 = 0;

/// The entropy-coded segments of a scan (T.81, B.1.1.5): the restart markers cut its data into
/// them, and a zero byte is stuffed after every X'FF' within. The buffer holds a part of one
/// segment, unstuffed, and zeros after that.
pub(super) struct Segments<'a> {
    bytes: Box<[u8; BUFFER]>,
    /// Bytes of the segment in the buffer.
    filled: usize,
    /// What the buffer is filled from: the rest of the file.
    source: &'a [u8],
    /// The marker that ends the segment, once it is seen.
    marker: Option<u8>,
}

/// A position in the segment: the next bits, and where in the buffer the bytes after them are.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    /// The next bits, from the highest on. What lies below the lowest available one is either what
    /// comes next in the segment or 0.
    bits: u64,
    /// Bits available, modulo 64.
    count: u32,
    /// Index in the buffer of the byte after the available bits.
    at: usize,
}

impl Cursor {
    /// Makes at least 56 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self, segments: &Segments) {
        let next = &segments.bytes[self.at..self.at + 8];
        let next = u64::from_be_bytes(next.try_into().expect("8 bytes"));
        self.bits |= next >> (self.count & 63);
        self.at += (!self.count >> 3 & 7) as usize;
        self.count |= 56;
    }

    /// The next `count` bits (1 to 32), without moving on.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> usize {
        (self.bits >> (64 - count)) as usize
    }

    /// Moves on by `count` bits, modulo 64. They must be available.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.bits <<= count & 63;
        self.count = self.count.wrapping_sub(count);
    }

    /// Bits of the buffer before the cursor.
    fn consumed_bits(&self) -> usize {
        8 * self.at - (self.count & 63) as usize
    }
}

impl<'a> Segments<'a> {
    /// Begins with the first coded byte of a scan.
    pub(super) fn new(scan: &'a [u8]) -> Self {
        let bytes = vec![0; BUFFER].into_boxed_slice();
        Segments {
            bytes: bytes.try_into().expect("it has this length"),
            filled: 0,
            source: scan,
            marker: None,
        }
    }

    /// To be called before an MCU is read: sees to it that all its bytes are in the buffer.
    #[inline(always)]
    pub(super) fn before_mcu(&mut self, cursor: &mut Cursor) {
        if self.marker.is_none() && self.filled < cursor.at + MCU_BYTES {
            self.fill(cursor);
        }
    }

    /// To be called after an MCU was read.
    ///
    /// # Errors
    /// [`Unfit`] if it took more bits than the segment has.
    #[inline(always)]
    pub(super) fn after_mcu(&self, cursor: &Cursor) -> Result<(), Unfit> {
        if self.marker.is_some() && cursor.consumed_bits() > 8 * self.filled {
            return Err(Unfit);
        }
        Ok(())
    }

    /// Ends the segment and goes on after `marker`, the one that must follow.
    ///
    /// # Errors
    /// [`Unfit`] if the segment has more than some bits of padding left, or another marker follows.
    pub(super) fn next_segment(&mut self, cursor: &mut Cursor, marker: u8) -> Result<(), Unfit> {
        self.before_mcu(cursor);
        if self.marker != Some(marker) || 8 * self.filled >= cursor.consumed_bits() + 8 {
            return Err(Unfit);
        }
        self.marker = None;
        self.filled = 0;
        *cursor = Cursor::default();
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn fill(&mut self, cursor: &mut Cursor) {
        // Bytes that the cursor has taken only in part stay.
        let consumed = cursor.consumed_bits() / 8;
        self.bytes.copy_within(consumed..self.filled, 0);
        let (mut filled, mut source) = (self.filled - consumed, self.source);
        cursor.at -= consumed;
        while filled < FILLED_BYTES {
            // About one coded byte in 256 is X'FF', so most runs of 32 are copied as they are.
            while let Some((chunk, rest)) = source.split_first_chunk::<32>() {
                let has_ff = chunk
                    .iter()
                    .fold(0, |found, byte| found | u8::from(*byte == 0xff));
                if has_ff != 0 || filled >= FILLED_BYTES {
                    break;
                }
                self.bytes[filled..filled + 32].copy_from_slice(chunk);
                filled += 32;
                source = rest;
            }
            let Some((chunk, _)) = source.split_first_chunk::<8>() else {
                break;
            };
            self.bytes[filled..filled + 8].copy_from_slice(chunk);
            // The first X'FF' is the lowest zero byte of the complement.
            let complement = !u64::from_le_bytes(*chunk);
            let zeros = complement.wrapping_sub(0x0101_0101_0101_0101)
                & !complement
                & 0x8080_8080_8080_8080;
            let plain = zeros.trailing_zeros() as usize / 8;
            filled += plain;
            source = &source[plain..];
            if plain == 8 {
                continue;
            }
            let [0xff, 0, rest @ ..] = source else {
                break;
            };
            // The X'FF' has been copied with the other bytes already.
            filled += 1;
            source = rest;
        }
        // What is left is a marker, or the last bytes of the file.
        while filled < FILLED_BYTES && self.marker.is_none() {
            match source {
                [0xff, 0, rest @ ..] => {
                    self.bytes[filled] = 0xff;
                    filled += 1;
                    source = rest;
                }
                [0xff, marker, rest @ ..] => {
                    self.marker = Some(*marker);
                    source = rest;
                }
                [] | [0xff] => self.marker = Some(NO_MARKER),
                [byte, rest @ ..] => {
                    self.bytes[filled] = *byte;
                    filled += 1;
                    source = rest;
                }
            }
        }
        self.bytes[filled..].fill(0);
        (self.filled, self.source) = (filled, source);
    }
}
