//! The memory branch: kernel ridge regression over a bank of training images, fitted in closed
//! form.
//!
//! The paper's memory bank holds visual features and averages them into prototypes. Here the bank
//! itself answers: an image is compared with every remembered one, and what is known about those is
//! passed on. With phi the standardised global feature beside the centred, normalised mean of V^,
//! and K the Gaussian kernel of phi:
//!
//! ```text
//! k_c(x)  = sum_j exp(-|phi(x) - phi_j|^2) alpha_jc
//! alpha_c = argmin  sum_{i known for c} (y_ic - prior_c - k_c(x_i))^2 + ridge |k_c|^2        y in {0, 1}
//! s_m,c   = a k_c + logit(prior_c) + b
//! ```
//!
//! Every category has its own known images, so its own system; all are solved together by conjugate
//! gradients, a product with K for all of them at each step. `a` and `b` come from a logistic
//! regression on predictions for images that the fit had not seen (folds), because a kernel machine
//! flatters the images it remembers.

use super::settings::MethodError;
use super::targets::{Targets, folds, logits};
use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;
use tagstream_core::config::settings;

settings! {
    /// Settings of the memory branch.
    MemoryConfig {
        /// Whether there is one.
        enabled: bool = false,
        /// Most images remembered; more are thinned out at random. Memory is 4 size² bytes while it
        /// is fitted.
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
    pub(super) fn validate(&self) -> std::result::Result<(), MethodError> {
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

/// How an image becomes phi, and the images remembered.
#[derive(Debug, Clone, PartialEq)]
pub struct Bank {
    /// Multiplies the raw global feature, `[D]`.
    pub global_scale: Vec<f32>,
    /// Added to it, `[D]`.
    pub global_offset: Vec<f32>,
    /// Subtracted from the mean of V^, `[D]`.
    pub mean_centre: Vec<f32>,
    /// Multiplies the centred mean after it is normalised.
    pub mean_spread: f32,
    /// phi of the images remembered, `[M, 2 D]`.
    pub images: Vec<f32>,
}

/// A fitted memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Memory {
    /// The bank.
    pub bank: Bank,
    /// alpha, already multiplied by `a`: `[M, C]`.
    pub weight: Vec<f32>,
    /// logit(prior) + b, `[C]`.
    pub bias: Vec<f32>,
}

/// Logits for the images a memory was fitted on, each from the folds that left it out, `[n, C]`.
pub type Unseen = Vec<f32>;

/// What a memory is fitted on; all row-major.
#[derive(Debug, Clone, Copy)]
pub struct MemoryData<'a> {
    /// Raw global features, `[n, D]`.
    pub global: &'a [f32],
    /// Means of V^ over positions, `[n, D]`.
    pub mean: &'a [f32],
    /// +1, -1, 0, `[n, C]`.
    pub labels: &'a [i8],
    /// Weight with which an unknown entry counts as absent (0 unless nothing is known to be
    /// absent).
    pub assume_negative: f64,
    /// D.
    pub dim: usize,
    /// C.
    pub categories: usize,
}

impl MemoryData<'_> {
    fn images(&self) -> usize {
        self.global.len() / self.dim
    }

    fn targets(&self) -> Targets<'_> {
        Targets {
            labels: self.labels,
            assume_negative: self.assume_negative,
            categories: self.categories,
        }
    }
}

