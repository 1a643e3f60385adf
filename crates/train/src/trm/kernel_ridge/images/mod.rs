//! The image memory: kernel ridge regression over whole training images.
//!
//! With phi the standardised global feature beside the centred, normalised mean of V^, and the
//! Gaussian kernel of phi:
//!
//! ```text
//! k_c(x)  = sum_j alpha_jc exp(-|phi(x) - phi_j|^2)
//! alpha_c = argmin  sum_{i known for c} (y_ic - prior_c - k_c(x_i))^2 + ridge |k_c|^2
//! s_m,c   = a k_c + logit(prior_c) + b
//! ```
//!
//! Every category has its own known images, so its own system; all are solved together by conjugate
//! gradients, a product with K for all of them at each step.

mod solver;

use super::targets::{Targets, folds, logits, moments};
use crate::arrays::{to_matrix, to_tensor};
use crate::trm::settings::MethodError;
use candle_core::{Result, Tensor};
use ndarray::{Array1, Array2, ArrayView2, Axis, Zip, s};
use solver::conjugate_gradients;
use tagstream_core::config::settings;

settings! {
    /// Settings of the memory branch.
    MemoryConfig {
        /// Whether there is one.
        enabled: bool = false,
        /// Most images remembered; more are thinned out at random. Memory is 4 size² bytes while
        /// it is fitted.
        size: usize = 4096,
        /// Width of the kernel: 1 puts the median pair of images at exp(-1).
        bandwidth: f64 = 1.0,
        /// Ridge penalty.
        ridge: f64 = 1.0,
        /// Share of the dense mean beside the global feature, 0 to 1.
        dense_share: f64 = 0.5,
        /// Parts for predictions on unseen images.
        folds: usize = 5,
    }
}

impl MemoryConfig {
    pub(crate) fn validate(&self) -> std::result::Result<(), MethodError> {
        let bad = |key: &str, reason: &str| {
            Err(MethodError::BadValue {
                key: key.into(),
                reason: reason.into(),
            })
        };
        if self.size < 2 {
            return bad("memory.size", "must be at least 2");
        }
        if self.folds < 2 {
            return bad("memory.folds", "must be at least 2");
        }
        if !(self.bandwidth > 0.0 && self.ridge > 0.0) {
            return bad(
                "memory.bandwidth",
                "and memory.ridge must be greater than 0",
            );
        }
        if !(0.0..=1.0).contains(&self.dense_share) {
            return bad("memory.dense_share", "must lie in [0, 1]");
        }
        Ok(())
    }
}

/// The feature map phi of whole images, and phi of the images remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageBank {
    /// Multiplies the raw global feature, `[D]`.
    pub global_scale: Array1<f32>,
    /// Added to it, `[D]`.
    pub global_offset: Array1<f32>,
    /// Subtracted from the mean of V^, `[D]`.
    pub mean_centre: Array1<f32>,
    /// Multiplies the centred mean after it is normalised.
    pub mean_spread: f32,
    /// phi of the images remembered, `[M, 2 D]`.
    pub images: Array2<f32>,
}

/// A fitted kernel ridge regression on images.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRidge {
    /// The examples.
    pub bank: ImageBank,
    /// alpha, already multiplied by `a`: `[M, C]`.
    pub weight: Array2<f32>,
    /// logit(prior) + b, `[C]`.
    pub bias: Array1<f32>,
}

/// What the regression is fitted on.
#[derive(Debug, Clone, Copy)]
pub struct ImageExamples<'a> {
    /// Raw global features, `[n, D]`.
    pub global: ArrayView2<'a, f32>,
    /// Means of V^ over positions, `[n, D]`.
    pub mean: ArrayView2<'a, f32>,
    /// `[n, C]`.
    pub targets: Targets<'a>,
}

impl ImageRidge {
    /// Fits the regression; `shuffled` is a random order of the images (it decides folds, and who
    /// is remembered if there are more images than the bank holds). Beside it: logits for the
    /// images fitted on, each from the folds that left it out, `[n, C]`.
    ///
    /// # Errors
    /// Those of tensor operations.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn fit(
        examples: &ImageExamples,
        shuffled: &[usize],
        config: &MemoryConfig,
    ) -> Result<(Self, Array2<f32>)> {
        let targets = &examples.targets;
        let (n, c) = targets.labels.dim();
        assert!(examples.mean.dim() == examples.global.dim() && examples.global.nrows() == n);
        assert_eq!(shuffled.len(), n, "an order of all images");
        let mut kept: Vec<usize> = shuffled.iter().copied().take(config.size).collect();
        kept.sort_unstable();
        let fold_of = folds(shuffled, config.size, config.folds);
        let priors = targets.priors();
        let (bank, phi) = ImageBank::new(examples, &kept, config);
        let remembered = to_tensor(bank.images.view())?;

        // A column for each category without a fold left out, and one for each fold.
        let columns = c * (config.folds + 1);
        let mut masks = Array2::zeros((kept.len(), columns));
        let mut right = Array2::zeros((kept.len(), columns));
        for (row, &image) in kept.iter().enumerate() {
            for (category, prior) in priors.iter().enumerate() {
                let (target, weight) = targets.of(image, category);
                for left_out in 0..=config.folds {
                    if fold_of[image] == left_out.checked_sub(1) && left_out > 0 {
                        continue;
                    }
                    let at = [row, left_out * c + category];
                    masks[at] = weight.sqrt();
                    right[at] = weight.sqrt() * (target - prior);
                }
            }
        }
        let kernel = gaussian(&remembered, &remembered)?;
        let ridge = config.ridge as f32;
        let alpha = conjugate_gradients(&kernel, masks.view(), right, ridge)?;

        let mut scores = out_of_fold(phi.view(), &remembered, &alpha, &fold_of, c)?;
        let prior_logits = logits(&priors);
        let platt = targets.platt(scores.view(), &prior_logits);
        let (a, b) = (platt.scale as f32, platt.offset as f32);
        Zip::from(&mut scores)
            .and_broadcast(&prior_logits)
            .for_each(|score, prior| *score = a * *score + prior + b);
        let fitted = Self {
            bank,
            weight: alpha.slice(s![.., ..c]).mapv(|x| a * x),
            bias: prior_logits.mapv(|logit| logit + b),
        };
        Ok((fitted, scores))
    }

    /// s_m of images given as raw global features and means of V^ (`[B, D]` each), `[B, C]`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn logits(
        &self,
        global: ArrayView2<'_, f32>,
        mean: ArrayView2<'_, f32>,
    ) -> Result<Array2<f32>> {
        let phi = to_tensor(self.bank.phi(global, mean).view())?;
        let kernel = gaussian(&phi, &to_tensor(self.bank.images.view())?)?;
        Ok(to_matrix(&kernel.matmul(&to_tensor(self.weight.view())?)?)? + &self.bias)
    }
}

