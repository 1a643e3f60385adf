//! Samples of any size to bytes, and bytes of any colours to RGB, as Pillow and libtiff make them.

use super::directory::Directory;
use super::layout::{Colour, Layout, SampleFormat, tag};
use super::{damaged, lab};
use crate::decode::error::DecodeError;

/// Makes RGB of the samples of one file.
pub(super) struct Converter {
    colour: Colour,
    samples: usize,
    premultiplied: bool,
    /// RGB of each number of a palette.
    palette: Vec<[u8; 3]>,
    ycbcr: YCbCr,
}

impl Converter {
    /// # Errors
    /// If a palette is not there.
    pub(super) fn new(layout: &Layout, directory: &Directory<'_>) -> Result<Self, DecodeError> {
        let mut palette = Vec::new();
        if layout.colour == Colour::Palette {
            // All reds, then all greens, then all blues, of 16 bits.
            let colours = 1_u64 << layout.bits;
            for index in 0..colours {
                let part = |plane| directory.value(tag::COLOR_MAP, plane * colours + index);
                let (Some(red), Some(green), Some(blue)) = (part(0), part(1), part(2)) else {
                    return Err(damaged("its palette is not there, or too short"));
                };
                palette.push([red, green, blue].map(|part| (part >> 8) as u8));
            }
        }
        let colour = match layout.colour {
            // The JPEG decoder has made RGB of it already.
            Colour::YCbCr if layout.is_jpeg_in_one_plane() => Colour::Rgb,
            // Measured values, which Pillow does not turn round.
            Colour::WhiteIsZero if layout.bits == 32 => Colour::BlackIsZero,
            colour => colour,
        };
        Ok(Converter {
            colour,
            samples: layout.samples,
            premultiplied: layout.premultiplied,
            palette,
            ycbcr: YCbCr::new(directory),
        })
    }

    /// RGB of a row of pixels, whose samples lie side by side.
    pub(super) fn row(&self, samples: &[u8], rgb: &mut [u8]) {
        let pixels = samples.chunks_exact(self.samples);
        for (pixel, rgb) in pixels.zip(rgb.chunks_exact_mut(3)) {
            let mut colour = self.pixel(pixel);
            if self.premultiplied
                && let Some(&alpha) = pixel.get(self.colour_samples())
            {
                colour = colour.map(|part| divided(part, alpha));
            }
            rgb.copy_from_slice(&colour);
        }
    }

    fn colour_samples(&self) -> usize {
        match self.colour {
            Colour::WhiteIsZero | Colour::BlackIsZero | Colour::Palette => 1,
            Colour::Rgb | Colour::YCbCr | Colour::Lab => 3,
            Colour::Cmyk => 4,
        }
    }

    fn pixel(&self, pixel: &[u8]) -> [u8; 3] {
        match (self.colour, pixel) {
            (Colour::BlackIsZero, &[grey, ..]) => [grey; 3],
            (Colour::WhiteIsZero, &[grey, ..]) => [255 - grey; 3],
            (Colour::Palette, &[number, ..]) => {
                let colour = self.palette.get(usize::from(number));
                colour.copied().unwrap_or_default()
            }
            (Colour::Rgb, &[red, green, blue, ..]) => [red, green, blue],
            (Colour::Lab, &[lightness, a, b, ..]) => lab::to_rgb(lightness, a as i8, b as i8),
            (Colour::YCbCr, &[luma, blue, red, ..]) => self.ycbcr.rgb(luma, blue, red),
            (Colour::Cmyk, &[cyan, magenta, yellow, black, ..]) => {
                [cyan, magenta, yellow].map(|ink| without_ink(ink, black))
            }
            // A layout with fewer samples than its colours need is refused.
            _ => [0; 3],
        }
    }
}

/// A premultiplied part of a colour, as Pillow divides it.
fn divided(part: u8, alpha: u8) -> u8 {
    match alpha {
        0 => 0,
        255 => part,
        _ => (u32::from(part) * 255 / u32::from(alpha)).min(255) as u8,
    }
}

/// What is left of white, as Pillow has it.
fn without_ink(ink: u8, black: u8) -> u8 {
    let paper = 255 - u32::from(black);
    let product = u32::from(ink) * paper + 128;
    let ink = ((product >> 8) + product) >> 8;
    paper.saturating_sub(ink) as u8
}

/// The parts of a colour by luma and chroma, in libtiff's arithmetic.
struct YCbCr {
    luma: Vec<i32>,
    red_by_red: Vec<i32>,
    green_by_red: Vec<i32>,
    green_by_blue: Vec<i32>,
    blue_by_blue: Vec<i32>,
}

