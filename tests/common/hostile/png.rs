//! PNG: chunks, of which some are compressed and do not say how large they get.

use super::Named;
use std::io::Write;

/// So many zeros, as a zlib stream: a thousandth of them.
pub(crate) fn deflated_zeros(count: usize) -> Vec<u8> {
    let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..count >> 20 {
        stream.write_all(&zeros).unwrap();
    }
    stream.write_all(&zeros[..count & ((1 << 20) - 1)]).unwrap();
    stream.finish().unwrap()
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let mut bytes = (data.len() as u32).to_be_bytes().to_vec();
    bytes.extend(kind);
    bytes.extend(data);
    bytes.extend(crc.sum().to_be_bytes());
    bytes
}

/// 8-bit samples of this colour type (0 grey, 2 RGB), all 0; `chunks` come before the pixels.
pub(crate) fn png_of(width: u32, height: u32, colour: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
    let samples = if colour == 2 { 3 } else { 1 };
    let row = samples * width as usize + 1;
    png_with(
        width,
        height,
        colour,
        chunks,
        &deflated_zeros(row * height as usize),
    )
}

fn png_with(width: u32, height: u32, colour: u8, chunks: &[Vec<u8>], pixels: &[u8]) -> Vec<u8> {
    let mut header = width.to_be_bytes().to_vec();
    header.extend(height.to_be_bytes());
    header.extend([8, colour, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(chunk(b"IHDR", &header));
    bytes.extend(chunks.concat());
    bytes.extend(chunk(b"IDAT", pixels));
    bytes.extend(chunk(b"IEND", b""));
    bytes
}

pub(super) fn all() -> Vec<Named> {
    let zeros = deflated_zeros(256 << 20);
    let with = |kind: &[u8; 4], head: &[u8]| {
        let chunk = chunk(kind, &[head, &zeros].concat());
        png_of(64, 64, 2, &[chunk])
    };
    let text = vec![chunk(b"tEXt", b"a\0b"); 200_000];
    let mut control = vec![0, 0, 0, 0];
    control.extend(60_000u32.to_be_bytes());
    control.extend(60_000u32.to_be_bytes());
    control.extend([0; 14]);
    let animation = [
        chunk(b"acTL", &[0, 0, 0, 1, 0, 0, 0, 0]),
        chunk(b"fcTL", &control),
    ];
    vec![
        ("PNG, a colour profile of 256 MiB", with(b"iCCP", b"a\0\0")),
        ("PNG, a text of 256 MiB", with(b"zTXt", b"a\0\0")),
        (
            "PNG, an international text of 256 MiB",
            with(b"iTXt", b"a\0\x01\0\0\0"),
        ),
        ("PNG, 200,000 texts", png_of(64, 64, 2, &text)),
        (
            "PNG, EXIF of 256 MiB that is none",
            png_of(64, 64, 2, &[chunk(b"eXIf", &vec![7; 8 << 20])]),
        ),
        (
            "PNG, pixels of 256 MiB for 64 x 64",
            png_with(64, 64, 2, &[], &zeros),
        ),
        (
            "PNG, an animation whose frame is of 60000 x 60000",
            png_of(64, 64, 2, &animation),
        ),
        (
            "PNG, one column of a million rows",
            png_of(1, 1_000_000, 0, &[]),
        ),
        (
            "PNG, one row of a million columns",
            png_of(1_000_000, 1, 0, &[]),
        ),
    ]
}
