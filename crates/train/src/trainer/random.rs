//! Seeded streams of random numbers.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// What a stream is drawn for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Shuffle = 1,
    Dropout = 2,
}

/// A random stream of its own for every use and position, so that a resumed training draws what an
/// unbroken one would.
pub(super) fn stream(seed: u64, purpose: Purpose, position: u64) -> StdRng {
    let mut bytes = [0; 32];
    for (at, word) in [seed, purpose as u64, position].iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    StdRng::from_seed(bytes)
}

/// The images of a training epoch in random order.
pub(super) fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, Purpose::Shuffle, epoch));
    order
}

/// A draw from N(0, 1) (Box and Muller).
pub(super) fn normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}
