//! XMP: the property `tiff:Orientation`, as an attribute or as an element.

use super::super::orientation::Orientation;

const PROPERTY: &[u8] = b"tiff:Orientation";
/// Bytes between the name and the value: an equals sign, quotation marks, blanks.
const BETWEEN: usize = 16;

/// The orientation in a packet of XMP, in UTF-8 or UTF-16.
pub(super) fn orientation(packet: &[u8]) -> Option<Orientation> {
    if packet.iter().take(64).filter(|&&byte| byte == 0).count() > 8 {
        // ASCII in UTF-16, in either order.
        let ascii: Vec<u8> = packet.iter().copied().filter(|&byte| byte != 0).collect();
        return in_ascii(&ascii);
    }
    in_ascii(packet)
}

fn in_ascii(packet: &[u8]) -> Option<Orientation> {
    let mut rest = packet;
    while let Some(at) = rest.iter().position(|&byte| byte == PROPERTY[0]) {
        rest = &rest[at..];
        let Some(behind) = rest.strip_prefix(PROPERTY) else {
            rest = &rest[1..];
            continue;
        };
        let value = behind
            .iter()
            .take(BETWEEN)
            .find(|byte| !b" \t\r\n=\"'>".contains(byte));
        if let Some(digit @ b'1'..=b'8') = value {
            return Some(Orientation::from_exif(digit - b'0'));
        }
        rest = behind;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_and_elements_are_read() {
        for text in [
            "<rdf:Description tiff:Orientation=\"6\"/>",
            "<rdf:Description tiff:Orientation = '6'/>",
            "<tiff:Orientation>6</tiff:Orientation>",
            "<tiff:Orientation>\n  6\n</tiff:Orientation>",
            "<x t='tiff' tiff:Other='3' tiff:Orientation='0'/> <y tiff:Orientation='6'/>",
        ] {
            assert_eq!(
                orientation(text.as_bytes()),
                Some(Orientation::Turn90),
                "{text}"
            );
            let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
            assert_eq!(orientation(&wide), Some(Orientation::Turn90), "{text}");
        }
        for text in [
            "",
            "tiff:Orientation",
            "tiff:Orientation=\"9\"",
            "exif:Orientation='6'",
        ] {
            assert_eq!(orientation(text.as_bytes()), None, "{text}");
        }
    }
}
