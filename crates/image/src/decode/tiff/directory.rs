//! The first directory of a TIFF, in either byte order, classic or BigTIFF.

use super::damaged;
use crate::decode::error::DecodeError;
use std::collections::BTreeMap;

/// Entries that are read, of the 65,535 that a directory may claim.
const MOST_ENTRIES: u64 = 4_096;

/// Where a tag's values are.
#[derive(Debug, Clone, Copy)]
struct Entry {
    kind: u64,
    count: u64,
    at: u64,
}

/// The tags of the first picture.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    /// Whether numbers have their highest byte first.
    pub big_endian: bool,
    entries: BTreeMap<u16, Entry>,
}

impl<'a> Directory<'a> {
    /// # Errors
    /// If there is no directory.
    pub(super) fn first(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut directory = Directory {
            bytes,
            big_endian: bytes.starts_with(b"MM"),
            entries: BTreeMap::new(),
        };
        let read = directory.first_at().and_then(|at| directory.read(at));
        read.ok_or_else(|| damaged("it ends before its directory"))?;
        Ok(directory)
    }

    /// The directories that a tag names, as far as they can be read.
    pub(super) fn named_by(&self, tag: u16) -> impl Iterator<Item = Directory<'a>> {
        const MOST: u64 = 16;
        (0..self.count(tag).min(MOST)).filter_map(move |index| {
            let mut inner = Directory {
                bytes: self.bytes,
                big_endian: self.big_endian,
                entries: BTreeMap::new(),
            };
            inner.read(self.value(tag, index)?)?;
            Some(inner)
        })
    }

    fn is_big(&self) -> Option<bool> {
        Some(self.number(2, 2)? == 43)
    }

    /// Where the first one begins.
    fn first_at(&self) -> Option<u64> {
        let offset_bytes = if self.is_big()? { 8 } else { 4 };
        self.number(offset_bytes, offset_bytes)
    }

    fn read(&mut self, at: u64) -> Option<()> {
        let big = self.is_big()?;
        let offset_bytes = if big { 8 } else { 4 };
        let count_bytes = if big { 8 } else { 2 };
        let count = self.number(at, count_bytes)?;
        for index in 0..count.min(MOST_ENTRIES) {
            let entry_bytes = 4 + 2 * offset_bytes;
            let entry = at.checked_add(count_bytes + index * entry_bytes)?;
            let tag = self.number(entry, 2)? as u16;
            let kind = self.number(entry + 2, 2)?;
            let count = self.number(entry + 4, offset_bytes)?;
            let place = entry + 4 + offset_bytes;
            let fits = count.saturating_mul(width(kind)) <= offset_bytes;
            let at = if fits {
                place
            } else {
                self.number(place, offset_bytes)?
            };
            // Of a tag that is there twice, the first one counts.
            let entry = Entry { kind, count, at };
            self.entries.entry(tag).or_insert(entry);
        }
        Some(())
    }

    fn number(&self, at: u64, length: u64) -> Option<u64> {
        let end = usize::try_from(at.checked_add(length)?).ok()?;
        let bytes = self.bytes.get(usize::try_from(at).ok()?..end)?;
        Some(self.fold(bytes))
    }

    fn fold(&self, bytes: &[u8]) -> u64 {
        let fold = |number, byte: &u8| number << 8 | u64::from(*byte);
        if self.big_endian {
            bytes.iter().fold(0, fold)
        } else {
            bytes.iter().rev().fold(0, fold)
        }
    }

    /// How many values a tag has; none if it is not there.
    pub(super) fn count(&self, tag: u16) -> u64 {
        self.entries.get(&tag).map_or(0, |entry| entry.count)
    }

    /// One of a tag's values, as a whole number.
    pub(super) fn value(&self, tag: u16, index: u64) -> Option<u64> {
        let entry = self.entries.get(&tag).filter(|e| index < e.count)?;
        let width = width(entry.kind);
        self.number(entry.at.checked_add(index.checked_mul(width)?)?, width)
    }

    /// One of a tag's values, as a fraction.
    pub(super) fn fraction(&self, tag: u16, index: u64) -> Option<f32> {
        const RATIONAL: u64 = 5;
        let entry = self.entries.get(&tag).filter(|e| index < e.count)?;
        if entry.kind != RATIONAL {
            return self.value(tag, index).map(|value| value as f32);
        }
        let at = entry.at.checked_add(index.checked_mul(8)?)?;
        let (above, below) = (self.number(at, 4)?, self.number(at + 4, 4)?);
        Some(above as f32 / below.max(1) as f32)
    }

    /// The bytes of a tag's values.
    pub(super) fn bytes(&self, tag: u16) -> Option<&'a [u8]> {
        let entry = self.entries.get(&tag)?;
        let length = usize::try_from(entry.count.checked_mul(width(entry.kind))?).ok()?;
        let at = usize::try_from(entry.at).ok()?;
        self.bytes.get(at..at.checked_add(length)?)
    }

    /// The file's bytes from `at` on, `length` of them or as many as there are.
    pub(super) fn data(&self, at: u64, length: u64) -> &'a [u8] {
        let end = usize::try_from(at.saturating_add(length)).unwrap_or(usize::MAX);
        let end = end.min(self.bytes.len());
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(end);
        &self.bytes[at..end]
    }
}

/// Bytes of a value of a kind.
fn width(kind: u64) -> u64 {
    match kind {
        // BYTE, ASCII, SBYTE, UNDEFINED
        1 | 2 | 6 | 7 => 1,
        // LONG, SLONG, FLOAT, IFD
        4 | 9 | 11 | 13 => 4,
        // RATIONAL, SRATIONAL, DOUBLE, LONG8, SLONG8, IFD8
        5 | 10 | 12 | 16..=18 => 8,
        _ => 2,
    }
}
