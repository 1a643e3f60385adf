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
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Gif
            | ImageFormat::Bmp
            | ImageFormat::Tiff),
        ) => Ok(format),
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

/// Its name in lower case.
pub(super) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "jpeg",
        ImageFormat::Png => "png",
        ImageFormat::WebP => "webp",
        ImageFormat::Gif => "gif",
        ImageFormat::Bmp => "bmp",
        ImageFormat::Tiff => "tiff",
        _ => "unknown",
    }
}
