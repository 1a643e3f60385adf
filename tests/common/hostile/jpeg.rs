//! JPEG: scans without end, metadata that leads in circles.

use super::Named;
use crate::common::pictures::{encoded, jpeg_declaring, progressive_jpeg};

/// `jpeg` with a segment after its first marker.
fn with_segment(jpeg: &[u8], code: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, code]);
    bytes.extend((body.len() as u16 + 2).to_be_bytes());
    bytes.extend(body);
    bytes.extend(&jpeg[2..]);
    bytes
}

/// EXIF whose directory has 65,535 entries, and leads to itself.
fn circular_exif() -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff".to_vec();
    for _ in 0..4_000 {
        // A directory below this one (tag 0x8769), which is this one.
        exif.extend([0x69, 0x87, 4, 0, 1, 0, 0, 0, 8, 0, 0, 0]);
    }
    exif
}

/// With another size in the header of its progressive frame.
fn progressive_declaring(side: u16) -> Vec<u8> {
    let mut bytes = progressive_jpeg(64);
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc2]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    bytes
}

pub(super) fn all() -> Vec<Named> {
    let plain = encoded(64, image::ImageFormat::Jpeg);
    // Of APP1, and of APP2 with the name that colour profiles have.
    let mut profiles = plain.clone();
    for part in 1..=200u8 {
        let mut body = b"ICC_PROFILE\0".to_vec();
        body.extend([part, 200]);
        body.extend(vec![part; 65_000]);
        profiles = with_segment(&profiles, 0xe2, &body);
    }
    let scans = {
        let whole = progressive_declaring(1_000);
        let last = whole.windows(2).rposition(|w| w == [0xff, 0xda]).unwrap();
        let end = whole.len() - 2;
        let mut bomb = whole[..end].to_vec();
        for _ in 0..20_000 {
            bomb.extend_from_slice(&whole[last..end]);
        }
        bomb.extend([0xff, 0xd9]);
        bomb
    };
    let mut tail = plain.clone();
    tail.extend(vec![0xff; 1 << 20]);
    vec![
        (
            "JPEG, EXIF that leads in circles",
            with_segment(&plain, 0xe1, &circular_exif()),
        ),
        ("JPEG, a colour profile of 13 MB", profiles),
        ("JPEG, progressive, 20,000 scans of a megapixel", scans),
        (
            "JPEG, progressive, of one megapixel and no data",
            progressive_declaring(1_000),
        ),
        (
            "JPEG, of one megapixel and no data",
            jpeg_declaring(1_000, 1_000),
        ),
        ("JPEG, a megabyte of fill bytes behind it", tail),
        ("JPEG, fill bytes before every marker", {
            let mut bytes = plain[..2].to_vec();
            bytes.extend(vec![0xff; 1 << 20]);
            bytes.extend(&plain[2..]);
            bytes
        }),
    ]
}
