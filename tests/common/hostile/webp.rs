//! WebP: a canvas, and frames that need not be as large.

use super::Named;

/// A chunk of a RIFF file.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_vec();
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    if data.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut form = b"WEBP".to_vec();
    form.extend(chunks.concat());
    chunk(b"RIFF", &form)
}

fn three_bytes(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

/// The header of an extended file, for a canvas of `side` x `side`.
fn extended(side: u32, flags: u8) -> Vec<u8> {
    let mut data = vec![flags, 0, 0, 0];
    data.extend(three_bytes(side - 1));
    data.extend(three_bytes(side - 1));
    chunk(b"VP8X", &data)
}

/// A lossless picture of one colour: every code has one symbol, so that no pixel takes a bit.
fn lossless(width: u32, height: u32) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    let mut put = |value: u32, count: u32| bits.extend((0..count).map(|i| value >> i & 1 == 1));
    put(width - 1, 14);
    put(height - 1, 14);
    put(0, 4); // no alpha, version 0
    put(0, 3); // no transform, no colour cache, one group of codes
    for _ in 0..5 {
        put(1, 4); // a simple code, of one symbol of one bit, which is 0
    }
    let mut data = vec![0x2f];
    data.extend(bits.chunks(8).map(|byte| {
        let bits = byte.iter().enumerate();
        bits.fold(0u8, |all, (i, &bit)| all | u8::from(bit) << i)
    }));
    data.extend([0; 8]);
    chunk(b"VP8L", &data)
}

/// The first frame of a lossy picture of so many pixels, with hardly any data.
fn lossy(width: u16, height: u16) -> Vec<u8> {
    let first_partition = 64u32;
    let tag = first_partition << 5 | 1 << 4;
    let mut data = three_bytes(tag).to_vec();
    data.extend([0x9d, 0x01, 0x2a]);
    data.extend(width.to_le_bytes());
    data.extend(height.to_le_bytes());
    data.extend([0; 256]);
    chunk(b"VP8 ", &data)
}

/// A frame of an animation that says it is of `side` x `side` pixels.
fn frame(side: u32, picture: &[u8]) -> Vec<u8> {
    let mut data = vec![0; 6];
    data.extend(three_bytes(side - 1));
    data.extend(three_bytes(side - 1));
    data.extend([100, 0, 0, 0]);
    data.extend(picture);
    chunk(b"ANMF", &data)
}

pub(super) fn all() -> Vec<Named> {
    const ANIMATION: u8 = 2;
    const MOST: u32 = 16_383;
    let animated = |frames: Vec<Vec<u8>>| {
        let mut chunks = vec![extended(64, ANIMATION), chunk(b"ANIM", &[0; 6])];
        chunks.extend(frames);
        webp(&chunks)
    };
    vec![
        (
            "WebP, a canvas of 64 x 64 and a picture of 16383 x 16383",
            webp(&[extended(64, 0), lossless(MOST, MOST)]),
        ),
        (
            "WebP, the same, lossy",
            webp(&[extended(64, 0), lossy(16_383, 16_383)]),
        ),
        (
            "WebP, an animation whose frame is of 16383 x 16383",
            animated(vec![frame(MOST, &lossless(MOST, MOST))]),
        ),
        (
            "WebP, a frame of 64 x 64 whose picture is of 16383 x 16383",
            animated(vec![frame(64, &lossless(MOST, MOST))]),
        ),
        (
            "WebP, an animation of 20,000 frames",
            animated(vec![frame(64, &lossless(64, 64)); 20_000]),
        ),
        (
            "WebP, 16383 x 16383 in forty bytes",
            webp(&[lossless(MOST, MOST)]),
        ),
    ]
}
