//! One side of a component: how its coefficients make up the samples of the result.
//!
//! Transforming a block, interpolating subsampled chroma and resampling are linear, and each goes along the rows and along the
//! columns by itself. So what a coefficient adds to a sample of the result is one number for its place in the row times one
//! for its place in the column, and these are computed here.

use super::lists::Lists;
use std::f64::consts::PI;

/// Samples of a block on one side.
pub(super) const SIDE: usize = 8;

/// By which weights the pixels around a sample of the result are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Cubic convolution (Keys, 1981; a = -1/2), two samples to each side.
    Cubic,
    /// Linear, one sample to each side.
    Linear,
}

impl Kernel {
    fn support(self) -> f64 {
        match self {
            Kernel::Cubic => 2.0,
            Kernel::Linear => 1.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Kernel::Cubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Kernel::Cubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Kernel::Linear if x < 1.0 => 1.0 - x,
            _ => 0.0,
        }
    }
}

/// Which part of a side becomes how many samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    /// Pixels of the picture.
    pub pixels: usize,
    /// Where the part begins, pixels.
    pub start: f64,
    /// How long it is, pixels.
    pub length: f64,
    /// Samples of the result.
    pub samples: usize,
}

impl Span {
    /// Weights of the pixels, from the first one that counts on, for a sample of the result. When a side is reduced the kernel is
    /// as much wider; at the picture's ends its rest is scaled to 1. This is Pillow's `resize` with a `box`. They are put into
    /// `weights`; what is given is the first pixel.
    fn weigh(&self, kernel: Kernel, sample: usize, weights: &mut Vec<f64>) -> usize {
        let scale = self.length / self.samples as f64;
        let widening = scale.max(1.0);
        let support = kernel.support() * widening;
        let centre = self.start + (sample as f64 + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as usize;
        let end = ((centre + support + 0.5).max(0.0) as usize).min(self.pixels);
        weights.clear();
        weights
            .extend((first..end).map(|pixel| kernel.at((pixel as f64 + 0.5 - centre) / widening)));
        let sum: f64 = weights.iter().sum();
        for weight in weights {
            *weight /= sum;
        }
        first
    }
}

/// One side of a component.
#[derive(Default)]
pub(super) struct Axis {
    /// By sample of the result: the first of the blocks that add to it.
    pub firsts: Vec<usize>,
    /// By sample of the result: by block and frequency.
    pub weights: Lists<[f32; SIDE]>,
    /// By frequency: root mean square of the weights, beside that of the mean.
    pub strength: [f64; SIDE],
}

impl Axis {
    /// For components of which a sample stands for one pixel, and for two.
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

    /// Adds a sample of the result; `strength` is the sum of squares meanwhile.
    fn push(&mut self, cosines: &[[f64; SIDE]; SIDE], first: usize, weights: &[f64]) {
        let blocks = first / SIDE..(first + weights.len()).div_ceil(SIDE);
        let Axis {
            firsts, strength, ..
        } = self;
        firsts.push(blocks.start);
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

    /// By sample of the result: the blocks that add to it.
    pub(super) fn blocks_of(&self, sample: usize) -> std::ops::Range<usize> {
        let first = self.firsts[sample];
        first..first + self.weights.get(sample).len()
    }

    /// Blocks that something of the result depends on.
    pub(super) fn blocks(&self) -> std::ops::Range<usize> {
        let each = || (0..self.firsts.len()).map(|sample| self.blocks_of(sample));
        let first = each().map(|blocks| blocks.start).min();
        first.unwrap_or(0)..each().map(|blocks| blocks.end).max().unwrap_or(0)
    }
}

/// Weights of pixels to weights of samples that stand for two pixels each. Between those, a pixel is three quarters of
/// the nearer one and a quarter of the farther one, and at the ends the nearer one alone, as other readers have it. They
/// are put into `halves`; what is given is the first sample.
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

/// By sample and frequency: the inverse cosine transform (T.81, A.3.3) along one side.
fn cosines() -> [[f64; SIDE]; SIDE] {
    std::array::from_fn(|x| {
        std::array::from_fn(|u| {
            let scale = if u == 0 { 0.5f64.sqrt() } else { 1.0 };
            scale / 2.0 * ((2 * x + 1) as f64 * u as f64 * PI / 16.0).cos()
        })
    })
}
