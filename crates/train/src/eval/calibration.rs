//! Calibration from known labels only: one temperature. Thresholds: [`super::tags`].
//!
//! ```
//! use tagstream_train::eval::calibration::temperature;
//!
//! // Far too sure: every third logit has the wrong sign.
//! let logits: Vec<f32> = (0..60).map(|at| if at % 2 == 0 { 8.0 } else { -8.0 }).collect();
//! let labels: Vec<i8> = (0..60)
//!     .map(|at| if (at % 2 == 0) == (at % 3 != 0) { 1 } else { -1 })
//!     .collect();
//! assert!(temperature(&logits, &labels) > 5.0);
//! ```

/// The temperature T > 0 that minimises the negative log likelihood of `sigmoid(logit / T)` over
/// known entries (labels +1 and -1; 0 is skipped). 1 if there is no known entry of both kinds, or a
/// logit is not finite.
///
/// The likelihood is convex in 1/T, so a golden-section search over log T in [0.05, 20] finds it.
pub fn temperature(logits: &[f32], labels: &[i8]) -> f32 {
    let known: Vec<(f64, f64)> = logits
        .iter()
        .zip(labels)
        .filter(|(_, label)| **label != 0)
        .map(|(&logit, &label)| (f64::from(logit), f64::from(label)))
        .collect();
    let both = known.iter().any(|entry| entry.1 > 0.0) && known.iter().any(|entry| entry.1 < 0.0);
    if !both || known.iter().any(|entry| !entry.0.is_finite()) {
        return 1.0;
    }
    let loss = |log_t: f64| {
        let inverse = (-log_t).exp();
        // log(1 + exp(-y s / T)), without overflow.
        known
            .iter()
            .map(|(logit, label)| softplus(-label * logit * inverse))
            .sum::<f64>()
    };
    let (mut low, mut high) = (0.05f64.ln(), 20f64.ln());
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
    let (mut at_left, mut at_right) = (loss(left), loss(right));
    while high - low > 1e-4 {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = loss(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = loss(right);
        }
    }
    ((low + high) / 2.0).exp() as f32
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::metrics::sigmoid;
    use crate::eval::protocol::RandomState;

    /// Labels drawn from sigmoid(logit / true temperature).
    fn sample(n: usize, temperature: f64) -> (Vec<f32>, Vec<i8>) {
        let mut random = RandomState::new(3);
        (0..n)
            .map(|_| {
                let logit = 12.0 * (random.uniform() - 0.5);
                let present = random.uniform() < sigmoid(logit / temperature);
                (logit as f32, if present { 1 } else { -1 })
            })
            .unzip()
    }

    #[test]
    fn the_temperature_that_made_the_labels_is_found() {
        for true_temperature in [0.5, 1.0, 3.0] {
            let (logits, labels) = sample(20_000, true_temperature);
            let found = f64::from(temperature(&logits, &labels));
            assert!(
                (found / true_temperature - 1.0).abs() < 0.1,
                "{true_temperature}: {found}"
            );
        }
    }

    #[test]
    fn the_temperature_is_a_minimum_and_ignores_unknown_entries() {
        let (mut logits, mut labels) = sample(500, 2.0);
        let found = temperature(&logits, &labels);
        let loss = |t: f32| -> f64 {
            logits
                .iter()
                .zip(&labels)
                .map(|(&s, &y)| softplus(-f64::from(y) * f64::from(s / t)))
                .sum()
        };
        assert!(loss(found) <= loss(found * 1.02) && loss(found) <= loss(found * 0.98));
        logits.extend([1e3; 50]);
        labels.extend([0; 50]);
        assert_eq!(temperature(&logits, &labels), found);
    }

    #[test]
    fn without_both_kinds_of_labels_the_temperature_stays_one() {
        assert_eq!(temperature(&[3.0, 2.0], &[1, 1]), 1.0);
        assert_eq!(temperature(&[3.0, 2.0], &[0, 0]), 1.0);
        assert_eq!(temperature(&[f32::INFINITY, 2.0], &[1, -1]), 1.0);
    }
}
