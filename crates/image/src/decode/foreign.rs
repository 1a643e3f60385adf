//! Names of what is a picture, or lies where pictures lie, and is not decoded here: whoever meets
//! a dead letter should know what the file is.

/// Beginnings of files, and what they are.
const BEGINNINGS: [(&[u8], &str); 42] = [
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II\xbc", "JPEG XR"),
    (b"\xff\xd8\xff\xf7", "JPEG-LS"),
    (b"8BPS", "Photoshop (PSD)"),
    (b"gimp xcf", "GIMP (XCF)"),
    (b"FUJIFILMCCD-RAW", "a camera's raw file (RAF)"),
    (b"IIRO", "a camera's raw file (ORF)"),
    (b"IIRS", "a camera's raw file (ORF)"),
    (b"MMOR", "a camera's raw file (ORF)"),
    (b"IIU\0", "a camera's raw file (RW2)"),
    (b"II\x1a\0\0\0HEAPCCDR", "a camera's raw file (CRW)"),
    (b"\0MRM", "a camera's raw file (MRW)"),
    (b"FOVb", "a camera's raw file (X3F)"),
    (b"icns", "icons of macOS (ICNS)"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
    (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"),
    (b"qoif", "QOI"),
    (b"farbfeld", "farbfeld"),
    (b"DDS ", "DirectDraw (DDS)"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance (HDR)"),
    (b"#?RGBE", "Radiance (HDR)"),
    (b"SIMPLE  =", "FITS"),
    (b"AT&TFORM", "DjVu"),
    (b"\x01\xda", "SGI"),
    (b"\x59\xa6\x6a\x95", "Sun raster"),
    (b"/* XPM", "XPM"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"BA", "an array of bitmaps of OS/2"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"\0\0\x01\xba", "a video"),
    (b"\0\0\x01\xb3", "a video"),
    (b"OggS", "a video"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\0\x05\x16\x07", "metadata of macOS"),
];

/// The name, if it is one of these.
pub(super) fn name(bytes: &[u8]) -> Option<String> {
    if let Some(brands) = Brands::of(bytes) {
        return Some(match brands.other_codec() {
            Some(codec) => format!("HEIF with pictures in {codec}"),
            None if brands.has(&[b"crx "]) => "a camera's raw file (CR3)".into(),
            None => "a video".into(),
        });
    }
    let known = BEGINNINGS
        .iter()
        .find(|(begin, _)| bytes.starts_with(begin));
    let name = known.map(|(_, name)| *name);
    name.or_else(|| by_fields(bytes))
        .or_else(|| by_text(bytes))
        .map(Into::into)
}

/// What is told by more than how it begins.
fn by_fields(bytes: &[u8]) -> Option<&'static str> {
    let at = |range: std::ops::Range<usize>| bytes.get(range).unwrap_or_default();
    match at(4..8) {
        b"moov" | b"mdat" | b"wide" | b"pnot" => return Some("a video"),
        _ => {}
    }
    if at(0..4) == b"RIFF" && at(8..12) == b"AVI " {
        return Some("a video");
    }
    // How many there are follows; Targa may begin alike.
    match at(0..6) {
        [0, 0, 1, 0, count, _] if *count > 0 => return Some("an icon (ICO)"),
        [0, 0, 2, 0, count, _] if *count > 0 => return Some("a cursor (CUR)"),
        _ => {}
    }
    // TIFF, by whose first directory it would be a small picture of what lies further inside.
    if at(0..4) == b"II*\0" && at(8..10) == b"CR" {
        return Some("a camera's raw file (CR2)");
    }
    if at(128..132) == b"DICM" {
        return Some("DICOM");
    }
    if at(40..44) == b" EMF" && at(0..4) == [1, 0, 0, 0] {
        return Some("a Windows metafile");
    }
    if matches!(
        at(0..3),
        [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t' | b'#']
    ) {
        return Some("a portable bitmap (PNM)");
    }
    if matches!(at(0..4), [10, 0..=5, 1, 1 | 2 | 4 | 8]) {
        return Some("PCX");
    }
    is_targa(bytes).then_some("Targa (TGA)")
}

/// It has no sign of its own at its beginning, but few numbers that its fields may have.
fn is_targa(bytes: &[u8]) -> bool {
    if bytes.ends_with(b"TRUEVISION-XFILE.\0") {
        return true;
    }
    let Some(head) = bytes.first_chunk::<18>() else {
        return false;
    };
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let (has_palette, kind, depth) = (head[1], head[2], head[16]);
    let palette = match (has_palette, kind) {
        (1, 1 | 9) => number(5) > 0 && matches!(head[7], 15 | 16 | 24 | 32),
        (0, 2 | 3 | 10 | 11) => head[3..8] == [0; 5],
        _ => false,
    };
    let depths: &[u8] = if matches!(kind, 2 | 10) {
        &[15, 16, 24, 32]
    } else {
        &[8, 16]
    };
    palette
        && depths.contains(&depth)
        && number(12) > 0
        && number(14) > 0
        // Bits of what is behind colours, and from where rows and columns are counted.
        && head[17] & 0xc0 == 0
}

/// Text, whatever stands before its first letter.
fn by_text(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(256)];
    let text = decoded(head).to_ascii_lowercase();
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let is_xml = text.starts_with("<?xml") || text.starts_with("<!--");
    match text {
        t if t.starts_with("<svg") || t.starts_with("<!doctype svg") => Some("SVG"),
        t if is_xml && t.contains("<svg") => Some("SVG"),
        t if t.starts_with("<!doctype html") || t.starts_with("<html") => Some("HTML"),
        t if is_xml && t.contains("<html") => Some("HTML"),
        t if is_xml && t.contains("<error>") => Some("an error of an object store (XML)"),
        _ if is_xml => Some("XML"),
        t if t.starts_with('{') || t.starts_with('[') => Some("JSON"),
        t if t.starts_with("%pdf") => Some("PDF"),
        t if t.starts_with("version https://git-lfs") => Some("a pointer of Git LFS"),
        t if t.starts_with("data:image/") => Some("a data: URI"),
        t if t.starts_with("/9j/") || t.starts_with("ivborw0kggo") => Some("Base64"),
        _ => None,
    }
}

/// Text in UTF-16 is read, too, as far as it is ASCII.
fn decoded(bytes: &[u8]) -> String {
    match bytes {
        [0xff, 0xfe, rest @ ..] => rest.iter().step_by(2).map(|b| char::from(*b)).collect(),
        [0xfe, 0xff, rest @ ..] => {
            let low = rest.iter().skip(1).step_by(2);
            low.map(|b| char::from(*b)).collect()
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// What ISO's base media format holds, by its brands (ISO/IEC 14496-12, 4.3).
pub(super) struct Brands<'a>(&'a [[u8; 4]]);

impl<'a> Brands<'a> {
    /// Of a file that begins as one of that format.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(4..8) != Some(b"ftyp") {
            return None;
        }
        let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
        let brands = bytes.get(8..length.clamp(8, 256).min(bytes.len()))?;
        // The first is the file's own, the second a version; then those that it is compatible with.
        Some(Brands(brands.as_chunks::<4>().0))
    }

    pub(super) fn has(&self, wanted: &[&[u8; 4]]) -> bool {
        self.0.iter().any(|brand| wanted.contains(&brand))
    }

    /// The codec of pictures that are neither AV1 nor HEVC.
    pub(super) fn other_codec(&self) -> Option<&'static str> {
        let codecs: [(&[&[u8; 4]], &str); 5] = [
            (&[b"avci", b"avcs"], "H.264"),
            (&[b"vvic", b"vvis"], "H.266"),
            (&[b"evbi", b"evbs", b"evmi", b"evms"], "EVC"),
            (&[b"jpeg", b"jpgs"], "JPEG"),
            (&[b"j2ki", b"j2is"], "JPEG 2000"),
        ];
        let found = codecs.iter().find(|(brands, _)| self.has(brands));
        found.map(|(_, codec)| *codec)
    }
}

#[cfg(test)]
mod tests;
