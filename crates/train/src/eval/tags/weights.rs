//! Weights that make known entries stand for all.
//!
//! Labels are rarely a fair sample: some categories are labelled more, and whoever is asked about
//! doubtful pictures labels doubtful scores. A known entry therefore counts for as many as there
//! are like it: weights are raked (Deming & Stephan 1940) until they sum, for every category and
//! for every range of scores, to the number of its entries, known or not. That is inverse
//! probability weighting with a chance to be known that depends on the category and on the score.
//!
//! What it rests on: of entries of a category with like scores, presences are known as often as
//! absences. Where only presences are ever told (single positives) nothing known can say how many
//! tags are wrong.

use ndarray::{Array2, ArrayView2};

/// Bounds of the ranges of probability (of the logits as they are).
const BOUNDS: [f64; 9] = [0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9];
/// A range with fewer known entries joins the one below it.
const LEAST_KNOWN: usize = 20;
const ROUNDS: usize = 20;
/// No entry counts more than this many times the mean.
const MOST: f64 = 10.0;

/// The weight of every known entry of `labels`, for models that score as `logits`; 0 where nothing
/// is known.
///
/// # Panics
/// If the sizes differ.
pub fn weights(logits: ArrayView2<'_, f32>, labels: ArrayView2<'_, i8>) -> Array2<f32> {
    assert_eq!(logits.dim(), labels.dim(), "a label a score");
    let ranges = ranges(logits, labels);
    let of_range = |logit: f32| ranges[range(logit)];
    let categories = labels.ncols();
    let (mut all, mut known) = (vec![0.0; categories], vec![0.0; categories]);
    let mut all_in = [0.0; BOUNDS.len() + 1];
    // Known entries by range and category: weights of equal ones are equal.
    let mut cells = Array2::<f64>::zeros((BOUNDS.len() + 1, categories));
    for ((at, &label), &logit) in labels.indexed_iter().zip(logits) {
        all[at.1] += 1.0;
        if label != 0 {
            known[at.1] += 1.0;
            cells[[of_range(logit), at.1]] += 1.0;
        }
    }
    // Of a category of which nothing is known nothing stands for anything.
    for ((at, _), &logit) in labels.indexed_iter().zip(logits) {
        if known[at.1] > 0.0 {
            all_in[of_range(logit)] += 1.0;
        }
    }
    let weight = rake(&cells, &all, &all_in);
    Array2::from_shape_fn(labels.dim(), |at| match labels[at] {
        0 => 0.0,
        _ => weight[[of_range(logits[at]), at.1]] as f32,
    })
}

/// The number of the range that a logit's probability falls into.
fn range(logit: f32) -> usize {
    let p = super::super::metrics::sigmoid(f64::from(logit));
    BOUNDS.iter().filter(|bound| p >= **bound).count()
}

/// Of every range the one it counts as.
fn ranges(logits: ArrayView2<'_, f32>, labels: ArrayView2<'_, i8>) -> [usize; BOUNDS.len() + 1] {
    let mut known = [0usize; BOUNDS.len() + 1];
    for (&logit, _) in logits.iter().zip(labels).filter(|(_, l)| **l != 0) {
        known[range(logit)] += 1;
    }
    let mut joined: [usize; BOUNDS.len() + 1] = std::array::from_fn(|at| at);
    // From above: what is too thin hands its entries down.
    for at in (1..joined.len()).rev() {
        if known[at] < LEAST_KNOWN {
            known[at - 1] += known[at];
            let from = at;
            joined
                .iter_mut()
                .filter(|range| **range == from)
                .for_each(|range| *range = from - 1);
        }
    }
    joined
}

fn rake(cells: &Array2<f64>, all: &[f64], all_in: &[f64]) -> Array2<f64> {
    let mut weight = Array2::<f64>::ones(cells.dim());
    for _ in 0..ROUNDS {
        for (category, all) in all.iter().enumerate() {
            let mut column = weight.column_mut(category);
            let sum = (&column * &cells.column(category)).sum();
            if sum > 0.0 {
                column *= all / sum;
            }
        }
        for (range, all) in all_in.iter().enumerate() {
            let mut row = weight.row_mut(range);
            let sum = (&row * &cells.row(range)).sum();
            if sum > 0.0 {
                row *= all / sum;
            }
        }
    }
    let total = cells.sum().max(1.0);
    let mean = (&weight * cells).sum() / total;
    weight.mapv(|w| w.min(MOST * mean))
}
