//! Huffman codes and the tables in which the next bits are looked up.
//!
//! A step of an AC table may take two codes with their values, or, where values are not needed, as many codes as fit.

use super::Unfit;
use super::bits::Cursor;

/// Bits that the tables of values are indexed with.
pub(super) const VALUE_BITS: u32 = 10;
/// Bits that the tables of DC differences are indexed with.
const DC_BITS: u32 = 11;
/// Bits that the tables without values are indexed with.
pub(super) const SKIP_BITS: u32 = 13;
/// Bits that the tables of symbols are indexed with.
const SYMBOL_BITS: u32 = 9;

/// How far the end of a block advances, beside the coefficients passed before it.
pub(super) const END: usize = 128;
/// How far a step advances that must be made with [`AcTable::careful`] instead.
pub(super) const HARD: usize = 255;

/// A code as files bring it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code<'a> {
    /// Codes of 1 to 16 bits.
    counts: [u8; 16],
    symbols: &'a [u8],
}

impl<'a> Code<'a> {
    /// Reads a code and gives what follows it.
    pub(super) fn parse(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&counts, rest) = body.split_first_chunk::<16>()?;
        let count = counts.iter().map(|&n| usize::from(n)).sum();
        if count > 256 {
            return None;
        }
        let (symbols, rest) = rest.split_at_checked(count)?;
        Some((Code { counts, symbols }, rest))
    }
}

/// Symbols by the bits that come next.
#[derive(Debug, Clone, Default)]
struct Symbols {
    counts: [u8; 16],
    symbols: Vec<u8>,
    /// Of the codes of at most [`SYMBOL_BITS`]: symbol and length; length 0 for longer ones.
    short: Vec<(u8, u8)>,
    /// By length: the first 16 bits that are larger than those of all codes of this length and below.
    ends: [u32; 17],
    /// By length: index of a symbol less its code.
    offsets: [i32; 17],
}

impl Symbols {
    fn is(&self, code: &Code) -> bool {
        !self.short.is_empty() && self.counts == code.counts && self.symbols == code.symbols
    }

    /// `None` if there are more codes of a length than there can be.
    fn new(code: &Code) -> Option<Self> {
        let mut made = Symbols {
            counts: code.counts,
            symbols: code.symbols.to_vec(),
            short: vec![(0, 0); 1 << SYMBOL_BITS],
            ends: [0; 17],
            offsets: [0; 17],
        };
        let mut next = 0u32;
        let mut index = 0usize;
        for length in 1..=16u32 {
            let count = u32::from(code.counts[length as usize - 1]);
            if next + count > 1 << length {
                return None;
            }
            made.offsets[length as usize] = index as i32 - next as i32;
            for _ in 0..count {
                if length <= SYMBOL_BITS {
                    let from = (next << (SYMBOL_BITS - length)) as usize;
                    let filled = &mut made.short[from..from + (1 << (SYMBOL_BITS - length))];
                    filled.fill((code.symbols[index], length as u8));
                }
                next += 1;
                index += 1;
            }
            made.ends[length as usize] = next << (16 - length);
            next <<= 1;
        }
        Some(made)
    }

    /// The symbol that 16 bits begin with and its length.
    #[inline(never)]
    fn find(&self, bits: usize) -> Result<(u8, u32), Unfit> {
        let (symbol, length) = self.short[bits >> (16 - SYMBOL_BITS)];
        if length > 0 {
            return Ok((symbol, u32::from(length)));
        }
        for length in SYMBOL_BITS + 1..=16 {
            if (bits as u32) < self.ends[length as usize] {
                let index = (bits >> (16 - length)) as i32 + self.offsets[length as usize];
                let symbol = self.symbols.get(index as usize).ok_or(Unfit)?;
                return Ok((*symbol, length));
            }
        }
        Err(Unfit)
    }
}

/// The value of `size` bits (T.81, F.2.2.1): those that begin with 0 stand for negative numbers.
#[inline(always)]
fn extended(bits: usize, size: u32) -> i32 {
    let bits = bits as i32;
    let half = (1 << size) >> 1;
    if bits < half {
        bits - (1 << size) + 1
    } else {
        bits
    }
}

