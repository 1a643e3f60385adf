//! The judge: is the candidate measurably not worse than the champion, and are its tags?
//!
//! **Unseen.** Both models are scored on images that they have not learned from. With
//! `judge.folds` above 1 these are all labelled images: the heads that judge each score the part
//! that they have not seen (module `job::folds`). The old way holds a share out: an image is held
//! out iff the first 53 bits of SHA-256("tagstream held out", image id) fall into it. That depends
//! on nothing but the id, so an image stays on its side for ever.
//!
//! **Measures.** Average precision per category over the images whose label is known (unknown
//! entries count nowhere), mean over the categories that have enough known presences and a known
//! absence: `mAP`. The difference that the gates ask for weighs each category by its known
//! presences: one with three of them moves by a third of itself when one picture is drawn or not,
//! and a plain mean over many such categories hides what the others tell. And tags, as they are
//! emitted: how many are right, how much of what is there is found
//! ([`tagstream_train::eval::tags`]). Both models are measured on exactly the same entries.
//!
//! **Interval.** Paired bootstrap (Efron & Tibshirani 1993, ch. 8 and 13) over groups of images: a
//! group with all its labels is drawn or not, for both models at once, so what makes an image hard
//! cancels, and relatives do not pass for independent. Percentile intervals, seeded. The chance of
//! a wrong promotion is spent over all looks at one champion (module `looks`).
//!
//! **Gates.** Every gate has a line in the ledger with what was measured and what was asked. A
//! failed gate demands HOLD or REJECT; the severest demand is the verdict, and none at all is
//! PROMOTE.

mod config;
mod gates;
mod interval;
mod looks;
mod ranking;
mod tags;

pub use config::JudgeConfig;
pub use interval::Interval;
pub use looks::next_look;
pub use tags::{CategoryTags, Emitted, TagOutcome, TrialTags};

use looks::{Alpha, labels_needed};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ranking::Ranking;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tags::PairedTags;
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

/// Scores of both models on images that they have not seen, over the categories that both know.
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
    /// Every image's group, `[images]`.
    pub groups: &'a [usize],
    /// Which head that judges left an image out, `[images]`. Scores are compared among the images
    /// of one only.
    pub parts: &'a [usize],
    /// Both models' tags.
    pub tags: Option<TrialTags<'a>>,
    /// Which look at this champion it is, from 1.
    pub look: usize,
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

/// One category before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryOutcome {
    /// Its name.
    pub category: String,
    /// Judged images that are known to have it.
    pub present: usize,
    /// Judged images that are known not to have it.
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
    /// Promote, hold or reject.
    pub verdict: Verdict,
    /// Every gate, passed or not.
    pub gates: Vec<Gate>,
    /// Which look at this champion it is, from 1.
    pub look: usize,
    /// Judged images with at least one known label.
    pub images: usize,
    /// Groups that they belong to.
    pub groups: usize,
    /// Known labels of judged images.
    pub labels: usize,
    /// Where more labels would decide: about how many more.
    pub labels_wanted: Option<u64>,
    /// Emitted tags before and after.
    pub tags: Option<TagOutcome>,
    /// Champion's mAP.
    pub champion_map: f64,
    /// Candidate's mAP.
    pub candidate_map: f64,
    /// Their difference.
    pub difference: Interval,
    /// The difference when every category weighs what its known presences do: what the gates ask.
    pub by_presences: Interval,
    /// Measurable categories, in their order.
    pub categories: Vec<CategoryOutcome>,
}

