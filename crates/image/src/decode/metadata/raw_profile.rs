//! "Raw profile type ...": binary metadata in a PNG's text, as hexadecimal digits. ImageMagick,
//! GraphicsMagick, ExifTool and others write EXIF and XMP like this.

/// The bytes of a profile that may hold EXIF or XMP: a line break, a name, a line break, the number
/// of bytes, a line break, then the digits in lines.
pub(super) fn of(keyword: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    let name = keyword.strip_prefix(b"Raw profile type")?;
    let name = name.trim_ascii().to_ascii_lowercase();
    if !matches!(&name[..], b"exif" | b"app1" | b"xmp") {
        return None;
    }
    let text = text.trim_ascii_start();
    let (_name, text) = split_line(text)?;
    let text = text.trim_ascii_start();
    let (_length, text) = split_line(text)?;
    let digits = text.iter().filter_map(|&byte| (byte as char).to_digit(16));
    let digits: Vec<u8> = digits.map(|digit| digit as u8).collect();
    let pairs = digits.chunks_exact(2);
    Some(pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == b'\n')?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_become_bytes() {
        let text = b"\nexif\n       6\n45786966\n0000\n";
        for name in ["exif", "APP1", "xmp"] {
            let keyword = format!("Raw profile type {name}");
            let profile = of(keyword.as_bytes(), text).unwrap();
            assert_eq!(profile, b"Exif\0\0");
        }
        assert_eq!(of(b"Raw profile type icc", text), None);
        assert_eq!(of(b"Raw profile type exif", b"exif"), None);
        assert_eq!(of(b"Comment", text), None);
    }
}
