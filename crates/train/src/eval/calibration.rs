//! Calibration from known labels only: one temperature, and a threshold for each category.
//!
//! ```
//! use tagstream_train::arrays::rows;
//! use tagstream_train::eval::calibration::{ThresholdTarget, temperature, thresholds};
//!
//! // Far too sure: every third logit has the wrong sign.
//! let logits: Vec<f32> = (0..60).map(|at| if at % 2 == 0 { 8.0 } else { -8.0 }).collect();
//! let labels: Vec<i8> = (0..60)
//!     .map(|at| if (at % 2 == 0) == (at % 3 != 0) { 1 } else { -1 })
//!     .collect();
//! let temperature = temperature(&logits, &labels);
//! assert!(temperature > 5.0);
//! let (logits, labels) = (rows(&logits, 1)?, rows(&labels, 1)?);
//! let found = thresholds(logits, labels, temperature, ThresholdTarget::BestF1);
//! assert_eq!(found.len(), 1);
//! # Ok::<(), tagstream_train::arrays::RaggedError>(())
//! ```

use super::metrics::sigmoid;
use ndarray::ArrayView2;

/// What a category's threshold is chosen for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ThresholdTarget {
    /// The largest F1.
    BestF1,
    /// The lowest threshold whose precision is at least this.
    Precision(f64),
}

/// A category with fewer known positives keeps the threshold 0.5: a handful of labels would fit
/// noise.
pub const MIN_POSITIVES: usize = 5;

/// The temperature T > 0 that minimises the negative log likelihood of `sigmoid(logit / T)` over
/// known entries (labels +1 and -1; 0 is skipped). 1 if there is no known entry of both kinds, or a
/// logit is not finite.
///
/// The likelihood is convex in 1/T, so a golden-section search over log T in [0.05, 20] finds it.
pub fn temperature(logits: &[f32], labels: &[i8]) -> f32 {
    let known: Vec<(f64, f64)> = logits
        .iter()
        .zip(labels)
        .filter(|(_, label)| **label != 0)
        .map(|(&logit, &label)| (f64::from(logit), f64::from(label)))
        .collect();
    let both = known.iter().any(|entry| entry.1 > 0.0) && known.iter().any(|entry| entry.1 < 0.0);
    if !both || known.iter().any(|entry| !entry.0.is_finite()) {
        return 1.0;
    }
    let loss = |log_t: f64| {
        let inverse = (-log_t).exp();
        // log(1 + exp(-y s / T)), without overflow.
        known
            .iter()
            .map(|(logit, label)| softplus(-label * logit * inverse))
            .sum::<f64>()
    };
    let (mut low, mut high) = (0.05f64.ln(), 20f64.ln());
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
    let (mut at_left, mut at_right) = (loss(left), loss(right));
    while high - low > 1e-4 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = loss(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = loss(right);
        }
    }
    ((low + high) / 2.0).exp() as f32
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A threshold on the calibrated probability for each category of logits `[n, C]`.
///
/// Thresholds lie midway between two neighbouring known probabilities. A category with fewer than
/// [`MIN_POSITIVES`] known positives, or without known negatives, keeps 0.5. A precision that no
/// threshold reaches gives the one of the best precision.
pub fn thresholds(
    logits: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    temperature: f32,
    target: ThresholdTarget,
) -> Vec<f32> {
    let columns = logits.columns().into_iter().zip(labels.columns());
    columns
        .map(|(logits, labels)| {
            let known = logits.into_iter().zip(labels).filter(|(_, y)| **y != 0);
            let entries =
                known.map(|(&logit, &label)| (sigmoid(f64::from(logit / temperature)), label > 0));
            threshold(entries.collect(), target)
        })
        .collect()
}

