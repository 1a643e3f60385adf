//! TIFF: a directory of tags that name strips or tiles, each a file of its own kind.

use super::Named;
use super::png::deflated_zeros;
use crate::common::pictures::jpeg_declaring;

const SHORT: u16 = 3;
const LONG: u16 = 4;

/// A tag with its values.
struct Entry {
    tag: u16,
    kind: u16,
    values: Vec<u32>,
}

fn short(tag: u16, value: u32) -> Entry {
    Entry {
        tag,
        kind: SHORT,
        values: vec![value],
    }
}

fn long(tag: u16, values: Vec<u32>) -> Entry {
    Entry {
        tag,
        kind: LONG,
        values,
    }
}

/// A little-endian file: header, `data`, values that fit into no entry, the directory. `next` is
/// where the next directory is said to be; none: where this one is.
fn tiff(data: &[u8], mut entries: Vec<Entry>, next: Option<u32>) -> Vec<u8> {
    entries.sort_by_key(|entry| entry.tag);
    let mut bytes = b"II*\0\0\0\0\0".to_vec();
    bytes.extend(data);
    let mut places = Vec::new();
    for entry in &entries {
        places.push(bytes.len() as u32);
        if entry.values.len() > 1 {
            bytes.extend(entry.values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    let directory = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&directory.to_le_bytes());
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (entry, place) in entries.iter().zip(places) {
        bytes.extend(entry.tag.to_le_bytes());
        bytes.extend(entry.kind.to_le_bytes());
        bytes.extend((entry.values.len() as u32).to_le_bytes());
        let value = match entry.values[..] {
            [one] => one,
            _ => place,
        };
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(next.unwrap_or(directory).to_le_bytes());
    bytes
}

/// Where the data of [`tiff`] begins.
const DATA: u32 = 8;

/// 8-bit samples of so many components in strips of `rows` rows, all of them the same `strip`.
fn strips(
    (width, height, rows): (u32, u32, u32),
    compression: u32,
    samples: u32,
    strip: &[u8],
) -> Vec<Entry> {
    let count = height.div_ceil(rows) as usize;
    vec![
        long(256, vec![width]),
        long(257, vec![height]),
        Entry {
            tag: 258,
            kind: LONG,
            values: vec![8; samples as usize],
        },
        short(259, compression),
        short(262, if samples == 1 { 1 } else { 2 }),
        long(273, vec![DATA; count]),
        short(277, samples),
        long(278, vec![rows]),
        long(279, vec![strip.len() as u32; count]),
    ]
}

/// JPEG in TIFF (TIFF technical note 2).
const JPEG: u32 = 7;
const DEFLATE: u32 = 8;
const PACK_BITS: u32 = 32_773;

/// A picture of 64 columns in so many strips of one row, each a JPEG that declares `side` x `side`.
fn tiff_of_jpeg_strips(count: u32, side: u16) -> Vec<u8> {
    let jpeg = grey_jpeg(side);
    tiff(&jpeg, strips((64, count, 1), JPEG, 1, &jpeg), Some(0))
}

/// A picture of 64 columns in so many tiles of one row, each of four million pixels, all but 64 of
/// which lie outside. Every tile stays within the cap on memory; all of them take minutes.
pub(crate) fn tiff_of_wide_tiles(count: u32) -> Vec<u8> {
    const SIDE: u32 = 4_000_000;
    let tile = deflated_zeros(SIDE as usize);
    let mut entries = strips((64, count, 1), DEFLATE, 1, &tile);
    entries.retain(|entry| ![273, 278, 279].contains(&entry.tag));
    entries.extend([
        long(322, vec![SIDE]),
        long(323, vec![1]),
        long(324, vec![DATA; count as usize]),
        long(325, vec![tile.len() as u32; count as usize]),
    ]);
    tiff(&tile, entries, Some(0))
}

/// Of 16 x 16 pixels, with another size in its frame header.
fn grey_jpeg(side: u16) -> Vec<u8> {
    let grey = image::GrayImage::from_pixel(16, 16, image::Luma([90]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    grey.write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
    let mut bytes = bytes.into_inner();
    let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&side.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&side.to_be_bytes());
    bytes
}

/// One tile, far larger than the picture of 64 x 64.
fn tiled(side: u32, compression: u32, tile: &[u8]) -> Vec<u8> {
    let mut entries = strips((64, 64, 64), compression, 1, tile);
    entries.retain(|entry| ![273, 278, 279].contains(&entry.tag));
    entries.extend([
        long(322, vec![side]),
        long(323, vec![side]),
        long(324, vec![DATA]),
        long(325, vec![tile.len() as u32]),
    ]);
    tiff(tile, entries, Some(0))
}

pub(super) fn all() -> Vec<Named> {
    let colour = jpeg_declaring(16_384, 16_384);
    let one = strips((64, 64, 64), JPEG, 3, &colour);
    let zeros = deflated_zeros(256 << 20);
    let bomb = |samples, rows| {
        let entries = strips((64, 64, rows), DEFLATE, samples, &zeros);
        tiff(&zeros, entries, Some(0))
    };
    let mut predicted = strips((64, 64, 64), DEFLATE, 1, &zeros);
    predicted.push(short(317, 2));
    let mut wide = strips((64, 64, 64), 1, 1, &[0; 64]);
    for entry in &mut wide {
        match entry.tag {
            273 | 279 => entry.values = vec![DATA; 1 << 16],
            _ => (),
        }
    }
    let mut many_samples = strips((64, 64, 64), 1, 1, &[0; 64]);
    many_samples.retain(|entry| entry.tag != 277);
    many_samples.push(short(277, 65_535));
    let plain = strips((64, 64, 64), 1, 1, &[0; 64 * 64]);
    vec![
        (
            "TIFF, a strip that is a JPEG of 16384 x 16384",
            tiff(&colour, one, Some(0)),
        ),
        (
            "TIFF, a grey strip of 16384 x 16384",
            tiff_of_jpeg_strips(1, 16_384),
        ),
        (
            "TIFF, 2,000 such strips",
            tiff_of_jpeg_strips(2_000, 16_384),
        ),
        ("TIFF, a deflated strip of 256 MiB", bomb(1, 64)),
        ("TIFF, strips of four billion rows", bomb(3, u32::MAX)),
        (
            "TIFF, a predicted strip of 256 MiB",
            tiff(&zeros, predicted, Some(0)),
        ),
        ("TIFF, a tile of 60000 x 60000", tiled(60_000, 1, &[0; 64])),
        (
            "TIFF, a deflated tile of 60000 x 60000",
            tiled(60_000, DEFLATE, &zeros),
        ),
        (
            "TIFF, a packed tile of 16000 x 16000",
            tiled(16_000, PACK_BITS, &[0x81, 0].repeat(50_000)),
        ),
        (
            "TIFF, a tile that is a JPEG of 16384 x 16384",
            tiled(16_384, JPEG, &grey_jpeg(16_384)),
        ),
        (
            "TIFF, 65536 places for one strip",
            tiff(&[0; 64], wide, Some(0)),
        ),
        (
            "TIFF, 65535 samples a pixel",
            tiff(&[0; 64], many_samples, Some(0)),
        ),
        (
            "TIFF, a directory that is its own next one",
            tiff(&[0; 64 * 64], plain, None),
        ),
    ]
}
