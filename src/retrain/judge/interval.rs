//! Estimates with bounds, from bootstrap resamples.

use serde::{Deserialize, Serialize};

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

/// A tail thinner than this share of the resamples is taken from the normal distribution: the
/// outermost few resamples are noise.
const THIN_TAIL: f64 = 0.01;

impl Interval {
    /// With a lower bound that fails with probability `alpha` and an upper one that does with
    /// `beta`. Resamples that are not finite do not count.
    pub(super) fn of(estimate: f64, resampled: &[f64], alpha: f64, beta: f64) -> Self {
        let mut resampled: Vec<f64> = resampled
            .iter()
            .copied()
            .filter(|x| x.is_finite())
            .collect();
        resampled.sort_by(f64::total_cmp);
        let bound = |share: f64| {
            if share.min(1.0 - share) >= THIN_TAIL {
                return quantile(&resampled, share);
            }
            estimate + normal_quantile(share) * deviation(&resampled)
        };
        Interval {
            estimate,
            lower: bound(alpha),
            upper: bound(1.0 - beta),
        }
    }

    /// Half the width below the estimate.
    pub(super) fn below(&self) -> f64 {
        self.estimate - self.lower
    }
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

fn deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / count).sqrt()
}

/// The value below which a standard normal variable lies with probability `p` (bisection of its
/// distribution, whose tail is Abramowitz & Stegun 7.1.26 on erfc).
pub(super) fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if normal(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

fn normal(x: f64) -> f64 {
    // Mills' ratio by a continued fraction far out, where the polynomial's error would count.
    let tail = |x: f64| {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let fraction = (1..=60).rev().fold(x, |below, k| x + f64::from(k) / below);
        density / fraction
    };
    if x.abs() >= 2.0 {
        return if x < 0.0 { tail(-x) } else { 1.0 - tail(x) };
    }
    // The series about 0.
    let (mut term, mut sum) = (x, x);
    for k in 1..60 {
        term *= x * x / f64::from(2 * k + 1);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_the_normal_distribution() {
        // From tables.
        for (p, x) in [
            (0.5, 0.0),
            (0.95, 1.644_853_627),
            (0.975, 1.959_963_985),
            (0.99, 2.326_347_874),
            (0.001, -3.090_232_306),
            (1e-6, -4.753_424_309),
        ] {
            assert!(
                (normal_quantile(p) - x).abs() < 1e-6,
                "{p}: {}",
                normal_quantile(p)
            );
        }
    }

    #[test]
    fn thin_tails_go_on_where_resamples_end() {
        let resampled: Vec<f64> = (0..1000)
            .map(|i| normal_quantile((f64::from(i) + 0.5) / 1000.0))
            .collect();
        let of = |alpha| Interval::of(0.0, &resampled, alpha, 0.05).lower;
        assert!((of(0.05) + 1.645).abs() < 0.01);
        assert!((of(1e-6) + 4.75).abs() < 0.05, "{}", of(1e-6));
    }
}
