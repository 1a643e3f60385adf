//! Visual prototypes: what a category looks like, learned without a gradient from its known
//! positives.

use std::collections::VecDeque;
use tagstream_core::config::{choice, settings};

choice! {
    /// How visual prototypes follow the features.
    Bank {
        /// Exponential moving average of batch means.
        Ema = "ema",
        /// Mean of the last features.
        Fifo = "fifo",
    }
}

settings! {
    /// Settings of [`VisualPrototypes`].
    #[derive(Copy)]
    PrototypeConfig {
        /// EMA or FIFO.
        bank: Bank = Bank::Ema,
        /// Share of the old prototype that an EMA keeps at each update.
        momentum: f64 = 0.99,
        /// Features a category that a FIFO bank holds.
        size: usize = 64,
        /// After the warm-up only positives with at least this probability count; 0: all.
        gate: f64 = 0.8,
    }
}

/// Visual prototypes of C categories, vectors of D dimensions and norm 1.
///
/// ```
/// use tagstream_train::trm::prototypes::{PrototypeConfig, VisualPrototypes};
///
/// let config = PrototypeConfig {
///     momentum: 0.5,
///     ..PrototypeConfig::default()
/// };
/// let mut prototypes = VisualPrototypes::new(vec![1.0, 0.0], 2, config);
/// // An image where the category is present moves it, one where it is absent does not.
/// prototypes.update(&[0.0, 1.0, 1.0, 0.0], &[1, -1], None);
/// assert_eq!(prototypes.vectors()[0], prototypes.vectors()[1]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct VisualPrototypes {
    config: PrototypeConfig,
    dim: usize,
    /// `[C, D]`.
    vectors: Vec<f64>,
    /// Known positives met, gated or not, `[C]`.
    seen: Vec<u64>,
    recent: Vec<VecDeque<Vec<f64>>>,
}

impl VisualPrototypes {
    /// Starts from `vectors` (`[C, D]`), which are normalised.
    ///
    /// # Panics
    /// If the length is no multiple of `dim`.
    pub fn new(mut vectors: Vec<f64>, dim: usize, config: PrototypeConfig) -> Self {
        assert!(
            dim > 0 && vectors.len().is_multiple_of(dim),
            "[C, D] of dimension {dim}"
        );
        vectors.chunks_mut(dim).for_each(normalise);
        let categories = vectors.len() / dim;
        Self {
            config,
            dim,
            vectors,
            seen: vec![0; categories],
            recent: vec![VecDeque::new(); categories],
        }
    }

    /// Takes in a batch: `features` is R^ (`[B, C, D]`), `labels` are the *known* labels
    /// (`[B, C]`), `gate` says which entries may count (`None`: all).
    ///
    /// # Panics
    /// If the lengths do not fit.
    pub fn update<T: Copy + Into<f64>>(
        &mut self,
        features: &[T],
        labels: &[i8],
        gate: Option<&[bool]>,
    ) {
        let categories = self.seen.len();
        assert_eq!(
            features.len(),
            labels.len() * self.dim,
            "features are [B, C, D]"
        );
        for c in 0..categories {
            let mut mean = vec![0.0; self.dim];
            let mut count = 0;
            for at in (c..labels.len()).step_by(categories) {
                if labels[at] <= 0 {
                    continue;
                }
                self.seen[c] += 1;
                if gate.is_some_and(|gate| !gate[at]) {
                    continue;
                }
                count += 1;
                let feature = &features[at * self.dim..(at + 1) * self.dim];
                mean.iter_mut()
                    .zip(feature)
                    .for_each(|(m, &x)| *m += x.into());
                if self.config.bank == Bank::Fifo {
                    let feature = feature.iter().map(|&x| x.into());
                    self.recent[c].push_back(feature.collect());
                    if self.recent[c].len() > self.config.size.max(1) {
                        self.recent[c].pop_front();
                    }
                }
            }
            if count > 0 {
                self.move_towards(c, &mean, f64::from(count));
            }
        }
    }

    fn move_towards(&mut self, c: usize, sum: &[f64], count: f64) {
        let vector = &mut self.vectors[c * self.dim..(c + 1) * self.dim];
        match self.config.bank {
            Bank::Ema => {
                let momentum = self.config.momentum;
                for (p, s) in vector.iter_mut().zip(sum) {
                    *p = momentum * *p + (1.0 - momentum) * s / count;
                }
            }
            Bank::Fifo => {
                vector.fill(0.0);
                for feature in &self.recent[c] {
                    vector.iter_mut().zip(feature).for_each(|(p, x)| *p += x);
                }
            }
        }
        normalise(vector);
    }

