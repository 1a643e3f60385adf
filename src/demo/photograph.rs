//! Pictures for timings: noise with the spectrum of photographs plus grain, because entropy
//! decoding is a large part of the time of a JPEG and depends on what is in the picture.

use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

/// Why a picture was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot compress the picture: {0}")]
pub struct CompressError(#[from] turbojpeg::Error);

/// A number in -0.5..0.5 that depends on nothing but the arguments.
fn hash(x: usize, y: usize, seed: usize) -> f32 {
    let mut h = (x.wrapping_mul(0x9E37_79B1)
        ^ y.wrapping_mul(0x85EB_CA77)
        ^ seed.wrapping_mul(0xC2B2_AE3D)) as u32;
    h ^= h >> 15;
    h = h.wrapping_mul(0x2C1B_3C6D);
    h ^= h >> 12;
    h = h.wrapping_mul(0x297A_2D39);
    h ^= h >> 15;
    h as f32 / u32::MAX as f32 - 0.5
}

/// Octaves of smooth noise, halving in strength: the 1/f amplitude spectrum of natural scenes.
fn noise(x: usize, y: usize, seed: usize) -> f32 {
    let mut value = 0.0;
    for octave in 1..9 {
        let cell = 1usize << octave;
        let (cx, cy) = (x / cell, y / cell);
        let (fx, fy) = (
            (x % cell) as f32 / cell as f32,
            (y % cell) as f32 / cell as f32,
        );
        let seed = seed * 64 + octave;
        let top = hash(cx, cy, seed) * (1.0 - fx) + hash(cx + 1, cy, seed) * fx;
        let low = hash(cx, cy + 1, seed) * (1.0 - fx) + hash(cx + 1, cy + 1, seed) * fx;
        value += (top * (1.0 - fy) + low * fy) * cell as f32;
    }
    value
}

/// RGB pixels, `[height, width, 3]`; every seed gives another picture.
pub fn photograph(width: usize, height: usize, seed: usize) -> Vec<u8> {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let light = noise(x, y, seed * 4) * 0.55 + hash(x, y, seed * 4 + 3) * 24.0;
            for channel in 1..4 {
                let colour = noise(x / 4, y / 4, seed * 4 + channel) * 0.3;
                rgb.push((128.0 + light + colour).clamp(0.0, 255.0) as u8);
            }
        }
    }
    rgb
}

/// The same as a JPEG of quality 90, 4:2:0.
///
/// # Errors
/// [`CompressError`] if a side is 0 or longer than 65,535 pixels.
pub fn photograph_jpeg(width: usize, height: usize, seed: usize) -> Result<Vec<u8>, CompressError> {
    let pixels = photograph(width, height, seed);
    let mut compressor = Compressor::new()?;
    compressor.set_quality(90)?;
    compressor.set_subsamp(Subsamp::Sub2x2)?;
    Ok(compressor.compress_to_vec(Image {
        pixels: &pixels[..],
        width,
        pitch: width * 3,
        height,
        format: PixelFormat::RGB,
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_another_picture_that_decodes() {
        let files: Vec<Vec<u8>> = (0..3)
            .map(|seed| photograph_jpeg(64, 48, seed).unwrap())
            .collect();
        assert_ne!(files[0], files[1]);
        assert_ne!(files[1], files[2]);
        for file in files {
            let decoded = turbojpeg::decompress(&file, PixelFormat::RGB).unwrap();
            assert_eq!((decoded.width, decoded.height), (64, 48));
            let (low, high) = decoded
                .pixels
                .iter()
                .fold((255, 0), |(l, h), &p| (p.min(l), p.max(h)));
            assert!(high - low > 60, "not flat: {low}..{high}");
        }
    }
}
