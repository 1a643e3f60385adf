//! What a file's metadata say of how the picture is to be turned.
//!
//! One reader for all formats, which puts up with what programs write: other byte orders and types
//! than the standard's, prefixes where none belong, EXIF as hexadecimal text. EXIF counts first,
//! then XMP; what cannot be read counts as upright and never costs the picture, as in other
//! readers.
//!
//! | file | what it reads |
//! |---|---|
//! | `mod` | where the formats keep EXIF and XMP |
//! | `exif` | EXIF: a directory of tags, as in TIFF |
//! | `xmp` | XMP: the one property in its XML |
//! | `chunks` | the chunks of PNG and of RIFF |
//! | `raw_profile` | "Raw profile type ..." in PNG, which ImageMagick and others write |

mod chunks;
mod exif;
mod raw_profile;
mod xmp;

use super::format::Format;
use super::marker;
use super::orientation::Orientation;
use super::segments::{Segment, Segments};

/// Largest metadata that are unpacked, bytes.
const LARGEST: u64 = 1 << 20;

/// The orientations found so far, by how much they count.
#[derive(Debug, Default)]
struct Found {
    exif: Option<Orientation>,
    xmp: Option<Orientation>,
}

impl Found {
    fn exif(&mut self, bytes: &[u8]) {
        self.exif = self.exif.or_else(|| exif::orientation(bytes));
    }

    fn xmp(&mut self, bytes: &[u8]) {
        self.xmp = self.xmp.or_else(|| xmp::orientation(bytes));
    }

    /// Bytes that may be the one or the other.
    fn either(&mut self, bytes: &[u8]) {
        match bytes.strip_prefix(XMP_IN_JPEG) {
            Some(xmp) => self.xmp(xmp),
            None => self.exif(bytes),
        }
    }

    fn orientation(self) -> Orientation {
        self.exif.or(self.xmp).unwrap_or_default()
    }
}

/// What an XMP segment of a JPEG begins with.
const XMP_IN_JPEG: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// Of a JPEG: its APP1 segments before the first scan.
pub(super) fn of_jpeg(bytes: &[u8]) -> Orientation {
    let mut found = Found::default();
    for Segment { code, body, .. } in Segments::of(bytes) {
        match code {
            marker::APP1 => found.either(body),
            marker::SOS => break,
            _ => {}
        }
    }
    found.orientation()
}

/// Of a file of another format; TIFF's own directory is not read here.
pub(super) fn of(bytes: &[u8], format: Format) -> Orientation {
    match format {
        Format::Jpeg => of_jpeg(bytes),
        Format::Png => of_png(bytes),
        Format::WebP => of_webp(bytes),
        _ => Orientation::Upright,
    }
}

/// Of a PNG: `eXIf`, or texts, before or behind the picture.
fn of_png(bytes: &[u8]) -> Orientation {
    let mut found = Found::default();
    for (kind, data) in chunks::of_png(bytes) {
        if kind == *b"eXIf" {
            found.exif(data);
        } else if let Some((keyword, text)) = chunks::png_text(kind, data) {
            if keyword == b"XML:com.adobe.xmp" {
                found.xmp(&text);
            } else if let Some(profile) = raw_profile::of(&keyword, &text) {
                if keyword.ends_with(b"xmp") {
                    found.xmp(&profile);
                } else {
                    found.either(&profile);
                }
            }
        }
    }
    found.orientation()
}

/// Of a WebP: its chunks `EXIF` and `XMP `.
fn of_webp(bytes: &[u8]) -> Orientation {
    let mut found = Found::default();
    for (kind, data) in chunks::of_riff(bytes) {
        match &kind {
            b"EXIF" => found.either(data),
            b"XMP " => found.xmp(data),
            _ => {}
        }
    }
    found.orientation()
}

/// Of a TIFF: the tag's own value, if there is one, and else what the XMP in it says.
pub(super) fn of_tags(tag: Option<u64>, xmp: &[u8]) -> Orientation {
    let of_tag = tag.and_then(exif::known);
    of_tag.or_else(|| xmp::orientation(xmp)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