    /// `[C, D]`, rows of norm 1.
    pub fn vectors(&self) -> &[f64] {
        &self.vectors
    }

    /// For a checkpoint: vectors, counts, and the features of a FIFO bank with their number
    /// in front.
    pub fn state(&self) -> Vec<f64> {
        let mut state = self.vectors.clone();
        state.extend(self.seen.iter().map(|n| *n as f64));
        for recent in &self.recent {
            state.push(recent.len() as f64);
            recent.iter().for_each(|feature| state.extend(feature));
        }
        state
    }

    /// Takes back a state; false, and nothing is changed, if it does not fit.
    pub fn restore(&mut self, state: &[f64]) -> bool {
        let (c, d) = (self.seen.len(), self.dim);
        if state.len() < c * d + c {
            return false;
        }
        let (vectors, rest) = state.split_at(c * d);
        let (seen, mut rest) = rest.split_at(c);
        let mut recent = Vec::with_capacity(c);
        for _ in 0..c {
            let Some((count, tail)) = rest.split_first() else {
                return false;
            };
            let length = *count as usize * d;
            if tail.len() < length {
                return false;
            }
            recent.push(tail[..length].chunks(d).map(<[f64]>::to_vec).collect());
            rest = &tail[length..];
        }
        if !rest.is_empty() {
            return false;
        }
        self.vectors = vectors.to_vec();
        self.seen = seen.iter().map(|n| *n as u64).collect();
        self.recent = recent;
        true
    }

    /// Known positives met so far, `[C]`.
    pub fn seen(&self) -> &[u64] {
        &self.seen
    }
}

fn normalise(x: &mut [f64]) {
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
    x.iter_mut().for_each(|x| *x /= norm);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trm::testing::{Golden, labels, numbers};
    use candle_core::DType;

    fn far(a: &[f64], b: &[f64]) -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn the_moving_average_agrees_with_the_golden() {
        let golden = Golden::open("prototype", DType::F64);
        let (z, y) = (numbers(&golden.get("z")), labels(&golden.get("y")));
        let gate: Vec<bool> = numbers(&golden.get("gate"))
            .iter()
            .map(|g| *g > 0.5)
            .collect();
        let config = PrototypeConfig {
            momentum: golden.scalar("momentum"),
            ..PrototypeConfig::default()
        };
        let mut prototypes = VisualPrototypes::new(numbers(&golden.get("Pv0")), 16, config);
        prototypes.update(&z, &y, None);
        assert!(far(prototypes.vectors(), &numbers(&golden.get("Pv1_no_gate"))) < 1e-6);
        prototypes.update(&z, &y, Some(&gate));
        assert!(
            far(
                prototypes.vectors(),
                &numbers(&golden.get("Pv2_after_second_gated"))
            ) < 1e-6
        );
        let seen: Vec<f64> = prototypes.seen().iter().map(|&n| n as f64).collect();
        assert_eq!(seen, numbers(&golden.get("n_seen")));
    }

    #[test]
    fn a_bank_is_the_mean_of_its_last_features() {
        let config = PrototypeConfig {
            bank: Bank::Fifo,
            size: 2,
            ..PrototypeConfig::default()
        };
        let mut prototypes = VisualPrototypes::new(vec![1.0, 0.0], 2, config);
        prototypes.update(&[0.6, 0.8, 0.0, 1.0], &[1, 0], None);
        assert!(far(prototypes.vectors(), &[0.6, 0.8]) < 1e-12);
        prototypes.update(&[1.0, 0.0, 0.0, 1.0], &[1, 1], None);
        let half = 0.5f64.sqrt();
        assert!(far(prototypes.vectors(), &[half, half]) < 1e-12);
        assert_eq!(prototypes.seen(), [3]);
        let mut other = VisualPrototypes::new(vec![1.0, 0.0], 2, config);
        assert!(other.restore(&prototypes.state()));
        assert_eq!(other, prototypes);
        assert!(!other.restore(&prototypes.state()[1..]));
    }

    #[test]
    fn unknown_and_absent_entries_change_nothing() {
        let mut prototypes = VisualPrototypes::new(vec![0.0, 2.0], 2, PrototypeConfig::default());
        prototypes.update(&[1.0, 0.0, 1.0, 0.0], &[0, -1], None);
        assert_eq!(prototypes.vectors(), [0.0, 1.0]);
        assert_eq!(prototypes.seen(), [0]);
    }
}
