//! How well left-out predictions rank what is known, and whether one ranks better than another.

use crate::trm::kernel_ridge::targets::Targets;
use ndarray::{Array2, ArrayView2};

/// Standard errors of a mean difference that a difference has to reach before it is believed.
const ERRORS: f64 = 2.0;

/// The average precision of each category among its known entries; `None` where presences or
/// absences are wanting. Without a known absence, unknown entries stand for what is absent, as
/// everywhere.
fn precisions(scores: ArrayView2<'_, f32>, targets: &Targets) -> Vec<Option<f64>> {
    let none_absent = !targets.labels.iter().any(|label| *label < 0);
    let columns = scores.columns().into_iter().zip(targets.labels.columns());
    let of_category = columns.map(|(scores, labels)| {
        let entries = scores.iter().zip(&labels);
        let known = entries.filter(|(_, label)| none_absent || **label != 0);
        let mut known: Vec<(f32, bool)> = known.map(|(s, label)| (*s, *label > 0)).collect();
        known.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut hits, mut precision) = (0.0, 0.0);
        for (rank, (_, present)) in known.iter().enumerate() {
            if *present {
                hits += 1.0;
                precision += hits / (rank + 1) as f64;
            }
        }
        (hits > 0.0 && hits < known.len() as f64).then(|| precision / hits)
    });
    of_category.collect()
}

/// Mean over categories of the average precision among known entries; 0 where no category has both
/// presences and absences.
pub(super) fn mean_precision(scores: ArrayView2<'_, f32>, targets: &Targets) -> f64 {
    let found: Vec<f64> = precisions(scores, targets).into_iter().flatten().collect();
    found.iter().sum::<f64>() / found.len().max(1) as f64
}

/// The columns (logits `[n, C]` each), each times its weight.
pub(super) fn weighed(columns: &[ArrayView2<'_, f32>], weights: &[f64]) -> Array2<f32> {
    let mut sum = Array2::zeros(columns[0].dim());
    for (column, weight) in columns.iter().zip(weights) {
        sum.scaled_add(*weight as f32, column);
    }
    sum
}

/// Whether `found` ranks the known entries better than `plain` by more than chance would: the mean
/// over categories of the difference in average precision is at least two of its standard errors.
/// Two categories say nothing of a spread, so with fewer than three it is not.
///
/// Categories whose known presences were all left out at once (`fold_of` each image) are not asked:
/// whatever predicted them had seen none, as the finished head will have.
pub(super) fn clearly_better(
    found: &Array2<f32>,
    plain: &Array2<f32>,
    targets: &Targets,
    fold_of: &[Option<usize>],
) -> bool {
    let asked = (0..targets.categories()).map(|category| in_two_folds(targets, category, fold_of));
    let pairs = precisions(found.view(), targets)
        .into_iter()
        .zip(precisions(plain.view(), targets));
    let differences = asked.zip(pairs).filter(|(asked, _)| *asked);
    let differences: Vec<f64> = differences
        .filter_map(|(_, (a, b))| Some(a? - b?))
        .collect();
    let n = differences.len() as f64;
    if n < 3.0 {
        return false;
    }
    let mean = differences.iter().sum::<f64>() / n;
    let square: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    let error = (square / (n - 1.0) / n).sqrt();
    mean > 0.0 && mean >= ERRORS * error
}

/// Whether the known presences of a category lie in more than one fold.
fn in_two_folds(targets: &Targets, category: usize, fold_of: &[Option<usize>]) -> bool {
    let labels = targets.labels.column(category);
    let present = labels.iter().zip(fold_of).filter(|(label, _)| **label > 0);
    let mut folds = present.filter_map(|(_, fold)| *fold);
    let first = folds.next();
    folds.any(|fold| Some(fold) != first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn targets(labels: &Array2<i8>) -> Targets<'_> {
        Targets {
            labels: labels.view(),
            assume_negative: 0.0,
        }
    }

    #[test]
    fn precision_is_that_of_known_entries_only() {
        let labels = array![[1, 1], [-1, 0], [1, 0], [0, 0]];
        let scores = array![[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.95, 0.4]];
        // Ranks 1 and 3 of three known; the second category has no absence.
        let expected = (1.0 + 2.0 / 3.0) / 2.0;
        assert!((mean_precision(scores.view(), &targets(&labels)) - expected).abs() < 1e-12);
        // Without any absence the unknown ones are what presences have to beat.
        let labels = array![[1], [0], [0]];
        let scores = array![[0.2], [0.3], [0.1]];
        assert_eq!(mean_precision(scores.view(), &targets(&labels)), 0.5);
    }

    #[test]
    fn what_helps_every_category_is_better_and_what_helps_one_is_not() {
        let labels = Array2::from_shape_fn((8, 6), |(image, _)| if image < 4 { 1 } else { -1 });
        let plain = Array2::from_shape_fn((8, 6), |(image, _)| if image == 5 { 9.0 } else { 0.0 });
        let order = Array2::from_shape_fn((8, 6), |(image, c)| {
            -(image as f32) + if image == 5 && c % 2 == 0 { 0.4 } else { 0.0 }
        });
        let folds: Vec<Option<usize>> = (0..8).map(|image| Some(image % 2)).collect();
        let better = |a, b| clearly_better(a, b, &targets(&labels), &folds);
        assert!(better(&order, &plain));
        assert!(!better(&plain, &order));
        let mut one = plain.clone();
        one.column_mut(0).assign(&order.column(0));
        assert!(!better(&one, &plain));
        // All presences were left out at once: nothing can be said.
        let folds: Vec<Option<usize>> = (0..8).map(|image| Some(image / 4)).collect();
        assert!(!clearly_better(&order, &plain, &targets(&labels), &folds));
    }
}
