//! A JPEG's marker segments, found as libjpeg finds them: what lies between them is passed over.

use super::marker;

/// A marker segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    /// The marker's code.
    pub code: u8,
    /// What the segment holds, without its length.
    pub body: &'a [u8],
    /// From the marker on, all of it.
    pub whole: &'a [u8],
    /// Where the byte after it is.
    pub end: usize,
}

/// The segments from the start of image to its end, or to where the file ends. Coded data, fill
/// bytes, markers that stand alone and bytes that belong to nothing are passed over.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Segments<'a> {
    /// Begins after the start of image.
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Segments { bytes, at: 2 }
    }

    /// Where the next marker that is no restart begins, from `at` on: where coded data ends.
    pub(super) fn next_marker(bytes: &[u8], at: usize) -> Option<usize> {
        let mut at = at;
        loop {
            at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
            match *bytes.get(at + 1)? {
                0 | marker::TEM | marker::RST0..=marker::RST7 => at += 2,
                0xff => at += 1,
                _ => return Some(at),
            }
        }
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        loop {
            let start = Segments::next_marker(self.bytes, self.at)?;
            let code = self.bytes[start + 1];
            match code {
                marker::EOI => return None,
                marker::SOI => self.at = start + 2,
                _ => {
                    let &[high, low] = self.bytes.get(start + 2..start + 4)? else {
                        return None;
                    };
                    let end = start + 2 + usize::from(u16::from_be_bytes([high, low]));
                    self.at = end;
                    return Some(Segment {
                        code,
                        body: self.bytes.get(start + 4..end)?,
                        whole: &self.bytes[start..end],
                        end,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_segments_is_passed_over() {
        let bytes = b"\xff\xd8junk\xff\xff\xe0\0\x03A\0\xff\0\xff\x01\xff\xdb\0\x02\
            \xff\xda\0\x03S12\xff\x0034\xff\xd05\xff\xfe\0\x02\xff\xd9\xff\xe1\0\x02";
        let codes: Vec<_> = Segments::of(bytes).map(|s| (s.code, s.body)).collect();
        let expected: [(u8, &[u8]); 4] = [
            (marker::APP0, b"A"),
            (marker::DQT, b""),
            (marker::SOS, b"S"),
            (marker::COM, b""),
        ];
        assert_eq!(codes, expected);
        // A length that leads beyond the file, or is less than its own two bytes, ends it.
        assert_eq!(Segments::of(b"\xff\xd8\xff\xe0\0\x09abc").next(), None);
        assert_eq!(Segments::of(b"\xff\xd8\xff\xe0\0\x01abc").next(), None);
        assert_eq!(Segments::of(b"\xff").next(), None);
    }
}
