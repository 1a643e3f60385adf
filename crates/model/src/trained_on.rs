//! What a head was trained on, as far as embeddings tell: whoever tags with it sees whether its
//! pictures are still like those.
//!
//! An image's likeness is the cosine of its embedding with the mean of the training images'. Of
//! those, a tenth each lies between two neighbouring bounds. Where other images are distributed
//! over the tenths otherwise, they are other images; how much is said by the population stability
//! index, above 0.25 of which a distribution counts as another one.

use crate::bundle::{Bundle, BundleError};
use serde::{Deserialize, Serialize};

/// The file's name in a bundle.
pub const TRAINED_ON_FILE: &str = "embeddings.json";
/// Ranges of likeness, of a tenth of the training images each.
pub const TENTHS: usize = 10;
/// Fewer images have no tenths that could be compared with.
pub const LEAST_IMAGES: usize = 200;

const FORMAT_VERSION: u32 = 1;

/// What the embeddings of the training images are like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainedOn {
    format_version: u32,
    /// How many images there were.
    images: usize,
    /// Their mean, of unit length.
    center: Vec<f32>,
    /// Likenesses between the tenths, ascending; one belongs to the tenth above it.
    bounds: Vec<f32>,
}

/// The version alone, which is read first.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

impl TrainedOn {
    /// Of the embeddings, `[n, D]`, of any length each. `None` where there are too few, or they
    /// have no direction in common.
    pub fn of(embeddings: &[f32], dim: usize) -> Option<Self> {
        let images = embeddings.len().checked_div(dim)?;
        if images < LEAST_IMAGES {
            return None;
        }
        let mut mean = vec![0.0; dim];
        for embedding in embeddings.chunks_exact(dim) {
            let length = length(embedding);
            for (sum, value) in mean.iter_mut().zip(embedding) {
                *sum += if length > 0.0 { value / length } else { 0.0 };
            }
        }
        let whole = length(&mean);
        if !(whole > 0.0 && whole.is_finite()) {
            return None;
        }
        let mut this = TrainedOn {
            format_version: FORMAT_VERSION,
            images,
            center: mean.iter().map(|value| value / whole).collect(),
            bounds: Vec::new(),
        };
        let each = embeddings.chunks_exact(dim);
        let mut all: Vec<f32> = each.map(|one| this.likeness(one)).collect();
        all.sort_unstable_by(f32::total_cmp);
        let bound = |tenth: usize| all[tenth * images / TENTHS];
        this.bounds = (1..TENTHS).map(bound).collect();
        Some(this)
    }

    /// What a bundle's head was trained on, where it says so.
    ///
    /// # Errors
    /// [`BundleError`] if the file is of a newer format, damaged, or not this model's.
    pub fn of_bundle(bundle: &Bundle) -> Result<Option<Self>, BundleError> {
        let Some(path) = bundle.path(TRAINED_ON_FILE) else {
            return Ok(None);
        };
        let text = std::fs::read(&path).map_err(BundleError::io(&path))?;
        let json = |source| BundleError::Json {
            path: path.clone(),
            source,
        };
        let Version { format_version } = serde_json::from_slice(&text).map_err(json)?;
        if format_version != FORMAT_VERSION {
            return Err(BundleError::Manifest {
                what: format!(
                    "{TRAINED_ON_FILE} is of format version {format_version}; this program reads \
                     version {FORMAT_VERSION}: use a newer one"
                ),
            });
        }
        let read: TrainedOn = serde_json::from_slice(&text).map_err(json)?;
        let dim = bundle.manifest().dims.embedding;
        let ascends = read.bounds.is_sorted() && read.bounds.len() == TENTHS - 1;
        if read.center.len() != dim || !ascends {
            return Err(BundleError::Manifest {
                what: format!("{TRAINED_ON_FILE} is not of embeddings of {dim} numbers in tenths"),
            });
        }
        Ok(Some(read))
    }

    /// The file's content; the same images give the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// How many images there were.
    pub fn images(&self) -> usize {
        self.images
    }

