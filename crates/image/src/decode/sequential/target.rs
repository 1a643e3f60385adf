//! Which part of a picture is resampled, to how many samples and by which kernel.

/// The weights by which the pixels around a sample of the result are summed.
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

/// One side of the picture: which part of it becomes how many samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Span {
    /// Pixels of the whole side.
    pub pixels: usize,
    /// Where the part begins, pixels.
    pub start: f64,
    /// How long it is, pixels.
    pub length: f64,
    /// Samples of the result.
    pub samples: usize,
}

impl Span {
    /// Writes the weights of the pixels for one sample of the result to `weights`, and returns
    /// the pixel that the first weight belongs to.
    ///
    /// This is Pillow's `resize` with a `box`: where the side is reduced, the kernel is widened as
    /// much, and at the ends of the picture the weights inside it are scaled to a sum of 1.
    pub(crate) fn weigh(&self, kernel: Kernel, sample: usize, weights: &mut Vec<f64>) -> usize {
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

/// What is to become of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Target {
    /// The horizontal side.
    pub columns: Span,
    /// The vertical side.
    pub rows: Span,
    /// By which kernel both are resampled.
    pub kernel: Kernel,
}
