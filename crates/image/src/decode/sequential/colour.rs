//! Samples of the result to RGB.

use super::resample::Sums;
use super::weights::ROWS;
use tagstream_multiversion::multiversioned;

multiversioned! {
    /// Luma as grey RGB, `[rows, width, 3]`.
    pub fn grey_to_rgb(luma: &Sums, width: usize, rgb: &mut [u8]) = grey_to_rgb_inlined;
}

#[inline(always)]
fn grey_to_rgb_inlined(luma: &Sums, width: usize, rgb: &mut [u8]) {
    let bands = rgb.chunks_mut(ROWS * width * 3);
    for (band, luma) in bands.zip(luma.samples.chunks_exact(width)) {
        for (x, luma) in luma.iter().enumerate() {
            let rows = band.chunks_exact_mut(width * 3);
            for (row, luma) in rows.zip(luma) {
                row[3 * x..3 * x + 3].fill(rounded(luma + 128.0) as u8);
            }
        }
    }
}

multiversioned! {
    /// YCbCr of JFIF (ITU-R BT.601, full range), with a fourth component that is added to green, to
    /// RGB, `[rows, width, 3]`.
    pub fn ycc_to_rgb(
        components: &[Sums; 4],
        width: usize,
        rgb: &mut [u8],
    ) = ycc_to_rgb_inlined;
}

#[inline(always)]
fn ycc_to_rgb_inlined(components: &[Sums; 4], width: usize, rgb: &mut [u8]) {
    let [luma, blue, red, green] = components.each_ref().map(|c| c.samples.chunks_exact(width));
    let bands = rgb.chunks_mut(ROWS * width * 3);
    let samples = luma.zip(blue).zip(red).zip(green);
    for (band, (((luma, blue), red), green)) in bands.zip(samples) {
        let samples = luma.iter().zip(blue).zip(red).zip(green);
        for (x, (((luma, blue), red), green)) in samples.enumerate() {
            let mut pixels = [0; ROWS];
            for row in 0..ROWS {
                // The level shift (T.81, A.3.1).
                let luma = luma[row] + 128.0;
                let r = rounded(luma + 1.402 * red[row]);
                let chroma = 0.344_136 * blue[row] + 0.714_136 * red[row];
                let g = rounded(luma - chroma + green[row]);
                let b = rounded(luma + 1.772 * blue[row]);
                pixels[row] = r | g << 8 | b << 16;
            }
            for (row, pixel) in band.chunks_exact_mut(width * 3).zip(pixels) {
                row[3 * x..3 * x + 3].copy_from_slice(&pixel.to_le_bytes()[..3]);
            }
        }
    }
}

/// The nearest byte.
#[inline(always)]
fn rounded(value: f32) -> u32 {
    let value = if value > 0.0 { value } else { 0.0 };
    let value = if value < 255.0 { value } else { 255.0 };
    // Adding 2^23 leaves the integer in the lowest bits.
    (value + 8_388_608.0).to_bits() & 255
}