    /// D.
    pub fn dim(&self) -> usize {
        self.center.len()
    }

    fn likeness(&self, embedding: &[f32]) -> f32 {
        let products = embedding.iter().zip(&self.center).map(|(a, b)| a * b);
        let likeness = products.sum::<f32>() / length(embedding);
        if likeness.is_finite() { likeness } else { -1.0 }
    }

    /// The tenth that an embedding belongs to, from 0, the least like.
    pub fn tenth(&self, embedding: &[f32]) -> usize {
        let likeness = self.likeness(embedding);
        self.bounds.partition_point(|bound| *bound <= likeness)
    }

    /// How images of these embeddings, `[n, D]`, lie in the tenths.
    pub fn count(&self, embeddings: &[f32]) -> [u64; TENTHS] {
        let mut counts = [0; TENTHS];
        for embedding in embeddings.chunks_exact(self.dim()) {
            counts[self.tenth(embedding)] += 1;
        }
        counts
    }
}

/// The population stability index of counts by tenths. Half an image is added to each, so that an
/// empty one has a logarithm.
pub fn stability_index(counts: &[u64; TENTHS]) -> f64 {
    let (tenths, sum) = (TENTHS as f64, counts.iter().sum::<u64>() as f64);
    let shares = counts
        .iter()
        .map(|count| (*count as f64 + 0.5) / (sum + 0.5 * tenths));
    shares
        .map(|share| (share - 1.0 / tenths) * (share * tenths).ln())
        .sum()
}

fn length(of: &[f32]) -> f32 {
    of.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images around a direction, from near to far.
    fn around(images: usize, far: f32) -> Vec<f32> {
        let turned = |i: usize| {
            let angle = far * (i as f32 + 0.5) / images as f32;
            [7.0 * angle.cos(), 7.0 * angle.sin(), 0.0]
        };
        (0..images).flat_map(turned).collect()
    }

    #[test]
    fn the_training_images_lie_evenly_and_others_do_not() {
        let known = around(1_000, 1.0);
        let trained = TrainedOn::of(&known, 3).unwrap();
        assert_eq!((trained.images(), trained.dim()), (1_000, 3));
        let same = trained.count(&known);
        assert!(
            same.iter().all(|count| (90..=110).contains(count)),
            "{same:?}"
        );
        assert!(stability_index(&same) < 0.01);
        let others = trained.count(&around(1_000, 3.0));
        assert!(stability_index(&others) > 0.25, "{others:?}");
        let odd: Vec<f32> = [0.0, 0.0, 1.0].repeat(50);
        assert_eq!(trained.count(&odd)[0], 50, "the least like");
        assert_eq!(trained.tenth(&[f32::NAN, 0.0, 0.0]), 0);
        assert_eq!(trained.tenth(&[0.0; 3]), 0);
    }

    #[test]
    fn too_few_or_aimless_images_say_nothing() {
        assert!(TrainedOn::of(&around(LEAST_IMAGES - 1, 1.0), 3).is_none());
        assert!(TrainedOn::of(&around(LEAST_IMAGES, 1.0), 3).is_some());
        assert!(TrainedOn::of(&[1.0, -1.0].repeat(LEAST_IMAGES), 1).is_none());
        assert!(TrainedOn::of(&[], 0).is_none());
    }

    #[test]
    fn the_index_is_that_of_its_definition() {
        assert!(stability_index(&[1_000; TENTHS]).abs() < 1e-12);
        let mut half = [0; TENTHS];
        half[..5].fill(1_000_000);
        // Five shares of a fifth, five of nothing: 5 * 0.1 ln 2, and as good as 5 * -0.1 ln 0.
        let empty: f64 = 0.5 / (5e6 + 5.0);
        let expected = 0.5 * 2f64.ln() + 5.0 * (empty - 0.1) * (empty * 10.0).ln();
        assert!((stability_index(&half) - expected).abs() < 1e-5);
    }
}
