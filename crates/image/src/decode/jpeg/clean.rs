//! A JPEG without everything that does not matter for its pixels.
//!
//! libjpeg reports the first thing that it does not like, a profile's bad marker as well as damaged
//! data, and nothing after that. So whether a file is damaged is not judged by what it says: once
//! it has said anything, it is given a copy that holds what pixels are made of and nothing else.
//! What it says of that is about the coded data.

use super::super::marker;
use super::super::segments::{Segment, Segments};
use super::markers::Markers;

/// What becomes of the last bytes of coded data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    /// They stay.
    Kept,
    /// What may be padding, zeros and ones before the end, goes. If that was none, data is missing
    /// then, which libjpeg notices.
    Trimmed,
}

/// The copy: colour segments as they should be written; tables, frame and scans as they are, a
/// sequential scan's spectral selection aside, which some cameras write wrongly; an end. Gone are
/// other application segments, comments, and bytes outside of segments.
pub(super) fn clean(bytes: &[u8], markers: &Markers, tail: Tail) -> Vec<u8> {
    let mut copy = vec![0xff, marker::SOI];
    copy.extend(markers.colour_segments());
    for Segment {
        code,
        body,
        whole,
        end,
    } in Segments::of(bytes)
    {
        match code {
            marker::APP0..=marker::APP15 | marker::COM => {}
            marker::SOS => {
                copy.extend_from_slice(whole);
                let selection = copy.len() - 3;
                if markers.is_sequential() && body.len() >= 6 {
                    copy[selection..].copy_from_slice(&[0, 63, 0]);
                }
                let data_end = Segments::next_marker(bytes, end).unwrap_or(bytes.len());
                let data = &bytes[end..data_end];
                let is_last = matches!(bytes.get(data_end + 1), None | Some(&marker::EOI));
                copy.extend_from_slice(if is_last && tail == Tail::Trimmed {
                    trimmed(data)
                } else {
                    data
                });
            }
            _ => copy.extend_from_slice(whole),
        }
    }
    copy.extend([0xff, marker::EOI]);
    copy
}

/// Data without the zeros and ones at its end.
fn trimmed(data: &[u8]) -> &[u8] {
    let mut rest = data;
    while let [before @ .., 0 | 0xff] = rest {
        rest = before;
    }
    // X'FF' in the data has a zero stuffed behind it.
    let stuffed = data[rest.len()..].starts_with(&[0xff, 0]);
    if stuffed {
        &data[..rest.len() + 2]
    } else {
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(bytes: &[u8], tail: Tail) -> Vec<u8> {
        clean(bytes, &Markers::of(bytes), tail)
    }

    #[test]
    fn what_does_not_matter_goes_and_the_end_comes() {
        let frame = b"\xff\xc0\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0";
        let scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0";
        let mut odd = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x07\x01\0\0\x01\0\x01\0\0".to_vec();
        odd.extend(b"\xff\xe2\0\x10ICC_PROFILE\0\0\0junk\xff\xff");
        odd.extend(frame);
        odd.extend(b"\xff\xda\0\x08\x01\x01\0\0\0\0");
        odd.extend(b"data\xff\x00\xff\xd0more\0\0\xff\xff");
        let mut right = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0".to_vec();
        right.extend(frame);
        right.extend(scan);
        right.extend(b"data\xff\x00\xff\xd0more");
        let with = |end: &[u8]| [&right[..], end].concat();
        assert_eq!(cleaned(&odd, Tail::Kept), with(b"\0\0\xff\xff\xff\xd9"));
        assert_eq!(cleaned(&odd, Tail::Trimmed), with(b"\xff\xd9"));
        // Behind the end there is nothing of the picture.
        odd.extend(b"\xff\xd9\xff\xda\0\x08\x01\x01\0\0\x3f\0again");
        assert_eq!(cleaned(&odd, Tail::Trimmed), with(b"\xff\xd9"));
    }
}
