//! Formats are recognised by content, never by the name of a file.

use super::error::DecodeError;
use super::foreign;

/// The formats that are decoded here. Their order is that of the exchange with helpers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Avif,
    Heic,
    JpegXl,
}

/// All of them.
const ALL: [Format; 9] = [
    Format::Jpeg,
    Format::Png,
    Format::WebP,
    Format::Gif,
    Format::Bmp,
    Format::Tiff,
    Format::Avif,
    Format::Heic,
    Format::JpegXl,
];

impl Format {
    /// Its name in lower case.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "jpeg",
            Format::Png => "png",
            Format::WebP => "webp",
            Format::Gif => "gif",
            Format::Bmp => "bmp",
            Format::Tiff => "tiff",
            Format::Avif => "avif",
            Format::Heic => "heic",
            Format::JpegXl => "jxl",
        }
    }

    /// The cargo feature that this build would need to read it.
    fn missing_feature(self) -> Option<&'static str> {
        match self {
            Format::Heic if !cfg!(feature = "heic") => Some("heic"),
            Format::JpegXl if !cfg!(feature = "jpeg-xl") => Some("jpeg-xl"),
            _ => None,
        }
    }
}

/// The format, by the first bytes.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    let unknown = |looks_like: String| Err(DecodeError::UnknownFormat { looks_like });
    if let Some(format) = decoded_here(bytes) {
        return match format.missing_feature() {
            None => Ok(format),
            Some(feature) => {
                let name = format.name().to_uppercase();
                unknown(format!("it looks like {name}, for the feature `{feature}`"))
            }
        };
    }
    match foreign::name(bytes) {
        Some(name) => unknown(format!("it looks like {name}")),
        // Its bytes are not told: they are what a message holds.
        None => unknown("it begins like no file known here".into()),
    }
}

/// The format, if it is one of [`Format`]; perhaps of another build.
fn decoded_here(bytes: &[u8]) -> Option<Format> {
    let is_other = bytes.starts_with(b"\xff\xd8\xff\xf7")
        || (bytes.starts_with(b"II*\0") && bytes.get(8..10) == Some(b"CR"));
    if is_other {
        return None;
    }
    let beginnings: [(&[u8], Format); 12] = [
        (b"\xff\xd8\xff", Format::Jpeg),
        (b"\x89PNG\r\n\x1a\n", Format::Png),
        (b"GIF87a", Format::Gif),
        (b"GIF89a", Format::Gif),
        (b"BM", Format::Bmp),
        // BigTIFF, and TIFF with its number in the other order, which Pillow reads, too.
        (b"II\x2b\0", Format::Tiff),
        (b"MM\0\x2b", Format::Tiff),
        (b"II\x2a\0", Format::Tiff),
        (b"MM\0\x2a", Format::Tiff),
        (b"\xff\x0a", Format::JpegXl),
        (b"\0\0\0\x0cJXL \r\n\x87\n", Format::JpegXl),
        (b"MM\x2a\0", Format::Tiff),
    ];
    let known = beginnings
        .iter()
        .find(|(begin, _)| bytes.starts_with(begin));
    if let Some((_, format)) = known {
        return Some(*format);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Some(Format::WebP);
    }
    let brands = foreign::Brands::of(bytes)?;
    if brands.has(&[b"avif", b"avis"]) {
        return Some(Format::Avif);
    }
    if brands.has(&[
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs",
    ]) {
        return Some(Format::Heic);
    }
    if !brands.has(&[b"mif1", b"mif2", b"msf1"]) || brands.other_codec().is_some() {
        return None;
    }
    // Any codec: the kinds of its items tell, where they stand early.
    let early = &bytes[..bytes.len().min(EARLY)];
    let has = |kind: &[u8; 4]| early.windows(4).any(|four| four == kind);
    match has(b"av01") && !has(b"hvc1") {
        true => Some(Format::Avif),
        false => Some(Format::Heic),
    }
}

/// Where a file's list of items has begun.
const EARLY: usize = 64 << 10;

/// Of what is none of them.
const UNKNOWN: &str = "unknown";

/// A name as a number.
pub(crate) fn index_of_name(name: &str) -> u8 {
    let known = ALL.iter().position(|known| known.name() == name);
    known.map_or(u8::MAX, |index| index as u8)
}

/// The name that a number stands for.
pub(crate) fn name_at(index: u8) -> &'static str {
    ALL.get(usize::from(index))
        .map_or(UNKNOWN, |known| known.name())
}
