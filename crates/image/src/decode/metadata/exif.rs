//! EXIF: a TIFF directory, in which one tag says how the picture is to be turned.

use super::super::orientation::Orientation;

/// The tag.
const ORIENTATION: u16 = 0x0112;
/// Entries that are looked at, of the 65,535 that a directory may claim.
const MOST_ENTRIES: usize = 4_096;

/// The orientation in a block of EXIF. Allowed for: the prefix that JPEG puts before it, once or
/// twice, wherever it stands; a wrong number behind the byte order; BigTIFF; whole numbers of any
/// type, and their values at the wrong end of their place.
pub(super) fn orientation(bytes: &[u8]) -> Option<Orientation> {
    let mut bytes = bytes;
    while let Some(rest) = bytes
        .strip_prefix(b"Exif\0\0")
        .or_else(|| bytes.strip_prefix(b"EXIF\0\0"))
    {
        bytes = rest;
    }
    let big_endian = match bytes.get(..2)? {
        b"MM" => true,
        b"II" => false,
        _ => return None,
    };
    let reader = Reader { bytes, big_endian };
    let big = reader.number(2, 2)? == 43;
    let (directory, count_bytes, entry_bytes) = if big {
        (reader.number(8, 8)?, 8, 20)
    } else {
        (reader.number(4, 4)?, 2, 12)
    };
    let directory = usize::try_from(directory).ok()?;
    let count = reader.number(directory, count_bytes)?;
    let count = usize::try_from(count).ok()?.min(MOST_ENTRIES);
    for index in 0..count {
        let entry = directory.checked_add(count_bytes + entry_bytes * index)?;
        if reader.number(entry, 2)? == u64::from(ORIENTATION) {
            return reader.value(entry, if big { 12 } else { 8 });
        }
    }
    None
}

/// An orientation that EXIF knows.
pub(super) fn known(value: u64) -> Option<Orientation> {
    let value = u8::try_from(value).ok()?;
    matches!(value, 1..=8).then(|| Orientation::from_exif(value))
}

struct Reader<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl Reader<'_> {
    /// A whole number of so many bytes.
    fn number(&self, at: usize, length: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(length)?)?;
        let fold = |number, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big_endian {
            bytes.iter().fold(0, fold)
        } else {
            bytes.iter().rev().fold(0, fold)
        })
    }

    /// The value of an entry, in its place `offset` behind the entry's beginning.
    fn value(&self, entry: usize, offset: usize) -> Option<Orientation> {
        let at = entry.checked_add(offset)?;
        let kind = self.number(entry + 2, 2)?;
        let length = match kind {
            // BYTE, ASCII, SBYTE, UNDEFINED
            1 | 2 | 6 | 7 => 1,
            // LONG, SLONG, IFD
            4 | 9 | 13 => 4,
            // LONG8, SLONG8
            16 | 17 => 8,
            _ => 2,
        };
        // Some programs write a number of another length than its type says.
        [length, 2, 4, 1].into_iter().find_map(|length| {
            let value = self.number(at, length)?;
            // ASCII is a digit.
            let zero = if kind == 2 { u64::from(b'0') } else { 0 };
            known(value.checked_sub(zero)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EXIF with one entry.
    fn exif(header: &[u8], big_endian: bool, kind: u16, value: [u8; 4]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        let mut push = |number: u32, length: usize| {
            let number = if big_endian {
                number.to_be_bytes()[4 - length..].to_vec()
            } else {
                number.to_le_bytes()[..length].to_vec()
            };
            bytes.extend(number);
        };
        push(8, 4);
        push(1, 2);
        push(u32::from(ORIENTATION), 2);
        push(u32::from(kind), 2);
        push(1, 4);
        bytes.extend(value);
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn odd_byte_orders_and_types_are_read() {
        let six = Some(Orientation::Turn90);
        for (header, big_endian) in [
            (b"II*\0", false),
            (b"MM\0*", true),
            // The number behind the byte order in the other order, or another one.
            (b"II\0*", false),
            (b"MM*\0", true),
            (b"II\x55\0", false),
        ] {
            let (short, long) = if big_endian {
                ([0, 6, 0, 0], [0, 0, 0, 6])
            } else {
                ([6, 0, 0, 0], [6, 0, 0, 0])
            };
            for (kind, value) in [
                (3, short),
                (4, long),
                (1, [6, 0, 0, 0]),
                (8, short),
                (9, long),
                (13, long),
                (2, *b"6\0\0\0"),
                // A SHORT where a LONG belongs, and the reverse.
                (4, short),
                (3, long),
            ] {
                let file = exif(header, big_endian, kind, value);
                assert_eq!(orientation(&file), six, "{header:?} {kind} {value:?}");
                for prefix in [&b"Exif\0\0"[..], b"Exif\0\0Exif\0\0", b"EXIF\0\0"] {
                    assert_eq!(orientation(&[prefix, &file].concat()), six);
                }
            }
        }
    }

    #[test]
    fn bigtiff_is_read() {
        let mut file = b"II\x2b\0\x08\0\0\0\x10\0\0\0\0\0\0\0".to_vec();
        file.extend(b"\x01\0\0\0\0\0\0\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0");
        assert_eq!(orientation(&file), Some(Orientation::Turn270));
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        let upright = exif(b"II*\0", false, 3, [1, 0, 0, 0]);
        assert_eq!(orientation(&upright), Some(Orientation::Upright));
        for value in [0, 9, 200] {
            assert_eq!(
                orientation(&exif(b"II*\0", false, 3, [value, 0, 0, 0])),
                None
            );
        }
        for length in 0..upright.len() - 4 {
            let _ = orientation(&upright[..length]);
        }
        assert_eq!(orientation(b""), None);
        assert_eq!(orientation(b"II*\0\xff\xff\xff\xff"), None);
        assert_eq!(
            orientation(b"MM\0\x2b\0\x08\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
            None
        );
    }
}
