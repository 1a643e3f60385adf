//! The regional memory: for each category, kernel ridge regression over a bank of its own regions.
//!
//! The paper's memory bank holds visual features of regions and averages them into prototypes. Here
//! the bank itself answers. R0 is the region-level feature of the informed start (saliency from the
//! template's text feature, before any training, so that what is said of a left-out image owes
//! nothing to that image's labels). Per category c, over the images where c is known:
//!
//! ```text
//! k_c(x)  = sum_j alpha_jc exp(b (R0^_c(x) . R0^_c(x_j) - 1))                     j: at most `regions` of them
//! alpha_c = argmin  sum_i (y_ic - prior_c - k_c(x_i))^2 + ridge alpha^T K alpha   y in {0, 1}
//! s_l,c   = a k_c + logit(prior_c) + b
//! ```
//!
//! Whole images with many objects resemble no other image, but an object's region does resemble
//! that object's other regions.

use super::settings::MethodError;
use super::targets::{Targets, logits};
use candle_core::{Device, Result, Tensor};
use tagstream_core::config::settings;

settings! {
    /// Settings of the regional memory.
    RegionalConfig {
        /// Whether there is one.
        enabled: bool = false,
        /// Most regions remembered a category; known positives first, up to half. The head grows by
        /// 4 C D times this, bytes.
        regions: usize = 128,
        /// Width of the kernel: 1 puts the median pair of regions of a category at exp(-1).
        bandwidth: f64 = 1.0,
        /// Ridge penalty.
        ridge: f64 = 1.0,
    }
}

impl RegionalConfig {
    pub(super) fn validate(&self) -> std::result::Result<(), MethodError> {
        let bad = |key: &str, reason: &str| {
            Err(MethodError::BadValue {
                key: key.into(),
                reason: reason.into(),
            })
        };
        if self.regions < 2 {
            return bad("regional.regions", "must be at least 2");
        }
        if !(self.bandwidth > 0.0 && self.ridge > 0.0) {
            return bad(
                "regional.bandwidth",
                "and regional.ridge must be greater than 0",
            );
        }
        Ok(())
    }
}

/// The images that say something of one category, in the order in which they are remembered.
#[derive(Debug, Clone, Default)]
pub struct KnownRegions {
    /// Which images.
    pub images: Vec<usize>,
    /// 1 present, 0 absent.
    pub targets: Vec<f32>,
    /// How much each counts.
    pub weights: Vec<f32>,
    /// R0^ of each, `[images, D]`.
    pub regions: Vec<f32>,
}

/// One category's bank and what it says.
#[derive(Debug, Clone)]
struct Fitted {
    /// `[M, D]`.
    bank: Tensor,
    /// Column 0 fitted on all known images, column 1 + f without those of fold f: `[M, folds + 1]`.
    alpha: Tensor,
}

/// Banks fitted on all images and without each fold.
#[derive(Debug, Clone)]
pub struct RegionalFit {
    sharpness: f64,
    categories: Vec<Option<Fitted>>,
}

/// A regional memory ready for inference.
#[derive(Debug, Clone, PartialEq)]
pub struct Regional {
    /// b.
    pub sharpness: f32,
    /// Columns of norm 1, 0 where a category remembers fewer: `[C, D, M]`.
    pub bank: Vec<f32>,
    /// alpha, already multiplied by `a`: `[C, M]`.
    pub weight: Vec<f32>,
    /// logit(prior) + b, `[C]`.
    pub bias: Vec<f32>,
}

impl RegionalFit {
    /// Fits a bank for every category. `fold_of` and `folds`: see [`super::targets::folds`].
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn new(
        known: &[KnownRegions],
        targets: &Targets,
        dim: usize,
        (fold_of, folds): (&[Option<usize>], usize),
        config: &RegionalConfig,
    ) -> Result<Self> {
        let spread = median_distance(known, dim) * config.bandwidth;
        let sharpness = 2.0 / spread.max(1e-6);
        let priors = targets.priors();
        let categories = known
            .iter()
            .zip(&priors)
            .map(|(known, prior)| {
                let parts = (fold_of, folds);
                fit(known, *prior, dim, parts, sharpness, config)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            sharpness,
            categories,
        })
    }