impl Judgement {
    /// What was measured, in a sentence.
    pub fn summary(&self) -> String {
        let wanted = self.labels_wanted.map_or(String::new(), |more| {
            format!("; enough for a decision at about {more} more labels")
        });
        let on = format!("{} images with {} known labels", self.images, self.labels);
        if !self.has_evidence() || !self.difference.estimate.is_finite() {
            return format!("too little is known to judge by: {on}{wanted}");
        }
        let tags = self.tags.as_ref().map_or(String::new(), |tags| {
            let shares = |of: fn(&tagstream_train::eval::tags::TagQuality) -> Option<f64>| {
                format!(
                    "{} -> {}",
                    share(of(&tags.champion)),
                    share(of(&tags.candidate))
                )
            };
            format!(
                "tags right {}, found {}, a picture {:.1} -> {:.1}; ",
                shares(|t| t.right),
                shares(|t| t.found),
                tags.champion.per_image,
                tags.candidate.per_image
            )
        });
        format!(
            "{tags}mAP {:.2} -> {:.2} ({:+.2}; by presences {:+.2}, at least {:+.2}) over {} \
             categories, on {on}{wanted}",
            100.0 * self.champion_map,
            100.0 * self.candidate_map,
            100.0 * self.difference.estimate,
            100.0 * self.by_presences.estimate,
            100.0 * self.by_presences.lower,
            self.categories.len(),
        )
    }

    /// Those for which the candidate is not promoted.
    pub fn failed_gates(&self) -> impl Iterator<Item = &Gate> {
        self.gates.iter().filter(|gate| !gate.passed)
    }

    /// Whether enough is known to name a measure.
    pub fn has_evidence(&self) -> bool {
        !self
            .failed_gates()
            .any(|gate| gate.name.starts_with(gates::EVIDENCE))
    }
}

/// A share in percent; `-` where nothing is known.
pub(super) fn share(x: Option<f64>) -> String {
    x.map_or("-".into(), |x| format!("{:.0} %", 100.0 * x))
}

/// The mean of the finite `values`, by `weights`; NaN where nothing weighs.
fn weighted_mean(values: ArrayView1<'_, f64>, weights: &[f64]) -> f64 {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (value, own) in values.iter().zip(weights) {
        if value.is_finite() {
            sum += own * value;
            weight += own;
        }
    }
    sum / weight
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0usize);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// A category that can be measured on the judged images as they are.
struct MeasuredCategory {
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
        let candidate = Ranking::new(trial.candidate.column(column), labels, trial.parts);
        let champion = Ranking::new(trial.champion.column(column), labels, trial.parts);
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

    /// The difference on the images as they are.
    fn found(&self) -> f64 {
        self.precision.0 - self.precision.1
    }

    /// Its known presences.
    fn presences(&self) -> f64 {
        self.candidate.counts().1 as f64
    }

    fn outcome(&self, name: &str, resampled: ArrayView1<'_, f64>, beyond: f64) -> CategoryOutcome {
        let (candidate, champion) = self.precision;
        let (known, present) = self.candidate.counts();
        CategoryOutcome {
            category: name.to_owned(),
            present,
            absent: known - present,
            champion,
            candidate,
            difference: Interval::of(self.found(), &resampled.to_vec(), beyond, beyond),
        }
    }
}

/// How often each image is there, in every resample of the groups.
fn resamples(groups: &[usize], count: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut names: Vec<usize> = groups.to_vec();
    names.sort_unstable();
    names.dedup();
    let at: Vec<usize> = groups
        .iter()
        .map(|group| names.binary_search(group).unwrap_or_default())
        .collect();
    let numbers: Vec<u64> = (0..count as u64).collect();
    numbers
        .par_iter()
        .map(|number| {
            let mixed = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mut rng = StdRng::seed_from_u64(seed ^ mixed);
            let mut drawn = vec![0u32; names.len()];
            for _ in 0..names.len() {
                drawn[rng.random_range(0..names.len())] += 1;
            }
            at.iter().map(|group| drawn[*group]).collect()
        })
        .collect()
}

