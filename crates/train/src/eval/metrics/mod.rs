//! Multi-label metrics over known entries: average precision, F1, calibration error.
//!
//! Labels are +1 (present), -1 (absent) and 0 (unknown); unknown entries count nowhere, neither as
//! negatives nor in the ranking. Scores are logits: probability = sigmoid(score).
//!
//! Average precision ranks the known entries of a category by descending score; equal scores keep
//! the images' order. `plain` is the mean of the precision at each positive (no interpolation).
//! `envelope` replaces the precision at each positive by the largest precision at that or any later
//! one (the area under the precision envelope, as VOC has computed it since 2010); it is never
//! below `plain`.
//!
//! ```
//! use ndarray::array;
//! use tagstream_train::eval::metrics::report;
//!
//! // Three images, two categories; nobody knows whether the third shows a dog.
//! let logits = array![[2.0, -1.0], [0.5, 0.3], [-3.0, 1.5]];
//! let labels = array![[1, -1], [-1, 1], [-1, 0]];
//! let names = ["cat".to_owned(), "dog".to_owned()];
//! let report = report(logits.view(), labels.view(), &names)?;
//! assert_eq!(report.map_plain, 100.0);
//! assert_eq!(report.known_entries, 5);
//! assert!((report.per_category[0].f1 - 66.7).abs() < 0.05);
//! # Ok::<(), tagstream_train::eval::metrics::MetricsError>(())
//! ```

use crate::arrays::RaggedError;
use ndarray::{ArrayView1, ArrayView2};
use serde::Serialize;

/// Average precision of one category, fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AveragePrecision {
    /// Mean precision at each positive.
    pub plain: f64,
    /// The same under the precision envelope.
    pub envelope: f64,
}

/// The average precision of one category, or `None` if no known entry is positive or none is
/// negative: then every ranking is as good as any other.
///
/// ```
/// use ndarray::aview1;
/// use tagstream_train::eval::metrics::average_precision;
///
/// let scores = [3.0, 2.0, 1.0, 0.0];
/// let ap = average_precision(aview1(&scores), aview1(&[1, -1, 1, 0])).unwrap();
/// assert_eq!(ap.plain, (1.0 + 2.0 / 3.0) / 2.0);
/// assert_eq!(average_precision(aview1(&scores), aview1(&[1, 1, 1, 1])), None);
/// ```
pub fn average_precision<S: Into<f64> + Copy>(
    scores: ArrayView1<'_, S>,
    labels: ArrayView1<'_, i8>,
) -> Option<AveragePrecision> {
    let mut known: Vec<(f64, bool)> = scores
        .into_iter()
        .zip(labels)
        .filter(|(_, label)| **label != 0)
        .map(|(score, label)| ((*score).into(), *label > 0))
        .collect();
    // Stable: equal scores keep the images' order.
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut precisions = Vec::new();
    for (rank, &(_, positive)) in known.iter().enumerate() {
        if positive {
            precisions.push((precisions.len() + 1) as f64 / (rank + 1) as f64);
        }
    }
    if precisions.is_empty() || precisions.len() == known.len() {
        return None;
    }
    let count = precisions.len() as f64;
    let plain = precisions.iter().sum::<f64>() / count;
    let mut best = 0.0f64;
    let mut envelope = 0.0;
    for &precision in precisions.iter().rev() {
        best = best.max(precision);
        envelope += best;
    }
    Some(AveragePrecision {
        plain,
        envelope: envelope / count,
    })
}

/// Counts of decisions against known labels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Confusion {
    /// Decided present, is present.
    pub true_positives: usize,
    /// Decided present, is absent.
    pub false_positives: usize,
    /// Decided absent, is present.
    pub false_negatives: usize,
}

impl Confusion {
    /// Counts one known entry.
    pub fn add(&mut self, decided: bool, present: bool) {
        match (decided, present) {
            (true, true) => self.true_positives += 1,
            (true, false) => self.false_positives += 1,
            (false, true) => self.false_negatives += 1,
            (false, false) => {}
        }
    }

    /// TP / (TP + FP); 0 if nothing was decided present.
    pub fn precision(self) -> f64 {
        ratio(
            self.true_positives,
            self.true_positives + self.false_positives,
        )
    }