    /// k of images, each by the banks that left it out: `regions` is R0^, `[B, C, D]`, `parts` the
    /// images' folds.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn unseen(&self, regions: &Tensor, parts: &[Option<usize>]) -> Result<Vec<f32>> {
        let c = self.categories.len();
        let mut scores = vec![0.0f32; parts.len() * c];
        for (category, fitted) in self.categories.iter().enumerate() {
            let Some(fitted) = fitted else { continue };
            let rows = regions.narrow(1, category, 1)?.squeeze(1)?.contiguous()?;
            let said = kernel(&rows, &fitted.bank, self.sharpness)?.matmul(&fitted.alpha)?;
            for (at, (row, part)) in said.to_vec2::<f32>()?.iter().zip(parts).enumerate() {
                scores[at * c + category] = row[part.map_or(0, |fold| fold + 1)];
            }
        }
        Ok(scores)
    }

    /// Turns `unseen` (k of all images by [`RegionalFit::unseen`], `[n, C]`) into logits and
    /// returns the memory that gives such.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn finish(&self, targets: &Targets, unseen: &mut [f32], dim: usize) -> Result<Regional> {
        let c = self.categories.len();
        let prior_logits = logits(&targets.priors());
        let calibration = targets.calibrate(unseen, &prior_logits);
        let (a, b) = (calibration.scale as f32, calibration.offset as f32);
        let bias: Vec<f32> = prior_logits.iter().map(|logit| logit + b).collect();
        for (at, score) in unseen.iter_mut().enumerate() {
            *score = a * *score + bias[at % c];
        }
        let sizes = self.categories.iter().flatten();
        let most = sizes
            .map(|fitted| fitted.bank.dim(0))
            .try_fold(1, |most, size| size.map(|size| most.max(size)))?;
        let (mut bank, mut weight) = (vec![0.0; c * dim * most], vec![0.0; c * most]);
        for (category, fitted) in self.categories.iter().enumerate() {
            let Some(fitted) = fitted else { continue };
            let alpha = fitted.alpha.narrow(1, 0, 1)?.flatten_all()?;
            for (j, alpha) in alpha.to_vec1::<f32>()?.iter().enumerate() {
                weight[category * most + j] = a * alpha;
            }
            for (j, region) in fitted.bank.to_vec2::<f32>()?.iter().enumerate() {
                for (d, x) in region.iter().enumerate() {
                    bank[(category * dim + d) * most + j] = *x;
                }
            }
        }
        Ok(Regional {
            sharpness: self.sharpness as f32,
            bank,
            weight,
            bias,
        })
    }
}