impl YCbCr {
    fn new(directory: &Directory<'_>) -> Self {
        const USUAL: [f32; 3] = [0.299, 0.587, 0.114];
        const RANGES: [f32; 6] = [0.0, 255.0, 128.0, 255.0, 128.0, 255.0];
        let of = |tag, index, usual: &[f32]| {
            let value = directory.fraction(tag, index as u64);
            value.filter(|v| v.is_finite()).unwrap_or(usual[index])
        };
        let [red, green, blue] = [0, 1, 2].map(|i| of(tag::YCBCR_COEFFICIENTS, i, &USUAL));
        let green = if green == 0.0 { USUAL[1] } else { green };
        let range = |index| of(tag::REFERENCE_BLACK_WHITE, index, &RANGES);
        let fixed = |x: f32| (x * 65_536.0 + 0.5) as i32;
        let (by_red, by_blue) = (2.0 - 2.0 * red, 2.0 - 2.0 * blue);
        let d1 = fixed(by_red);
        let d2 = -fixed(red * by_red / green);
        let d3 = fixed(by_blue);
        let d4 = -fixed(blue * by_blue / green);
        // A code between its black and its white, as a value up to `most`.
        let value = |code: f32, black: f32, white: f32, most: f32| {
            let range = white - black;
            (code - black) * most / if range == 0.0 { 1.0 } else { range }
        };
        let chroma = |index: usize| -> Vec<i32> {
            let (black, white) = (range(index) - 128.0, range(index + 1) - 128.0);
            let values = (0..256).map(|i| value(i as f32 - 128.0, black, white, 127.0));
            values.map(|v| v.clamp(-4_096.0, 4_096.0) as i32).collect()
        };
        let (blues, reds) = (chroma(2), chroma(4));
        let times = |values: &[i32], factor: i32, plus: i32, shift: u32| -> Vec<i32> {
            let product = |v: &i32| v.wrapping_mul(factor).wrapping_add(plus) >> shift;
            values.iter().map(product).collect()
        };
        YCbCr {
            luma: (0..256)
                .map(|i| value(i as f32, range(0), range(1), 255.0).clamp(-4_096.0, 4_096.0) as i32)
                .collect(),
            red_by_red: times(&reds, d1, 1 << 15, 16),
            green_by_red: times(&reds, d2, 0, 0),
            green_by_blue: times(&blues, d4, 1 << 15, 0),
            blue_by_blue: times(&blues, d3, 1 << 15, 16),
        }
    }

    fn rgb(&self, luma: u8, blue: u8, red: u8) -> [u8; 3] {
        let (luma, blue, red) = (
            self.luma[usize::from(luma)],
            usize::from(blue),
            usize::from(red),
        );
        let green = self.green_by_red[red].wrapping_add(self.green_by_blue[blue]) >> 16;
        [
            luma + self.red_by_red[red],
            luma + green,
            luma + self.blue_by_blue[blue],
        ]
        .map(|part| part.clamp(0, 255) as u8)
    }
}

/// A row of samples as bytes: fewer bits scaled to eight, but for a palette; more of them cut to
/// the highest eight; numbers of 32 bits and floats as they are, from 0 to 255, as Pillow has it.
pub(super) fn to_bytes(layout: &Layout, row: &[u8], out: &mut [u8]) {
    let bits = layout.bits;
    let scale = if layout.colour == Colour::Palette {
        1
    } else {
        255 / ((1_u32 << bits.min(8)) - 1) as u8
    };
    match bits {
        1 | 2 | 4 => {
            let (per_byte, mask) = (8 / bits, (1_u8 << bits) - 1);
            for (index, out) in out.iter_mut().enumerate() {
                let shift = 8 - bits - bits * (index % per_byte);
                *out = (row[index / per_byte] >> shift & mask) * scale;
            }
        }
        12 => {
            // Two samples in three bytes.
            for (index, out) in out.iter_mut().enumerate() {
                let first = index / 2 * 3 + index % 2;
                *out = if index % 2 == 0 {
                    row[first]
                } else {
                    row[first] << 4 | row[first + 1] >> 4
                };
            }
        }
        16 if layout.format == SampleFormat::Unsigned => {
            let high = usize::from(!layout.big_endian);
            for (sample, out) in row.chunks_exact(2).zip(out) {
                *out = sample[high];
            }
        }
        16 => {
            for (sample, out) in row.as_chunks::<2>().0.iter().zip(out) {
                let number = if layout.big_endian {
                    i16::from_be_bytes(*sample)
                } else {
                    i16::from_le_bytes(*sample)
                };
                *out = number.clamp(0, 255) as u8;
            }
        }
        32 => {
            for (sample, out) in row.as_chunks::<4>().0.iter().zip(out) {
                let number = if layout.big_endian {
                    u32::from_be_bytes(*sample)
                } else {
                    u32::from_le_bytes(*sample)
                };
                *out = match layout.format {
                    SampleFormat::Unsigned => number.min(255) as u8,
                    SampleFormat::Signed => (number as i32).clamp(0, 255) as u8,
                    // Cut, not rounded; what is no number is 0.
                    SampleFormat::Float => f32::from_bits(number) as u8,
                };
            }
        }
        _ => out.copy_from_slice(&row[..out.len()]),
    }
}