/// Differences of DC coefficients.
#[derive(Debug, Clone)]
pub(super) struct DcTable {
    symbols: Symbols,
    /// Of code and value together no longer than [`DC_BITS`]: value and length; length 0 for longer ones.
    short: Box<[(i16, u8); 1 << DC_BITS]>,
}

impl Default for DcTable {
    fn default() -> Self {
        DcTable {
            symbols: Symbols::default(),
            short: Box::new([(0, 0); 1 << DC_BITS]),
        }
    }
}

impl DcTable {
    /// Becomes the table of `code`; `None` if that is no code, or has symbols that no picture of 8 bits needs.
    pub(super) fn set(&mut self, code: &Code) -> Option<()> {
        if self.symbols.is(code) {
            return Some(());
        }
        let symbols = Symbols::new(code)?;
        if code.symbols.iter().any(|&size| size > 11) {
            return None;
        }
        self.symbols = Symbols::default();
        for (bits, place) in self.short.iter_mut().enumerate() {
            *place = match symbols.find(bits << (16 - DC_BITS)) {
                Ok((size, length)) if length + u32::from(size) <= DC_BITS => {
                    let size = u32::from(size);
                    let rest = DC_BITS - length - size;
                    let value = extended(bits >> rest & ((1 << size) - 1), size);
                    (value as i16, (length + size) as u8)
                }
                _ => (0, 0),
            };
        }
        self.symbols = symbols;
        Some(())
    }

    /// Reads a difference, at most 27 bits.
    #[inline(always)]
    pub(super) fn read(&self, cursor: &mut Cursor) -> Result<i32, Unfit> {
        let (value, length) = self.short[cursor.peek(DC_BITS)];
        if length > 0 {
            cursor.skip(u32::from(length));
            return Ok(i32::from(value));
        }
        let (size, length) = self.symbols.find(cursor.peek(16))?;
        cursor.skip(length);
        let size = u32::from(size);
        if size == 0 {
            return Ok(0);
        }
        let value = extended(cursor.peek(size), size);
        cursor.skip(size);
        Ok(value)
    }
}

/// AC coefficients with the runs of zeros before them.
#[derive(Debug, Clone)]
pub(super) struct AcTable {
    symbols: Symbols,
    /// One or two coefficients by [`VALUE_BITS`], see [`Pair`].
    pairs: Box<[u64; 1 << VALUE_BITS]>,
    /// All coefficients that fit into [`SKIP_BITS`]: bits in the lowest byte, advance in the next.
    skips: Box<[u16; 1 << SKIP_BITS]>,
}

/// A step of one or two coefficients.
#[derive(Clone, Copy)]
pub(super) struct Pair(u64);

impl Pair {
    /// A step that is not made.
    const HARD: Pair = Pair::new((0, 0), (END, 0), (HARD - END, 0));

    /// From the bits of both coefficients together and of the first, and what each is.
    const fn new(bits: (u32, u32), first: (usize, i16), second: (usize, i16)) -> Self {
        Pair(
            bits.0 as u64
                | (bits.1 as u64) << 24
                | (first.0 as u64) << 8
                | (second.0 as u64) << 16
                | (first.1 as u16 as u64) << 32
                | (second.1 as u16 as u64) << 48,
        )
    }

    /// Bits it takes, modulo 64.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Bits the first coefficient takes, modulo 64; none if it must be read with [`AcTable::careful`].
    #[inline(always)]
    pub(super) fn first_bits(self) -> u32 {
        (self.0 >> 24) as u32 & 63
    }

    /// How far the first coefficient is from the last one before it, and its value.
    #[inline(always)]
    pub(super) fn first(self) -> (usize, i16) {
        ((self.0 >> 8) as usize & 255, (self.0 >> 32) as i16)
    }

    /// The second coefficient in the same way; the first once more if there is none.
    #[inline(always)]
    pub(super) fn second(self) -> (usize, i16) {
        ((self.0 >> 16) as usize & 255, (self.0 >> 48) as i16)
    }
}

/// A step of one coefficient.
#[derive(Clone, Copy)]
struct Step {
    bits: u32,
    advance: usize,
    value: i16,
}

