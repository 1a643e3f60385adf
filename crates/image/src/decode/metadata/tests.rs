use super::super::orientation::Orientation;
use super::*;
use std::io::Write;

/// EXIF that asks for a turn by 90 degrees.
const SIX: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
/// EXIF without a word about it.
const NOTHING: &[u8] = b"II*\0\x08\0\0\0\0\0\0\0\0\0";
const XMP: &[u8] = b"<x:xmpmeta><rdf:Description tiff:Orientation=\"6\"/></x:xmpmeta>";
/// The same, with another value.
const XMP_3: &[u8] = b"<x:xmpmeta><rdf:Description tiff:Orientation=\"3\"/></x:xmpmeta>";

fn jpeg(segments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0xff, marker::SOI];
    for body in segments {
        bytes.extend([0xff, marker::APP1]);
        bytes.extend((body.len() as u16 + 2).to_be_bytes());
        bytes.extend(*body);
    }
    bytes
}

fn png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(*kind);
        bytes.extend(data);
        bytes.extend([0; 4]);
    }
    bytes
}

fn webp(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut bytes = b"RIFF\0\0\0\0WEBP".to_vec();
    for (kind, data) in chunks {
        bytes.extend(*kind);
        bytes.extend((data.len() as u32).to_le_bytes());
        bytes.extend(*data);
        bytes.extend(vec![0; data.len() % 2]);
    }
    bytes
}

fn deflated(text: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(text).unwrap();
    packed.finish().unwrap()
}

/// As a text of hexadecimal digits.
fn raw_profile(bytes: &[u8]) -> Vec<u8> {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\nexif\n{:8}\n{digits}\n", bytes.len()).into_bytes()
}

#[test]
fn jpegs_have_it_in_exif_or_xmp() {
    let xmp = |packet: &[u8]| [XMP_IN_JPEG, packet].concat();
    let exif = |block: &[u8]| [b"Exif\0\0", block].concat();
    for segments in [
        vec![exif(SIX)],
        vec![xmp(XMP)],
        vec![exif(NOTHING), xmp(XMP)],
        vec![xmp(XMP), exif(NOTHING)],
        // EXIF counts first, wherever it stands.
        vec![xmp(XMP_3), exif(SIX)],
        vec![b"something else".to_vec(), exif(SIX)],
        vec![exif(NOTHING), exif(SIX)],
    ] {
        let segments: Vec<&[u8]> = segments.iter().map(Vec::as_slice).collect();
        assert_eq!(of_jpeg(&jpeg(&segments)), Orientation::Turn90);
    }
    assert_eq!(of_jpeg(&jpeg(&[])), Orientation::Upright);
}

#[test]
fn pngs_have_it_in_a_chunk_or_in_texts() {
    let text = |keyword: &str, text: &[u8]| [keyword.as_bytes(), b"\0", text].concat();
    let packed =
        |keyword: &str, text: &[u8]| [keyword.as_bytes(), b"\0\0", &deflated(text)].concat();
    let with_prefix = [b"Exif\0\0", SIX].concat();
    let xmp_in_app1 = [XMP_IN_JPEG, XMP].concat();
    let international = |packed: u8, text: &[u8]| {
        [b"XML:com.adobe.xmp\0", &[packed, 0][..], b"en\0\0", text].concat()
    };
    for chunk in [
        (b"eXIf", SIX.to_vec()),
        (b"eXIf", with_prefix.clone()),
        (
            b"zTXt",
            packed("Raw profile type exif", &raw_profile(&with_prefix)),
        ),
        (
            b"tEXt",
            text("Raw profile type APP1", &raw_profile(&with_prefix)),
        ),
        (
            b"zTXt",
            packed("Raw profile type APP1", &raw_profile(&xmp_in_app1)),
        ),
        (b"tEXt", text("Raw profile type xmp", &raw_profile(XMP))),
        (b"iTXt", international(0, XMP)),
        (b"iTXt", international(1, &deflated(XMP))),
    ] {
        // Before the picture, and behind it.
        let picture = (b"IDAT", vec![1, 2, 3]);
        for order in [[chunk.clone(), picture.clone()], [picture, chunk.clone()]] {
            let file = png(&order);
            assert_eq!(of(&file, Format::Png), Orientation::Turn90, "{chunk:?}");
        }
    }
    let both = png(&[(b"iTXt", international(0, XMP_3)), (b"eXIf", SIX.to_vec())]);
    assert_eq!(of(&both, Format::Png), Orientation::Turn90);
}

#[test]
fn webps_have_it_in_chunks_with_and_without_a_prefix() {
    let with_prefix = [b"Exif\0\0", SIX].concat();
    for chunk in [(b"EXIF", SIX), (b"EXIF", &with_prefix), (b"XMP ", XMP)] {
        let file = webp(&[(b"VP8X", &[0; 9]), chunk]);
        assert_eq!(of(&file, Format::WebP), Orientation::Turn90);
    }
    let both = webp(&[(b"XMP ", XMP_3), (b"EXIF", SIX)]);
    assert_eq!(of(&both, Format::WebP), Orientation::Turn90);
}

#[test]
fn a_text_that_unpacks_without_end_is_cut_off() {
    let bomb = [
        b"Raw profile type exif\0\0",
        &deflated(&vec![b'0'; 8 << 20])[..],
    ]
    .concat();
    let (_, text) = chunks::png_text(*b"zTXt", &bomb).unwrap();
    assert_eq!(text.len() as u64, LARGEST);
}
