//! Huffman tables (T.81, annex C and F.2.2), made into lookups by the next bits of the scan.
//!
//! T.81 decodes a code bit by bit, then reads the value's bits. Here one lookup gives a code
//! together with its value: a DC difference, one or two AC coefficients, or, where the values are
//! not needed, as many AC coefficients as fit. What does not fit a lookup is decoded one at a time.

use super::bits::Cursor;
use super::unfit::Unfit;

/// Bits that index the lookup of AC coefficients with their values.
pub(super) const PAIR_BITS: u32 = 10;
/// Bits that index the lookup of DC differences.
const DC_BITS: u32 = 11;
/// Bits that index the lookup of AC coefficients without their values.
pub(super) const SKIP_BITS: u32 = 13;
/// Bits that index the lookup of symbols.
const SYMBOL_BITS: u32 = 9;

/// By how much the end of a block (EOB; T.81, F.1.2.2) advances the zigzag index: beyond any
/// coefficient, so that the sum still says which coefficient came last.
pub(super) const END_OF_BLOCK: usize = 128;
/// By how much a lookup advances the zigzag index if no coefficient fits it. The next one must be
/// decoded with [`AcTable::decode_one`] instead.
pub(super) const UNRESOLVED: usize = 255;

/// A Huffman table specification as files bring it (T.81, B.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TableSpec<'a> {
    /// How many codes there are of 1 to 16 bits (BITS).
    counts: [u8; 16],
    /// In the order of their codes (HUFFVAL).
    symbols: &'a [u8],
}

impl<'a> TableSpec<'a> {
    /// Reads a specification; returns what follows it, too.
    pub(super) fn parse(body: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&counts, rest) = body.split_first_chunk::<16>()?;
        let count = counts.iter().map(|&n| usize::from(n)).sum();
        if count > 256 {
            return None;
        }
        let (symbols, rest) = rest.split_at_checked(count)?;
        Some((TableSpec { counts, symbols }, rest))
    }
}

/// The lookup from codes to symbols.
#[derive(Debug, Clone, Default)]
struct SymbolTable {
    counts: [u8; 16],
    symbols: Vec<u8>,
    /// By the next [`SYMBOL_BITS`]: symbol and length of the code; length 0 if it is longer.
    short: Vec<(u8, u8)>,
    /// By length: the smallest 16 bits above all codes of this length and below (T.81 has
    /// MAXCODE, the largest code of each length).
    ends: [u32; 17],
    /// By length: the index of a symbol less its code (VALPTR - MINCODE; T.81, F.2.2.3).
    offsets: [i32; 17],
}

impl SymbolTable {
    fn is_of(&self, spec: &TableSpec) -> bool {
        !self.short.is_empty() && self.counts == spec.counts && self.symbols == spec.symbols
    }

