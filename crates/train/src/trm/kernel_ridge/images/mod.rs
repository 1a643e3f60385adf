//! The image memory: kernel ridge regression over whole training images.
//!
//! With phi the standardised global feature beside the centred, normalised mean of V^ and a
//! histogram of visual words ([`super::words`]), and the Gaussian kernel of phi:
//!
//! ```text
//! k_c(x)  = sum_j alpha_jc exp(-|phi(x) - phi_j|^2)
//! alpha_c = argmin  sum_i w_ic (aim_ic - prior_c - k_c(x_i))^2 + ridge |k_c|^2
//! s_m,c   = a k_c + logit(prior_c) + b
//! ```
//!
//! [`super::aims`] says what aims and weights are. Every category has weights of its own, so its
//! own system; many are solved together by conjugate gradients, a product with K for all of them at
//! each step.

mod solver;

use super::aims::{Aims, SoftConfig};
use super::targets::{Targets, logits, moments};
use super::words::VisualWords;
use crate::arrays::{to_matrix, to_tensor};
use crate::trm::settings::MethodError;
use candle_core::{Result, Tensor};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, Zip, s};
use solver::conjugate_gradients;
use std::ops::Range;
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
        /// Visual words in the codebook; 0: no histogram of them in the kernel.
        words: usize = 128,
        /// Sharpness of the softmax over words.
        word_sharpness: f64 = 15.0,
        /// Share of the histogram of words beside the two other features, 0 to 1.
        word_share: f64 = 0.33,
        /// Parts for predictions on unseen images, made of whole groups.
        folds: usize = 5,
        /// What is aimed at where labels say nothing.
        soft: SoftConfig = SoftConfig::default(),
    }
}

/// Columns that are solved together: bounds the memory where there are many categories.
const COLUMNS: usize = 1536;

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
        if !(0.0..1.0).contains(&self.word_share) || self.word_sharpness.is_nan() {
            return bad("memory.word_share", "must lie in [0, 1)");
        }
        let soft = [self.soft.unknown_weight, self.soft.group_cap];
        if soft.iter().any(|x| x.is_nan() || *x < 0.0) {
            return bad("memory.soft", "its numbers must be at least 0");
        }
        if !(0.0..=1.0).contains(&self.soft.absent_share) {
            return bad("memory.soft.absent_share", "must lie in [0, 1]");
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
    /// The histogram of visual words, if phi has one.
    pub words: Option<WordBank>,
    /// phi of the images remembered, `[M, 2 D + K]`.
    pub images: Array2<f32>,
}

/// How roots of histograms become a part of phi.
#[derive(Debug, Clone, PartialEq)]
pub struct WordBank {
    /// The codebook.
    pub words: VisualWords,
    /// Mean of the roots, `[K]`.
    pub root_centre: Array1<f32>,
    /// Multiplies the centred roots after they are normalised.
    pub spread: f32,
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

/// What the kernel is made of: images by their features.
#[derive(Debug, Clone, Copy)]
pub struct ImageExamples<'a> {
    /// Raw global features, `[n, D]`.
    pub global: ArrayView2<'a, f32>,
    /// Means of V^ over positions, `[n, D]`.
    pub mean: ArrayView2<'a, f32>,
    /// Visual words and the roots of the images' histograms of them, `[n, K]`.
    pub words: Option<(&'a VisualWords, ArrayView2<'a, f32>)>,
}

/// The kernel of a training set, for which any aims can be solved.
#[derive(Debug)]
pub struct ImageSystem {
    bank: ImageBank,
    /// phi of all images, `[n, 2 D + K]`.
    phi: Array2<f32>,
    remembered: Tensor,
    kernel: Tensor,
    kept: Vec<usize>,
    fold_of: Vec<Option<usize>>,
    folds: usize,
    ridge: f32,
}

