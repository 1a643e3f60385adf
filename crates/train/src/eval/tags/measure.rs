//! How good emitted tags are.

use crate::eval::metrics::sigmoid;
use ndarray::{ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// Tags against what is known. Shares are fractions of 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct TagQuality {
    /// Tags a picture, known to be right or not.
    pub per_image: f64,
    /// Share of tags that are right; none if nothing known was tagged.
    pub right: Option<f64>,
    /// Share of what is there that is tagged; none if nothing is known to be there.
    pub found: Option<f64>,
    /// Harmonic mean of both.
    pub f1: Option<f64>,
    /// Tags of which is known whether they are right.
    pub known_tags: usize,
    /// Known presences.
    pub known_present: usize,
}

/// Tags of all categories and of each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagMeasures {
    /// All categories' tags together.
    pub overall: TagQuality,
    /// Each category's, in the order of the scores.
    pub per_category: Vec<TagQuality>,
}

/// Weighted sums over known entries.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ImageTags {
    /// Tags that are right.
    pub right: f64,
    /// Tags given to all measured images together.
    pub tags: f64,
    /// Presences.
    pub present: f64,
}

impl ImageTags {
    /// Adds `other`, `times` times.
    pub fn add(&mut self, other: &Self, times: f64) {
        self.right += times * other.right;
        self.tags += times * other.tags;
        self.present += times * other.present;
    }

    /// Share of tags that are right; NaN without tags.
    pub fn precision(&self) -> f64 {
        self.right / self.tags
    }

    /// Share of presences that are tagged; NaN without presences.
    pub fn recall(&self) -> f64 {
        self.right / self.present
    }

    /// F1; NaN without presences and tags.
    pub fn f1(&self) -> f64 {
        2.0 * self.right / (self.tags + self.present)
    }
}

/// Whether a category is tagged, decided as the tagger does: probabilities are `f32`.
pub fn tagged(odds: f32, threshold: f32) -> bool {
    sigmoid(f64::from(odds)) as f32 >= threshold
}

/// The sums of every image, of the categories that `counts` names.
///
/// # Panics
/// If the sizes do not fit.
pub fn image_tags(
    odds: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    weights: ArrayView2<'_, f32>,
    thresholds: impl Fn(usize, usize) -> f32,
) -> Vec<Vec<(usize, ImageTags)>> {
    assert!(odds.dim() == labels.dim() && odds.dim() == weights.dim());
    let rows = labels.axis_iter(Axis(0)).enumerate();
    rows.map(|(image, row)| {
        let known = row
            .into_iter()
            .enumerate()
            .filter(|(_, label)| **label != 0);
        let known = known.filter_map(|(category, &label)| {
            let at = [image, category];
            let weight = f64::from(weights[at]);
            let tagged = tagged(odds[at], thresholds(image, category));
            let of = |yes: bool| if yes { weight } else { 0.0 };
            let counted = ImageTags {
                right: of(tagged && label > 0),
                tags: of(tagged),
                present: of(label > 0),
            };
            (counted != ImageTags::default()).then_some((category, counted))
        });
        known.collect()
    })
    .collect()
}

/// Measures tags: calibrated log-odds `[n, C]` against partial labels, known entries weighted.
///
/// # Panics
/// If the sizes do not fit.
pub fn measure(
    odds: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    weights: ArrayView2<'_, f32>,
    thresholds: &[f32],
) -> TagMeasures {
    measure_with(odds, labels, weights, |_, category| thresholds[category])
}

/// As [`measure()`], where every image may have its own thresholds.
///
/// # Panics
/// If the sizes do not fit.
pub fn measure_with(
    odds: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    weights: ArrayView2<'_, f32>,
    thresholds: impl Fn(usize, usize) -> f32,
) -> TagMeasures {
    let categories = labels.ncols();
    let mut sums = vec![ImageTags::default(); categories];
    let mut counts = vec![[0usize; 3]; categories];
    for row in image_tags(odds, labels, weights, &thresholds) {
        for (category, tags) in row {
            sums[category].add(&tags, 1.0);
        }
    }
    for ((at, &odds), &label) in odds.indexed_iter().zip(labels) {
        let tagged = tagged(odds, thresholds(at.0, at.1));
        let [tags, known, present] = &mut counts[at.1];
        *tags += usize::from(tagged);
        *known += usize::from(tagged && label != 0);
        *present += usize::from(label > 0);
    }
    let images = labels.nrows().max(1) as f64;
    let quality = |sum: &ImageTags, [tags, known_tags, known_present]: [usize; 3]| {
        let number = |x: f64| x.is_finite().then_some(x);
        TagQuality {
            per_image: tags as f64 / images,
            right: number(sum.precision()),
            found: number(sum.recall()),
            f1: number(sum.f1()),
            known_tags,
            known_present,
        }
    };
    let mut overall = (ImageTags::default(), [0; 3]);
    for (sum, count) in sums.iter().zip(&counts) {
        overall.0.add(sum, 1.0);
        (0..3).for_each(|at| overall.1[at] += count[at]);
    }
    TagMeasures {
        overall: quality(&overall.0, overall.1),
        per_category: sums
            .iter()
            .zip(counts)
            .map(|(sum, count)| quality(sum, count))
            .collect(),
    }
}
