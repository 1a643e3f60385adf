//! A threshold for each category, from left-out scores and partial labels.
//!
//! A rare category's own best threshold fits noise, and one threshold for all ignores what is known
//! of the frequent ones. So each is drawn to the one that is best for all categories pooled: its
//! own counts n / (n + m), n being its known presences. A number of tags a picture moves all of
//! them by one amount of log-odds; a precision has one threshold for all: of calibrated
//! probabilities, equal ones find the most at a given share right.

use super::{TagTarget, TagsConfig, weights};
use crate::eval::metrics::sigmoid;
use ndarray::ArrayView2;

/// A known entry: log-odds (or their distance from a threshold), presence, weight.
#[derive(Debug, Clone, Copy)]
struct Entry {
    score: f64,
    present: bool,
    weight: f64,
}

/// Thresholds on the calibrated probability `sigmoid(logit / temperature)`, `[C]`.
///
/// `logits` must not come from a head that has seen these labels. Without a known presence or a
/// known absence every threshold is 0.5 (a number of tags a picture needs no labels).
///
/// # Panics
/// If the sizes differ.
pub fn thresholds(
    logits: ArrayView2<'_, f32>,
    labels: ArrayView2<'_, i8>,
    temperature: f32,
    config: &TagsConfig,
) -> Vec<f32> {
    let odds = logits.mapv(|logit| logit / temperature);
    let weights = weights(odds.view(), labels);
    let categories: Vec<Vec<Entry>> = (0..labels.ncols())
        .map(|category| {
            let column = labels
                .column(category)
                .into_iter()
                .zip(odds.column(category));
            let column = column.zip(weights.column(category));
            let known = column.filter(|((label, _), _)| **label != 0);
            known
                .map(|((label, odds), weight)| Entry {
                    score: f64::from(*odds),
                    present: *label > 0,
                    weight: f64::from(*weight),
                })
                .collect()
        })
        .collect();
    let own = match config.target() {
        TagTarget::Precision(_) => vec![0.0; categories.len()],
        _ => shrunk(&categories, config.shrinkage),
    };
    let distances = || {
        let categories = categories.iter().zip(&own);
        let distances = categories.flat_map(|(entries, own)| {
            let off = move |entry: &Entry| Entry {
                score: entry.score - own,
                ..*entry
            };
            entries.iter().map(off)
        });
        distances.collect::<Vec<_>>()
    };
    let shift = match config.target() {
        TagTarget::PerImage(wanted) => {
            let all = odds.indexed_iter();
            nth_largest(
                all.map(|((_, category), odds)| f64::from(*odds) - own[category]),
                (wanted * labels.nrows() as f64).round() as usize,
            )
        }
        TagTarget::BestF1 => 0.0,
        TagTarget::Precision(wanted) => lowest_of(&mut distances(), wanted).unwrap_or(0.0),
    };
    let bounded = |own: &f64| sigmoid(own + shift).max(config.floor) as f32;
    own.iter().map(bounded).collect()
}

/// Every category's best threshold (log-odds), drawn to the one of all pooled.
fn shrunk(categories: &[Vec<Entry>], shrinkage: f64) -> Vec<f64> {
    let mut pool: Vec<Entry> = categories.iter().flatten().copied().collect();
    let pooled = best_f1(&mut pool).unwrap_or(0.0);
    let categories = categories.iter();
    categories
        .map(|entries| {
            let presences = entries.iter().filter(|entry| entry.present).count() as f64;
            let share = presences / (presences + shrinkage).max(1.0);
            match best_f1(&mut entries.clone()) {
                Some(own) => share * own + (1.0 - share) * pooled,
                None => pooled,
            }
        })
        .collect()
}

/// The score from which on deciding "present" has the best F1; `None` without both kinds.
fn best_f1(entries: &mut [Entry]) -> Option<f64> {
    let positive = weight_of(entries, true);
    let mut best = (f64::NEG_INFINITY, 0.0);
    each_cut(entries, |cut, hits, decided| {
        let f1 = 2.0 * hits / (positive + decided);
        if f1 > best.0 {
            best = (f1, cut);
        }
    })?;
    Some(best.1)
}

/// The lowest score from which on at least the share `wanted` is right; the one of the best share
/// if none reaches it.
fn lowest_of(entries: &mut [Entry], wanted: f64) -> Option<f64> {
    let mut best = (f64::NEG_INFINITY, 0.0);
    let mut lowest = None;
    each_cut(entries, |cut, hits, decided| {
        let right = hits / decided.max(f64::MIN_POSITIVE);
        if right > best.0 {
            best = (right, cut);
        }
        if right >= wanted {
            lowest = Some(cut);
        }
    })?;
    Some(lowest.unwrap_or(best.1))
}

/// Calls with every cut midway between neighbouring scores, best first, and the weights of the
/// presences and of all entries above it.
fn each_cut(entries: &mut [Entry], mut take: impl FnMut(f64, f64, f64)) -> Option<()> {
    if weight_of(entries, true) == 0.0 || weight_of(entries, false) == 0.0 {
        return None;
    }
    entries.sort_by(|a, b| b.score.total_cmp(&a.score));
    let (mut hits, mut decided) = (0.0, 0.0);
    for (rank, entry) in entries.iter().enumerate() {
        decided += entry.weight;
        hits += if entry.present { entry.weight } else { 0.0 };
        let next = entries.get(rank + 1).map_or(entry.score - 1.0, |e| e.score);
        // Equal scores cannot be told apart by a threshold.
        if next < entry.score {
            take((entry.score + next) / 2.0, hits, decided);
        }
    }
    Some(())
}

fn weight_of(entries: &[Entry], present: bool) -> f64 {
    let kind = entries.iter().filter(|entry| entry.present == present);
    kind.map(|entry| entry.weight).sum()
}

/// The score that `count` of all reach.
fn nth_largest(scores: impl Iterator<Item = f64>, count: usize) -> f64 {
    let mut scores: Vec<f64> = scores.collect();
    if scores.is_empty() {
        return 0.0;
    }
    scores.sort_by(|a, b| b.total_cmp(a));
    match count {
        0 => scores[0] + 1.0,
        count if count >= scores.len() => scores[scores.len() - 1] - 1.0,
        count => (scores[count - 1] + scores[count]) / 2.0,
    }
}
