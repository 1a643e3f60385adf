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

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
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
    pub candidate: &'a [f32],
    /// Champion's logits, `[images, C]`.
    pub champion: &'a [f32],
    /// +1 present, -1 absent, 0 unknown, `[images, C]`.
    pub labels: &'a [i8],
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

/// One category's known entries, in the order of one model's scores.
struct Ranking {
    /// (image, present), best score first; equal scores keep the images' order.
    entries: Vec<(u32, bool)>,
}

impl Ranking {
    fn new(scores: &[f32], labels: &[i8], categories: usize, category: usize) -> Self {
        let score = |image: u32| scores[image as usize * categories + category];
        let images = labels.len() / categories.max(1);
        let mut entries: Vec<(u32, bool)> = (0..images as u32)
            .filter_map(
                |image| match labels[image as usize * categories + category] {
                    0 => None,
                    label => Some((image, label > 0)),
                },
            )
            .collect();
        entries.sort_by(|a, b| score(b.0).total_cmp(&score(a.0)));
        Ranking { entries }
    }

    /// AP when image i is there `weights[i]` times; `None` without a presence or without an
    /// absence. The copies of an image stand side by side, as equal scores do.
    fn average_precision(&self, weights: &[u32]) -> Option<f64> {
        let (mut seen, mut hits, mut sum) = (0u64, 0u64, 0.0);
        for &(image, present) in &self.entries {
            let weight = weights[image as usize];
            if !present {
                seen += u64::from(weight);
                continue;
            }
            for _ in 0..weight {
                seen += 1;
                hits += 1;
                sum += hits as f64 / seen as f64;
            }
        }
        (hits > 0 && seen > hits).then(|| sum / hits as f64)
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

/// Judges. The same inputs and seed give the same judgement, on any number of threads.
///
/// # Panics
/// If the sizes in `trial` do not fit together.
pub fn judge(trial: &Trial<'_>, checks: &[Check], config: &JudgeConfig, seed: u64) -> Judgement {
    let c = trial.categories.len();
    assert!(
        trial.candidate.len() == trial.labels.len() && trial.champion.len() == trial.labels.len(),
        "scores and labels must have one shape"
    );
    assert!(c == 0 || trial.labels.len().is_multiple_of(c));
    let images = trial.labels.len() / c.max(1);
    let known_images = trial
        .labels
        .chunks(c.max(1))
        .filter(|row| row.iter().any(|l| *l != 0))
        .count();
    let finite = trial.candidate.iter().all(|s| s.is_finite());

    let ones = vec![1u32; images];
    // (category, candidate's ranking, champion's ranking, AP of each)
    let measured: Vec<(usize, [Ranking; 2], [f64; 2])> = (0..c)
        .filter_map(|k| {
            let rows = trial.labels.chunks(c);
            if rows.filter(|row| row[k] > 0).count() < config.min_present {
                return None;
            }
            let rankings = [trial.candidate, trial.champion]
                .map(|scores| Ranking::new(scores, trial.labels, c, k));
            let candidate = rankings[0].average_precision(&ones)?;
            let champion = rankings[1].average_precision(&ones)?;
            Some((k, rankings, [candidate, champion]))
        })
        .collect();
    let candidate_map = mean(measured.iter().map(|m| m.2[0])).unwrap_or(f64::NAN);
    let champion_map = mean(measured.iter().map(|m| m.2[1])).unwrap_or(f64::NAN);

    // One row a resample: the differences of all measurable categories, NaN where the resample has
    // none to measure.
    let resampled: Vec<Vec<f64>> = (0..config.resamples)
        .into_par_iter()
        .map(|number| {
            let mut rng = StdRng::seed_from_u64(
                seed ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            );
            let mut weights = vec![0u32; images];
            for _ in 0..images {
                weights[rng.random_range(0..images)] += 1;
            }
            let difference = |rankings: &[Ranking; 2]| {
                let candidate = rankings[0].average_precision(&weights);
                let champion = rankings[1].average_precision(&weights);
                candidate.zip(champion).map_or(f64::NAN, |(a, b)| a - b)
            };
            measured.iter().map(|(_, r, _)| difference(r)).collect()
        })
        .collect();
    let maps = resampled
        .iter()
        .filter_map(|row| mean(row.iter().copied().filter(|d| d.is_finite())))
        .collect();
    let difference = interval(candidate_map - champion_map, maps, config.confidence);
    let categories = measured
        .iter()
        .enumerate()
        .map(|(column, (k, rankings, [candidate, champion]))| {
            let own = resampled.iter().map(|row| row[column]);
            let own = own.filter(|d| d.is_finite()).collect();
            let entries = &rankings[0].entries;
            let present = entries.iter().filter(|(_, p)| *p).count();
            CategoryOutcome {
                category: trial.categories[*k].clone(),
                present,
                absent: entries.len() - present,
                champion: *champion,
                candidate: *candidate,
                difference: interval(candidate - champion, own, config.category_confidence),
            }
        })
        .collect();

    let mut judgement = Judgement {
        verdict: Verdict::Promote,
        gates: Vec::new(),
        images: known_images,
        labels: trial.labels.iter().filter(|l| **l != 0).count(),
        champion_map,
        candidate_map,
        difference,
        categories,
    };
    judgement.gates = gates(&judgement, checks, config, finite);
    judgement.verdict = verdict(&judgement.gates);
    judgement
}

/// The severest demand of a failed gate.
fn verdict(gates: &[Gate]) -> Verdict {
    let demanded = |v| gates.iter().any(|g| !g.passed && g.otherwise == v);
    if demanded(Verdict::Reject) {
        Verdict::Reject
    } else if demanded(Verdict::Hold) {
        Verdict::Hold
    } else {
        Verdict::Promote
    }
}

fn points(x: f64) -> String {
    if !x.is_finite() {
        return "not measurable".into();
    }
    format!("{:+.2} points", 100.0 * x)
}

fn gates(j: &Judgement, checks: &[Check], config: &JudgeConfig, finite: bool) -> Vec<Gate> {
    let mut gates: Vec<Gate> = Vec::new();
    let mut gate = |name: &str, passed, measured: String, asked: String, otherwise| {
        gates.push(Gate {
            name: name.into(),
            passed,
            measured,
            asked,
            otherwise,
        });
    };
    let (hold, reject) = (Verdict::Hold, Verdict::Reject);
    for check in checks {
        gate(
            &check.name,
            check.passed,
            check.detail.clone(),
            "passes".into(),
            reject,
        );
    }
    let said = if finite {
        "all finite"
    } else {
        "some are not finite"
    };
    gate(
        "finite scores",
        finite,
        said.into(),
        "all finite".into(),
        reject,
    );
    gate(
        "evidence: images",
        j.images >= config.min_images,
        format!("{} held-out images with known labels", j.images),
        format!("at least {}", config.min_images),
        hold,
    );
    gate(
        "evidence: categories",
        j.categories.len() >= config.min_categories.max(1),
        format!(
            "{} categories with known presences and absences",
            j.categories.len()
        ),
        format!("at least {}", config.min_categories.max(1)),
        hold,
    );
    let d = &j.difference;
    gate(
        "mAP not certainly worse",
        // A NaN means that nothing could be measured, which is no proof of harm.
        d.upper.is_nan() || d.upper >= 0.0,
        format!("upper bound {}", points(d.upper)),
        "not below zero".into(),
        reject,
    );
    gate(
        "mAP certainly not worse",
        d.lower > -config.margin,
        format!("{} (lower bound {})", points(d.estimate), points(d.lower)),
        format!("lower bound above {}", points(-config.margin)),
        hold,
    );
    gate(
        "worth the change",
        d.estimate >= config.min_gain,
        points(d.estimate),
        format!("at least {}", points(config.min_gain)),
        hold,
    );
    let fallen: Vec<String> = j
        .categories
        .iter()
        .filter(|c| c.difference.upper < -config.category_tolerance)
        .map(|c| {
            format!(
                "{} {} (upper bound {})",
                c.category,
                points(c.difference.estimate),
                points(c.difference.upper)
            )
        })
        .collect();
    gate(
        "no category falls",
        fallen.is_empty(),
        if fallen.is_empty() {
            let worst = j
                .categories
                .iter()
                .min_by(|a, b| a.difference.estimate.total_cmp(&b.difference.estimate));
            worst.map_or("nothing measured".into(), |w| {
                format!(
                    "worst: {} {} (upper bound {})",
                    w.category,
                    points(w.difference.estimate),
                    points(w.difference.upper)
                )
            })
        } else {
            fallen.join(", ")
        },
        format!(
            "no upper bound below {}",
            points(-config.category_tolerance)
        ),
        reject,
    );
    gates
}

#[cfg(test)]
mod tests;
