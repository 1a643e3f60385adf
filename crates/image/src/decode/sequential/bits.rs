//! Coded bytes, freed from their stuffing, as a stream of bits.

use super::Unfit;

/// Bytes unstuffed at a time.
const CAPACITY: usize = 16 << 10;
/// More than a unit of six blocks can take: 64 codes of 16 bits, with 11 bits of value each.
const UNIT_BYTES: usize = 2 << 10;
const BUFFER: usize = CAPACITY + UNIT_BYTES + 64;
/// Takes the marker's place where the file ends without one.
const NO_MARKER: u8 = 0;

/// The coded data of a scan. At hand is a part of the present segment (the bytes up to the next marker), without stuffing;
/// after its last byte follow zeros.
pub(super) struct Segments<'a> {
    bytes: Box<[u8; BUFFER]>,
    /// Bytes of the segment that are at hand.
    filled: usize,
    /// The rest of the file.
    source: &'a [u8],
    /// What ends the segment, once that is seen.
    marker: Option<u8>,
}

/// A place in the segment: the next bits, and where the bytes after them are.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    /// The next bits, from the highest on. Those below `count` are right, too, or 0.
    bits: u64,
    /// Bits available, modulo 64.
    count: u32,
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

    /// Moves on by `count` modulo 64 bits, which must be available.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.bits <<= count & 63;
        self.count = self.count.wrapping_sub(count);
    }

    /// Bits passed since the beginning of what is at hand.
    fn passed(&self) -> usize {
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

    /// Before a unit: makes sure that all its bytes are at hand.
    #[inline(always)]
    pub(super) fn before_unit(&mut self, cursor: &mut Cursor) {
        if self.marker.is_none() && self.filled < cursor.at + UNIT_BYTES {
            self.fill(cursor);
        }
    }

    /// After a unit.
    ///
    /// # Errors
    /// [`Unfit`] if it took more bits than the segment has.
    #[inline(always)]
    pub(super) fn after_unit(&self, cursor: &Cursor) -> Result<(), Unfit> {
        if self.marker.is_some() && cursor.passed() > 8 * self.filled {
            return Err(Unfit);
        }
        Ok(())
    }

    /// Goes on after `marker`.
    ///
    /// # Errors
    /// [`Unfit`] if the segment does not end here, but for some bits of padding, with that marker.
    pub(super) fn pass(&mut self, cursor: &mut Cursor, marker: u8) -> Result<(), Unfit> {
        self.before_unit(cursor);
        if self.marker != Some(marker) || 8 * self.filled >= cursor.passed() + 8 {
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
        // Of the bytes before the cursor those stay whose bits are not passed yet.
        let passed = cursor.passed() / 8;
        self.bytes.copy_within(passed..self.filled, 0);
        let (mut filled, mut source) = (self.filled - passed, self.source);
        cursor.at -= passed;
        while filled < CAPACITY {
            // Of coded bytes one in 256 has all bits set.
            while let Some((chunk, rest)) = source.split_first_chunk::<32>() {
                let stuffed = chunk
                    .iter()
                    .fold(0, |found, byte| found | u8::from(*byte == 0xff));
                if stuffed != 0 || filled >= CAPACITY {
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
            // The first byte of which all bits are set is the lowest one of which no bit is set in the complement.
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
            // Its copy is there already.
            filled += 1;
            source = rest;
        }
        // A marker, or the last bytes of the file.
        while filled < CAPACITY && self.marker.is_none() {
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
