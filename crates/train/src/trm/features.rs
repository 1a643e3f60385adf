//! Frozen features of the training images, as training asks for them.

use half::f16;
use rayon::prelude::*;

/// Why features could not be given.
pub type FeatureFailure = Box<dyn std::error::Error + Send + Sync>;

/// Frozen features of n images: N positions and one global feature each, D dimensions, raw as the
/// encoder gives them.
pub trait FeatureSource: Sync {
    /// n, the number of images.
    fn len(&self) -> usize;
    /// Whether there are no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// D, the width of a feature.
    fn dim(&self) -> usize;
    /// `[n, D]`.
    fn global(&self) -> &[f32];
    /// `[rows, N, D]` of some images.
    ///
    /// # Errors
    /// If they cannot be read.
    fn dense(&self, rows: &[usize]) -> Result<Vec<f32>, FeatureFailure>;
}

/// Features in memory, dense ones in half precision.
///
/// ```
/// use half::f16;
/// use tagstream_train::trm::features::{FeatureSet, FeatureSource};
///
/// // Two images of one position and two dimensions.
/// let dense = [1.0, 0.0, 0.0, 1.0].map(f16::from_f32).to_vec();
/// let features = FeatureSet::new(dense, vec![0.5, 0.0, 0.0, 0.5], 1, 2);
/// assert_eq!(features.len(), 2);
/// assert_eq!(features.dense(&[1])?, [0.0, 1.0]);
/// # Ok::<(), tagstream_train::trm::features::FeatureFailure>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSet {
    dim: usize,
    positions: usize,
    dense: Vec<f16>,
    global: Vec<f32>,
}

impl FeatureSet {
    /// `dense` is `[n, N, D]`, `global` `[n, D]`.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn new(dense: Vec<f16>, global: Vec<f32>, positions: usize, dim: usize) -> Self {
        assert!(dim > 0 && positions > 0 && global.len().is_multiple_of(dim));
        assert_eq!(dense.len(), global.len() * positions, "dense is [n, N, D]");
        Self {
            dim,
            positions,
            dense,
            global,
        }
    }
}

impl FeatureSource for FeatureSet {
    fn len(&self) -> usize {
        self.global.len() / self.dim
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn global(&self) -> &[f32] {
        &self.global
    }

    fn dense(&self, rows: &[usize]) -> Result<Vec<f32>, FeatureFailure> {
        use half::slice::HalfFloatSliceExt;
        let image = self.positions * self.dim;
        let mut out = vec![0.0; rows.len() * image];
        out.par_chunks_mut(image).zip(rows).for_each(|(out, &row)| {
            self.dense[row * image..(row + 1) * image].convert_to_f32_slice(out);
        });
        Ok(out)
    }
}