fn threshold(mut entries: Vec<(f64, bool)>, target: ThresholdTarget) -> f32 {
    let positives = entries.iter().filter(|entry| entry.1).count();
    if positives < MIN_POSITIVES || positives == entries.len() {
        return 0.5;
    }
    entries.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut hits = 0;
    let mut best = (f64::NEG_INFINITY, 0.5);
    let mut lowest_reaching = None;
    for (rank, &(probability, present)) in entries.iter().enumerate() {
        hits += usize::from(present);
        let next = entries.get(rank + 1).map_or(0.0, |entry| entry.0);
        if next == probability {
            continue; // equal probabilities cannot be told apart by a threshold
        }
        let cut = (probability + next) / 2.0;
        let precision = hits as f64 / (rank + 1) as f64;
        let score = match target {
            ThresholdTarget::BestF1 => 2.0 * hits as f64 / (positives + rank + 1) as f64,
            ThresholdTarget::Precision(_) => precision,
        };
        if score > best.0 {
            best = (score, cut);
        }
        if let ThresholdTarget::Precision(wanted) = target
            && precision >= wanted
        {
            lowest_reaching = Some(cut);
        }
    }
    lowest_reaching.unwrap_or(best.1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::protocol::RandomState;
    use ndarray::array;

    /// Labels drawn from sigmoid(logit / true temperature).
    fn sample(n: usize, temperature: f64) -> (Vec<f32>, Vec<i8>) {
        let mut random = RandomState::new(3);
        (0..n)
            .map(|_| {
                let logit = 12.0 * (random.uniform() - 0.5);
                let present = random.uniform() < sigmoid(logit / temperature);
                (logit as f32, if present { 1 } else { -1 })
            })
            .unzip()
    }

    #[test]
    fn the_temperature_that_made_the_labels_is_found() {
        for true_temperature in [0.5, 1.0, 3.0] {
            let (logits, labels) = sample(20_000, true_temperature);
            let found = f64::from(temperature(&logits, &labels));
            assert!(
                (found / true_temperature - 1.0).abs() < 0.1,
                "{true_temperature}: {found}"
            );
        }
    }

    #[test]
    fn the_temperature_is_a_minimum_and_ignores_unknown_entries() {
        let (mut logits, mut labels) = sample(500, 2.0);
        let found = temperature(&logits, &labels);
        let loss = |t: f32| -> f64 {
            logits
                .iter()
                .zip(&labels)
                .map(|(&s, &y)| softplus(-f64::from(y) * f64::from(s / t)))
                .sum()
        };
        assert!(loss(found) <= loss(found * 1.02) && loss(found) <= loss(found * 0.98));
        logits.extend([1e3; 50]);
        labels.extend([0; 50]);
        assert_eq!(temperature(&logits, &labels), found);
    }

    #[test]
    fn without_both_kinds_of_labels_the_temperature_stays_one() {
        assert_eq!(temperature(&[3.0, 2.0], &[1, 1]), 1.0);
        assert_eq!(temperature(&[3.0, 2.0], &[0, 0]), 1.0);
        assert_eq!(temperature(&[f32::INFINITY, 2.0], &[1, -1]), 1.0);
    }

    /// F1 of deciding `probability >= threshold`.
    fn f1(entries: &[(f64, bool)], threshold: f64) -> f64 {
        let decided = entries.iter().filter(|entry| entry.0 >= threshold);
        let (hits, all) = decided.fold((0, 0), |(hits, all), entry| {
            (hits + usize::from(entry.1), all + 1)
        });
        2.0 * hits as f64 / (entries.iter().filter(|entry| entry.1).count() + all) as f64
    }

    #[test]
    fn no_threshold_has_a_better_f1() {
        let mut random = RandomState::new(9);
        for _ in 0..50 {
            let entries: Vec<(f64, bool)> = (0..40)
                .map(|_| {
                    let probability = (random.uniform() * 20.0).round() / 20.0;
                    (probability, random.uniform() < probability)
                })
                .collect();
            let found = f64::from(threshold(entries.clone(), ThresholdTarget::BestF1));
            for candidate in 0..=100 {
                assert!(f1(&entries, found) >= f1(&entries, f64::from(candidate) / 100.0) - 1e-12);
            }
        }
    }

    #[test]
    fn a_target_precision_is_met_with_the_lowest_threshold_or_approached() {
        let entries: Vec<(f64, bool)> = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
            .into_iter()
            .zip([true, true, false, true, true, true, false, false])
            .collect();
        let found = threshold(entries.clone(), ThresholdTarget::Precision(0.8));
        assert!((found - 0.45).abs() < 1e-6, "{found}"); // 5 of 6 above it
        let found = threshold(entries, ThresholdTarget::Precision(1.01));
        // Never reached: the best precision, soonest.
        assert!((found - 0.925).abs() < 1e-6, "{found}");
    }

    #[test]
    fn few_labels_keep_one_half() {
        let logits = array![[5.0, -5.0], [4.0, 3.0], [-2.0, 1.0]];
        let labels = array![[1, 1], [1, 0], [-1, -1]];
        let target = ThresholdTarget::BestF1;
        let found = thresholds(logits.view(), labels.view(), 1.0, target);
        assert_eq!(found, [0.5, 0.5]);
    }
}