    /// Gives each symbol its code (T.81, C.2). `None` if there are more codes of a length than bits
    /// allow.
    fn new(spec: &TableSpec) -> Option<Self> {
        let mut table = SymbolTable {
            counts: spec.counts,
            symbols: spec.symbols.to_vec(),
            short: vec![(0, 0); 1 << SYMBOL_BITS],
            ends: [0; 17],
            offsets: [0; 17],
        };
        let mut code = 0u32;
        let mut index = 0usize;
        for length in 1..=16u32 {
            let count = u32::from(spec.counts[length as usize - 1]);
            if code + count > 1 << length {
                return None;
            }
            table.offsets[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                if length <= SYMBOL_BITS {
                    let from = (code << (SYMBOL_BITS - length)) as usize;
                    let filled = &mut table.short[from..from + (1 << (SYMBOL_BITS - length))];
                    filled.fill((spec.symbols[index], length as u8));
                }
                code += 1;
                index += 1;
            }
            table.ends[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// The symbol whose code 16 bits begin with, and the code's length (DECODE; T.81, F.2.2.3).
    #[inline(never)]
    fn decode(&self, bits: usize) -> Result<(u8, u32), Unfit> {
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

/// The value of `size` bits: those that begin with 0 stand for negative numbers (EXTEND; T.81,
/// F.2.2.1).
#[inline(always)]
fn extend(bits: usize, size: u32) -> i32 {
    let bits = bits as i32;
    let half = (1 << size) >> 1;
    if bits < half {
        bits - (1 << size) + 1
    } else {
        bits
    }
}

/// The lookup of DC differences: what a block's DC coefficient adds to the DC predictor (T.81,
/// F.2.2.1).
#[derive(Debug, Clone)]
pub(super) struct DcTable {
    symbols: SymbolTable,
    /// By the next [`DC_BITS`]: value, and length of code and value together; length 0 if they are
    /// longer.
    short: Box<[(i16, u8); 1 << DC_BITS]>,
}

impl Default for DcTable {
    fn default() -> Self {
        DcTable {
            symbols: SymbolTable::default(),
            short: Box::new([(0, 0); 1 << DC_BITS]),
        }
    }
}

impl DcTable {
    /// Becomes the table of `spec`. `None` if that is no table, or has categories that 8-bit
    /// samples do not need (T.81, table F.1).
    pub(super) fn set(&mut self, spec: &TableSpec) -> Option<()> {
        if self.symbols.is_of(spec) {
            return Some(());
        }
        let symbols = SymbolTable::new(spec)?;
        if spec.symbols.iter().any(|&size| size > 11) {
            return None;
        }
        self.symbols = SymbolTable::default();
        for (bits, entry) in self.short.iter_mut().enumerate() {
            *entry = match symbols.decode(bits << (16 - DC_BITS)) {
                Ok((size, length)) if length + u32::from(size) <= DC_BITS => {
                    let size = u32::from(size);
                    let rest = DC_BITS - length - size;
                    let value = extend(bits >> rest & ((1 << size) - 1), size);
                    (value as i16, (length + size) as u8)
                }
                _ => (0, 0),
            };
        }
        self.symbols = symbols;
        Some(())
    }

    /// Decodes a difference, of at most 27 bits.
    #[inline(always)]
    pub(super) fn decode_difference(&self, cursor: &mut Cursor) -> Result<i32, Unfit> {
        let (value, length) = self.short[cursor.peek(DC_BITS)];
        if length > 0 {
            cursor.skip(u32::from(length));
            return Ok(i32::from(value));
        }
        let (size, length) = self.symbols.decode(cursor.peek(16))?;
        cursor.skip(length);
        let size = u32::from(size);
        if size == 0 {
            return Ok(0);
        }
        let value = extend(cursor.peek(size), size);
        cursor.skip(size);
        Ok(value)
    }
}

/// The lookups of AC coefficients with the zeros before them (T.81, F.2.2.2).
#[derive(Debug, Clone)]
pub(super) struct AcTable {
    symbols: SymbolTable,
    /// By the next [`PAIR_BITS`]: one or two coefficients, see [`Pair`].
    pairs: Box<[u64; 1 << PAIR_BITS]>,
    /// By the next [`SKIP_BITS`]: all coefficients that fit, their bits in the lowest byte, by how
    /// much they advance the zigzag index in the next.
    skips: Box<[u16; 1 << SKIP_BITS]>,
}

/// One or two coefficients in one word.
#[derive(Clone, Copy)]
pub(super) struct Pair(u64);

impl Pair {
    /// No coefficient fits the lookup.
    const UNRESOLVED: Pair = Pair::new((0, 0), (END_OF_BLOCK, 0), (UNRESOLVED - END_OF_BLOCK, 0));

    /// `bits` are those of both coefficients together and those of the first one; a coefficient is
    /// its advance of the zigzag index and its value.
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

    /// The bits of both coefficients, modulo 64.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0 as u32
    }

    /// The bits of the first coefficient; 0 if there is none, see [`UNRESOLVED`].
    #[inline(always)]
    pub(super) fn first_bits(self) -> u32 {
        (self.0 >> 24) as u32 & 63
    }

    /// By how much the first coefficient advances the zigzag index, and its value.
    #[inline(always)]
    pub(super) fn first(self) -> (usize, i16) {
        ((self.0 >> 8) as usize & 255, (self.0 >> 32) as i16)
    }

    /// The second coefficient likewise; the first one once more, with an advance of 0, if there is
    /// none.
    #[inline(always)]
    pub(super) fn second(self) -> (usize, i16) {
        ((self.0 >> 16) as usize & 255, (self.0 >> 48) as i16)
    }
}

/// An AC coefficient as it is coded.
#[derive(Clone, Copy)]
struct Coefficient {
    /// Of code and value together.
    bits: u32,
    /// By how much it advances the zigzag index.
    advance: usize,
    value: i16,
}

impl Default for AcTable {
    fn default() -> Self {
        AcTable {
            symbols: SymbolTable::default(),
            pairs: Box::new([0; 1 << PAIR_BITS]),
            skips: Box::new([0; 1 << SKIP_BITS]),
        }
    }
}

impl AcTable {
    /// Becomes the table of `spec`; `None` if that is no table.
    pub(super) fn set(&mut self, spec: &TableSpec) -> Option<()> {
        if self.symbols.is_of(spec) {
            return Some(());
        }
        let symbols = SymbolTable::new(spec)?;
        self.symbols = SymbolTable::default();
        for (bits, entry) in self.pairs.iter_mut().enumerate() {
            let pair = match first_coefficient(&symbols, bits, PAIR_BITS) {
                None => Pair::UNRESOLVED,
                Some(one) => {
                    let left = PAIR_BITS - one.bits;
                    let then = bits & ((1 << left) - 1);
                    let first = (one.advance, one.value);
                    match first_coefficient(&symbols, then, left) {
                        Some(two) if one.advance < END_OF_BLOCK => Pair::new(
                            (one.bits + two.bits, one.bits),
                            first,
                            (two.advance, two.value),
                        ),
                        _ => Pair::new((one.bits, one.bits), first, (0, one.value)),
                    }
                }
            };
            *entry = pair.0;
        }
        for (bits, entry) in self.skips.iter_mut().enumerate() {
            let (mut left, mut advance) = (SKIP_BITS, 0);
            while let Some(next) = first_coefficient(&symbols, bits & ((1 << left) - 1), left) {
                if advance + next.advance % END_OF_BLOCK > 63 {
                    break;
                }
                left -= next.bits;
                advance += next.advance;
                if advance >= END_OF_BLOCK {
                    break;
                }
            }
            if advance == 0 {
                advance = UNRESOLVED;
            }
            *entry = (SKIP_BITS - left) as u16 | (advance as u16) << 8;
        }
        self.symbols = symbols;
        Some(())
    }

    /// The next one or two coefficients; the cursor stays where it is.
    #[inline(always)]
    pub(super) fn peek_pair(&self, cursor: &Cursor) -> Pair {
        Pair(self.pairs[cursor.peek(PAIR_BITS)])
    }

    /// As many of the next coefficients as fit: their bits, modulo 64, and by how much they advance
    /// the zigzag index. The cursor stays where it is.
    #[inline(always)]
    pub(super) fn peek_skip(&self, cursor: &Cursor) -> (u32, usize) {
        let entry = self.skips[cursor.peek(SKIP_BITS)];
        (u32::from(entry), usize::from(entry >> 8))
    }

    /// Decodes one coefficient of any length, at most 26 bits: by how much it advances the zigzag
    /// index, and its value.
    #[inline(always)]
    pub(super) fn decode_one(&self, cursor: &mut Cursor) -> Result<(usize, i16), Unfit> {
        let pair = self.peek_pair(cursor);
        if pair.first_bits() > 0 {
            cursor.skip(pair.first_bits());
            return Ok(pair.first());
        }
        let (symbol, length) = self.symbols.decode(cursor.peek(16))?;
        cursor.skip(length);
        let (advance, size) = advance_and_size(symbol).ok_or(Unfit)?;
        if size == 0 {
            return Ok((advance, 0));
        }
        let value = extend(cursor.peek(size), size);
        cursor.skip(size);
        Ok((advance, value as i16))
    }
}

/// What a symbol (RRRRSSSS; T.81, F.1.2.2.1) says: by how much the zigzag index advances, and how
/// many bits of value follow. `None` for what 8-bit samples do not need (table F.2).
fn advance_and_size(symbol: u8) -> Option<(usize, u32)> {
    let (zero_run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
    match (zero_run, size) {
        (0, 0) => Some((END_OF_BLOCK, 0)),
        // ZRL: sixteen zeros.
        (15, 0) => Some((16, 0)),
        (_, 1..=10) => Some((zero_run + 1, size)),
        _ => None,
    }
}

/// The coefficient that the lowest `count` bits of `bits` begin with, if all of its code and value
/// is there and it is one that [`advance_and_size`] knows.
fn first_coefficient(symbols: &SymbolTable, bits: usize, count: u32) -> Option<Coefficient> {
    let (symbol, length) = symbols.decode(bits << (16 - count)).ok()?;
    let (advance, size) = advance_and_size(symbol)?;
    let left = count.checked_sub(length + size)?;
    let value = extend(bits >> left & ((1 << size) - 1), size);
    Some(Coefficient {
        bits: length + size,
        advance,
        value: if size == 0 { 0 } else { value as i16 },
    })
}
