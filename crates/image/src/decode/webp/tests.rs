//! WebP as Pillow reads it, and containers that contradict themselves.

#![allow(
    clippy::disallowed_methods,
    reason = "what the decoder is, without the helper's process around it"
)]

use super::super::{decode_rgb, probe};
use super::*;
use image::ImageFormat;
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    std::fs::read(root.join("tests/fixtures").join(name)).unwrap()
}

/// Pillow's pixels of the lossy fixture, which are those of libwebp.
#[test]
fn a_lossy_picture_is_pillows_to_the_bit() {
    let picture = decode_rgb(&fixture("webp/lossy.webp"), &DecodeLimits::default()).unwrap();
    assert_eq!(picture.as_raw(), &fixture("webp/lossy.rgb"));
}

#[test]
fn transparency_is_dropped_and_never_looked_at() {
    let limits = DecodeLimits::default();
    let mut clear = fixture("webp/lossy-alpha.webp");
    let picture = decode_rgb(&clear, &limits).unwrap();
    assert_eq!(picture.as_raw(), &fixture("webp/lossy-alpha.rgb"));
    let at = clear.windows(4).position(|kind| kind == b"ALPH").unwrap();
    clear[at + 8..at + 16].fill(0xff);
    assert_eq!(decode_rgb(&clear, &limits).unwrap(), picture);
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_le_bytes();
    let padding = vec![0; data.len() % 2];
    [&kind[..], &length, data, &padding].concat()
}

/// The chunk of a lossless picture of one colour.
fn lossless(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let picture = image::RgbImage::from_pixel(width, height, image::Rgb(colour));
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::WebP).unwrap();
    let picture = Picture::of(file.get_ref()).unwrap();
    assert!(picture.lossless);
    chunk(b"VP8L", picture.coded)
}

/// An animation on 10 x 8 pixels whose first frame is 6 x 4 of them, two from the left and top.
fn moving(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"RIFF\0\0\0\0WEBP".to_vec();
    file.extend(chunk(b"VP8X", &[2, 0, 0, 0, 9, 0, 0, 7, 0, 0]));
    // White, which a player may paint behind frames.
    file.extend(chunk(b"ANIM", &[255, 255, 255, 255, 0, 0]));
    for frame in frames {
        let place = [1, 0, 0, 1, 0, 0, 5, 0, 0, 3, 0, 0, 100, 0, 0, 0];
        file.extend(chunk(b"ANMF", &[&place[..], frame].concat()));
    }
    file
}

#[test]
fn an_animation_is_its_first_frame_on_black() {
    let limits = DecodeLimits::default();
    let colours = [[200, 30, 10], [1, 2, 250]];
    let file = moving(&colours.map(|colour| lossless(6, 4, colour)));
    let picture = decode_rgb(&file, &limits).unwrap();
    assert_eq!(picture.dimensions(), (10, 8));
    for (x, y, pixel) in picture.enumerate_pixels() {
        let inside = (2..8).contains(&x) && (2..6).contains(&y);
        let expected = if inside { colours[0] } else { [0; 3] };
        assert_eq!(pixel.0, expected, "{x}, {y}");
    }
    assert_eq!(probe(&file, &limits).unwrap().size.width, 10);
    // What is left in memory by another picture does not show around the frame.
    let white = image::RgbImage::from_pixel(40, 40, image::Rgb([255; 3]));
    let mut other = std::io::Cursor::new(Vec::new());
    white.write_to(&mut other, ImageFormat::WebP).unwrap();
    decode_rgb(other.get_ref(), &limits).unwrap();
    assert_eq!(decode_rgb(&file, &limits).unwrap(), picture);
    // A later frame may be broken: nobody looks at it.
    let broken = moving(&[lossless(6, 4, colours[0]), chunk(b"VP8L", b"nothing")]);
    assert_eq!(decode_rgb(&broken, &limits).unwrap(), picture);
}

#[test]
fn data_that_end_early_are_damage() {
    let limits = DecodeLimits::default();
    for file in ["photographs/webp-lossy", "photographs/webp-lossless"] {
        let bytes = fixture(file);
        let picture = Picture::of(&bytes).unwrap();
        for part in [12, picture.coded.len() / 2, picture.coded.len() * 9 / 10] {
            // The container is whole, what it holds is not.
            let kind = if picture.lossless { b"VP8L" } else { b"VP8 " };
            let cut = chunk(kind, &picture.coded[..part]);
            let cut = [&b"RIFF\0\0\0\0WEBP"[..], &cut].concat();
            let error = decode_rgb(&cut, &limits).unwrap_err();
            assert!(
                matches!(error, DecodeError::Damaged { format: "webp", .. }),
                "{file}, {part} bytes: {error}"
            );
        }
    }
}

#[test]
fn memory_is_reckoned_before_it_is_taken() {
    let bytes = fixture("photographs/webp-lossy");
    let picture = Picture::of(&bytes).unwrap();
    let whole = u64::from(picture.size.width) * u64::from(picture.size.height) * 3;
    let allowing = |max_alloc_bytes| DecodeLimits {
        max_alloc_bytes,
        ..DecodeLimits::default()
    };
    assert!(decode_rgb(&bytes, &allowing(whole)).is_ok());
    let error = decode_rgb(&bytes, &allowing(whole - 1)).unwrap_err();
    assert!(
        matches!(error, DecodeError::TooMuchMemory { .. }),
        "{error}"
    );
}
