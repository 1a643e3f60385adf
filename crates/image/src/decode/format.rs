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
    if let Some(format) = decoded_here(bytes) {
        return Ok(format);
    }
    if let Some(name) = foreign(bytes) {
        return unknown(&format!("it looks like {name}"));
    }
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
        // Its bytes are not told: they are what a message holds.
        _ => unknown("it begins like no file known here"),
    }
}

/// The format, if it is one of [`NAMES`].
fn decoded_here(bytes: &[u8]) -> Option<ImageFormat> {
    // BigTIFF, and TIFF with its number in the other order, which Pillow reads, too.
    let tiff = [b"II\x2b\0", b"MM\0\x2b", b"II\x2a\0", b"MM\0\x2a"];
    if tiff.iter().any(|magic| bytes.starts_with(*magic)) {
        return Some(ImageFormat::Tiff);
    }
    if bytes.get(4..8) == Some(b"ftyp") && by_brand(bytes) == AVIF {
        return Some(ImageFormat::Avif);
    }
    let format = image::guess_format(bytes).ok()?;
    NAMES
        .iter()
        .any(|(known, _)| *known == format)
        .then_some(format)
}

/// The name of what is a picture, or lies where pictures lie, and is not decoded here.
fn foreign(bytes: &[u8]) -> Option<String> {
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some(by_brand(bytes).into());
    }
    let beginnings: [(&[u8], &str); 12] = [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"8BPS", "Photoshop"),
        (b"FUJIFILMCCD-RAW", "a camera's raw file"),
        (b"IIRO", "a camera's raw file"),
        (b"IIU\0", "a camera's raw file"),
        (b"II\xbc\x01", "JPEG XR"),
        (b"PK\x03\x04", "ZIP"),
        (b"\x1f\x8b", "gzip"),
        (b"\0\x05\x16\x07", "metadata of macOS"),
    ];
    let known = beginnings
        .iter()
        .find(|(begin, _)| bytes.starts_with(begin));
    if let Some((_, name)) = known {
        return Some((*name).into());
    }
    let format = image::guess_format(bytes).ok()?;
    Some(format!("{format:?}"))
}

const AVIF: &str = "AVIF";

/// What ISO's base media format holds, by its brands (ISO/IEC 14496-12, 4.3).
fn by_brand(bytes: &[u8]) -> &'static str {
    let length = bytes
        .first_chunk()
        .map_or(0, |first| u32::from_be_bytes(*first)) as usize;
    let brands = bytes
        .get(8..length.clamp(8, 256).min(bytes.len()))
        .unwrap_or_default();
    let (brands, _) = brands.as_chunks::<4>();
    // The first is the file's own, the second a version; then those that it is compatible with.
    let has = |wanted: &[&[u8; 4]]| brands.iter().any(|brand| wanted.contains(&brand));
    if has(&[b"avif", b"avis"]) {
        AVIF
    } else if has(&[
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
    ]) {
        "HEIC"
    } else if has(&[b"crx "]) {
        "a camera's raw file"
    } else {
        "a video"
    }
}

/// The formats that are decoded here, with their names in lower case. Their order is that of the
/// exchange with helpers.
const NAMES: [(ImageFormat, &str); 7] = [
    (ImageFormat::Jpeg, "jpeg"),
    (ImageFormat::Png, "png"),
    (ImageFormat::WebP, "webp"),
    (ImageFormat::Gif, "gif"),
    (ImageFormat::Bmp, "bmp"),
    (ImageFormat::Tiff, "tiff"),
    (ImageFormat::Avif, "avif"),
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
