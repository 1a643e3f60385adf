//! Calibrated pseudo-labels: labels for unknown entries where prototypes are sure.
//!
//! With `g_ic = (R^_ic . Pv_c + R^_ic . Pt_c) / 2` (similarity within the category) and running
//! means `mu+_c`, `mu-_c` of g over *known* positives and negatives:
//!
//! ```text
//! y_ic = 2 sigmoid( 4.4 (g_ic - (mu+_c + mu-_c) / 2) / (mu+_c - mu-_c) ) - 1
//! ```
//!
//! so that a typical known positive gets +0.8 and a typical known negative -0.8. The rank of c
//! among all categories' prototypes (similarity between categories) guards positives: in the region
//! of an absent category another prototype wins.

use tagstream_core::config::settings;

settings! {
    /// Settings of the rule.
    #[derive(Copy)]
    PseudoLabelRule {
        /// Present above this calibrated score.
        high: f64 = 0.9,
        /// Absent below this calibrated score.
        low: f64 = -0.9,
        /// A positive must be among this many best prototypes of its own region.
        max_rank: usize = 3,
        /// Known positives that a category must have shown before it is judged.
        min_seen: u64 = 5,
        /// Smallest distance of the two means.
        min_gap: f64 = 0.01,
        /// Momentum of the running means.
        momentum: f64 = 0.95,
    }
}

/// A running mean: an EMA over batches that have an entry, corrected for its start at zero.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct RunningMean {
    sum: f64,
    weight: f64,
}

impl RunningMean {
    fn update(&mut self, mean: f64, momentum: f64) {
        self.sum = momentum * self.sum + (1.0 - momentum) * mean;
        self.weight = momentum * self.weight + (1.0 - momentum);
    }

    fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// What similarities mean, per category, learned from known labels.
#[derive(Debug, Clone, PartialEq)]
pub struct SimilarityStatistics {
    positive: Vec<RunningMean>,
    negative: Vec<RunningMean>,
    rule: PseudoLabelRule,
}

impl SimilarityStatistics {
    /// Nothing known yet about `categories` categories.
    pub fn new(categories: usize, rule: PseudoLabelRule) -> Self {
        Self {
            positive: vec![RunningMean::default(); categories],
            negative: vec![RunningMean::default(); categories],
            rule,
        }
    }

    /// Takes in a batch of similarities g (`[B, C]`) with its known labels.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn update(&mut self, g: &[f64], labels: &[i8]) {
        assert_eq!(g.len(), labels.len(), "similarities and labels are [B, C]");
        let categories = self.positive.len();
        for c in 0..categories {
            for (sign, running) in [(1, &mut self.positive[c]), (-1, &mut self.negative[c])] {
                let entries = (c..g.len())
                    .step_by(categories)
                    .filter(|&at| labels[at] == sign);
                let (count, sum) = entries.fold((0u32, 0.0), |(n, s), at| (n + 1, s + g[at]));
                if count > 0 {
                    running.update(sum / f64::from(count), self.rule.momentum);
                }
            }
        }
    }

    /// All running means, for a checkpoint.
    pub fn state(&self) -> Vec<f64> {
        let all = self.positive.iter().chain(&self.negative);
        all.flat_map(|mean| [mean.sum, mean.weight]).collect()
    }

    /// Takes back a state; false, and nothing is changed, if it does not fit.
    pub fn restore(&mut self, state: &[f64]) -> bool {
        let categories = self.positive.len();
        if state.len() != 4 * categories {
            return false;
        }
        let all = self.positive.iter_mut().chain(&mut self.negative);
        for (mean, numbers) in all.zip(state.chunks(2)) {
            (mean.sum, mean.weight) = (numbers[0], numbers[1]);
        }
        true
    }

    /// (mu+, mu-) of category `c`, once both exist.
    pub fn means(&self, c: usize) -> Option<(f64, f64)> {
        Some((self.positive[c].value()?, self.negative[c].value()?))
    }

    /// The calibrated score of similarity `g` for category `c`, in [-1, 1].
    pub fn calibrated(&self, c: usize, g: f64) -> Option<f64> {
        let (positive, negative) = self.means(c)?;
        let gap = (positive - negative).max(self.rule.min_gap);
        let z = 4.4 * (g - (positive + negative) / 2.0) / gap;
        Some(2.0 / (1.0 + (-z).exp()) - 1.0)
    }

    /// Whether category `c`, of which `seen` known positives were met, can be judged.
    pub fn usable(&self, c: usize, seen: u64) -> bool {
        seen >= self.rule.min_seen
            && self
                .means(c)
                .is_some_and(|(positive, negative)| positive - negative > self.rule.min_gap)
    }

    /// The pseudo-label of one entry (+1, -1 or 0): `known` is its label, `rank` the number of
    /// categories whose prototypes lie nearer to the entry's region. Known entries always get 0:
    /// pseudo-labels never overwrite.
    pub fn judge(&self, c: usize, seen: u64, known: i8, g: f64, rank: usize) -> i8 {
        if known != 0 || !self.usable(c, seen) {
            return 0;
        }
        match self.calibrated(c, g) {
            Some(y) if y > self.rule.high && rank < self.rule.max_rank => 1,
            Some(y) if y < self.rule.low => -1,
            _ => 0,
        }
    }
}

