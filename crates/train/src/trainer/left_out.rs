//! Left-out predictions: what is said of images by heads that have not seen their labels.
//!
//! Images are parted into folds, whole groups together ([`crate::groups`]); for every fold a head
//! learns from the others and scores it. Calibration, thresholds and the judge go by these scores;
//! the head that tags learns from all.

use super::scoring::{Scorer, ScoringError};
use crate::features::{FeatureStore, Subset};
use ndarray::{Array2, ArrayView2, Axis};
use tagstream_model::head::ExportedHead;

/// Scores of images by heads that have not seen them.
#[derive(Debug, Clone, PartialEq)]
pub struct LeftOut {
    /// `[n, C]`; NaN where `scored` is false.
    pub logits: Array2<f32>,
    /// Which images could be scored.
    pub scored: Vec<bool>,
}

/// Trains a head for each fold and scores the fold by it.
///
/// `of` is every image's fold. `fit` gets a fold's number, the features and the labels of all other
/// images, row-major; it is not called for a fold without which no presence is known: its images
/// stay unscored, as do those of a fold without images or for which it gives `None`.
///
/// # Errors
/// What `fit` says, or that a head cannot score.
///
/// # Panics
/// If the lengths do not fit.
pub fn left_out<E: From<ScoringError>>(
    of: &[usize],
    labels: ArrayView2<'_, i8>,
    features: &FeatureStore,
    mut fit: impl FnMut(usize, &Subset<'_>, &[i8]) -> Result<Option<ExportedHead>, E>,
) -> Result<LeftOut, E> {
    assert!(of.len() == labels.nrows() && of.len() == features.len());
    let mut left = LeftOut {
        logits: Array2::from_elem(labels.dim(), f32::NAN),
        scored: vec![false; of.len()],
    };
    for fold in 0..of.iter().max().map_or(0, |last| last + 1) {
        let rows = |inside: bool| -> Vec<usize> {
            let images = 0..of.len();
            images
                .filter(|image| (of[*image] == fold) == inside)
                .collect()
        };
        let (out, rest) = (rows(true), rows(false));
        let known = labels.select(Axis(0), &rest);
        if out.is_empty() || !known.iter().any(|label| *label > 0) {
            continue;
        }
        let known: Vec<i8> = known.iter().copied().collect();
        let head = fit(fold, &Subset::new(features, rest), &known)?;
        if let Some(head) = head {
            left.score(&head, features, &out)?;
        }
    }
    Ok(left)
}

impl LeftOut {
    /// Nothing scored yet of this many images and categories.
    pub fn nothing(images: usize, categories: usize) -> Self {
        LeftOut {
            logits: Array2::from_elem((images, categories), f32::NAN),
            scored: vec![false; images],
        }
    }

    /// Scores these images by `head`, of whose categories the first ones count.
    ///
    /// # Errors
    /// If the head cannot run or features cannot be read.
    pub fn score(
        &mut self,
        head: &ExportedHead,
        features: &FeatureStore,
        images: &[usize],
    ) -> Result<(), ScoringError> {
        let scored = Scorer::of_head(head, features)?.logits_of(features, images)?;
        self.take(images, &scored, head.categories);
        Ok(())
    }

    /// Takes scores `[images, categories]`, of which the first categories count.
    ///
    /// # Panics
    /// If there are too few.
    pub fn take(&mut self, images: &[usize], scores: &[f32], categories: usize) {
        let counted = self.logits.ncols();
        for (&image, scores) in images.iter().zip(scores.chunks(categories)) {
            let mut row = self.logits.row_mut(image);
            row.iter_mut()
                .zip(&scores[..counted])
                .for_each(|(to, from)| *to = *from);
            self.scored[image] = true;
        }
    }

    /// The images that are scored.
    pub fn rows(&self) -> Vec<usize> {
        (0..self.scored.len())
            .filter(|image| self.scored[*image])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use ndarray::Array2;
    use tagstream_model::head::ZeroShot;

    #[test]
    fn every_fold_is_scored_by_the_head_that_has_not_seen_it() {
        let (n, dim) = (8, 4);
        let global: Vec<f32> = (0..n * dim).map(|i| (i % 5) as f32 - 2.0).collect();
        let dense = global.iter().map(|x| f16::from_f32(*x)).collect();
        let features = FeatureStore::from_memory(n, 1, dim, dense, global.clone());
        let labels = Array2::from_shape_fn((n, 2), |(i, c)| if (i + c) % 2 == 0 { 1 } else { -1 });
        let of = [0, 1, 2, 0, 1, 2, 0, 1];
        // The head of fold k knows its number by its words.
        let head = |k: usize| {
            let mut text = vec![0.0f32; 2 * dim];
            text[k] = 1.0;
            text[dim + (k + 1) % dim] = 1.0;
            ExportedHead::zero_shot(&text, dim, ZeroShot::default())
        };
        let mut asked = Vec::new();
        let left = left_out::<ScoringError>(&of, labels.view(), &features, |k, subset, known| {
            use crate::trm::features::FeatureSource;
            assert_eq!(known.len(), 2 * subset.len());
            asked.push((k, subset.len()));
            Ok((k != 1).then(|| head(k)))
        })
        .unwrap();
        assert_eq!(asked, [(0, 5), (1, 5), (2, 6)]);
        for image in 0..n {
            assert_eq!(left.scored[image], of[image] != 1);
            let expected = head(of[image]).evaluate(&global, &global, n).logits;
            let scores = left.logits.row(image);
            for (c, score) in scores.iter().enumerate() {
                let expected = expected[image * 2 + c];
                assert!(of[image] == 1 || (score - expected).abs() < 1e-3, "{image}");
            }
        }
        assert_eq!(left.rows(), [0, 2, 3, 5, 6]);
    }

    #[test]
    fn a_fold_without_which_nothing_is_known_is_left_unscored() {
        let features = FeatureStore::from_memory(2, 1, 2, vec![f16::ONE; 4], vec![1.0; 4]);
        let labels = Array2::from_shape_vec((2, 1), vec![1i8, -1]).unwrap();
        let mut asked = Vec::new();
        let left = left_out::<ScoringError>(&[0, 1], labels.view(), &features, |k, _, _| {
            asked.push(k);
            Ok(None)
        });
        assert_eq!((asked, left.unwrap().rows()), (vec![1], Vec::new()));
    }
}
