//! The judge: is the candidate measurably not worse than the champion, on the same held-out known
//! labels?
//!
//! **Held out.** An image is held out iff the first 53 bits of SHA-256("tagstream held out", image
//! id) fall into the configured share. That depends on nothing but the id, so an image stays on its
//! side for ever, and no run ever trains on what a later run is judged by.
//!
//! **Measure.** Average precision per category over the images whose label is known (unknown
//! entries count nowhere), mean over the categories that have enough known presences and a known
//! absence: `mAP`. Both models are measured on exactly the same entries.
//!
//! **Interval.** Paired bootstrap over images (Efron & Tibshirani 1993, ch. 8 and 13): an image
//! with all its labels is drawn or not, for both models at once, so what makes an image hard
//! cancels. Percentile intervals, seeded.
//!
//! **Gates.** Every gate has a line in the ledger with what was measured and what was asked. A
//! failed gate demands HOLD or REJECT; the severest demand is the verdict, and none at all is
//! PROMOTE.

mod gates;
mod ranking;

use ndarray::{Array2, ArrayView1, ArrayView2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ranking::Ranking;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tagstream_core::config::settings;
use tagstream_model::registry::Verdict;

/// Whether `image_id` belongs to the held-out part of this share (0 to 1).
pub fn is_held_out(image_id: &str, share: f64) -> bool {
    let mut hasher = Sha256::new();
    hasher.update(b"tagstream held out\0");
    hasher.update(image_id.as_bytes());
    let hash = hasher.finalize();
    let bits = u64::from_be_bytes(hash[..8].try_into().expect("a SHA-256 has 32 bytes")) >> 11;
    (bits as f64) < share * (1u64 << 53) as f64
}

settings! {
    /// What the judge asks for.
    JudgeConfig {
        /// Share of the images that is held out, by hash of the image's id. Lowering it later is
        /// safe; raising it is not: images that earlier models were trained on would then judge
        /// them.
        held_out_share: f64 = 0.2,
        /// The lower bound of the mAP difference must be above minus this (1 = 100 points).
        margin: f64 = 0.01,
        /// The mAP difference must be at least this, or the change is not worth it.
        min_gain: f64 = 0.002,
        /// A category may lose this much AP; only a loss that is certainly larger rejects.
        category_tolerance: f64 = 0.1,
        /// Confidence of the one-sided bounds.
        confidence: f64 = 0.95,
        /// Confidence of a category's own bounds; higher, because there are many categories.
        category_confidence: f64 = 0.99,
        /// Bootstrap resamples.
        resamples: usize = 1000,
        /// A category with fewer known held-out presences is not measured: a single picture would
        /// move it by dozens of points.
        min_present: usize = 3,
        /// Fewer categories that can be measured: HOLD.
        min_categories: usize = 1,
        /// Fewer held-out images with a known label: HOLD.
        min_images: usize = 30,
    }
}

/// Scores of both models on the held-out images, over the categories that both know.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// Category names, `[C]`.
    pub categories: &'a [String],
    /// Candidate's logits, `[images, C]`.
    pub candidate: ArrayView2<'a, f32>,
    /// Champion's logits, `[images, C]`.
    pub champion: ArrayView2<'a, f32>,
    /// +1 present, -1 absent, 0 unknown, `[images, C]`.
    pub labels: ArrayView2<'a, i8>,
}

/// A check made elsewhere (a canary batch, tensor sizes) that goes into the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Short name.
    pub name: String,
    /// Whether it passed; a failure demands REJECT.
    pub passed: bool,
    /// What was seen.
    pub detail: String,
}

/// An estimate with its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// On the data as it is.
    pub estimate: f64,
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
}

/// One category before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryOutcome {
    /// Its name.
    pub category: String,
    /// Held-out images that are known to have it.
    pub present: usize,
    /// Held-out images that are known not to have it.
    pub absent: usize,
    /// Champion's AP.
    pub champion: f64,
    /// Candidate's AP.
    pub candidate: f64,
    /// Their difference, at the category's confidence.
    pub difference: Interval,
}

/// A line of the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Short name.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// What was measured.
    pub measured: String,
    /// What was asked.
    pub asked: String,
    /// What a failure demands.
    pub otherwise: Verdict,
}

/// The judge's decision with all it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Every gate, passed or not.
    pub gates: Vec<Gate>,
    /// Held-out images with at least one known label.
    pub images: usize,
    /// Known held-out labels.
    pub labels: usize,
    /// Champion's mAP.
    pub champion_map: f64,
    /// Candidate's mAP.
    pub candidate_map: f64,
    /// Their difference.
    pub difference: Interval,
    /// Measurable categories, in their order.
    pub categories: Vec<CategoryOutcome>,
}

impl Judgement {
    /// What was measured, in a sentence.
    pub fn summary(&self) -> String {
        if !self.difference.estimate.is_finite() {
            return format!(
                "mAP not measurable on {} held-out images with {} known labels",
                self.images, self.labels
            );
        }
        format!(
            "mAP {:.2} -> {:.2} ({:+.2}, at least {:+.2}) on {} held-out images",
            100.0 * self.champion_map,
            100.0 * self.candidate_map,
            100.0 * self.difference.estimate,
            100.0 * self.difference.lower,
            self.images,
        )
    }