/// The bank of one category, or none if nothing or only one thing is known of it.
fn fit(
    known: &KnownRegions,
    prior: f32,
    dim: usize,
    (fold_of, folds): (&[Option<usize>], usize),
    sharpness: f64,
    config: &RegionalConfig,
) -> Result<Option<Fitted>> {
    let all = known.images.len();
    let present = |at: &usize| known.targets[*at] > 0.5;
    let positives = (0..all).filter(present);
    let mut kept: Vec<usize> = positives.take((config.regions / 2).max(1)).collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let room = config.regions - kept.len();
    kept.extend((0..all).filter(|at| !present(at)).take(room));
    let m = kept.len();
    let rows = Tensor::from_slice(&known.regions, (all, dim), &Device::Cpu)?;
    let index: Vec<u32> = kept.iter().map(|&at| at as u32).collect();
    let bank = rows.index_select(&Tensor::from_vec(index, m, &Device::Cpu)?, 0)?;
    let k = kernel(&rows, &bank, sharpness)?;

    // K^T W K and K^T W (y - prior) of every fold, so that leaving one out is a subtraction. Part
    // `folds` is no fold's.
    let mut parts: Vec<Vec<usize>> = vec![Vec::new(); folds + 1];
    for (at, &image) in known.images.iter().enumerate() {
        parts[fold_of[image].unwrap_or(folds)].push(at);
    }
    let k_rows = k.to_vec2::<f32>()?;
    let mut grams: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    for part in &parts {
        let mut scaled = Vec::with_capacity(part.len() * m);
        let mut right = vec![0.0f64; m];
        for &at in part {
            let root = known.weights[at].sqrt();
            scaled.extend(k_rows[at].iter().map(|x| x * root));
            let gap = f64::from(known.weights[at] * (known.targets[at] - prior));
            for (sum, x) in right.iter_mut().zip(&k_rows[at]) {
                *sum += gap * f64::from(*x);
            }
        }
        let gram = if part.is_empty() {
            vec![0.0; m * m]
        } else {
            let scaled = Tensor::from_vec(scaled, (part.len(), m), &Device::Cpu)?;
            let gram = scaled.t()?.contiguous()?.matmul(&scaled)?.flatten_all()?;
            gram.to_vec1::<f32>()?.into_iter().map(f64::from).collect()
        };
        grams.push((gram, right));
    }
    let penalty: Vec<f64> = kept
        .iter()
        .flat_map(|&at| k_rows[at].iter().map(|x| config.ridge * f64::from(*x)))
        .collect();
    let mut alpha = vec![0.0f32; m * (folds + 1)];
    for column in 0..=folds {
        let mut left = penalty.clone();
        let mut right = vec![0.0; m];
        for (part, (gram, products)) in grams.iter().enumerate() {
            if column > 0 && part == column - 1 {
                continue;
            }
            left.iter_mut().zip(gram).for_each(|(sum, x)| *sum += x);
            right
                .iter_mut()
                .zip(products)
                .for_each(|(sum, x)| *sum += x);
        }
        // Two regions that are the same make K singular.
        (0..m).for_each(|i| left[i * m + i] += 1e-3);
        solve(&mut left, &mut right);
        for (i, x) in right.iter().enumerate() {
            alpha[i * (folds + 1) + column] = *x as f32;
        }
    }
    let alpha = Tensor::from_vec(alpha, (m, folds + 1), &Device::Cpu)?;
    Ok(Some(Fitted { bank, alpha }))
}

/// `exp(b (a . bank - 1))`, `[A, M]`, rows of norm 1.
fn kernel(a: &Tensor, bank: &Tensor, sharpness: f64) -> Result<Tensor> {
    a.matmul(&bank.t()?.contiguous()?)?
        .affine(sharpness, -sharpness)?
        .exp()
}

/// Solves a symmetric positive definite system in place by Cholesky's method: `left` is `[m, m]`.
fn solve(left: &mut [f64], right: &mut [f64]) {
    let m = right.len();
    for j in 0..m {
        for i in j..m {
            let dot: f64 = (0..j).map(|k| left[i * m + k] * left[j * m + k]).sum();
            let rest = left[i * m + j] - dot;
            left[i * m + j] = if i == j {
                rest.max(1e-12).sqrt()
            } else {
                rest / left[j * m + j]
            };
        }
    }
    for i in 0..m {
        let dot: f64 = (0..i).map(|k| left[i * m + k] * right[k]).sum();
        right[i] = (right[i] - dot) / left[i * m + i];
    }
    for i in (0..m).rev() {
        let dot: f64 = (i + 1..m).map(|k| left[k * m + i] * right[k]).sum();
        right[i] = (right[i] - dot) / left[i * m + i];
    }
}

/// The median squared distance of two regions of one category.
fn median_distance(known: &[KnownRegions], dim: usize) -> f64 {
    const PAIRS: usize = 200;
    let mut distances: Vec<f64> = Vec::new();
    for known in known {
        let count = known.images.len();
        let row = |at: usize| &known.regions[at % count * dim..(at % count + 1) * dim];
        // Pairs at growing strides: every region in turn, with another each time.
        for pair in 0..PAIRS.min(count.saturating_sub(1) * count / 2) {
            let (i, j) = (pair, pair + 1 + pair / count);
            if i % count != j % count {
                let squares = row(i).iter().zip(row(j)).map(|(a, b)| (a - b).powi(2));
                distances.push(f64::from(squares.sum::<f32>()));
            }
        }
    }
    distances.sort_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().unwrap_or(1.0)
}

#[cfg(test)]
mod tests;