impl Memory {
    /// Fits a memory; `shuffled` is a random order of the images (it decides folds, and who is
    /// remembered if there are more images than the bank holds).
    ///
    /// # Errors
    /// Those of tensor operations.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn fit(
        data: &MemoryData,
        shuffled: &[usize],
        config: &MemoryConfig,
    ) -> Result<(Self, Unseen)> {
        let (n, c) = (data.images(), data.categories);
        assert!(data.mean.len() == data.global.len() && data.labels.len() == n * c);
        assert_eq!(shuffled.len(), n, "an order of all images");
        let mut kept: Vec<usize> = shuffled.iter().copied().take(config.size).collect();
        kept.sort_unstable();
        let fold_of = folds(shuffled, config.size, config.folds);

        let (bank, phi) = Bank::new(data, &kept, config);
        let m = kept.len();
        let width = 2 * data.dim;
        let remembered = Tensor::from_slice(&bank.images, (m, width), &Device::Cpu)?;
        let kernel = gaussian(&remembered, &remembered)?;
        let targets = data.targets();
        let priors = targets.priors();

        // A column for each category without a fold left out, and one for each fold.
        let columns = c * (config.folds + 1);
        let mut masks = vec![0.0f32; m * columns];
        let mut right = vec![0.0f32; m * columns];
        for (row, &image) in kept.iter().enumerate() {
            for (category, prior) in priors.iter().enumerate() {
                let (target, weight) = targets.of(image, category);
                for left_out in 0..=config.folds {
                    if fold_of[image] == left_out.checked_sub(1) && left_out > 0 {
                        continue;
                    }
                    let at = row * columns + left_out * c + category;
                    masks[at] = weight.sqrt();
                    right[at] = weight.sqrt() * (target - prior);
                }
            }
        }
        let alpha = solve(&kernel, &masks, &right, columns, config.ridge as f32)?;

        let all = Tensor::from_vec(phi, (n, width), &Device::Cpu)?;
        let alpha_tensor = Tensor::from_slice(&alpha, (m, columns), &Device::Cpu)?;
        let mut scores = vec![0.0f32; n * c];
        for start in (0..n).step_by(1024) {
            let count = 1024.min(n - start);
            let rows = gaussian(&all.narrow(0, start, count)?, &remembered)?
                .matmul(&alpha_tensor)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            for (at, row) in rows.chunks(columns).enumerate() {
                let image = start + at;
                let group = fold_of[image].map_or(0, |fold| fold + 1);
                scores[image * c..(image + 1) * c]
                    .copy_from_slice(&row[group * c..(group + 1) * c]);
            }
        }

        let prior_logits = logits(&priors);
        let calibration = targets.calibrate(&scores, &prior_logits);
        let (a, b) = (calibration.scale as f32, calibration.offset as f32);
        for (at, score) in scores.iter_mut().enumerate() {
            *score = a * *score + prior_logits[at % c] + b;
        }
        let weight = alpha
            .chunks(columns)
            .flat_map(|row| row[..c].iter().map(|x| a * x))
            .collect();
        let bias = prior_logits.iter().map(|logit| logit + b).collect();
        Ok((Self { bank, weight, bias }, scores))
    }

    /// s_m of images given as raw global features and means of V^ (`[B, D]` each), `[B, C]`.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn logits(&self, global: &[f32], mean: &[f32]) -> Result<Vec<f32>> {
        let (d, c) = (self.bank.mean_centre.len(), self.bias.len());
        let phi = self.bank.phi(global, mean);
        let phi = Tensor::from_vec(phi, (global.len() / d, 2 * d), &Device::Cpu)?;
        let m = self.bank.images.len() / (2 * d);
        let remembered = Tensor::from_slice(&self.bank.images, (m, 2 * d), &Device::Cpu)?;
        let weight = Tensor::from_slice(&self.weight, (m, c), &Device::Cpu)?;
        let mut logits = gaussian(&phi, &remembered)?
            .matmul(&weight)?
            .flatten_all()?
            .to_vec1()?;
        logits.chunks_mut(c).for_each(|row| add(row, &self.bias));
        Ok(logits)
    }
}

impl Bank {
    /// The bank of the images `kept`, and phi of all images.
    fn new(data: &MemoryData, kept: &[usize], config: &MemoryConfig) -> (Self, Vec<f32>) {
        let d = data.dim;
        let (centre, deviation) = moments(data.global, d);
        let (mean_centre, _) = moments(data.mean, d);
        // Both halves have a mean square of 1 before they are weighed against each other.
        let global_share = ((1.0 - config.dense_share) * 2.0).sqrt();
        let size = global_share / (d as f64).sqrt();
        let mut bank = Self {
            global_scale: deviation.iter().map(|s| (size / s) as f32).collect(),
            global_offset: centre
                .iter()
                .zip(&deviation)
                .map(|(m, s)| (-m * size / s) as f32)
                .collect(),
            mean_centre: mean_centre.iter().map(|x| *x as f32).collect(),
            mean_spread: (config.dense_share * 2.0).sqrt() as f32,
            images: Vec::new(),
        };
        let mut phi = bank.phi(data.global, data.mean);
        let spread = median_distance(&phi, 2 * d).max(1e-12);
        let scale = (1.0 / (spread * config.bandwidth)).sqrt() as f32;
        for x in bank
            .global_scale
            .iter_mut()
            .chain(&mut bank.global_offset)
            .chain(&mut phi)
        {
            *x *= scale;
        }
        bank.mean_spread *= scale;
        bank.images = kept
            .iter()
            .flat_map(|&i| phi[i * 2 * d..(i + 1) * 2 * d].to_vec())
            .collect();
        (bank, phi)
    }

    /// phi of images, `[B, 2 D]`.
    fn phi(&self, global: &[f32], mean: &[f32]) -> Vec<f32> {
        let d = self.mean_centre.len();
        let mut phi = Vec::with_capacity(2 * global.len());
        for (global, mean) in global.chunks(d).zip(mean.chunks(d)) {
            let affine = self.global_scale.iter().zip(&self.global_offset);
            phi.extend(
                global
                    .iter()
                    .zip(affine)
                    .map(|(g, (scale, offset))| g * scale + offset),
            );
            let centred: Vec<f32> = mean
                .iter()
                .zip(&self.mean_centre)
                .map(|(m, c)| m - c)
                .collect();
            let norm = centred.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            phi.extend(centred.iter().map(|x| x / norm * self.mean_spread));
        }
        phi
    }
}