    /// TP / (TP + FN); 0 if nothing is present.
    pub fn recall(self) -> f64 {
        ratio(
            self.true_positives,
            self.true_positives + self.false_negatives,
        )
    }

    /// Harmonic mean of precision and recall; 0 if both are.
    pub fn f1(self) -> f64 {
        harmonic(self.precision(), self.recall())
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn harmonic(a: f64, b: f64) -> f64 {
    if a + b == 0.0 {
        0.0
    } else {
        2.0 * a * b / (a + b)
    }
}

/// F1 over categories, fractions of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct F1 {
    /// Harmonic mean of mean category precision and mean category recall (SSGRL's and SST's CF1).
    pub cf1: f64,
    /// Mean of the categories' own F1 (DualCoOp's CF1).
    pub cf1_mean: f64,
    /// F1 of all entries pooled.
    pub of1: f64,
}

impl F1 {
    /// From the confusion of each category that takes part.
    pub fn of(categories: &[Confusion]) -> Self {
        let n = categories.len().max(1) as f64;
        let mean = |f: fn(Confusion) -> f64| {
            categories.iter().map(|&category| f(category)).sum::<f64>() / n
        };
        let pooled = categories
            .iter()
            .fold(Confusion::default(), |sum, category| Confusion {
                true_positives: sum.true_positives + category.true_positives,
                false_positives: sum.false_positives + category.false_positives,
                false_negatives: sum.false_negatives + category.false_negatives,
            });
        Self {
            cf1: harmonic(mean(Confusion::precision), mean(Confusion::recall)),
            cf1_mean: mean(Confusion::f1),
            of1: pooled.f1(),
        }
    }
}

/// Bins of the expected calibration error.
pub const CALIBRATION_BINS: usize = 15;

/// Expected calibration error over known entries: mean |observed frequency - mean probability| over
/// equal-width bins of the probability, weighted by their entries. 0 if there is no entry.
pub fn expected_calibration_error(entries: impl Iterator<Item = (f64, bool)>) -> f64 {
    let mut bins = [(0usize, 0.0, 0usize); CALIBRATION_BINS];
    for (probability, present) in entries {
        let bin = ((probability * CALIBRATION_BINS as f64) as usize).min(CALIBRATION_BINS - 1);
        bins[bin].0 += 1;
        bins[bin].1 += probability;
        bins[bin].2 += usize::from(present);
    }
    let total: usize = bins.iter().map(|bin| bin.0).sum();
    bins.iter()
        .map(|&(_, probability, present)| (probability - present as f64).abs())
        .sum::<f64>()
        / total.max(1) as f64
}

/// The probability of a logit, `1 / (1 + e^-x)`.
pub fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// One category's line of an [`EvalReport`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryReport {
    /// Its name in the model.
    pub category: String,
    /// Average precision in percent; none if no known entry is positive or none is negative.
    pub ap_plain: Option<f64>,
    /// The same under the precision envelope.
    pub ap_envelope: Option<f64>,
    /// F1 at probability 0.5, in percent.
    pub f1: f64,
    /// Known present.
    pub positives: usize,
    /// Known absent.
    pub negatives: usize,
    /// Unknown, ignored.
    pub unknown: usize,
}

/// What `tagstream eval` prints: means over categories in percent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// Mean of `ap_plain` over the categories that have one.
    pub map_plain: f64,
    /// Mean of `ap_envelope`.
    pub map_envelope: f64,
    /// [`F1::cf1`] at probability 0.5.
    pub cf1: f64,
    /// [`F1::cf1_mean`] at probability 0.5.
    pub cf1_mean: f64,
    /// [`F1::of1`] at probability 0.5.
    pub of1: f64,
    /// Expected calibration error, a fraction of 1.
    pub ece: f64,
    /// How many were measured.
    pub images: usize,
    /// Entries with a known label.
    pub known_entries: usize,
    /// Categories that take part in the means.
    pub categories: usize,
    /// Categories left out because no known entry is positive.
    pub categories_without_positives: usize,
    /// Categories left out because no known entry is negative.
    pub categories_without_negatives: usize,
    /// Every category, in the order of the scores.
    pub per_category: Vec<CategoryReport>,
}

