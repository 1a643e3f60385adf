//! How much the kernel ridge regressions on images and on regions (the *memories*) count beside the
//! trained branches, found from the known labels.
//!
//! What a memory is worth depends on the pictures: much where each has near relatives, little where
//! every one holds another mixture of objects. So it is not a setting but a small logistic
//! regression on the known labels, over predictions that owe nothing to the label they predict: the
//! memories' from the folds that left the image out, and for the trained branches those of their
//! calibrated start, before any training (a cautious stand-in: after training they are better).

use super::config::ShareConfig;
use super::kernel_ridge::targets::Targets;
use ndarray::{Array1, Array2, ArrayView2};

/// Shares at inference; they sum to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// Of the trained branches together.
    pub network: f64,
    /// Of the regression on whole images.
    pub memory: f64,
    /// Of the regression on regions.
    pub regional: f64,
}

impl Blend {
    /// The trained branches alone.
    pub const NETWORK: Self = Self {
        network: 1.0,
        memory: 0.0,
        regional: 0.0,
    };

    /// From non-negative weights of any sum; the trained branches alone if all are 0.
    pub fn new(network: f64, memory: f64, regional: f64) -> Self {
        let sum = network + memory + regional;
        if sum <= 0.0 {
            return Self::NETWORK;
        }
        Self {
            network: network / sum,
            memory: memory / sum,
            regional: regional / sum,
        }
    }

    /// The settings' fixed numbers; `branches` is the sum of the trained branches' own.
    pub fn fixed(shares: &ShareConfig, branches: f64, memory: bool, regional: bool) -> Self {
        let of = |there: bool, share: f64| if there { share } else { 0.0 };
        Self::new(
            branches,
            of(memory, shares.memory),
            of(regional, shares.regional),
        )
    }
}