impl ImageSystem {
    /// The kernel of the images that `fold_of` names a fold of: those are remembered.
    ///
    /// # Errors
    /// Those of tensor operations.
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn new(
        examples: &ImageExamples,
        fold_of: &[Option<usize>],
        config: &MemoryConfig,
    ) -> Result<Self> {
        assert!(examples.mean.dim() == examples.global.dim());
        assert_eq!(
            fold_of.len(),
            examples.global.nrows(),
            "a fold of all images"
        );
        let kept: Vec<usize> = (0..fold_of.len())
            .filter(|image| fold_of[*image].is_some())
            .collect();
        let (bank, phi) = ImageBank::new(examples, &kept, config);
        let remembered = to_tensor(bank.images.view())?;
        Ok(Self {
            kernel: gaussian(&remembered, &remembered)?,
            bank,
            phi,
            remembered,
            kept,
            fold_of: fold_of.to_vec(),
            folds: config.folds,
            ridge: config.ridge as f32,
        })
    }

    /// k of all images, each by the fold that left it out, `[n, C]`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn left_out(&self, aims: &Aims) -> Result<Array2<f32>> {
        let c = aims.priors.len();
        let mut scores = Array2::zeros((self.phi.nrows(), c));
        let together = (COLUMNS / self.folds).max(1);
        for first in (0..c).step_by(together) {
            let part = first..(first + together).min(c);
            let alpha = self.solve(aims, part.clone(), 1..self.folds + 1)?;
            let found = self.out_of_fold(&alpha, part.len())?;
            scores.slice_mut(s![.., part]).assign(&found);
        }
        Ok(scores)
    }

    /// The regression of all images, and logits of the images fitted on, each from the folds that
    /// left it out, `[n, C]`: `left_out` are those folds' k.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn fit(
        self,
        aims: &Aims,
        targets: &Targets,
        left_out: Array2<f32>,
    ) -> Result<(ImageRidge, Array2<f32>)> {
        let c = aims.priors.len();
        let mut weight = Array2::zeros((self.kept.len(), c));
        for first in (0..c).step_by(COLUMNS) {
            let part = first..(first + COLUMNS).min(c);
            let alpha = self.solve(aims, part.clone(), 0..1)?;
            weight.slice_mut(s![.., part]).assign(&alpha);
        }
        let platt = aims.platt(targets, left_out.view());
        let (a, b) = (platt.scale as f32, platt.offset as f32);
        let bias = logits(&aims.priors).mapv(|logit| logit + b);
        let mut unseen = left_out;
        Zip::from(&mut unseen)
            .and_broadcast(&bias)
            .for_each(|score, bias| *score = a * *score + bias);
        weight.mapv_inplace(|x| a * x);
        let fitted = ImageRidge {
            bank: self.bank,
            weight,
            bias,
        };
        Ok((fitted, unseen))
    }

    /// alpha of some categories without each of the folds `without` (counted from 1; 0: without
    /// none), the categories of one fold beside each other: `[M, folds * categories]`.
    fn solve(&self, aims: &Aims, part: Range<usize>, without: Range<usize>) -> Result<Array2<f32>> {
        let columns = part.len() * without.len();
        let mut masks = Array2::zeros((self.kept.len(), columns));
        let mut right = Array2::zeros((self.kept.len(), columns));
        for (row, &image) in self.kept.iter().enumerate() {
            for (block, left_out) in without.clone().enumerate() {
                if left_out > 0 && self.fold_of[image] == Some(left_out - 1) {
                    continue;
                }
                for (column, category) in part.clone().enumerate() {
                    let weight = aims.weights[[image, category]].sqrt();
                    let at = [row, block * part.len() + column];
                    masks[at] = weight;
                    right[at] = weight * (aims.values[[image, category]] - aims.priors[category]);
                }
            }
        }
        conjugate_gradients(&self.kernel, masks.view(), right, self.ridge)
    }

    /// k of all images from the columns of [`ImageSystem::solve`] without each fold.
    fn out_of_fold(&self, alpha: &Array2<f32>, categories: usize) -> Result<Array2<f32>> {
        /// Images whose kernel is held at once.
        const ROWS: usize = 1024;
        let alpha = to_tensor(alpha.view())?;
        let mut scores = Array2::zeros((self.phi.nrows(), categories));
        let blocks = scores.axis_chunks_iter_mut(Axis(0), ROWS);
        let blocks = blocks.zip(self.phi.axis_chunks_iter(Axis(0), ROWS));
        for ((mut scores, phi), fold_of) in blocks.zip(self.fold_of.chunks(ROWS)) {
            let kernel = gaussian(&to_tensor(phi)?, &self.remembered)?;
            let found = to_matrix(&kernel.matmul(&alpha)?)?;
            let rows = scores.rows_mut().into_iter().zip(found.rows());
            for ((mut scores, found), fold) in rows.zip(fold_of) {
                // An image that nobody remembers was left out by every fold.
                let first = fold.unwrap_or(0) * categories;
                scores.assign(&found.slice(s![first..first + categories]));
            }
        }
        Ok(scores)
    }
}