/// k of all images, each by the fold that left it out, `[n, C]`.
fn out_of_fold(
    phi: ArrayView2<'_, f32>,
    remembered: &Tensor,
    alpha: &Array2<f32>,
    fold_of: &[Option<usize>],
    categories: usize,
) -> Result<Array2<f32>> {
    /// Images whose kernel is held at once.
    const ROWS: usize = 1024;
    let alpha = to_tensor(alpha.view())?;
    let mut scores = Array2::zeros((phi.nrows(), categories));
    let blocks = scores.axis_chunks_iter_mut(Axis(0), ROWS);
    let blocks = blocks.zip(phi.axis_chunks_iter(Axis(0), ROWS));
    for ((mut scores, phi), fold_of) in blocks.zip(fold_of.chunks(ROWS)) {
        let found = to_matrix(&gaussian(&to_tensor(phi)?, remembered)?.matmul(&alpha)?)?;
        for ((mut scores, found), fold) in
            scores.rows_mut().into_iter().zip(found.rows()).zip(fold_of)
        {
            let first = fold.map_or(0, |fold| fold + 1) * categories;
            scores.assign(&found.slice(s![first..first + categories]));
        }
    }
    Ok(scores)
}

impl ImageBank {
    /// The bank of the images `kept`, and phi of all images.
    fn new(examples: &ImageExamples, kept: &[usize], config: &MemoryConfig) -> (Self, Array2<f32>) {
        let (centre, deviation) = moments(examples.global);
        let (mean_centre, _) = moments(examples.mean);
        // Both halves have a mean square of 1 before they are weighed against each other.
        let global_share = ((1.0 - config.dense_share) * 2.0).sqrt();
        let size = global_share / (centre.len() as f64).sqrt();
        let mut bank = Self {
            global_scale: deviation.mapv(|s| (size / s) as f32),
            global_offset: Zip::from(&centre)
                .and(&deviation)
                .map_collect(|m, s| (-m * size / s) as f32),
            mean_centre: mean_centre.mapv(|x| x as f32),
            mean_spread: (config.dense_share * 2.0).sqrt() as f32,
            images: Array2::zeros((0, 0)),
        };
        let mut phi = bank.phi(examples.global, examples.mean);
        let spread = median_distance(phi.view()).max(1e-12);
        let scale = (1.0 / (spread * config.bandwidth)).sqrt() as f32;
        bank.global_scale *= scale;
        bank.global_offset *= scale;
        bank.mean_spread *= scale;
        phi *= scale;
        bank.images = phi.select(Axis(0), kept);
        (bank, phi)
    }

    /// phi of images, `[B, 2 D]`.
    fn phi(&self, global: ArrayView2<'_, f32>, mean: ArrayView2<'_, f32>) -> Array2<f32> {
        let d = self.mean_centre.len();
        let mut phi = Array2::zeros((global.nrows(), 2 * d));
        let (mut of_global, mut of_mean) = phi.view_mut().split_at(Axis(1), d);
        Zip::from(&mut of_global)
            .and(global)
            .and_broadcast(&self.global_scale)
            .and_broadcast(&self.global_offset)
            .for_each(|phi, x, scale, offset| *phi = x * scale + offset);
        for (mut phi, mean) in of_mean.rows_mut().into_iter().zip(mean.rows()) {
            phi.assign(&(&mean - &self.mean_centre));
            let norm = phi.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            phi.mapv_inplace(|x| x / norm * self.mean_spread);
        }
        phi
    }
}

/// The median squared distance of pairs of rows, from pairs at a fixed stride.
fn median_distance(rows: ArrayView2<'_, f32>) -> f64 {
    let n = rows.nrows();
    let pairs = (0..n.saturating_mul(8)).map(|k| (k % n, k % n + 1 + (k / n) * (n / 9).max(1)));
    let mut distances: Vec<f64> = pairs
        .filter(|(i, j)| i % n != j % n)
        .map(|(i, j)| {
            let pairs = rows.row(i % n).into_iter().zip(rows.row(j % n));
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(1.0)
}

/// `exp(-|a_i - b_j|²)`, `[A, B]`.
fn gaussian(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let squares = |x: &Tensor| x.sqr()?.sum(1);
    let cross = (a.matmul(&b.t()?)? * 2.0)?;
    cross
        .broadcast_sub(&squares(a)?.unsqueeze(1)?)?
        .broadcast_sub(&squares(b)?.unsqueeze(0)?)?
        .minimum(0.0)?
        .exp()
}

#[cfg(test)]
mod tests;
