//! What a bundle of another precision than 32 bit says, against what one of 32 bit would.

use super::layout::ClipSource;
use super::{Init, InitError, InitStep};
use crate::bundle::Bundle;
use crate::clip::vision::{Precision, Tower, TowerOptions};
use crate::runtime::Runtime;
use crate::session::{Encoded, EncoderModel, SessionOptions};

/// Categories of an image whose order is compared.
const TOP: usize = 5;

/// Cosines between features of two encoders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cosines {
    /// Of the picture that agrees worst.
    pub least: f64,
    /// Over all pictures.
    pub mean: f64,
}

/// What a comparison with the tower in 32 bit found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrecisionParity {
    /// Images compared.
    pub images: usize,
    /// Of locations' features.
    pub dense: Cosines,
    /// Of images' features.
    pub global: Cosines,
    /// Images with the same best category, without any label.
    pub same_best: usize,
    /// Images with the same five best categories, in whatever order.
    pub same_top: usize,
}

impl PrecisionParity {
    /// Below this mean cosine tags are likely to be others, too.
    pub const WORTH_A_WARNING: f64 = 0.99;

    /// Whether features are so far apart that the bundle should be measured before it serves.
    pub fn is_doubtful(&self) -> bool {
        let means = [self.dense.mean, self.global.mean];
        // What is no number is no parity.
        !means.iter().all(|mean| *mean >= Self::WORTH_A_WARNING)
    }
}

impl std::fmt::Display for PrecisionParity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "cosine of locations' features {:.4} at least, {:.4} on average; of images' features \
             {:.4}, {:.4}; the same best category for {} of {}, the same {TOP} for {}",
            self.dense.least,
            self.dense.mean,
            self.global.least,
            self.global.mean,
            self.same_best,
            self.images,
            self.same_top,
        )
    }
}

impl Init<'_> {
    /// Compares `bundle`, which this has made, with what it would be in 32 bit, on images of the
    /// model's input one after the other, on the processor.
    ///
    /// # Errors
    /// [`InitError`]; if there are no images, too.
    pub fn parity(
        &self,
        runtime: &Runtime,
        bundle: &Bundle,
        pixels: &[u8],
        mut progress: impl FnMut(InitStep),
    ) -> Result<PrecisionParity, InitError> {
        let ClipSource::Weights(parts) = self.clip.parts()? else {
            return Err(InitError::ReadyMade);
        };
        let options = TowerOptions {
            precision: Precision::Fp32,
            ..self.tower
        };
        let tower = Tower::write(&parts.vision, &parts.weights, options)?;
        let image = 3 * tower.input_size * tower.input_size;
        let wide = EncoderModel::from_bytes(runtime, "the tower in fp32".into(), tower.onnx)?;
        let session = SessionOptions {
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ..SessionOptions::cpu()
        };
        let mut wide = wide.open(runtime, &session)?;
        let narrow = EncoderModel::read(runtime, &bundle.encoder())?;
        let mut narrow = narrow.open(runtime, &session)?;
        let (head, _) = bundle.head()?;
        let mut found = Found::default();
        for (done, pixels) in pixels.chunks_exact(image).enumerate() {
            let (wide, narrow) = (wide.encode(pixels, 1)?, narrow.encode(pixels, 1)?);
            let scores = |of: &Encoded| head.evaluate(&of.dense, &of.global, 1).logits;
            found.add(&wide, &narrow);
            found.compare_scores(&scores(&wide), &scores(&narrow));
            progress(InitStep::Parity(done + 1));
        }
        found.finish().ok_or(InitError::NoPictures)
    }
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    dense: Vec<f64>,
    global: Vec<f64>,
    same_best: usize,
    same_top: usize,
}

impl Found {
    fn add(&mut self, wide: &Encoded, narrow: &Encoded) {
        let rows = |of: &Encoded| of.dim;
        let pairs = wide.dense.chunks_exact(rows(wide));
        let pairs = pairs.zip(narrow.dense.chunks_exact(rows(narrow)));
        self.dense.extend(pairs.map(|(a, b)| cosine(a, b)));
        self.global.push(cosine(&wide.global, &narrow.global));
    }

    fn compare_scores(&mut self, wide: &[f32], narrow: &[f32]) {
        let (mut wide, mut narrow) = (best(wide), best(narrow));
        self.same_best += usize::from(wide.first() == narrow.first());
        wide.sort_unstable();
        narrow.sort_unstable();
        self.same_top += usize::from(wide == narrow);
    }

