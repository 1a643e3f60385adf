//! Known labels as what the closed forms fit: targets, weights, priors, folds and a calibration.

use super::start::{Calibration, Entry, fit_calibration};

/// The labels of a training set.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// +1, -1, 0, `[n, C]`.
    pub labels: &'a [i8],
    /// Weight with which an unknown entry counts as absent (0 unless nothing is known to be
    /// absent).
    pub assume_negative: f64,
    /// C.
    pub categories: usize,
}

impl Targets<'_> {
    /// n.
    pub fn images(&self) -> usize {
        self.labels.len() / self.categories.max(1)
    }

    /// (target, weight) of an entry: 1 or 0, and 0 if it says nothing.
    pub fn of(&self, image: usize, category: usize) -> (f32, f32) {
        match self.labels[image * self.categories + category] {
            1 => (1.0, 1.0),
            -1 => (0.0, 1.0),
            _ => (0.0, self.assume_negative as f32),
        }
    }

    /// Share of positives among known entries, pulled towards the mean of all categories by two
    /// entries.
    pub fn priors(&self) -> Vec<f32> {
        let c = self.categories;
        let (mut positive, mut known) = (vec![0.0f32; c], vec![0.0f32; c]);
        for image in 0..self.images() {
            for category in 0..c {
                let (target, weight) = self.of(image, category);
                positive[category] += target * weight;
                known[category] += weight;
            }
        }
        let overall = (positive.iter().sum::<f32>() + 1.0) / (known.iter().sum::<f32>() + 2.0);
        let pairs = positive.iter().zip(&known);
        pairs
            .map(|(p, k)| (p + 2.0 * overall) / (k + 2.0))
            .collect()
    }

    /// Scale and offset that turn `scores` (`[n, C]`, beside the logits of the priors) into logits.
    pub fn calibrate(&self, scores: &[f32], prior_logits: &[f32]) -> Calibration {
        let c = self.categories;
        fit_calibration((0..scores.len()).filter_map(|at| {
            let (target, weight) = self.of(at / c, at % c);
            (weight > 0.0).then(|| Entry {
                score: f64::from(scores[at]),
                offset: f64::from(prior_logits[at % c]),
                target: f64::from(target),
                weight: f64::from(weight),
            })
        }))
    }
}

/// Log-odds.
pub(super) fn logits(shares: &[f32]) -> Vec<f32> {
    shares.iter().map(|p| (p / (1.0 - p)).ln()).collect()
}

/// The part of every image, by its place in a random order of all; `None` beyond the first `size`.
pub fn folds(shuffled: &[usize], size: usize, parts: usize) -> Vec<Option<usize>> {
    let mut fold_of = vec![None; shuffled.len()];
    for (at, &image) in shuffled.iter().take(size).enumerate() {
        fold_of[image] = Some(at % parts);
    }
    fold_of
}
