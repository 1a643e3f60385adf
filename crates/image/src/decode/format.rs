//! Formats are recognised by content, never by the name of a file.

use super::error::DecodeError;
use image::ImageFormat;

/// The format, by the first bytes.
pub(super) fn sniff(bytes: &[u8]) -> Result<ImageFormat, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let unknown = |looks_like: &str| {
        Err(DecodeError::UnknownFormat {
            looks_like: looks_like.into(),
        })
    };
    match image::guess_format(bytes) {
        Ok(format) if NAMES.iter().any(|(known, _)| *known == format) => Ok(format),
        Ok(other) => unknown(&format!("it looks like {other:?}")),
        Err(_) => {
            let head = &bytes[..bytes.len().min(256)];
            let text = String::from_utf8_lossy(head).to_ascii_lowercase();
            let text = text.trim_start_matches('\u{feff}').trim_start();
            match text {
                t if t.starts_with("<svg") || (t.starts_with("<?xml") && t.contains("<svg")) => {
                    unknown("it looks like SVG")
                }
                t if t.starts_with("<!doctype html") || t.starts_with("<html") => {
                    unknown("it looks like HTML")
                }
                t if t.starts_with('{') || t.starts_with('[') => unknown("it looks like JSON"),
                t if t.starts_with("%pdf") => unknown("it looks like PDF"),
                _ if bytes.get(4..8) == Some(b"ftyp") => unknown("it looks like HEIF or video"),
                // Its bytes are not told: they are what a message holds.
                _ => unknown("it begins like no file known here"),
            }
        }
    }
}

/// The formats that are decoded here, with their names in lower case. Their order is that of the
/// exchange with helpers.
const NAMES: [(ImageFormat, &str); 6] = [
    (ImageFormat::Jpeg, "jpeg"),
    (ImageFormat::Png, "png"),
    (ImageFormat::WebP, "webp"),
    (ImageFormat::Gif, "gif"),
    (ImageFormat::Bmp, "bmp"),
    (ImageFormat::Tiff, "tiff"),
];

/// Of what is none of them.
const UNKNOWN: &str = "unknown";

/// Its name in lower case.
pub(super) fn name(format: ImageFormat) -> &'static str {
    let known = NAMES.iter().find(|(known, _)| *known == format);
    known.map_or(UNKNOWN, |(_, name)| name)
}

/// A name as a number.
pub(crate) fn index_of_name(name: &str) -> u8 {
    let known = NAMES.iter().position(|(_, known)| *known == name);
    known.map_or(u8::MAX, |index| index as u8)
}

/// The name that a number stands for.
pub(crate) fn name_at(index: u8) -> &'static str {
    NAMES
        .get(usize::from(index))
        .map_or(UNKNOWN, |(_, name)| name)
}