    /// The gates that failed.
    pub fn failed_gates(&self) -> impl Iterator<Item = &Gate> {
        self.gates.iter().filter(|gate| !gate.passed)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// The value below which the share `q` of `sorted` lies; NaN of nothing.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    let position = q.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, high) = (position.floor() as usize, position.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}

fn interval(estimate: f64, mut resampled: Vec<f64>, confidence: f64) -> Interval {
    resampled.sort_by(f64::total_cmp);
    Interval {
        estimate,
        lower: quantile(&resampled, 1.0 - confidence),
        upper: quantile(&resampled, confidence),
    }
}

/// A category that can be measured on the held-out part as it is.
struct MeasuredCategory {
    /// Its column.
    column: usize,
    candidate: Ranking,
    champion: Ranking,
    /// AP of the candidate and of the champion.
    precision: (f64, f64),
}

impl MeasuredCategory {
    fn new(trial: &Trial<'_>, column: usize, config: &JudgeConfig) -> Option<Self> {
        let labels = trial.labels.column(column);
        if labels.iter().filter(|label| **label > 0).count() < config.min_present {
            return None;
        }
        let ones = vec![1u32; labels.len()];
        let candidate = Ranking::new(trial.candidate.column(column), labels);
        let champion = Ranking::new(trial.champion.column(column), labels);
        Some(MeasuredCategory {
            column,
            precision: (
                candidate.average_precision(&ones)?,
                champion.average_precision(&ones)?,
            ),
            candidate,
            champion,
        })
    }

    /// By how much the candidate's AP is above the champion's when image i is there `weights[i]`
    /// times; NaN where there is nothing to measure.
    fn difference(&self, weights: &[u32]) -> f64 {
        let candidate = self.candidate.average_precision(weights);
        let champion = self.champion.average_precision(weights);
        candidate.zip(champion).map_or(f64::NAN, |(a, b)| a - b)
    }

    fn outcome(
        &self,
        name: &str,
        resampled: ArrayView1<'_, f64>,
        confidence: f64,
    ) -> CategoryOutcome {
        let (candidate, champion) = self.precision;
        let resampled = resampled.iter().copied().filter(|d| d.is_finite());
        let (known, present) = self.candidate.counts();
        CategoryOutcome {
            category: name.to_owned(),
            present,
            absent: known - present,
            champion,
            candidate,
            difference: interval(candidate - champion, resampled.collect(), confidence),
        }
    }
}

/// The differences of all measured categories, a row a resample of the images.
fn resample(
    measured: &[MeasuredCategory],
    images: usize,
    resamples: usize,
    seed: u64,
) -> Array2<f64> {
    let mut differences = Array2::zeros((resamples, measured.len()));
    let mut rows: Vec<_> = differences.rows_mut().into_iter().collect();
    rows.par_iter_mut().enumerate().for_each(|(number, row)| {
        let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = StdRng::seed_from_u64(seed ^ mixed);
        let mut weights = vec![0u32; images];
        for _ in 0..images {
            weights[rng.random_range(0..images)] += 1;
        }
        for (difference, category) in row.iter_mut().zip(measured) {
            *difference = category.difference(&weights);
        }
    });
    differences
}

/// Judges. The same inputs and seed give the same judgement, on any number of threads.
///
/// # Panics
/// If the sizes in `trial` do not fit together.
pub fn judge(trial: &Trial<'_>, checks: &[Check], config: &JudgeConfig, seed: u64) -> Judgement {
    let shape = trial.labels.dim();
    assert!(
        trial.candidate.dim() == shape && trial.champion.dim() == shape,
        "scores and labels must have one shape"
    );
    assert_eq!(shape.1, trial.categories.len(), "a column a category");
    let is_known = |label: &i8| *label != 0;
    let labels = trial.labels.iter().copied().filter(is_known).count();
    let rows = trial.labels.rows().into_iter();
    let images = rows.filter(|row| row.iter().any(is_known)).count();

    let measured: Vec<MeasuredCategory> = (0..shape.1)
        .filter_map(|column| MeasuredCategory::new(trial, column, config))
        .collect();
    let candidate_map = mean(measured.iter().map(|m| m.precision.0)).unwrap_or(f64::NAN);
    let champion_map = mean(measured.iter().map(|m| m.precision.1)).unwrap_or(f64::NAN);
    let resampled = resample(&measured, shape.0, config.resamples, seed);
    let finite =
        |row: ArrayView1<'_, f64>| mean(row.into_iter().copied().filter(|d| d.is_finite()));
    let maps = resampled.rows().into_iter().filter_map(finite).collect();
    let categories = measured.iter().zip(resampled.columns());
    let categories = categories.map(|(category, own)| {
        let name = &trial.categories[category.column];
        category.outcome(name, own, config.category_confidence)
    });

    let mut judgement = Judgement {
        verdict: Verdict::Promote,
        gates: Vec::new(),
        images,
        labels,
        champion_map,
        candidate_map,
        difference: interval(candidate_map - champion_map, maps, config.confidence),
        categories: categories.collect(),
    };
    let finite = trial.candidate.iter().all(|score| score.is_finite());
    judgement.gates = gates::all(&judgement, checks, config, finite);
    judgement.verdict = gates::verdict(&judgement.gates);
    judgement
}

#[cfg(test)]
mod tests;
