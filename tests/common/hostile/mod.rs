//! Small files that make decoders take much memory or time: bytes made here, nobody else's.
//!
//! What their outer headers declare is modest; what lies inside is not. [`all`] lists them with the
//! reason for which each is here.

mod avif;
mod jpeg;
mod png;
mod tiff;
mod webp;

pub(crate) use png::png_of;
pub(crate) use tiff::tiff_of_wide_tiles;

use super::pictures::{encoded, gif_declaring, scan_bomb};

/// A hostile file.
pub(crate) struct Hostile {
    /// What it tries.
    pub name: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
}

/// All of them.
pub(crate) fn all() -> Vec<Hostile> {
    let lists = [
        avif::all(),
        tiff::all(),
        webp::all(),
        png::all(),
        jpeg::all(),
        others(),
    ];
    let all = lists.into_iter().flatten();
    all.map(|(name, bytes)| Hostile { name, bytes }).collect()
}

type Named = (&'static str, Vec<u8>);

/// GIF and BMP.
fn others() -> Vec<Named> {
    let mut frame_beyond_screen = gif_declaring(65_000, 65_000);
    frame_beyond_screen[6..10].copy_from_slice(&[64, 0, 64, 0]);
    vec![
        (
            "GIF, a frame far larger than its screen",
            frame_beyond_screen,
        ),
        ("BMP, runs that skip over a million rows", bmp_of_skips()),
        (
            "BMP, a palette of four billion colours",
            bmp_with_palette(u32::MAX),
        ),
        ("JPEG of a thousand scans", scan_bomb(1_000)),
    ]
}

/// Run-length coded, with nothing but steps to the right and up.
fn bmp_of_skips() -> Vec<u8> {
    let mut bytes = bmp_header(1_000, 1_000, 8, 1, 256);
    bytes.extend([0; 4 * 256]);
    for _ in 0..100_000 {
        bytes.extend([0, 2, 255, 255]);
    }
    bytes.extend([0, 1]);
    bytes
}

fn bmp_with_palette(colours: u32) -> Vec<u8> {
    let mut bytes = bmp_header(16, 16, 8, 0, colours);
    bytes.extend([7; 4 * 256 + 16 * 16]);
    bytes
}

/// Both headers; the pixels follow a palette of 256 colours.
fn bmp_header(width: i32, height: i32, bits: u16, compression: u32, colours: u32) -> Vec<u8> {
    let mut bytes = encoded(16, image::ImageFormat::Bmp)[..2].to_vec();
    bytes.extend([0; 8]);
    bytes.extend((14u32 + 40 + 4 * 256).to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend(width.to_le_bytes());
    bytes.extend(height.to_le_bytes());
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(compression.to_le_bytes());
    bytes.extend([0; 12]);
    bytes.extend(colours.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}