    fn finish(self) -> Option<PrecisionParity> {
        Some(PrecisionParity {
            images: self.global.len(),
            dense: summary(&self.dense)?,
            global: summary(&self.global)?,
            same_best: self.same_best,
            same_top: self.same_top,
        })
    }
}

fn summary(cosines: &[f64]) -> Option<Cosines> {
    // As `min`, but what is no number is the worst.
    let least = cosines
        .iter()
        .copied()
        .reduce(|a, b| if b >= a { a } else { b })?;
    Some(Cosines {
        least,
        mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
    })
}

/// Indices of the best, the best one first.
fn best(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(TOP);
    order
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Drawn pictures of `side` x `side` pixels, one after the other, where nobody gives any: a sky, a
/// ground, things of all colours and sizes on them, and grain. The same every time.
pub fn drawn(side: usize, count: usize) -> Vec<u8> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut pixels = Vec::with_capacity(3 * side * side * count);
    for _ in 0..count {
        let (sky, ground) = (random.colour(), random.colour());
        let horizon = side / 4 + random.below(side / 2 + 1);
        let things: Vec<Thing> = (0..3 + random.below(9))
            .map(|_| Thing::random(&mut random, side))
            .collect();
        for y in 0..side {
            for x in 0..side {
                let behind = if y < horizon { sky } else { ground };
                let thing = things.iter().rev().find(|thing| thing.covers(x, y));
                let colour = thing.map_or(behind, |thing| thing.colour);
                let light = 0.6 + 0.4 * (y as f32 / side as f32);
                let grain = random.below(25) as f32 - 12.0;
                pixels.extend(colour.map(|of| (of * light + grain).clamp(0.0, 255.0) as u8));
            }
        }
    }
    pixels
}

/// Something on a drawn picture.
struct Thing {
    centre: [usize; 2],
    radius: [usize; 2],
    round: bool,
    colour: [f32; 3],
}

impl Thing {
    fn random(random: &mut Random, side: usize) -> Self {
        let mut sides = |least, range| [0; 2].map(|_| least + random.below(range));
        let (centre, radius) = (sides(0, side.max(1)), sides(1 + side / 32, 1 + side / 4));
        Thing {
            centre,
            radius,
            round: random.below(2) == 0,
            colour: random.colour(),
        }
    }

    fn covers(&self, x: usize, y: usize) -> bool {
        let part = |at: usize, axis: usize| {
            at.abs_diff(self.centre[axis]) as f32 / self.radius[axis] as f32
        };
        let (x, y) = (part(x, 0), part(y, 1));
        if self.round {
            x * x + y * y <= 1.0
        } else {
            x.max(y) <= 1.0
        }
    }
}

/// Numbers that only have to look random (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn colour(&mut self) -> [f32; 3] {
        [0; 3].map(|_| self.below(256) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_pictures_differ_and_are_the_same_every_time() {
        let pixels = drawn(24, 3);
        assert_eq!(pixels, drawn(24, 3));
        let pictures: Vec<&[u8]> = pixels.chunks_exact(24 * 24 * 3).collect();
        assert_eq!(pictures.len(), 3);
        assert_ne!(pictures[0], pictures[1]);
        for picture in pictures {
            let colours: std::collections::BTreeSet<&[u8]> = picture.chunks_exact(3).collect();
            assert!(colours.len() > 50, "{} colours", colours.len());
        }
    }

    #[test]
    fn what_is_no_number_is_doubtful() {
        let of = |dense| PrecisionParity {
            images: 1,
            dense: summary(&[1.0, dense]).unwrap(),
            global: summary(&[1.0]).unwrap(),
            same_best: 1,
            same_top: 1,
        };
        assert!(!of(0.999).is_doubtful());
        assert!(of(0.9).is_doubtful());
        assert!(of(f64::NAN).is_doubtful());
        assert_eq!(of(0.25).dense.least, 0.25);
        assert!(summary(&[]).is_none());
    }

    #[test]
    fn orders_are_compared() {
        let mut found = Found::default();
        found.compare_scores(&[3.0, 2.0, 1.0], &[0.3, 0.2, 0.1]);
        found.compare_scores(&[3.0, 2.0, 1.0], &[0.2, 0.3, 0.1]);
        let six = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0];
        found.compare_scores(&six, &[6.0, 5.0, 4.0, 3.0, 1.0, 2.0]);
        assert_eq!((found.same_best, found.same_top), (2, 2));
    }
}
