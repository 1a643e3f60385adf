//! The partial-label protocol: which entries of a fully labelled training set a method may see.
//!
//! U is drawn uniformly from [0, 1), images x categories; an entry is known iff U < p, positives
//! and negatives alike (SST, SARB). The known sets are therefore nested in p, and drawn with
//! numpy's legacy generator they are the same ones that published work with that seed and image
//! order has used.

/// numpy's legacy generator (`numpy.random.RandomState`): the 32-bit Mersenne Twister with its 1998
/// seeding.
#[derive(Clone)]
pub struct RandomState {
    state: [u32; Self::SIZE],
    next: usize,
}

impl RandomState {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    /// `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; Self::SIZE];
        for at in 1..Self::SIZE {
            let previous = state[at - 1] ^ (state[at - 1] >> 30);
            state[at] = previous.wrapping_mul(1_812_433_253).wrapping_add(at as u32);
        }
        Self {
            state,
            next: Self::SIZE,
        }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == Self::SIZE {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for at in 0..Self::SIZE {
            let y =
                (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % Self::SIZE] & 0x7fff_ffff);
            let twist = if y & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[at] = self.state[(at + Self::SHIFT) % Self::SIZE] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    /// `rand()`: uniform in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5);
        let low = f64::from(self.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }
}

/// `U = RandomState(seed).rand(images, categories)`, row-major.
pub fn uniform(seed: u32, images: usize, categories: usize) -> Vec<f64> {
    let mut random = RandomState::new(seed);
    (0..images * categories).map(|_| random.uniform()).collect()
}

/// Hides the labels `[n, C]` with `U >= share`: they become 0 (unknown).
///
/// ```
/// use tagstream_train::eval::protocol::keep_share;
///
/// let mut labels = [1, -1, 1, -1, 1, -1];
/// keep_share(&mut labels, 3, 0.6, 0);
/// // U of seed 0: 0.55 0.72 0.60 / 0.54 0.42 0.65
/// assert_eq!(labels, [1, 0, 0, -1, 1, 0]);
/// ```
///
/// The draw is over all images and categories in the order given, whatever the labels are.
pub fn keep_share(labels: &mut [i8], categories: usize, share: f64, seed: u32) {
    let draw = uniform(seed, labels.len() / categories.max(1), categories);
    for (label, u) in labels.iter_mut().zip(draw) {
        if u >= share {
            *label = 0;
        }
    }
}

/// Keeps one positive an image and hides everything else, negatives too: of an image's positives
/// the one with the smallest U, a uniform choice. Images without a positive lose all labels.
pub fn keep_single_positive(labels: &mut [i8], categories: usize, seed: u32) {
    let categories = categories.max(1);
    let draw = uniform(seed, labels.len() / categories, categories);
    for (row, draw) in labels.chunks_mut(categories).zip(draw.chunks(categories)) {
        let positives = (0..row.len()).filter(|&at| row[at] > 0);
        let kept = positives.min_by(|&a, &b| draw[a].total_cmp(&draw[b]));
        row.fill(0);
        if let Some(kept) = kept {
            row[kept] = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// numpy.random.RandomState(seed).rand(3, 2), then the last of rand(1000, 7).
    #[test]
    fn it_draws_numpys_numbers() {
        let numpy: [(u32, [f64; 6], f64); 3] = [
            (
                0,
                [
                    0.5488135039273248,
                    0.7151893663724195,
                    0.6027633760716439,
                    0.5448831829968969,
                    0.4236547993389047,
                    0.6458941130666561,
                ],
                0.9736269962839451,
            ),
            (
                1,
                [
                    0.417022004702574,
                    0.7203244934421581,
                    0.00011437481734488664,
                    0.30233257263183977,
                    0.14675589081711304,
                    0.0923385947687978,
                ],
                0.05746338391679073,
            ),
            (
                u32::MAX,
                [
                    0.0976320289940138,
                    0.9123828453026218,
                    0.78903530185164,
                    0.7800035981134678,
                    0.01793967398674523,
                    0.9695059322147525,
                ],
                0.5148056829434032,
            ),
        ];
        for (seed, first, last) in numpy {
            let mut random = RandomState::new(seed);
            let drawn: Vec<f64> = (0..6).map(|_| random.uniform()).collect();
            assert_eq!(drawn, first, "seed {seed}");
            let drawn = (0..7000).map(|_| random.uniform()).last();
            assert_eq!(drawn, Some(last), "seed {seed}");
        }
    }

    #[test]
    fn known_sets_are_nested_and_of_the_size_asked_for() {
        let all = vec![1i8; 400 * 20];
        let mut previous = vec![0i8; all.len()];
        for tenth in 1..=9 {
            let share = f64::from(tenth) / 10.0;
            let mut labels = all.clone();
            keep_share(&mut labels, 20, share, 0);
            assert!(
                previous
                    .iter()
                    .zip(&labels)
                    .all(|(before, now)| before <= now),
                "{share}"
            );
            let known =
                labels.iter().filter(|label| **label != 0).count() as f64 / all.len() as f64;
            assert!((known - share).abs() < 0.02, "{share}: {known}");
            previous = labels;
        }
        let mut labels = all.clone();
        keep_share(&mut labels, 20, 1.0, 0);
        assert_eq!(labels, all);
    }

    #[test]
    fn the_values_of_kept_labels_stay() {
        let mut labels = vec![1, -1, 0, 1, -1, 0];
        let before = labels.clone();
        keep_share(&mut labels, 3, 0.6, 1);
        // U of seed 1: .417 .720 .0001 / .302 .147 .092
        assert_eq!(labels, [1, 0, 0, 1, -1, 0]);
        assert!(
            labels
                .iter()
                .zip(&before)
                .all(|(now, before)| *now == 0 || now == before)
        );
    }

    #[test]
    fn a_single_positive_is_kept_and_nothing_else() {
        let mut labels = vec![1, 1, -1, /* */ -1, -1, -1, /* */ -1, 1, 0];
        keep_single_positive(&mut labels, 3, 0);
        // U of seed 0, first row: .549 .715 .603: the first of the two positives.
        assert_eq!(labels, [1, 0, 0, 0, 0, 0, 0, 1, 0]);
    }
}
