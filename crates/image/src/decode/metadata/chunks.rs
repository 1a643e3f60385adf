//! The chunks of PNG and of RIFF.

use super::LARGEST;
use std::io::Read;

/// Kind and data of every chunk of a PNG.
pub(super) fn of_png(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&[a, b, c, d, k, l, m, n], behind) = rest.split_first_chunk()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let data = behind.get(..length)?;
        // Behind the data is a checksum.
        rest = behind.get(length + 4..).unwrap_or_default();
        Some(([k, l, m, n], data))
    })
}

/// Kind and data of every chunk of a RIFF file; the last one may end early.
pub(super) fn of_riff(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = bytes.get(12..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&[k, l, m, n, a, b, c, d], behind) = rest.split_first_chunk()?;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let data = &behind[..length.min(behind.len())];
        // A byte is added where the length is odd.
        let next = length.checked_add(length % 2)?;
        rest = behind.get(next..).unwrap_or_default();
        Some(([k, l, m, n], data))
    })
}

/// Keyword and text of a chunk of PNG that has them, unpacked.
pub(super) fn png_text(kind: [u8; 4], data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    if !matches!(&kind, b"tEXt" | b"zTXt" | b"iTXt") {
        return None;
    }
    let (keyword, rest) = split_at_zero(data)?;
    let is_ours = keyword.starts_with(b"Raw profile type") || keyword == b"XML:com.adobe.xmp";
    if !is_ours {
        return None;
    }
    let text = match &kind {
        b"tEXt" => rest.to_vec(),
        // A zero: the method of packing.
        b"zTXt" => inflated(rest.get(1..)?),
        _ => {
            let (&[packed, _], rest) = rest.split_first_chunk()?;
            let (_language, rest) = split_at_zero(rest)?;
            let (_translated, text) = split_at_zero(rest)?;
            if packed == 1 {
                inflated(text)
            } else {
                text.to_vec()
            }
        }
    };
    Some((keyword.to_vec(), text))
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// What can be unpacked, up to a cap.
fn inflated(packed: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let unpacking = flate2::read::ZlibDecoder::new(packed);
    // What is there before an error is read all the same.
    let _ = unpacking.take(LARGEST).read_to_end(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_where_the_file_ends() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x02abcdXY\0\0\0\0\0\0\0\x09tEXtcut";
        let kinds: Vec<_> = of_png(png).collect();
        assert_eq!(kinds, [(*b"abcd", &b"XY"[..])]);
        let riff = b"RIFF\0\0\0\0WEBPabcd\x01\0\0\0X\0EXIF\xff\xff\xff\xffcut";
        let kinds: Vec<_> = of_riff(riff).collect();
        assert_eq!(kinds, [(*b"abcd", &b"X"[..]), (*b"EXIF", b"cut")]);
    }
}
