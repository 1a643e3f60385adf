//! What the regression on whole images aims at, entry by entry.
//!
//! A memory that hears of known entries alone has little to go by where few are known. Here every
//! entry has an aim (*soft targets*; label propagation, as ZLaP of Kalantidis et al., 2024, in
//! closed form): known presences at 1, unknown entries at what calibrated zero-shot says of them,
//! with less weight. So pictures without any label teach too: their neighbours' scores smooth each
//! other.

use super::targets::{Targets, logits};
use crate::trm::platt::{Platt, ScoredLabel, fit_platt};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use tagstream_core::config::settings;

settings! {
    /// Aims for what labels do not say.
    #[derive(Copy)]
    SoftConfig {
        /// Weight of an unknown entry, whose aim is its zero-shot probability; 0: known entries
        /// alone.
        unknown_weight: f64 = 0.8,
        /// Whether the next number is chosen by left-out predictions (0, 0.3 or 0.6).
        automatic: bool = true,
        /// A known absence aims at this share of the zero-shot probability: who ticks labels
        /// overlooks some. 0: it aims at 0.
        absent_share: f64 = 0.6,
        /// Known presences of one category within one group weigh at most this much together; 0:
        /// no bound.
        group_cap: f64 = 3.0,
    }
}

/// Aims and weights of all entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Aims {
    /// What is aimed at, `[n, C]`.
    pub values: Array2<f32>,
    /// With what weight, `[n, C]`; 0 says nothing.
    pub weights: Array2<f32>,
    /// What the regression starts from, `[C]`.
    pub priors: Array1<f32>,
}

impl Aims {
    /// Known entries at 1 and 0, nothing else.
    pub fn known(targets: &Targets) -> Self {
        let size = targets.labels.dim();
        let pick = |part: fn((f32, f32)) -> f32| {
            Array2::from_shape_fn(size, |(image, category)| part(targets.of(image, category)))
        };
        Self {
            values: pick(|(target, _)| target),
            weights: pick(|(_, weight)| weight),
            priors: targets.priors(),
        }
    }

    /// Every entry; `guesses` are zero-shot probabilities, `[n, C]`, and `groups` the images'.
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn soft(
        targets: &Targets,
        guesses: ArrayView2<'_, f32>,
        groups: &[usize],
        config: &SoftConfig,
    ) -> Self {
        assert_eq!(guesses.dim(), targets.labels.dim());
        let (unknown, share) = (config.unknown_weight as f32, config.absent_share as f32);
        let mut values = guesses.to_owned();
        let mut weights = Array2::from_elem(guesses.dim(), unknown);
        for ((at, label), guess) in targets.labels.indexed_iter().zip(&guesses) {
            if *label != 0 {
                values[at] = if *label > 0 { 1.0 } else { share * guess };
                weights[at] = 1.0;
            }
        }
        cap(&mut weights, targets, groups, config.group_cap as f32);
        let empty = Array1::zeros(guesses.ncols());
        Self {
            priors: values
                .mean_axis(Axis(0))
                .unwrap_or(empty)
                .mapv(|p| p.clamp(1e-4, 0.9)),
            values,
            weights,
        }
    }

    /// Scale and offset that turn left-out `scores` (`[n, C]`, beside the logits of the priors)
    /// into logits: by the known labels, or where there are none by the aims.
    pub(super) fn platt(&self, targets: &Targets, scores: ArrayView2<'_, f32>) -> Platt {
        let prior_logits = logits(&self.priors);
        if targets.labels.iter().any(|label| *label > 0) {
            return targets.platt(scores, &prior_logits);
        }
        fit_platt(scores.indexed_iter().map(|(at, score)| ScoredLabel {
            score: f64::from(*score),
            offset: f64::from(prior_logits[at.1]),
            target: f64::from(self.values[at]),
            weight: f64::from(self.weights[at]),
        }))
    }
}

/// Presences of one category within one group weigh at most `most` together.
fn cap(weights: &mut Array2<f32>, targets: &Targets, groups: &[usize], most: f32) {
    assert_eq!(groups.len(), weights.nrows(), "a group for every image");
    if most <= 0.0 {
        return;
    }
    let count = groups.iter().max().map_or(0, |last| last + 1);
    let mut of_groups: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (image, group) in groups.iter().enumerate() {
        of_groups[*group].push(image);
    }
    for images in of_groups.iter().filter(|images| images.len() as f32 > most) {
        for category in 0..weights.ncols() {
            let present = |image: &&usize| targets.labels[[**image, category]] > 0;
            let count = images.iter().filter(present).count() as f32;
            for image in images.iter().filter(present).filter(|_| count > most) {
                weights[[*image, category]] = most / count;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrays::rows;

    #[test]
    fn presences_of_one_group_share_their_weight_and_unknown_entries_aim_at_the_guess() {
        let labels = [1, 0, 1, -1, 1, 1, 0, 1];
        let targets = Targets {
            labels: rows(&labels, 2).unwrap(),
            assume_negative: 0.0,
        };
        let guesses = [0.5f32, 0.25, 0.5, 0.5, 0.5, 0.5, 0.75, 0.5];
        let config = SoftConfig {
            unknown_weight: 0.5,
            automatic: false,
            absent_share: 0.5,
            group_cap: 2.0,
        };
        let guesses = rows(&guesses, 2).unwrap();
        let aims = Aims::soft(&targets, guesses, &[0, 0, 0, 1], &config);
        assert_eq!(aims.values.column(0).to_vec(), [1.0, 1.0, 1.0, 0.75]);
        assert_eq!(aims.values.column(1).to_vec(), [0.25, 0.25, 1.0, 1.0]);
        let third = 2.0 / 3.0;
        assert_eq!(aims.weights.column(0).to_vec(), [third, third, third, 0.5]);
        assert_eq!(aims.weights.column(1).to_vec(), [0.5, 1.0, 1.0, 1.0]);
        assert_eq!(aims.priors.to_vec(), [0.9, 0.625]);
        let free = SoftConfig {
            group_cap: 0.0,
            ..config
        };
        let aims = Aims::soft(&targets, guesses, &[0, 0, 0, 1], &free);
        assert_eq!(aims.weights.column(0).to_vec(), [1.0, 1.0, 1.0, 0.5]);
    }
}
