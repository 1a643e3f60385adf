//! Visual words: which kinds of local features a picture is made of.
//!
//! A codebook of K directions is found among local features by spherical k-means; a picture is the
//! histogram of its positions over the words. Of all that was tried beside the global feature and
//! the mean of V^, this is what carries furthest to series of pictures that nothing was seen of
//! (Csurka et al., 2004; roots of histograms: Arandjelovic and Zisserman, 2012).
//!
//! ```text
//! H    = mean_n softmax_k( sharpness word_k . u(V^_n - centre) ),   u(x) = x / |x|
//! part = u(sqrt(H) - their mean over images)
//! ```

use crate::arrays::{rows, to_matrix, to_tensor};
use crate::trm::weights::values;
use candle_core::{D, Result, Tensor};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use tagstream_kernels::{l2_normalize, softmax};

/// Rounds of k-means; the histograms hardly change after that many.
const ROUNDS: usize = 12;

/// A codebook of local features.
#[derive(Debug, Clone, PartialEq)]
pub struct VisualWords {
    /// Mean of V^ over positions, `[D]`.
    pub centre: Array1<f32>,
    /// Rows of norm 1, `[K, D]`.
    pub codebook: Array2<f32>,
    /// Of the softmax over words.
    pub sharpness: f32,
}

impl VisualWords {
    /// Finds `count` words among `local` features (rows of V^, `[n, D]`, in random order): fewer
    /// where there are not ten features a word.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn find(local: ArrayView2<'_, f32>, count: usize, sharpness: f64) -> Result<Self> {
        let count = count.min(local.nrows() / 10).max(1);
        let empty = Array1::zeros(local.ncols());
        let centre = local.mean_axis(Axis(0)).unwrap_or(empty);
        let centred = to_tensor((&local - &centre).view())?;
        let centred = l2_normalize(&centred)?;
        let points = to_matrix(&centred)?;
        // The first ones are as good as any: the order is random.
        let mut codebook = points.slice(ndarray::s![..count, ..]).to_owned();
        for _ in 0..ROUNDS {
            let scores = centred.matmul(&to_tensor(codebook.view())?.t()?.contiguous()?)?;
            let nearest: Vec<u32> = scores.argmax(D::Minus1)?.to_vec1()?;
            let mut sums = Array2::<f32>::zeros(codebook.dim());
            for (point, word) in points.rows().into_iter().zip(&nearest) {
                let mut sum = sums.row_mut(*word as usize);
                sum += &point;
            }
            for (mut word, sum) in codebook.rows_mut().into_iter().zip(sums.rows()) {
                let norm = sum.dot(&sum).sqrt();
                // A word that nobody is nearest to stays where it is.
                if norm > 0.0 {
                    word.assign(&sum.mapv(|x| x / norm));
                }
            }
        }
        Ok(Self {
            centre,
            codebook,
            sharpness: sharpness as f32,
        })
    }

    /// K.
    pub fn count(&self) -> usize {
        self.codebook.nrows()
    }

    /// Roots of the histograms of some pictures: `positions` is V^, `[B, N, D]`; `[B, K]`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn roots(&self, positions: &Tensor) -> Result<Array2<f32>> {
        let (_, _, d) = positions.dims3()?;
        let centre =
            Tensor::from_slice(self.centre.as_slice().unwrap_or(&[]), d, positions.device());
        let local = l2_normalize(&positions.broadcast_sub(&centre?)?)?;
        let codebook = to_tensor((&self.codebook * self.sharpness).view())?;
        let scores = local.broadcast_matmul(&codebook.t()?.contiguous()?)?;
        let histogram = softmax(&scores)?.mean(1)?;
        let found = values(&histogram.sqrt()?)?;
        Ok(rows(&found, self.count())?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Local features around three corners, with a little noise.
    fn corners(n: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, 3), |(row, column)| {
            let noise = ((row * 7 + column * 13) % 11) as f32 / 110.0;
            f32::from(row % 3 == column) + noise
        })
    }

    #[test]
    fn words_are_the_kinds_of_local_features() {
        let local = corners(300);
        let words = VisualWords::find(local.view(), 3, 15.0).unwrap();
        assert_eq!(words.count(), 3);
        // A picture of the first two kinds, half and half, and one of the third alone.
        let pictures = [
            [1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
        ];
        let pictures = Tensor::new(&pictures, &Device::Cpu).unwrap();
        let roots = words.roots(&pictures.reshape((2, 2, 3)).unwrap()).unwrap();
        let mut shares = roots.mapv(|x| x * x);
        for mut row in shares.rows_mut() {
            assert!((row.sum() - 1.0).abs() < 1e-5);
            let mut sorted = row.to_vec();
            sorted.sort_by(f32::total_cmp);
            row.assign(&Array1::from(sorted));
        }
        assert!((shares[[0, 1]] - 0.5).abs() < 0.01 && (shares[[0, 2]] - 0.5).abs() < 0.01);
        assert!(shares[[1, 2]] > 0.99, "{shares}");
    }

    #[test]
    fn few_features_make_few_words() {
        let words = VisualWords::find(corners(25).view(), 128, 15.0).unwrap();
        assert_eq!(words.count(), 2);
    }
}