/// The differences of all measured categories, a row a resample.
fn differences(measured: &[MeasuredCategory], resamples: &[Vec<u32>]) -> Array2<f64> {
    let mut differences = Array2::zeros((resamples.len(), measured.len()));
    let mut rows: Vec<_> = differences.rows_mut().into_iter().collect();
    rows.par_iter_mut()
        .zip(resamples)
        .for_each(|(row, weights)| {
            for (difference, category) in row.iter_mut().zip(measured) {
                *difference = category.difference(weights);
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
    assert_eq!(shape.0, trial.groups.len(), "a group an image");
    let is_known = |label: &i8| *label != 0;
    let rows = trial.labels.rows().into_iter().zip(trial.groups);
    let told: Vec<usize> = rows
        .filter(|(row, _)| row.iter().any(is_known))
        .map(|(_, group)| *group)
        .collect();
    let mut groups = told.clone();
    groups.sort_unstable();
    groups.dedup();

    let measured: Vec<MeasuredCategory> = (0..shape.1)
        .filter_map(|column| MeasuredCategory::new(trial, column, config))
        .collect();
    let candidate_map = mean(measured.iter().map(|m| m.precision.0)).unwrap_or(f64::NAN);
    let champion_map = mean(measured.iter().map(|m| m.precision.1)).unwrap_or(f64::NAN);
    let resamples = resamples(trial.groups, config.resamples, seed);
    let resampled = differences(&measured, &resamples);
    let alpha = Alpha::at(trial.look, config.confidence);
    let presences: Vec<f64> = measured.iter().map(MeasuredCategory::presences).collect();
    let found: Array1<f64> = measured.iter().map(MeasuredCategory::found).collect();
    let bounded = |weights: &[f64]| {
        let drawn = resampled.rows().into_iter();
        let drawn: Vec<f64> = drawn.map(|row| weighted_mean(row, weights)).collect();
        let found = weighted_mean(found.view(), weights);
        Interval::of(found, &drawn, alpha.promote, alpha.reject)
    };
    let beyond = beyond_category(config, measured.len());
    let categories = measured.iter().zip(resampled.columns());
    let categories = categories.map(|(category, own)| {
        let name = &trial.categories[category.column];
        category.outcome(name, own, beyond)
    });
    let finite = trial.candidate.iter().all(|score| score.is_finite());
    // Tags of scores that are no numbers are none.
    let tags = trial.tags.filter(|_| finite).map(|tags| {
        let paired = PairedTags::new(tags, trial.labels);
        paired.outcome(trial.categories, &resamples, (alpha, config))
    });
    let mut judgement = Judgement {
        verdict: Verdict::Promote,
        gates: Vec::new(),
        look: trial.look,
        images: told.len(),
        groups: groups.len(),
        labels: trial.labels.iter().copied().filter(is_known).count(),
        labels_wanted: None,
        tags,
        champion_map,
        candidate_map,
        difference: bounded(&vec![1.0; measured.len()]),
        by_presences: bounded(&presences),
        categories: categories.collect(),
    };
    judgement.gates = gates::all(&judgement, checks, (config, trial), finite);
    judgement.verdict = gates::verdict(&judgement.gates);
    judgement.labels_wanted = wanted(&judgement, trial, config);
    judgement
}

/// The chance of a wrong bound for one of so many categories, that of all being the setting's
/// (Bonferroni).
fn beyond_category(config: &JudgeConfig, categories: usize) -> f64 {
    (1.0 - config.category_confidence) / categories.max(1) as f64
}

/// About how many more labels would decide, where a HOLD is for want of them.
fn wanted(judgement: &Judgement, trial: &Trial<'_>, config: &JudgeConfig) -> Option<u64> {
    if judgement.verdict != Verdict::Hold || judgement.labels == 0 {
        return None;
    }
    let times = if judgement.has_evidence() {
        labels_needed(&judgement.by_presences, -config.margin)?
    } else {
        // Until enough categories have enough presences, and enough images are told of.
        let columns = trial.labels.columns().into_iter();
        let mut present: Vec<usize> = columns
            .map(|c| c.iter().filter(|label| **label > 0).count())
            .collect();
        present.sort_unstable_by(|a, b| b.cmp(a));
        let categories = gates::categories_asked(trial, config);
        let thinnest = present.get(categories.saturating_sub(1)).copied();
        let presences = config.min_present as f64 / (thinnest? as f64).max(0.5);
        presences.max(config.min_images as f64 / judgement.images.max(1) as f64)
    };
    let more = (times - 1.0) * judgement.labels as f64;
    // No more precise than it is: two digits.
    let digit = 10f64.powf((more.log10().floor() - 1.0).max(0.0));
    (more >= 1.0).then(|| ((more / digit).ceil() * digit) as u64)
}

#[cfg(test)]
mod tests;
