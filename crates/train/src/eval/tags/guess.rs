//! Thresholds from scores alone, before there is a label: guesses.
//!
//! A category that parts its pictures well has two humps in the distribution of its log-odds, one
//! for the pictures without it and a smaller one for those with it. Where both stand apart the
//! threshold lies between them; where they do not, it is the score above which the expected share
//! of the pictures lies. Either is replaced as soon as labels say better.

use super::super::metrics::sigmoid;

/// Fewer pictures than this say nothing about a distribution.
pub const FEWEST_PICTURES: usize = 20;

/// Rounds of fitting; the means settle long before.
const ROUNDS: usize = 100;
/// The humps stand apart where their means differ by more than this many times the root of the
/// mean of their variances (Ashman's D).
const APART: f64 = 2.0;
/// A category that more pictures have than this is not told apart from its absence.
const MOST: f64 = 0.5;
/// The upper hump has at least so many pictures, or it is a few odd ones.
const FEWEST_ABOVE: f64 = 4.0;
/// A threshold is a probability that some score can reach and some cannot.
const EDGE: f64 = 1e-6;

/// How a threshold was guessed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GuessedThreshold {
    /// Between two humps, of which the upper has this share of the pictures.
    Between {
        /// The threshold, a probability.
        threshold: f32,
        /// The upper hump's share.
        share: f64,
    },
    /// The expected share of the pictures lies above it.
    Share {
        /// The threshold, a probability.
        threshold: f32,
    },
}

impl GuessedThreshold {
    /// The threshold, a probability.
    pub fn threshold(self) -> f32 {
        match self {
            GuessedThreshold::Between { threshold, .. } | GuessedThreshold::Share { threshold } => {
                threshold
            }
        }
    }
}

/// A threshold for a category whose log-odds on pictures without labels are `odds`; `share` of
/// pictures are expected to have it where the scores do not say. `None` for fewer than
/// [`FEWEST_PICTURES`] or scores that are no numbers.
pub fn guess_threshold(odds: &[f32], share: f64) -> Option<GuessedThreshold> {
    if odds.len() < FEWEST_PICTURES || odds.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let mut sorted: Vec<f64> = odds.iter().map(|x| f64::from(*x)).collect();
    sorted.sort_by(f64::total_cmp);
    let probability = |odds: f64| sigmoid(odds).clamp(EDGE, 1.0 - EDGE) as f32;
    Some(match between_humps(&sorted) {
        Some((cut, share)) => GuessedThreshold::Between {
            threshold: probability(cut),
            share,
        },
        None => GuessedThreshold::Share {
            threshold: probability(above(&sorted, share)),
        },
    })
}

/// The score above which `share` of all lie, midway between neighbours.
fn above(sorted: &[f64], share: f64) -> f64 {
    let n = sorted.len();
    let count = ((share * n as f64).round() as usize).clamp(1, n - 1);
    (sorted[n - count - 1] + sorted[n - count]) / 2.0
}

/// A normal distribution with its weight.
#[derive(Debug, Clone, Copy)]
struct Hump {
    mean: f64,
    variance: f64,
    weight: f64,
}

impl Hump {
    fn density(&self, x: f64) -> f64 {
        let off = x - self.mean;
        self.weight * (-off * off / (2.0 * self.variance)).exp() / self.variance.sqrt()
    }
}