/// Similarity of every region to its own prototypes, and its category's rank among all prototypes.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarities {
    /// g, `[B, C]`.
    pub own: Vec<f64>,
    /// Categories whose prototypes lie nearer, `[B, C]`.
    pub rank: Vec<usize>,
}

impl Similarities {
    /// Of `regions` (R^, `[B, C, D]`) to the visual and text prototypes (`[C, D]`).
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn new(regions: &[f64], visual: &[f64], text: &[f64], dim: usize) -> Self {
        assert!(visual.len() == text.len() && regions.len().is_multiple_of(visual.len()));
        let means: Vec<f64> = visual
            .iter()
            .zip(text)
            .map(|(v, t)| (v + t) / 2.0)
            .collect();
        let categories = means.len() / dim;
        let (own, rank) = regions
            .chunks(dim)
            .enumerate()
            .map(|(at, region)| {
                let score = |prototype: &[f64]| -> f64 {
                    region.iter().zip(prototype).map(|(a, b)| a * b).sum()
                };
                let c = at % categories;
                let own = score(&means[c * dim..(c + 1) * dim]);
                let nearer = means
                    .chunks(dim)
                    .filter(|prototype| score(prototype) > own)
                    .count();
                (own, nearer)
            })
            .unzip();
        Self { own, rank }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trm::testing::{Golden, labels, numbers};
    use candle_core::DType;

    fn learned(golden: &Golden) -> SimilarityStatistics {
        let rule = PseudoLabelRule {
            high: golden.scalar("hi"),
            low: golden.scalar("lo"),
            max_rank: golden.scalar("max_rank") as usize,
            momentum: golden.scalar("stats_momentum"),
            ..PseudoLabelRule::default()
        };
        let mut statistics = SimilarityStatistics::new(5, rule);
        let (g, y) = (
            numbers(&golden.get("g_stats")),
            labels(&golden.get("y_stats")),
        );
        statistics.update(&g, &y);
        let less: Vec<f64> = g.iter().map(|g| 0.9 * g).collect();
        statistics.update(&less, &y);
        statistics
    }

    #[test]
    fn similarities_and_calibration_agree_with_the_golden() {
        let golden = Golden::open("pseudo", DType::F64);
        let statistics = learned(&golden);
        let (positive, negative) = (
            numbers(&golden.get("mu_pos")),
            numbers(&golden.get("mu_neg")),
        );
        for c in 0..5 {
            if let Some((p, n)) = statistics.means(c) {
                assert!((p - positive[c]).abs() < 1e-6 && (n - negative[c]).abs() < 1e-6);
            }
        }
        let prototypes = (numbers(&golden.get("Pv")), numbers(&golden.get("Pt")));
        let found = Similarities::new(
            &numbers(&golden.get("R_norm")),
            &prototypes.0,
            &prototypes.1,
            16,
        );
        let (g, ranks) = (
            numbers(&golden.get("g")),
            numbers(&golden.get("inter_rank0")),
        );
        let calibrated = numbers(&golden.get("calibrated"));
        for at in 0..15 {
            assert!((found.own[at] - g[at]).abs() < 1e-6);
            assert_eq!(found.rank[at] as f64, ranks[at]);
            if let Some(y) = statistics.calibrated(at % 5, g[at]) {
                assert!((y - calibrated[at]).abs() < 1e-6, "{y} {}", calibrated[at]);
            }
        }
    }

    #[test]
    fn pseudo_labels_agree_with_the_golden() {
        let golden = Golden::open("pseudo", DType::F64);
        let statistics = learned(&golden);
        let y = labels(&golden.get("y_stats"));
        // Two updates with these labels; the golden's usable categories follow from positives met
        // in its own history.
        let usable = numbers(&golden.get("usable"));
        let expected = numbers(&golden.get("pseudo_all_unknown"));
        let (g, ranks) = (
            numbers(&golden.get("g")),
            numbers(&golden.get("inter_rank0")),
        );
        for at in 0..15 {
            let c = at % 5;
            let positives = 2 * y.iter().skip(c).step_by(5).filter(|&&y| y > 0).count() as u64;
            let seen = if usable[c] > 0.5 {
                positives.max(5)
            } else {
                positives.min(4)
            };
            let label = statistics.judge(c, seen, 0, g[at], ranks[at] as usize);
            assert_eq!(f64::from(label), expected[at], "entry {at}");
            assert_eq!(statistics.judge(c, seen, -1, g[at], ranks[at] as usize), 0);
        }
    }

    #[test]
    fn a_typical_positive_gets_four_fifths() {
        let mut statistics = SimilarityStatistics::new(1, PseudoLabelRule::default());
        assert!(statistics.calibrated(0, 0.5).is_none());
        assert_eq!(statistics.judge(0, 100, 0, 9.0, 0), 0);
        statistics.update(&[0.6, 0.2], &[1, -1]);
        assert!((statistics.calibrated(0, 0.6).unwrap() - 0.8).abs() < 0.01);
        assert!((statistics.calibrated(0, 0.2).unwrap() + 0.8).abs() < 0.01);
        assert_eq!(statistics.judge(0, 5, 0, 0.9, 2), 1);
        assert_eq!(statistics.judge(0, 5, 0, 0.9, 3), 0);
        assert_eq!(statistics.judge(0, 4, 0, 0.9, 0), 0);
        assert_eq!(statistics.judge(0, 5, 0, -0.1, 9), -1);
    }
}
