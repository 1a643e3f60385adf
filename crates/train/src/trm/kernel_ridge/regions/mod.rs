//! The regional memory: for each category, kernel ridge regression over its own regions.
//!
//! R0 is the region-level feature of the informed start (saliency from the template's text feature,
//! before any training, so that what is said of a left-out image owes nothing to that image's
//! labels). Per category c, over the images where c is known:
//!
//! ```text
//! k_c(x)  = sum_j alpha_jc exp(b (R0^_c(x) . R0^_c(x_j) - 1))        j: at most `regions` of them
//! alpha_c = argmin  sum_i (y_ic - prior_c - k_c(x_i))^2 + ridge alpha^T K alpha
//! s_l,c   = a k_c + logit(prior_c) + b
//! ```
//!
//! Whole images with many objects resemble no other image, but an object's region does resemble
//! that object's other regions.

use super::targets::{Targets, logits};
use crate::arrays::{rows, to_matrix, to_tensor};
use crate::trm::settings::MethodError;
use candle_core::{Result, Tensor};
use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, Axis, Zip, s};
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
    pub(crate) fn validate(&self) -> std::result::Result<(), MethodError> {
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
    /// Indices of the images.
    pub images: Vec<usize>,
    /// 1 present, 0 absent.
    pub targets: Vec<f32>,
    /// Weight of each in the fit.
    pub weights: Vec<f32>,
    /// R0^ of each, `[images, D]`.
    pub regions: Vec<f32>,
}

/// One category's regions and their coefficients.
#[derive(Debug, Clone)]
struct CategoryFit {
    /// `[M, D]`.
    bank: Array2<f32>,
    /// Column 0 fitted on all known images, column 1 + f without those of fold f: `[M, folds + 1]`.
    alpha: Array2<f32>,
}

/// Regressions fitted on all images and without each fold.
#[derive(Debug, Clone)]
pub struct RegionFit {
    sharpness: f64,
    categories: Vec<Option<CategoryFit>>,
}

/// The regressions as inference runs them.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionRidge {
    /// b, the kernel's sharpness.
    pub sharpness: f32,
    /// Columns of norm 1, 0 where a category remembers fewer: `[C, D, M]`.
    pub bank: Array3<f32>,
    /// alpha, already multiplied by `a`: `[C, M]`.
    pub weight: Array2<f32>,
    /// logit(prior) + b, `[C]`.
    pub bias: Array1<f32>,
}

impl RegionFit {
    /// Fits a regression for every category. `fold_of` and `folds`: see [`super::targets::folds`].
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
        let spread = median_distance(known, dim)? * config.bandwidth;
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

    /// k of images, each by the coefficients that left it out, `[B, C]`: `regions` is R0^,
    /// `[B, C, D]`, `fold_of` the images' folds.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn out_of_fold(&self, regions: &Tensor, fold_of: &[Option<usize>]) -> Result<Array2<f32>> {
        let mut scores = Array2::zeros((fold_of.len(), self.categories.len()));
        for (category, fit) in self.categories.iter().enumerate() {
            let Some(fit) = fit else { continue };
            let rows = regions.narrow(1, category, 1)?.squeeze(1)?.contiguous()?;
            let kernel = kernel(&rows, &to_tensor(fit.bank.view())?, self.sharpness)?;
            let found = to_matrix(&kernel.matmul(&to_tensor(fit.alpha.view())?)?)?;
            let column = scores.column_mut(category);
            for ((score, found), fold) in column.into_iter().zip(found.rows()).zip(fold_of) {
                *score = found[fold.map_or(0, |fold| fold + 1)];
            }
        }
        Ok(scores)
    }

    /// Turns `scores` (k of all images by [`RegionFit::out_of_fold`], `[n, C]`) into logits and
    /// returns the regressions that give such.
    pub fn finish(&self, targets: &Targets, scores: &mut Array2<f32>, dim: usize) -> RegionRidge {
        let c = self.categories.len();
        let prior_logits = logits(&targets.priors());
        let platt = targets.platt(scores.view(), &prior_logits);
        let (a, b) = (platt.scale as f32, platt.offset as f32);
        let bias = prior_logits.mapv(|logit| logit + b);
        Zip::from(scores)
            .and_broadcast(&bias)
            .for_each(|score, bias| *score = a * *score + bias);
        let sizes = self.categories.iter().flatten().map(|fit| fit.bank.nrows());
        let most = sizes.fold(1, usize::max);
        let mut bank = Array3::zeros((c, dim, most));
        let mut weight = Array2::zeros((c, most));
        for (category, fit) in self.categories.iter().enumerate() {
            let Some(fit) = fit else { continue };
            let m = fit.bank.nrows();
            let alpha = fit.alpha.column(0).mapv(|alpha| a * alpha);
            weight.slice_mut(s![category, ..m]).assign(&alpha);
            bank.slice_mut(s![category, .., ..m]).assign(&fit.bank.t());
        }
        RegionRidge {
            sharpness: self.sharpness as f32,
            bank,
            weight,
            bias,
        }
    }
}