/// Why scores could not be measured.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MetricsError {
    /// Scores or labels are no matrix.
    #[error(transparent)]
    Ragged(#[from] RaggedError),
    /// Scores and labels differ in size.
    #[error(
        "scores of {} images x {}, labels of {} images x {}, for {categories} categories",
        scores.0, scores.1, labels.0, labels.1
    )]
    Sizes {
        /// Rows and columns of the scores.
        scores: (usize, usize),
        /// Rows and columns of the labels.
        labels: (usize, usize),
        /// Number of categories.
        categories: usize,
    },
    /// A score is no number.
    #[error("image {image} has a score for category {category} that is not a number")]
    NotANumber {
        /// Row.
        image: usize,
        /// Column.
        category: usize,
    },
}

/// Measures logits `[n, C]` against labels `[n, C]`.
///
/// # Errors
/// If the sizes differ or a score is not a number.
pub fn report<S: Into<f64> + Copy>(
    scores: ArrayView2<'_, S>,
    labels: ArrayView2<'_, i8>,
    categories: &[String],
) -> Result<EvalReport, MetricsError> {
    let c = categories.len();
    if scores.dim() != labels.dim() || c == 0 || scores.ncols() != c {
        return Err(MetricsError::Sizes {
            scores: scores.dim(),
            labels: labels.dim(),
            categories: c,
        });
    }
    for ((image, category), score) in scores.indexed_iter() {
        if (*score).into().is_nan() {
            return Err(MetricsError::NotANumber { image, category });
        }
    }
    let measured: Vec<Measured> = categories
        .iter()
        .zip(scores.columns().into_iter().zip(labels.columns()))
        .map(|(name, (scores, labels))| Measured::of(scores, labels, name))
        .collect();
    let ranked = || measured.iter().filter_map(|one| Some((one, one.ap?)));
    let percent = |part: fn(AveragePrecision) -> f64| {
        100.0 * ranked().map(|(_, ap)| part(ap)).sum::<f64>() / ranked().count().max(1) as f64
    };
    let confusions: Vec<Confusion> = ranked().map(|(one, _)| one.confusion).collect();
    let f1 = F1::of(&confusions);
    let entries = scores.iter().zip(labels).filter(|(_, label)| **label != 0);
    let lines = || measured.iter().map(|one| &one.line);
    Ok(EvalReport {
        map_plain: percent(|ap| ap.plain),
        map_envelope: percent(|ap| ap.envelope),
        cf1: 100.0 * f1.cf1,
        cf1_mean: 100.0 * f1.cf1_mean,
        of1: 100.0 * f1.of1,
        ece: expected_calibration_error(
            entries.map(|(&score, &label)| (sigmoid(score.into()), label > 0)),
        ),
        images: scores.nrows(),
        known_entries: labels.iter().filter(|label| **label != 0).count(),
        categories: confusions.len(),
        categories_without_positives: lines().filter(|line| line.positives == 0).count(),
        categories_without_negatives: lines()
            .filter(|line| line.positives > 0 && line.negatives == 0)
            .count(),
        per_category: lines().cloned().collect(),
    })
}

/// One category's measures.
struct Measured {
    ap: Option<AveragePrecision>,
    confusion: Confusion,
    line: CategoryReport,
}

impl Measured {
    fn of<S: Into<f64> + Copy>(
        scores: ArrayView1<'_, S>,
        labels: ArrayView1<'_, i8>,
        category: &str,
    ) -> Self {
        let ap = average_precision(scores, labels);
        let mut confusion = Confusion::default();
        for (score, label) in scores.iter().zip(labels).filter(|(_, label)| **label != 0) {
            confusion.add((*score).into() > 0.0, *label > 0);
        }
        let count = |sign: i8| labels.iter().filter(|label| label.signum() == sign).count();
        let line = CategoryReport {
            category: category.to_owned(),
            ap_plain: ap.map(|ap| 100.0 * ap.plain),
            ap_envelope: ap.map(|ap| 100.0 * ap.envelope),
            f1: 100.0 * confusion.f1(),
            positives: count(1),
            negatives: count(-1),
            unknown: count(0),
        };
        Self {
            ap,
            confusion,
            line,
        }
    }
}

#[cfg(test)]
mod tests;
