//! Luma and two planes of colour to RGB of 8 bits, as libavif does it for Pillow: the matrix of
//! ITU-T H.273, colour in between by 9, 3, 3 and 1 sixteenths of its neighbours. Of HEIC it is that
//! of the nearest sample, as libheif does it for Pillow.

use super::coded::{Chroma, Coded};
use super::fault::Fault;

/// How samples become red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Matrix {
    /// The planes are green, blue and red.
    Identity,
    /// Luma with what is missing to green and orange.
    YCgCo,
    /// Luma, and the weights of red and blue in it.
    Weights { red: f32, blue: f32 },
}

impl Matrix {
    fn of(number: u16) -> Result<Self, Fault> {
        let weights = |red, blue| Ok(Matrix::Weights { red, blue });
        match number {
            0 => Ok(Matrix::Identity),
            1 => weights(0.2126, 0.0722),
            // What is not said is BT.601, as libavif takes it.
            2 | 5 | 6 => weights(0.299, 0.114),
            4 => weights(0.30, 0.11),
            7 => weights(0.212, 0.087),
            8 => Ok(Matrix::YCgCo),
            9 => weights(0.2627, 0.0593),
            other => Err(Fault::Unsupported(format!("matrix coefficients {other}"))),
        }
    }
}

/// What is needed to turn rows of samples into RGB.
#[derive(Debug)]
pub(super) struct Converter {
    matrix: Matrix,
    chroma: Chroma,
    /// The sample that is black, and how many lie between it and white.
    luma: (f32, f32),
    /// The sample that is no colour, and the range of all.
    colour: (f32, f32),
    full_range: bool,
    /// Whether colour between samples lies between them, too; else it is the nearest sample's.
    smooth: bool,
}

/// The rows of samples that one row of pixels is made of.
pub(super) struct Rows<'a> {
    pub luma: &'a [u16],
    /// Of each plane of colour the nearest row and the one on the other side.
    pub colour: [[&'a [u16]; 2]; 2],
}

impl Converter {
    /// # Errors
    /// For matrices that are not done here, or not of such planes.
    pub(super) fn new(coded: &Coded, smooth: bool) -> Result<Self, Fault> {
        let matrix = Matrix::of(coded.matrix)?;
        if matrix == Matrix::Identity && !matches!(coded.chroma, Chroma::Full | Chroma::None) {
            return Err(Fault::Damaged("its planes are RGB and not of one size"));
        }
        let scale = f32::from(1u16 << (coded.bits - 8));
        let most = f32::from((1u32 << coded.bits) as u16 - 1);
        let half = 128.0 * scale;
        let (luma, colour) = match coded.full_range {
            true => ((0.0, most), (half, most)),
            false => ((16.0 * scale, 219.0 * scale), (half, 224.0 * scale)),
        };
        Ok(Converter {
            matrix,
            chroma: coded.chroma,
            luma,
            colour,
            full_range: coded.full_range,
            smooth,
        })
    }

    /// Writes one row of RGB.
    pub(super) fn convert(&self, rows: &Rows<'_>, rgb: &mut [u8]) {
        let luma = |sample: u16| (f32::from(sample) - self.luma.0) / self.luma.1;
        let pixels = rgb.chunks_exact_mut(3).zip(rows.luma);
        if self.chroma == Chroma::None {
            for (out, sample) in pixels {
                out.fill(byte(luma(*sample)));
            }
            return;
        }
        let colour = |sample: f32| (sample - self.colour.0) / self.colour.1;
        match self.matrix {
            Matrix::Identity => {
                for (x, (out, green)) in pixels.enumerate() {
                    let (blue, red) = (rows.colour[0][0][x], rows.colour[1][0][x]);
                    let all = [red, *green, blue].map(|sample| byte(luma(sample)));
                    out.copy_from_slice(&all);
                }
            }
            Matrix::YCgCo => {
                for (x, (out, y)) in pixels.enumerate() {
                    let [green, orange] = self.colours_at(rows, x).map(colour);
                    let y = luma(*y);
                    let all = [y - green + orange, y + green, y - green - orange];
                    out.copy_from_slice(&all.map(byte));
                }
            }
            Matrix::Weights { red, blue } => {
                let green = 1.0 - red - blue;
                let (to_red, to_blue) = (2.0 * (1.0 - red), 2.0 * (1.0 - blue));
                let of_red = red * to_red / green;
                let of_blue = blue * to_blue / green;
                for (x, (out, y)) in pixels.enumerate() {
                    let [cb, cr] = self.colours_at(rows, x).map(colour);
                    let y = luma(*y);
                    let all = [
                        y + to_red * cr,
                        y - of_blue * cb - of_red * cr,
                        y + to_blue * cb,
                    ];
                    out.copy_from_slice(&all.map(byte));
                }
            }
        }
    }

    /// Both samples of colour at a column of pixels.
    fn colours_at(&self, rows: &Rows<'_>, x: usize) -> [f32; 2] {
        let (shift_x, _) = self.chroma.shifts();
        if !self.smooth {
            return rows.colour.map(|[near, _]| f32::from(near[x >> shift_x]));
        }
        rows.colour.map(|[near, far]| {
            // Weighed by quarters from row to row and from column to column.
            let column = |x: usize| 3 * u32::from(near[x]) + u32::from(far[x]);
            if shift_x == 0 {
                return column(x) as f32 / 4.0;
            }
            let nearest = x / 2;
            let other = match x % 2 {
                0 => nearest.saturating_sub(1),
                _ => (nearest + 1).min(near.len() - 1),
            };
            (3 * column(nearest) + column(other)) as f32 / 16.0
        })
    }

    /// Makes a row of alpha of a row of its picture's luma, from 0 to 1.
    pub(super) fn alpha(&self, samples: &[u16], alpha: &mut [f32]) {
        for (out, sample) in alpha.iter_mut().zip(samples) {
            let full = f32::from(*sample) / self.luma.1;
            let part = (f32::from(*sample) - self.luma.0) / self.luma.1;
            let value = if self.full_range { full } else { part };
            *out = value.clamp(0.0, 1.0);
        }
    }
}

/// The row of colour next to a row of pixels, and the one on its other side.
pub(super) fn colour_rows(y: usize, shift: u32, rows: usize) -> [usize; 2] {
    if shift == 0 {
        return [y, y];
    }
    let near = y / 2;
    let far = match y % 2 {
        0 => near.saturating_sub(1),
        _ => (near + 1).min(rows - 1),
    };
    [near, far]
}

fn byte(share: f32) -> u8 {
    (share * 255.0 + 0.5) as u8
}

/// Divides colours that were multiplied with their alpha; nothing is known of what is transparent.
pub(super) fn divide(rgb: &mut [u8], alpha: &[f32]) {
    for (pixel, alpha) in rgb.chunks_exact_mut(3).zip(alpha) {
        for sample in pixel {
            *sample = match *alpha {
                0.0 => 0,
                alpha => (f32::from(*sample) / alpha + 0.5) as u8,
            };
        }
    }
}