/// The regression of one category, or none if no presence of it is known.
fn fit(
    known: &KnownRegions,
    prior: f32,
    dim: usize,
    (fold_of, folds): (&[Option<usize>], usize),
    sharpness: f64,
    config: &RegionalConfig,
) -> Result<Option<CategoryFit>> {
    let Some(kept) = remembered(known, config.regions) else {
        return Ok(None);
    };
    let regions = rows(&known.regions, dim)?;
    let bank = regions.select(Axis(0), &kept);
    let k = to_matrix(&kernel(
        &to_tensor(regions)?,
        &to_tensor(bank.view())?,
        sharpness,
    )?)?;

    // K^T W K and K^T W (y - prior) of every fold, so that leaving one out is a subtraction. Part
    // `folds` is no fold's.
    let mut parts: Vec<Vec<usize>> = vec![Vec::new(); folds + 1];
    for (at, &image) in known.images.iter().enumerate() {
        parts[fold_of[image].unwrap_or(folds)].push(at);
    }
    let sums = parts
        .iter()
        .map(|part| normal_equations(known, prior, k.view(), part))
        .collect::<Result<Vec<_>>>()?;
    let penalty = k
        .select(Axis(0), &kept)
        .mapv(|x| config.ridge * f64::from(x));
    let mut alpha = Array2::zeros((kept.len(), folds + 1));
    for (column, mut alpha) in alpha.columns_mut().into_iter().enumerate() {
        let mut left = penalty.clone();
        let mut right = Array1::zeros(kept.len());
        for (part, (gram, products)) in sums.iter().enumerate() {
            if column == 0 || part != column - 1 {
                left += gram;
                right += products;
            }
        }
        // Two regions that are the same make K singular.
        left.diag_mut().mapv_inplace(|x| x + 1e-3);
        solve(&mut left, &mut right);
        alpha.assign(&right.mapv(|x| x as f32));
    }
    Ok(Some(CategoryFit { bank, alpha }))
}

/// Which of the known regions are remembered: presences first, up to half, then absences. None
/// without a presence.
fn remembered(known: &KnownRegions, most: usize) -> Option<Vec<usize>> {
    let all = known.images.len();
    let present = |at: &usize| known.targets[*at] > 0.5;
    let positives = (0..all).filter(present);
    let mut kept: Vec<usize> = positives.take((most / 2).max(1)).collect();
    if kept.is_empty() {
        return None;
    }
    let room = most - kept.len();
    kept.extend((0..all).filter(|at| !present(at)).take(room));
    Some(kept)
}

/// K^T W K and K^T W (y - prior) of the known regions `part`; `k` is the kernel of all known
/// regions and those remembered.
fn normal_equations(
    known: &KnownRegions,
    prior: f32,
    k: ArrayView2<'_, f32>,
    part: &[usize],
) -> Result<(Array2<f64>, Array1<f64>)> {
    let m = k.ncols();
    let mut products = Array1::zeros(m);
    let mut scaled = k.select(Axis(0), part);
    for (mut row, &at) in scaled.rows_mut().into_iter().zip(part) {
        let gap = f64::from(known.weights[at] * (known.targets[at] - prior));
        products.zip_mut_with(&row, |sum: &mut f64, x| *sum += gap * f64::from(*x));
        row *= known.weights[at].sqrt();
    }
    if part.is_empty() {
        return Ok((Array2::zeros((m, m)), products));
    }
    let scaled = to_tensor(scaled.view())?;
    let gram = to_matrix(&scaled.t()?.contiguous()?.matmul(&scaled)?)?;
    Ok((gram.mapv(f64::from), products))
}

/// `exp(b (a . bank - 1))`, `[A, M]`, rows of norm 1.
fn kernel(a: &Tensor, bank: &Tensor, sharpness: f64) -> Result<Tensor> {
    a.matmul(&bank.t()?.contiguous()?)?
        .affine(sharpness, -sharpness)?
        .exp()
}

/// Solves a symmetric positive definite system in place by Cholesky's method: `left` is `[m, m]`.
fn solve(left: &mut Array2<f64>, right: &mut Array1<f64>) {
    let m = right.len();
    let dot = |a: ArrayView1<f64>, b: ArrayView1<f64>| -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    };
    for j in 0..m {
        for i in j..m {
            let rest = left[[i, j]] - dot(left.slice(s![i, ..j]), left.slice(s![j, ..j]));
            left[[i, j]] = if i == j {
                rest.max(1e-12).sqrt()
            } else {
                rest / left[[j, j]]
            };
        }
    }
    for i in 0..m {
        let known = dot(left.slice(s![i, ..i]), right.slice(s![..i]));
        right[i] = (right[i] - known) / left[[i, i]];
    }
    for i in (0..m).rev() {
        let known = dot(left.slice(s![i + 1.., i]), right.slice(s![i + 1..]));
        right[i] = (right[i] - known) / left[[i, i]];
    }
}

/// The median squared distance of two regions of one category.
fn median_distance(known: &[KnownRegions], dim: usize) -> Result<f64> {
    const PAIRS: usize = 200;
    let mut distances: Vec<f64> = Vec::new();
    for known in known {
        let count = known.images.len();
        let regions = rows(&known.regions, dim)?;
        // Pairs at growing strides: every region in turn, with another each time.
        for pair in 0..PAIRS.min(count.saturating_sub(1) * count / 2) {
            let (i, j) = (pair % count, (pair + 1 + pair / count) % count);
            if i != j {
                let pairs = regions.row(i).into_iter().zip(regions.row(j));
                let squares = pairs.map(|(a, b)| (a - b).powi(2));
                distances.push(f64::from(squares.sum::<f32>()));
            }
        }
    }
    distances.sort_by(f64::total_cmp);
    Ok(distances.get(distances.len() / 2).copied().unwrap_or(1.0))
}

#[cfg(test)]
mod tests;
