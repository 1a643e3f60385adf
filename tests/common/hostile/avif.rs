//! AVIF, HEIC and JPEG XL.

use super::Named;
use std::path::Path;

fn fixture(name: &str) -> Vec<u8> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::read(fixtures.join(name)).unwrap()
}

/// The file with another size in all that is said of its picture outside of the coded data.
fn saying(mut file: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
    let sizes = file
        .windows(4)
        .enumerate()
        .filter(|(_, four)| four == b"ispe");
    let sizes: Vec<usize> = sizes.map(|(offset, _)| offset + 8).collect();
    assert!(!sizes.is_empty());
    for offset in sizes {
        file[offset..offset + 4].copy_from_slice(&width.to_be_bytes());
        file[offset + 4..offset + 8].copy_from_slice(&height.to_be_bytes());
    }
    file
}

pub(super) fn all() -> Vec<Named> {
    let large = || fixture("heif/12-megapixels.avif");
    // Its first part over and over: as many as a grid can have.
    let mut grid = fixture("photographs/avif-grid");
    let layout = grid.windows(4).position(|four| four == b"idat").unwrap() + 4;
    grid[layout + 2..layout + 4].fill(0xff);
    let heic = || fixture("heif/12-megapixels.heic");
    vec![
        ("HEIC, 12 megapixels in a few hundred bytes", heic()),
        (
            "HEIC, 900 x 900 around a coded picture of 12 megapixels",
            saying(heic(), 900, 900),
        ),
        (
            "HEIC, 4 gigapixels to a side",
            saying(heic(), u32::MAX, u32::MAX),
        ),
        (
            "JPEG XL, 12 megapixels in a few hundred bytes",
            fixture("heif/12-megapixels.jxl"),
        ),
        ("AVIF, 12 megapixels in a few hundred bytes", large()),
        (
            "AVIF, 900 x 900 around a coded picture of 12 megapixels",
            saying(large(), 900, 900),
        ),
        (
            "AVIF, 4 gigapixels to a side",
            saying(large(), u32::MAX, u32::MAX),
        ),
        ("AVIF, a grid of 65,536 parts", grid),
    ]
}
