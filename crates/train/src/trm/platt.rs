//! Platt scaling: one scale and one offset that turn scores into logits, by logistic regression on
//! the known labels.
//!
//! The calibrated start fits them for each branch: cosines of a contrastive model are far from
//! being logits, their scale and their zero point depend on the model, and a branch that starts
//! miscalibrated spends its training on that, through parameters that were meant for something
//! else. The kernel ridge regressions are scaled in the same way.

/// One known entry and what is said of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredLabel {
    /// Multiplied with the scale.
    pub score: f64,
    /// Added as it is.
    pub offset: f64,
    /// 1 present, 0 absent.
    pub target: f64,
    /// Weight in the regression.
    pub weight: f64,
}

/// `logit = scale * score + (the entry's own offset) + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Platt {
    /// Greater than 0.
    pub scale: f64,
    /// Added to every entry's own.
    pub offset: f64,
}

/// Fits the two numbers by Newton's method, with a ridge so weak that it only decides where the
/// data do not (no entries, scores that separate the classes perfectly). A negative scale would
/// turn a branch around: it is kept at least 1e-3.
///
/// ```
/// use tagstream_train::trm::platt::{ScoredLabel, fit_platt};
///
/// // Cosines around 0.2 where it is absent and 0.3 where it is present.
/// let entries = [0.19, 0.21, 0.28, 0.29, 0.22, 0.31].map(|score| ScoredLabel {
///     score,
///     offset: 0.0,
///     target: if score > 0.25 { 1.0 } else { 0.0 },
///     weight: 1.0,
/// });
/// let platt = fit_platt(entries.into_iter());
/// assert!(platt.scale * 0.3 + platt.offset > 0.0);
/// assert!(platt.scale * 0.2 + platt.offset < 0.0);
/// ```
pub fn fit_platt(entries: impl Iterator<Item = ScoredLabel>) -> Platt {
    const STEPS: usize = 50;
    let entries: Vec<ScoredLabel> = entries.collect();
    let total: f64 = entries.iter().map(|e| e.weight).sum();
    if total <= 0.0 {
        return Platt {
            scale: 1.0,
            offset: 0.0,
        };
    }
    // Standardised, so that the ridge means the same whatever the scores' scale.
    let mean = entries.iter().map(|e| e.weight * e.score).sum::<f64>() / total;
    let variance = entries
        .iter()
        .map(|e| e.weight * (e.score - mean).powi(2))
        .sum::<f64>()
        / total;
    let deviation = variance.sqrt();
    if deviation < 1e-9 {
        return Platt {
            scale: 1.0,
            offset: newton(&entries, total, mean, 0.0, STEPS).1 - mean,
        };
    }
    let (slope, centre) = newton(&entries, total, mean, 1.0 / deviation, STEPS);
    let scale = (slope / deviation).max(1e-3);
    Platt {
        scale,
        offset: centre - scale * mean,
    }
}

/// Minimises the mean cross-entropy of `slope * z + centre + offset`,
/// `z = (score - mean) * inverse`.
fn newton(
    entries: &[ScoredLabel],
    total: f64,
    mean: f64,
    inverse: f64,
    steps: usize,
) -> (f64, f64) {
    const RIDGE: f64 = 1e-4;
    let (mut slope, mut centre) = (0.0, 0.0);
    for _ in 0..steps {
        let (mut g0, mut g1) = (RIDGE * slope, RIDGE * centre);
        let (mut h00, mut h01, mut h11) = (RIDGE, 0.0, RIDGE);
        for e in entries {
            let z = (e.score - mean) * inverse;
            let p = 1.0 / (1.0 + (-(slope * z + centre + e.offset)).exp());
            let (w, curve) = (e.weight / total, p * (1.0 - p) * e.weight / total);
            g0 += w * (p - e.target) * z;
            g1 += w * (p - e.target);
            h00 += curve * z * z;
            h01 += curve * z;
            h11 += curve;
        }
        let determinant = h00 * h11 - h01 * h01;
        let step = (
            (h11 * g0 - h01 * g1) / determinant,
            (h00 * g1 - h01 * g0) / determinant,
        );
        // Bounded: far from the optimum the curvature can be close to nothing.
        slope -= step.0.clamp(-2.0, 2.0);
        centre -= step.1.clamp(-2.0, 2.0);
        if step.0.abs() + step.1.abs() < 1e-10 {
            break;
        }
    }
    (slope, centre)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(score: f64, target: f64, weight: f64) -> ScoredLabel {
        ScoredLabel {
            score,
            offset: 0.0,
            target,
            weight,
        }
    }

    #[test]
    fn it_finds_the_scale_and_offset_that_made_the_probabilities() {
        // Fractional weights stand for many draws: 2 x + 1 at x = 20, 21, 22 in units of a tenth.
        let entries = [20.0f64, 20.3, 21.0, 22.0].iter().flat_map(|&x| {
            let p = 1.0 / (1.0 + (-(2.0 * (x - 21.0) + 1.0)).exp());
            [entry(x, 1.0, p), entry(x, 0.0, 1.0 - p)]
        });
        let found = fit_platt(entries);
        assert!((found.scale - 2.0).abs() < 0.01, "{found:?}");
        assert!((found.offset + 41.0).abs() < 0.2, "{found:?}");
    }

    #[test]
    fn what_cannot_be_fitted_stays_finite() {
        assert_eq!(
            fit_platt([].into_iter()),
            Platt {
                scale: 1.0,
                offset: 0.0
            }
        );
        let separable = fit_platt([entry(0.0, 0.0, 1.0), entry(1.0, 1.0, 1.0)].into_iter());
        assert!(separable.scale.is_finite() && separable.scale > 1.0);
        let constant = fit_platt([entry(0.3, 0.0, 3.0), entry(0.3, 1.0, 1.0)].into_iter());
        let p = 1.0 / (1.0 + (-(constant.scale * 0.3 + constant.offset)).exp());
        assert!((p - 0.25).abs() < 1e-3);
        let reversed = fit_platt([entry(0.0, 1.0, 1.0), entry(1.0, 0.0, 1.0)].into_iter());
        assert!(reversed.scale > 0.0);
    }
}
