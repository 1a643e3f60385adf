//! Whether two openings of a model say the same: in another precision, on another device.

use super::session::{HeadOutputs, SessionError};
use super::tagger::{HeadRows, Tagger};
use serde::Serialize;
use std::sync::Arc;

/// The least cosine that counts as the same.
pub const LEAST_COSINE: f32 = 0.999;
/// How many of an image's tags are looked at.
pub const TOP_TAGS: usize = 5;
/// Tags whose probabilities in the reference differ by no more than this may change places.
pub const TIE: f32 = 0.01;

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parity {
    /// Images compared.
    pub images: usize,
    /// Least cosine between an image's two embeddings.
    pub embedding_cosine: f32,
    /// Least cosine between the two features of a top tag's region.
    pub region_cosine: f32,
    /// Largest difference between two probabilities.
    pub score_difference: f32,
    /// Images with the same [`TOP_TAGS`], but for ties ([`TIE`]).
    pub same_top_tags: usize,
}

impl Parity {
    /// Whether it is the same model: cosines of at least [`LEAST_COSINE`], and the same top tags
    /// for every image.
    pub fn holds(&self) -> bool {
        self.embedding_cosine >= LEAST_COSINE
            && self.region_cosine >= LEAST_COSINE
            && self.same_top_tags == self.images
    }

    /// Compares two openings with [`HeadRows::All`] on `pixels`, images of the model's input one
    /// after the other. `reference` sees them one by one, `other` in batches as large as it takes,
    /// in the memory that suits it.
    ///
    /// # Errors
    /// [`SessionError`] if a run fails, the two differ in their sizes, or one says what is not a
    /// number.
    pub fn between(
        reference: &Tagger,
        other: &Tagger,
        pixels: &[u8],
    ) -> Result<Self, SessionError> {
        let (shape, model) = (reference.model().shape, other.model());
        let refused = |reason: String| SessionError::Contract {
            graph: model.id().to_owned(),
            reason,
        };
        if shape != model.shape || reference.model().categories() != model.categories() {
            return Err(refused(format!(
                "it has other sizes than {}, with which it is to be compared",
                reference.model().id()
            )));
        }
        let image = shape.image_bytes();
        let mut found = Parity {
            images: 0,
            embedding_cosine: 1.0,
            region_cosine: 1.0,
            score_difference: 0.0,
            same_top_tags: 0,
        };
        let mut buffer = other.buffer(image * other.batch_sizes().run);
        for batch in pixels.chunks(buffer.len()) {
            buffer[..batch.len()].copy_from_slice(batch);
            let count = batch.len() / image;
            let there = other.run(0, buffer.part(0..batch.len()), count, true)?;
            for (i, pixels) in batch.chunks_exact(image).enumerate() {
                let here = Image::of(reference, &reference.run(0, pixels, 1, true)?, 0);
                let there = Image::of(other, &there, i);
                found.add(&here.map_err(refused)?, &there.map_err(refused)?);
            }
        }
        Ok(found)
    }

    fn add(&mut self, reference: &Image, other: &Image) {
        let top = best(&reference.scores);
        self.images += 1;
        self.embedding_cosine = least(
            self.embedding_cosine,
            cosine(&reference.embedding, &other.embedding),
        );
        for &category in &top {
            let between = cosine(reference.region(category), other.region(category));
            self.region_cosine = least(self.region_cosine, between);
        }
        let differences = reference.scores.iter().zip(&other.scores);
        self.score_difference = differences
            .map(|(a, b)| (a - b).abs())
            .fold(self.score_difference, f32::max);
        self.same_top_tags += usize::from(same_top(&reference.scores, &other.scores));
    }
}

/// What a model says of one image.
struct Image {
    scores: Vec<f32>,
    embedding: Vec<f32>,
    /// `[C, D]`.
    regions: Vec<f32>,
}

impl Image {
    fn of(tagger: &Tagger, outputs: &HeadOutputs, image: usize) -> Result<Self, String> {
        if outputs.rows.is_some() || outputs.region.is_empty() {
            return Err(format!("it was not opened with {:?}", HeadRows::All));
        }
        let model: &Arc<_> = tagger.model();
        let inference = model.interpret(outputs, image, None)?;
        let size = outputs.region.len() / outputs.batch;
        let regions = outputs.region[image * size..(image + 1) * size].to_vec();
        if regions.iter().any(|v| !v.is_finite()) {
            return Err("the model's regions are not finite numbers".into());
        }
        Ok(Image {
            scores: inference.scores,
            embedding: inference.embedding,
            regions,
        })
    }