impl Default for AcTable {
    fn default() -> Self {
        AcTable {
            symbols: Symbols::default(),
            pairs: Box::new([0; 1 << VALUE_BITS]),
            skips: Box::new([0; 1 << SKIP_BITS]),
        }
    }
}

impl AcTable {
    /// Becomes the table of `code`; `None` if that is no code.
    pub(super) fn set(&mut self, code: &Code) -> Option<()> {
        if self.symbols.is(code) {
            return Some(());
        }
        let symbols = Symbols::new(code)?;
        self.symbols = Symbols::default();
        for (bits, place) in self.pairs.iter_mut().enumerate() {
            let pair = match step(&symbols, bits, VALUE_BITS) {
                None => Pair::HARD,
                Some(one) => {
                    let left = VALUE_BITS - one.bits;
                    let then = bits & ((1 << left) - 1);
                    let first = (one.advance, one.value);
                    match step(&symbols, then, left) {
                        Some(two) if one.advance < END => Pair::new(
                            (one.bits + two.bits, one.bits),
                            first,
                            (two.advance, two.value),
                        ),
                        _ => Pair::new((one.bits, one.bits), first, (0, one.value)),
                    }
                }
            };
            *place = pair.0;
        }
        for (bits, place) in self.skips.iter_mut().enumerate() {
            let (mut left, mut advance) = (SKIP_BITS, 0);
            while let Some(step) = step(&symbols, bits & ((1 << left) - 1), left) {
                if advance + step.advance % END > 63 {
                    break;
                }
                left -= step.bits;
                advance += step.advance;
                if advance >= END {
                    break;
                }
            }
            if advance == 0 {
                advance = HARD;
            }
            *place = (SKIP_BITS - left) as u16 | (advance as u16) << 8;
        }
        self.symbols = symbols;
        Some(())
    }

    /// The next step, not made yet, at most [`VALUE_BITS`] long.
    #[inline(always)]
    pub(super) fn pair(&self, cursor: &Cursor) -> Pair {
        Pair(self.pairs[cursor.peek(VALUE_BITS)])
    }

    /// Bits, modulo 64, and advance of the next step without values, not made yet, at most [`SKIP_BITS`] long.
    #[inline(always)]
    pub(super) fn passing(&self, cursor: &Cursor) -> (u32, usize) {
        let entry = self.skips[cursor.peek(SKIP_BITS)];
        (u32::from(entry), usize::from(entry >> 8))
    }

    /// Makes a step of one coefficient of any length, at most 26 bits; gives advance and value.
    #[inline(always)]
    pub(super) fn careful(&self, cursor: &mut Cursor) -> Result<(usize, i16), Unfit> {
        let pair = self.pair(cursor);
        if pair.first_bits() > 0 {
            cursor.skip(pair.first_bits());
            return Ok(pair.first());
        }
        let (symbol, length) = self.symbols.find(cursor.peek(16))?;
        cursor.skip(length);
        let (advance, size) = meaning(symbol).ok_or(Unfit)?;
        if size == 0 {
            return Ok((advance, 0));
        }
        let value = extended(cursor.peek(size), size);
        cursor.skip(size);
        Ok((advance, value as i16))
    }
}

/// Advance and size of the value; `None` for what no picture of 8 bits needs.
fn meaning(symbol: u8) -> Option<(usize, u32)> {
    let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
    match (run, size) {
        (0, 0) => Some((END, 0)),
        (15, 0) => Some((16, 0)),
        (_, 1..=10) => Some((run + 1, size)),
        _ => None,
    }
}

/// The first of `bits`, of which there are `count`, if code and value are all there and mean something.
fn step(symbols: &Symbols, bits: usize, count: u32) -> Option<Step> {
    let (symbol, length) = symbols.find(bits << (16 - count)).ok()?;
    let (advance, size) = meaning(symbol)?;
    let left = count.checked_sub(length + size)?;
    let value = extended(bits >> left & ((1 << size) - 1), size);
    Some(Step {
        bits: length + size,
        advance,
        value: if size == 0 { 0 } else { value as i16 },
    })
}