/// Weights of `columns` (logits `[n, C]` each) in a logistic regression on the known labels of the
/// images in `rows`; no weight is negative. `None` if the labels cannot tell.
///
/// Every category counts the same, and within it its presences as much as its absences: the mean
/// over categories of a ranking measure is what the blend is for. `offsets` (`[C]`) enters as one
/// more column, so that no weight has to serve as a prior.
///
/// # Panics
/// If the lengths do not fit.
pub fn fit_blend(
    targets: &Targets,
    rows: &[usize],
    columns: &[ArrayView2<'_, f32>],
    offsets: &Array1<f32>,
) -> Option<Vec<f64>> {
    let c = targets.categories();
    assert!(
        columns
            .iter()
            .all(|column| column.dim() == targets.labels.dim())
    );
    let mut sums = vec![[0.0f64; 2]; c];
    for &image in rows {
        for (category, sum) in sums.iter_mut().enumerate() {
            let (target, weight) = targets.of(image, category);
            sum[usize::from(target > 0.5)] += f64::from(weight);
        }
    }
    let mut used: Vec<usize> = (0..columns.len()).collect();
    while !used.is_empty() {
        let mut entries = Vec::new();
        for &image in rows {
            for category in 0..c {
                let (target, weight) = targets.of(image, category);
                if weight == 0.0 || sums[category].contains(&0.0) {
                    continue;
                }
                let logit = |k: &usize| f64::from(columns[*k][[image, category]]);
                let mut x: Vec<f64> = used.iter().map(logit).collect();
                x.push(f64::from(offsets[category]));
                let side = sums[category][usize::from(target > 0.5)];
                entries.push((x, f64::from(target), f64::from(weight) / side));
            }
        }
        let found = regression(&mut entries)?;
        let least = (0..used.len()).min_by(|a, b| found[*a].total_cmp(&found[*b]))?;
        if found[least] >= 0.0 {
            let mut weights = vec![0.0; columns.len()];
            used.iter().zip(&found).for_each(|(k, w)| weights[*k] = *w);
            return Some(weights);
        }
        used.remove(least);
    }
    None
}

/// Slopes of a logistic regression with an intercept: entries are (features, target, weight).
fn regression(entries: &mut [(Vec<f64>, f64, f64)]) -> Option<Vec<f64>> {
    const STEPS: usize = 50;
    const RIDGE: f64 = 1e-4;
    let width = entries.first()?.0.len();
    let total: f64 = entries.iter().map(|(_, _, weight)| weight).sum();
    let mut deviations = vec![0.0; width];
    for (k, deviation) in deviations.iter_mut().enumerate() {
        let mean = entries.iter().map(|(x, _, w)| w * x[k]).sum::<f64>() / total;
        let square = entries.iter().map(|(x, _, w)| w * (x[k] - mean).powi(2));
        *deviation = (square.sum::<f64>() / total).sqrt().max(1e-9);
        entries
            .iter_mut()
            .for_each(|(x, _, _)| x[k] = (x[k] - mean) / *deviation);
    }
    let size = width + 1;
    let mut slopes = vec![0.0; size];
    for _ in 0..STEPS {
        let mut gradient: Vec<f64> = slopes.iter().map(|b| RIDGE * b).collect();
        let mut curve = Array2::from_diag_elem(size, RIDGE);
        for (x, target, weight) in entries.iter() {
            let value = |k: usize| if k < width { x[k] } else { 1.0 };
            let logit: f64 = (0..size).map(|k| slopes[k] * value(k)).sum();
            let p = 1.0 / (1.0 + (-logit).exp());
            let w = weight / total;
            for k in 0..size {
                gradient[k] += w * (p - target) * value(k);
                for l in 0..size {
                    curve[[k, l]] += w * p * (1.0 - p) * value(k) * value(l);
                }
            }
        }
        eliminate(&mut curve, &mut gradient);
        // Bounded: far from the optimum the curvature can be close to nothing.
        slopes
            .iter_mut()
            .zip(&gradient)
            .for_each(|(b, step)| *b -= step.clamp(-2.0, 2.0));
        if gradient.iter().all(|step| step.abs() < 1e-9) {
            break;
        }
    }
    slopes.truncate(width);
    slopes
        .iter_mut()
        .zip(&deviations)
        .for_each(|(b, deviation)| *b /= deviation);
    slopes.iter().all(|b| b.is_finite()).then_some(slopes)
}

/// Solves a small symmetric positive definite system in place.
fn eliminate(left: &mut Array2<f64>, right: &mut [f64]) {
    let m = right.len();
    for pivot in 0..m {
        for row in pivot + 1..m {
            let factor = left[[row, pivot]] / left[[pivot, pivot]];
            for k in pivot..m {
                left[[row, k]] -= factor * left[[pivot, k]];
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..m).rev() {
        let known: f64 = (row + 1..m).map(|k| left[[row, k]] * right[k]).sum();
        right[row] = (right[row] - known) / left[[row, row]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrays::rows as matrix;
    use crate::trm::testing::numbers;
    use ndarray::array;
    use tagstream_kernels::testing::noise;

    fn column(seed: u64, n: usize) -> Vec<f32> {
        numbers(&noise(seed, &[n]))
            .iter()
            .map(|x| *x as f32)
            .collect()
    }

    #[test]
    fn what_tells_more_counts_more_and_what_misleads_not_at_all() {
        let n = 600;
        let (good, weak) = (column(1, 2 * n), column(2, 2 * n));
        let chance = column(3, 2 * n);
        let labels: Vec<i8> = (0..2 * n)
            .map(|at| {
                let known = at % 5 != 0;
                let sign = if 2.0 * good[at] + 0.5 * weak[at] + 0.5 * chance[at] > 0.0 {
                    1
                } else {
                    -1
                };
                if known { sign } else { 0 }
            })
            .collect();
        let against: Vec<f32> = good.iter().zip(&chance).map(|(g, c)| c - g).collect();
        let targets = Targets {
            labels: matrix(&labels, 2).unwrap(),
            assume_negative: 0.0,
        };
        let of = |logits| matrix::<f32>(logits, 2).unwrap();
        let rows: Vec<usize> = (0..n).collect();
        let offsets = array![0.3, -0.2];
        let found = fit_blend(&targets, &rows, &[of(&good), of(&weak)], &offsets).unwrap();
        assert!(found[0] > 2.0 * found[1] && found[1] > 0.0, "{found:?}");
        let found = fit_blend(&targets, &rows, &[of(&against), of(&weak)], &offsets).unwrap();
        assert_eq!(found[0], 0.0);
        assert!(found[1] > 0.0);
        assert_eq!(fit_blend(&targets, &rows, &[of(&against)], &offsets), None);
    }

    #[test]
    fn labels_that_cannot_tell_give_nothing() {
        let labels = [1, 1, 0, 1];
        let targets = Targets {
            labels: matrix(&labels, 2).unwrap(),
            assume_negative: 0.0,
        };
        let of = |logits| matrix::<f32>(logits, 2).unwrap();
        assert_eq!(
            fit_blend(
                &targets,
                &[0, 1],
                &[of(&[1.0, 2.0, 3.0, 4.0])],
                &array![0.0, 0.0]
            ),
            None
        );
    }

    #[test]
    fn shares_sum_to_one() {
        let shares = ShareConfig::default();
        let blend = Blend::fixed(&shares, 3.0, true, false);
        assert_eq!(
            blend,
            Blend {
                network: 0.5,
                memory: 0.5,
                regional: 0.0
            }
        );
        assert_eq!(Blend::new(0.0, 0.0, 0.0), Blend::NETWORK);
    }
}