    fn region(&self, category: usize) -> &[f32] {
        let dim = self.embedding.len();
        &self.regions[category * dim..(category + 1) * dim]
    }
}

/// Indices of the best, the first in front.
fn best(scores: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(TOP_TAGS);
    order
}

/// Whether the best of `other` are among the best of `reference`, or as good as the last of those.
fn same_top(reference: &[f32], other: &[f32]) -> bool {
    let last = best(reference).last().map_or(0.0, |i| reference[*i]);
    best(other).iter().all(|i| reference[*i] >= last - TIE)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
        products.sum()
    };
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

/// As `min`, but what is no number is the worst.
fn least(a: f32, b: f32) -> f32 {
    if b.is_nan() { -1.0 } else { a.min(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Bundle;
    use crate::clip::vision::{Precision, TowerOptions};
    use crate::init::{CategoryList, ClipFolder, Init};
    use crate::runtime::{Device, Runtime};
    use crate::tagger::TaggerOptions;
    use std::path::Path;

    #[test]
    fn ties_may_change_places_and_others_may_not() {
        let reference = [0.9, 0.8, 0.7, 0.6, 0.5, 0.495, 0.2];
        let with = |i: usize, score: f32| {
            let mut other = reference;
            other[i] = score;
            other
        };
        assert!(same_top(&reference, &reference));
        assert!(same_top(&reference, &with(5, 0.51)));
        assert!(!same_top(&reference, &with(6, 0.51)));
        assert!(same_top(&[0.3, 0.2], &[0.2, 0.3]));
    }

    #[test]
    fn what_is_no_number_is_no_parity() {
        assert_eq!(cosine(&[1.0, 0.0], &[2.0, 0.0]), 1.0);
        assert_eq!(least(1.0, cosine(&[0.0], &[1.0])), -1.0);
    }

    /// A zero-shot bundle of the demo model.
    fn bundle(folder: &Path, name: &str, precision: Precision, words: &[&str]) -> Bundle {
        let list = folder.join(format!("{name}.txt"));
        std::fs::write(&list, words.join("\n")).unwrap();
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let init = Init {
            clip: &ClipFolder::open(&root.join("models/demo-clip")).unwrap(),
            name,
            source: "demo-clip",
            categories: &CategoryList::read(&list).unwrap(),
            tower: TowerOptions {
                precision,
                ..TowerOptions::default()
            },
            views: crate::views::Views::default(),
            fit: Default::default(),
        };
        init.run(&folder.join(name), |_| ()).unwrap()
    }

    fn open(bundle: &Bundle, workers: usize) -> Tagger {
        let options = TaggerOptions {
            workers,
            ..TaggerOptions::on(Device::Cpu)
        };
        Tagger::open(&Runtime::load().unwrap(), bundle, options, None).unwrap()
    }

    #[test]
    fn sixteen_bits_say_the_same_and_another_model_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "anchor", "apple", "bicycle", "boat", "cat", "cloud", "dog", "fish", "house", "key",
        ];
        let words = names.to_vec();
        let whole = open(&bundle(folder.path(), "whole", Precision::Fp32, &words), 1);
        let half = open(&bundle(folder.path(), "half", Precision::Fp16, &words), 1);
        let image = whole.model().shape.image_bytes();
        // Bands of colour, brighter to one side: something to see for a model of scenes.
        let pixels: Vec<u8> = (0..3 * image)
            .map(|i| {
                let (line, of) = (i / (image / 24), i / image + 2);
                ((line * 37 * of + (i % 3) * 83 + i / 997) % 256) as u8
            })
            .collect();
        let same = Parity::between(&whole, &whole, &pixels).unwrap();
        // In a batch and alone.
        assert!(same.images == 3 && same.score_difference < 1e-5, "{same:?}");
        assert!(same.holds(), "{same:?}");

        let found = Parity::between(&whole, &half, &pixels).unwrap();
        assert!(found.holds(), "{found:?}");
        let more = found.score_difference > 10.0 * same.score_difference;
        assert!(more, "it is half precision: {found:?}");

        let mut turned = words.clone();
        turned.rotate_left(1);
        let other = bundle(folder.path(), "other", Precision::Fp32, &turned);
        let found = Parity::between(&whole, &open(&other, 1), &pixels).unwrap();
        assert!(
            !found.holds() && found.embedding_cosine > 0.9999,
            "{found:?}"
        );

        let fewer = bundle(folder.path(), "fewer", Precision::Fp32, &words[1..]);
        let error = Parity::between(&whole, &open(&fewer, 1), &pixels).unwrap_err();
        assert!(error.to_string().contains("other sizes"), "{error}");
    }
}
