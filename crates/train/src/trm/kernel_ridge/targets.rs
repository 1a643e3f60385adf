//! Known labels as what the closed forms fit: targets, weights, priors, folds and Platt scaling.

use crate::trm::platt::{Platt, ScoredLabel, fit_platt};
use ndarray::{Array1, ArrayView2, Axis};

/// The labels of a training set.
#[derive(Debug, Clone, Copy)]
pub struct Targets<'a> {
    /// +1, -1, 0, `[n, C]`.
    pub labels: ArrayView2<'a, i8>,
    /// Weight with which an unknown entry counts as absent (0 unless nothing is known to be
    /// absent).
    pub assume_negative: f64,
}

impl Targets<'_> {
    /// n, the number of images.
    pub fn images(&self) -> usize {
        self.labels.nrows()
    }

    /// C, the number of categories.
    pub fn categories(&self) -> usize {
        self.labels.ncols()
    }

    /// (target, weight) of an entry: 1 or 0, and 0 if it says nothing.
    pub fn of(&self, image: usize, category: usize) -> (f32, f32) {
        self.of_label(self.labels[[image, category]])
    }

    fn of_label(&self, label: i8) -> (f32, f32) {
        match label {
            1 => (1.0, 1.0),
            -1 => (0.0, 1.0),
            _ => (0.0, self.assume_negative as f32),
        }
    }

    /// Share of positives among known entries, pulled towards the mean of all categories by two
    /// entries.
    pub fn priors(&self) -> Array1<f32> {
        let c = self.categories();
        let (mut positive, mut known) = (Array1::zeros(c), Array1::zeros(c));
        for ((_, category), label) in self.labels.indexed_iter() {
            let (target, weight) = self.of_label(*label);
            positive[category] += target * weight;
            known[category] += weight;
        }
        let total = |sums: &Array1<f32>| sums.iter().sum::<f32>();
        let overall = (total(&positive) + 1.0) / (total(&known) + 2.0);
        (positive + 2.0 * overall) / (known + 2.0)
    }

    /// Scale and offset that turn `scores` (`[n, C]`, beside the logits of the priors) into logits.
    pub fn platt(&self, scores: ArrayView2<'_, f32>, prior_logits: &Array1<f32>) -> Platt {
        let entries = scores
            .indexed_iter()
            .filter_map(|((image, category), score)| {
                let (target, weight) = self.of(image, category);
                (weight > 0.0).then(|| ScoredLabel {
                    score: f64::from(*score),
                    offset: f64::from(prior_logits[category]),
                    target: f64::from(target),
                    weight: f64::from(weight),
                })
            });
        fit_platt(entries)
    }
}

/// Log-odds.
pub(super) fn logits(shares: &Array1<f32>) -> Array1<f32> {
    shares.mapv(|p| (p / (1.0 - p)).ln())
}

/// The fold of the first `size` images in a random order: that of their groups (`of_groups`,
/// `[n]`); `None` of the others.
pub fn folds(shuffled: &[usize], size: usize, of_groups: &[usize]) -> Vec<Option<usize>> {
    let mut fold_of = vec![None; shuffled.len()];
    for &image in shuffled.iter().take(size) {
        fold_of[image] = Some(of_groups[image]);
    }
    fold_of
}

/// Mean and standard deviation of the columns of `[n, D]`.
pub(crate) fn moments(x: ArrayView2<'_, f32>) -> (Array1<f64>, Array1<f64>) {
    let n = x.nrows().max(1) as f64;
    let mut mean = Array1::<f64>::zeros(x.ncols());
    let mut variance = mean.clone();
    for row in x.axis_iter(Axis(0)) {
        mean.zip_mut_with(&row, |m, x| *m += f64::from(*x) / n);
    }
    for row in x.axis_iter(Axis(0)) {
        for ((x, m), v) in row.iter().zip(&mean).zip(&mut variance) {
            *v += (f64::from(*x) - m).powi(2) / n;
        }
    }
    (mean, variance.mapv(|v| v.sqrt().max(1e-6)))
}
