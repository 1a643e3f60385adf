//! One side of a component: the weight of each coefficient in each sample of the result.
//!
//! The inverse cosine transform of a block, the interpolation of subsampled chroma and resampling
//! are linear, and each works along rows and along columns separately. So the weight of a
//! coefficient in a sample of the result is a product: one factor for its horizontal frequency and
//! block column, one for its vertical frequency and block row. One side's factors are computed
//! here.

use super::lists::Lists;
use super::target::{Kernel, Span};
use std::f64::consts::PI;

/// Samples on a side of a block, and frequencies along it.
pub(super) const SIDE: usize = 8;

/// One side of a component.
#[derive(Default)]
pub(super) struct Axis {
    /// By sample of the result: the first of the blocks that add to it.
    pub first_blocks: Vec<usize>,
    /// By sample of the result: by block from there on, and frequency.
    pub weights: Lists<[f32; SIDE]>,
    /// By frequency: the root mean square of its weights, relative to that of frequency 0.
    pub strength: [f64; SIDE],
}

impl Axis {
    /// The axes of a component sampled once a pixel, and of one sampled once every two pixels.
    pub(super) fn both(span: &Span, kernel: Kernel) -> [Self; 2] {
        let cosines = cosines();
        let mut axes = [Axis::default(), Axis::default()];
        let (mut weights, mut halves) = (Vec::new(), Vec::new());
        for sample in 0..span.samples {
            let first = span.weigh(kernel, sample, &mut weights);
            axes[0].push(&cosines, first, &weights);
            let first = halve(first, &weights, span.pixels.div_ceil(2), &mut halves);
            axes[1].push(&cosines, first, &halves);
        }
        for axis in &mut axes {
            let mean = axis.strength[0];
            axis.strength = axis.strength.map(|energy| (energy / mean).sqrt());
        }
        axes
    }

    /// Adds a sample of the result. Until the last one, `strength` holds sums of squares.
    fn push(&mut self, cosines: &[[f64; SIDE]; SIDE], first: usize, weights: &[f64]) {
        let blocks = first / SIDE..(first + weights.len()).div_ceil(SIDE);
        let Axis {
            first_blocks,
            strength,
            ..
        } = self;
        first_blocks.push(blocks.start);
        self.weights.push(blocks.map(|block| {
            let mut sums = [0.0f64; SIDE];
            let (begin, end) = (block * SIDE, (block + 1) * SIDE);
            for at in begin.max(first)..end.min(first + weights.len()) {
                for (sum, cosine) in sums.iter_mut().zip(cosines[at - begin]) {
                    *sum += weights[at - first] * cosine;
                }
            }
            for (energy, sum) in strength.iter_mut().zip(sums) {
                *energy += sum * sum;
            }
            sums.map(|sum| sum as f32)
        }));
    }

    /// The blocks that add to a sample of the result.
    pub(super) fn blocks_of(&self, sample: usize) -> std::ops::Range<usize> {
        let first = self.first_blocks[sample];
        first..first + self.weights.get(sample).len()
    }

    /// The blocks that add to any sample of the result.
    pub(super) fn blocks(&self) -> std::ops::Range<usize> {
        let each = || (0..self.first_blocks.len()).map(|sample| self.blocks_of(sample));
        let first = each().map(|blocks| blocks.start).min();
        first.unwrap_or(0)..each().map(|blocks| blocks.end).max().unwrap_or(0)
    }
}

/// Turns weights of pixels into weights of samples that stand for two pixels each, writes them to
/// `halves` and returns the sample that the first one belongs to.
///
/// A pixel is interpolated as three quarters of the nearer sample and one quarter of the farther
/// one; at the ends of the side it is the nearer one alone. libjpeg calls this "fancy upsampling".
fn halve(first: usize, weights: &[f64], count: usize, halves: &mut Vec<f64>) -> usize {
    let begin = (first / 2).saturating_sub(1);
    let end = ((first + weights.len()).div_ceil(2) + 1).min(count);
    halves.clear();
    halves.resize(end - begin, 0.0);
    for (pixel, &weight) in (first..).zip(weights) {
        let near = pixel / 2;
        let far = if pixel % 2 == 0 {
            near.saturating_sub(1)
        } else {
            (near + 1).min(count - 1)
        };
        halves[near - begin] += 0.75 * weight;
        halves[far - begin] += 0.25 * weight;
    }
    begin
}

/// By sample and frequency: one side of the inverse cosine transform (T.81, A.3.3).
fn cosines() -> [[f64; SIDE]; SIDE] {
    std::array::from_fn(|x| {
        std::array::from_fn(|u| {
            let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
            scale / 2.0 * ((2 * x + 1) as f64 * u as f64 * PI / 16.0).cos()
        })
    })
}