impl ImageRidge {
    /// s_m of images, `[B, C]`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn logits(&self, images: &ImageExamples) -> Result<Array2<f32>> {
        let roots = images.words.map(|(_, roots)| roots);
        let phi = to_tensor(self.bank.phi(images.global, images.mean, roots).view())?;
        let kernel = gaussian(&phi, &to_tensor(self.bank.images.view())?)?;
        Ok(to_matrix(&kernel.matmul(&to_tensor(self.weight.view())?)?)? + &self.bias)
    }
}

impl ImageBank {
    /// The bank of the images `kept`, and phi of all images.
    fn new(examples: &ImageExamples, kept: &[usize], config: &MemoryConfig) -> (Self, Array2<f32>) {
        let (centre, deviation) = moments(examples.global);
        let (mean_centre, _) = moments(examples.mean);
        // All parts have a mean square of 1 before they are weighed against each other.
        let word_share = examples.words.map_or(0.0, |_| config.word_share);
        let global_share = ((1.0 - word_share) * (1.0 - config.dense_share) * 2.0).sqrt();
        let size = global_share / (centre.len() as f64).sqrt();
        let mut bank = Self {
            global_scale: deviation.mapv(|s| (size / s) as f32),
            global_offset: Zip::from(&centre)
                .and(&deviation)
                .map_collect(|m, s| (-m * size / s) as f32),
            mean_centre: mean_centre.mapv(|x| x as f32),
            mean_spread: ((1.0 - word_share) * config.dense_share * 2.0).sqrt() as f32,
            words: examples.words.map(|(words, roots)| WordBank {
                words: words.clone(),
                root_centre: moments(roots).0.mapv(|x| x as f32),
                spread: (word_share * 2.0).sqrt() as f32,
            }),
            images: Array2::zeros((0, 0)),
        };
        let roots = examples.words.map(|(_, roots)| roots);
        let mut phi = bank.phi(examples.global, examples.mean, roots);
        let spread = median_distance(phi.view()).max(1e-12);
        let scale = (1.0 / (spread * config.bandwidth)).sqrt() as f32;
        bank.global_scale *= scale;
        bank.global_offset *= scale;
        bank.mean_spread *= scale;
        bank.words
            .iter_mut()
            .for_each(|words| words.spread *= scale);
        phi *= scale;
        bank.images = phi.select(Axis(0), kept);
        (bank, phi)
    }

    /// phi of images, `[B, 2 D + K]`; `roots` are those of their histograms.
    fn phi(
        &self,
        global: ArrayView2<'_, f32>,
        mean: ArrayView2<'_, f32>,
        roots: Option<ArrayView2<'_, f32>>,
    ) -> Array2<f32> {
        let d = self.mean_centre.len();
        let words = self.words.as_ref().zip(roots);
        let width = 2 * d + words.as_ref().map_or(0, |(_, roots)| roots.ncols());
        let mut phi = Array2::zeros((global.nrows(), width));
        let (mut of_global, rest) = phi.view_mut().split_at(Axis(1), d);
        Zip::from(&mut of_global)
            .and(global)
            .and_broadcast(&self.global_scale)
            .and_broadcast(&self.global_offset)
            .for_each(|phi, x, scale, offset| *phi = x * scale + offset);
        let (of_mean, of_words) = rest.split_at(Axis(1), d);
        directions(of_mean, mean, &self.mean_centre, self.mean_spread);
        if let Some((bank, roots)) = words {
            directions(of_words, roots, &bank.root_centre, bank.spread);
        }
        phi
    }
}

/// `spread (x - centre) / |x - centre|`, row by row.
fn directions(
    mut out: ArrayViewMut2<'_, f32>,
    x: ArrayView2<'_, f32>,
    centre: &Array1<f32>,
    spread: f32,
) {
    for (mut out, x) in out.rows_mut().into_iter().zip(x.rows()) {
        out.assign(&(&x - centre));
        let norm = out.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        out.mapv_inplace(|x| x / norm * spread);
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
