//! Rows of samples to rows of RGB.

/// Pixels converted together.
const LANES: usize = 16;

/// Grey as RGB.
#[inline(always)]
pub fn grey_to_rgb(grey: &[u8], rgb: &mut [u8]) {
    for (pixel, &sample) in rgb.chunks_exact_mut(3).zip(grey) {
        pixel.fill(sample);
    }
}

wide! {
    /// YCbCr of JFIF (ITU-R BT.601, full range) to RGB, in fixed point. The rows of samples may be longer than the picture.
    pub fn ycc_to_rgb(luma: &[u8], blue: &[u8], red: &[u8], rgb: &mut [u8]) = ycc_to_rgb_inlined;
}

#[inline(always)]
fn ycc_to_rgb_inlined(luma: &[u8], blue: &[u8], red: &[u8], rgb: &mut [u8]) {
    let width = rgb.len() / 3;
    let samples = luma[..width]
        .chunks(LANES)
        .zip(blue[..width].chunks(LANES))
        .zip(red[..width].chunks(LANES));
    // Pixels are written as words of four bytes, the last of which is the next pixel's.
    let mut at = 0;
    for ((luma, blue), red) in samples {
        if let (Ok(luma), Ok(blue), Ok(red), Some(out)) = (
            luma.try_into(),
            blue.try_into(),
            red.try_into(),
            rgb.get_mut(at..at + 3 * LANES + 1),
        ) {
            let words = converted(luma, blue, red);
            for (n, word) in words.iter().enumerate() {
                out[3 * n..3 * n + 4].copy_from_slice(&word.to_le_bytes());
            }
        } else {
            let words = converted(&padded(luma), &padded(blue), &padded(red));
            for (pixel, word) in rgb[at..].chunks_exact_mut(3).zip(&words[..luma.len()]) {
                pixel.copy_from_slice(&word.to_le_bytes()[..3]);
            }
        }
        at += 3 * LANES;
    }
}

fn padded(samples: &[u8]) -> [u8; LANES] {
    let mut whole = [0; LANES];
    whole[..samples.len()].copy_from_slice(samples);
    whole
}

/// Red in the lowest byte of each word, then green, then blue.
#[inline(always)]
fn converted(luma: &[u8; LANES], blue: &[u8; LANES], red: &[u8; LANES]) -> [u32; LANES] {
    let mut words = [0; LANES];
    for n in 0..LANES {
        let y = (i32::from(luma[n]) << 16) + (1 << 15);
        let (b, r) = (i32::from(blue[n]) - 128, i32::from(red[n]) - 128);
        // 1.402, 0.344136, 0.714136 and 1.772, times 2^16.
        let red = (y + 91_881 * r) >> 16;
        let green = (y - 22_554 * b - 46_802 * r) >> 16;
        let blue = (y + 116_130 * b) >> 16;
        words[n] = (red.clamp(0, 255) | green.clamp(0, 255) << 8 | blue.clamp(0, 255) << 16) as u32;
    }
    words
}