/// Mean and standard deviation of the columns of `[n, D]`.
pub(super) fn moments(x: &[f32], d: usize) -> (Vec<f64>, Vec<f64>) {
    let n = (x.len() / d).max(1) as f64;
    let (mut mean, mut square) = (vec![0.0; d], vec![0.0; d]);
    for row in x.chunks(d) {
        row.iter()
            .zip(&mut mean)
            .for_each(|(x, m)| *m += f64::from(*x) / n);
    }
    for row in x.chunks(d) {
        for ((x, m), s) in row.iter().zip(&mean).zip(&mut square) {
            *s += (f64::from(*x) - m).powi(2) / n;
        }
    }
    (mean, square.iter().map(|s| s.sqrt().max(1e-6)).collect())
}

/// The median squared distance of pairs of rows, from pairs at a fixed stride.
fn median_distance(rows: &[f32], width: usize) -> f64 {
    let n = rows.len() / width;
    let row = |i: usize| &rows[(i % n) * width..(i % n + 1) * width];
    let pairs = (0..n.saturating_mul(8)).map(|k| (k % n, k % n + 1 + (k / n) * (n / 9).max(1)));
    let mut distances: Vec<f64> = pairs
        .filter(|(i, j)| i % n != j % n)
        .map(|(i, j)| {
            row(i)
                .iter()
                .zip(row(j))
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum()
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

/// Solves `(m K m + ridge) x = r` for every column (mask m, right side r) and returns `m x`,
/// `[M, columns]`.
fn solve(
    kernel: &Tensor,
    masks: &[f32],
    right: &[f32],
    columns: usize,
    ridge: f32,
) -> Result<Vec<f32>> {
    const STEPS: usize = 200;
    const TOLERANCE: f64 = 1e-5;
    let rows = kernel.dim(0)?;
    let product = |p: &[f32]| -> Result<Vec<f32>> {
        let masked: Vec<f32> = p.iter().zip(masks).map(|(p, m)| p * m).collect();
        let product = kernel.matmul(&Tensor::from_vec(masked, (rows, columns), &Device::Cpu)?)?;
        let mut product = product.flatten_all()?.to_vec1::<f32>()?;
        product
            .par_iter_mut()
            .zip(masks)
            .zip(p)
            .for_each(|((y, m), p)| *y = *y * m + ridge * p);
        Ok(product)
    };
    let dots = |a: &[f32], b: &[f32]| -> Vec<f64> {
        let mut sums = vec![0.0; columns];
        for (a, b) in a.chunks(columns).zip(b.chunks(columns)) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
        sums
    };
    let mut x = vec![0.0f32; right.len()];
    let mut residual = right.to_vec();
    let mut direction = residual.clone();
    let mut size = dots(&residual, &residual);
    let goal: Vec<f64> = size.iter().map(|s| s * TOLERANCE * TOLERANCE).collect();
    for _ in 0..STEPS {
        if size.iter().zip(&goal).all(|(s, g)| s <= g) {
            break;
        }
        let image = product(&direction)?;
        let curvature = dots(&direction, &image);
        let step: Vec<f32> = (0..columns)
            .map(|j| {
                if size[j] > goal[j] {
                    (size[j] / curvature[j].max(1e-30)) as f32
                } else {
                    0.0
                }
            })
            .collect();
        for (at, row) in x.chunks_mut(columns).enumerate() {
            let span = at * columns..(at + 1) * columns;
            for (j, (x, (d, i))) in row
                .iter_mut()
                .zip(direction[span.clone()].iter().zip(&image[span.clone()]))
                .enumerate()
            {
                *x += step[j] * d;
                residual[at * columns + j] -= step[j] * i;
            }
        }
        let next = dots(&residual, &residual);
        let turn: Vec<f32> = (0..columns)
            .map(|j| {
                if size[j] > goal[j] {
                    (next[j] / size[j]) as f32
                } else {
                    0.0
                }
            })
            .collect();
        for (d, r) in direction.chunks_mut(columns).zip(residual.chunks(columns)) {
            for ((d, r), t) in d.iter_mut().zip(r).zip(&turn) {
                *d = r + t * *d;
            }
        }
        for j in 0..columns {
            if size[j] > goal[j] {
                size[j] = next[j];
            }
        }
    }
    Ok(x.iter().zip(masks).map(|(x, m)| x * m).collect())
}

fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

#[cfg(test)]
mod tests;