/// The score between two humps at which either is as likely, and the upper's share.
fn between_humps(sorted: &[f64]) -> Option<(f64, f64)> {
    let n = sorted.len() as f64;
    let (mean, variance) = moments(sorted.iter().map(|x| (*x, 1.0)))?;
    // No hump is narrower than a thousandth of all, or one picture would be one.
    let least = variance * 1e-3;
    if least <= 0.0 {
        return None;
    }
    // Begins with the upper tenth: what a tag means is rare.
    let cut = above(sorted, 0.1);
    let begin = |upper: bool| {
        let own = sorted.iter().filter(|x| (**x > cut) == upper);
        moments(own.map(|x| (*x, 1.0)))
    };
    let hump = |(mean, variance): (f64, f64), weight| Hump {
        mean,
        variance: variance.max(least),
        weight,
    };
    let mut low = hump(begin(false)?, 0.9);
    let mut high = hump(begin(true).unwrap_or((mean, variance)), 0.1);
    for _ in 0..ROUNDS {
        let upper: Vec<f64> = sorted
            .iter()
            .map(|x| {
                let (own, other) = (high.density(*x), low.density(*x));
                // Far above both the upper is meant, whatever its width.
                match own + other > 0.0 {
                    true => own / (own + other),
                    false => f64::from(*x > high.mean),
                }
            })
            .collect();
        let weight = upper.iter().sum::<f64>() / n;
        let pairs = sorted.iter().copied().zip(upper.iter().copied());
        high = hump(moments(pairs.clone())?, weight);
        low = hump(moments(pairs.map(|(x, own)| (x, 1.0 - own)))?, 1.0 - weight);
    }
    let spread = ((low.variance + high.variance) / 2.0).sqrt();
    let apart = high.mean - low.mean > APART * spread;
    let right = high.weight <= MOST && high.weight * n >= FEWEST_ABOVE;
    if !(apart && right) {
        return None;
    }
    // From the upper mean down to where the lower hump takes over.
    let (mut from, mut to) = (low.mean, high.mean);
    for _ in 0..60 {
        let middle = (from + to) / 2.0;
        match high.density(middle) > low.density(middle) {
            true => to = middle,
            false => from = middle,
        }
    }
    Some((to, high.weight))
}

/// Mean and variance of weighted values; `None` without weight.
fn moments(values: impl Iterator<Item = (f64, f64)> + Clone) -> Option<(f64, f64)> {
    let total: f64 = values.clone().map(|(_, weight)| weight).sum();
    if total <= 0.0 {
        return None;
    }
    let mean = values.clone().map(|(x, weight)| weight * x).sum::<f64>() / total;
    let squares = values.map(|(x, weight)| weight * (x - mean) * (x - mean));
    Some((mean, squares.sum::<f64>() / total))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles of a normal distribution: a sample without chance.
    fn normal(mean: f64, deviation: f64, count: usize) -> Vec<f32> {
        // The logistic distribution's quantiles, scaled: near enough to a normal one's.
        let scale = deviation * 3f64.sqrt() / std::f64::consts::PI;
        (0..count)
            .map(|i| {
                let p = (i as f64 + 0.5) / count as f64;
                (mean + scale * (p / (1.0 - p)).ln()) as f32
            })
            .collect()
    }

    #[test]
    fn two_humps_are_parted_whatever_is_expected() {
        for few in [10, 40, 90] {
            let odds = [normal(-4.0, 0.5, 200 - few), normal(1.0, 0.5, few)].concat();
            for share in [0.001, 0.4] {
                let found = guess_threshold(&odds, share).unwrap();
                let GuessedThreshold::Between { threshold, share } = found else {
                    panic!("{few}: {found:?}");
                };
                let above = odds
                    .iter()
                    .filter(|x| sigmoid(f64::from(**x)) as f32 >= threshold);
                assert!(above.count().abs_diff(few) <= 1, "{few}: {found:?}");
                assert!((share - few as f64 / 200.0).abs() < 0.02, "{found:?}");
            }
        }
    }

    #[test]
    fn one_hump_gives_the_expected_share() {
        let odds = normal(-2.0, 1.0, 400);
        for share in [0.01, 0.05, 0.25] {
            let found = guess_threshold(&odds, share).unwrap();
            assert!(matches!(found, GuessedThreshold::Share { .. }), "{found:?}");
            let above = odds
                .iter()
                .filter(|x| sigmoid(f64::from(**x)) as f32 >= found.threshold());
            assert_eq!(above.count(), (share * 400.0) as usize);
        }
        // A few odd pictures are no hump.
        let odds = [normal(-2.0, 0.5, 398), vec![9.0, 9.1]].concat();
        let found = guess_threshold(&odds, 0.05).unwrap();
        assert!(matches!(found, GuessedThreshold::Share { .. }), "{found:?}");
    }

    #[test]
    fn what_says_nothing_gives_nothing() {
        assert_eq!(
            guess_threshold(&normal(0.0, 1.0, FEWEST_PICTURES - 1), 0.1),
            None
        );
        let mut odds = normal(0.0, 1.0, 100);
        odds[3] = f32::NAN;
        assert_eq!(guess_threshold(&odds, 0.1), None);
        // All the same: nothing parts them, and the guess is still a probability.
        let found = guess_threshold(&[40.0; 50], 0.1).unwrap().threshold();
        assert!(found > 0.0 && found < 1.0);
    }
}
