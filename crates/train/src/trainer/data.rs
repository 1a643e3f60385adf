//! What a training reads and never changes: the model, the images' features and their labels.

use crate::arrays::{rows, to_matrix};
use crate::groups::{GroupConfig, Groups, near_duplicates};
use crate::trainer::error::TrainError;
use crate::trainer::random::{Purpose, stream};
use crate::trm::blend::Blend;
use crate::trm::features::FeatureSource;
use crate::trm::kernel_ridge::targets::Targets;
use crate::trm::model::{Batch, Forward, Model, Standard, TextFeatures};
use crate::trm::prompts::PromptEncoder;
use crate::trm::weights::Weights;
use candle_core::{Device, Tensor};
use ndarray::{Array2, ArrayView2, Axis};
use rand::RngExt;
use sha2::{Digest, Sha256};
use std::ops::Range;

/// Parts that tell groups apart in a training's identity.
const GROUP_PARTS: usize = 1 << 20;

/// A model with its training images.
pub(super) struct TrainingSet<'a> {
    pub(super) model: &'a Model,
    pub(super) encoder: &'a dyn PromptEncoder,
    features: &'a dyn FeatureSource,
    /// Raw global features, `[n, D]`.
    pub(super) global: ArrayView2<'a, f32>,
    /// +1, -1, 0, `[n, C]`.
    pub(super) labels: ArrayView2<'a, i8>,
    pub(super) standard: Standard,
    /// Weight with which unknown counts as absent.
    pub(super) assume_negative: f64,
    /// Which images are relatives.
    pub(super) groups: Groups,
}

/// The forward pass of some consecutive images.
pub(super) struct Pass {
    pub(super) images: Range<usize>,
    /// `[images, C]`.
    pub(super) labels: Array2<i8>,
    pub(super) forward: Forward,
}

impl<'a> TrainingSet<'a> {
    pub(super) fn new(
        model: &'a Model,
        encoder: &'a dyn PromptEncoder,
        features: &'a dyn FeatureSource,
        labels: &'a [i8],
        groups: Option<&Groups>,
    ) -> Result<Self, TrainError> {
        let (n, c) = (features.len(), model.categories());
        if labels.len() != n * c {
            return Err(TrainError::Data(format!(
                "{} labels for {n} images and {c} categories",
                labels.len()
            )));
        }
        if features.dim() != model.dim() {
            return Err(TrainError::Data(format!(
                "image features of {} dimensions, text features of {}: encoder and text tower do \
                 not belong together",
                features.dim(),
                model.dim()
            )));
        }
        if groups.is_some_and(|groups| groups.len() != n) {
            return Err(TrainError::Data(format!(
                "groups of other images than these {n}"
            )));
        }
        if !labels.contains(&1) && !model.config().learns_without_labels() {
            return Err(TrainError::Data(
                "no label says that anything is present: there is nothing to learn from".into(),
            ));
        }
        let none_absent = !labels.contains(&-1);
        let global = rows(features.global(), features.dim())?;
        Ok(Self {
            standard: Standard::new(global),
            groups: groups.cloned().unwrap_or_else(|| relatives(global)),
            global,
            labels: rows(labels, c)?,
            assume_negative: if none_absent {
                model.config().loss.assume_negative
            } else {
                0.0
            },
            model,
            encoder,
            features,
        })
    }

    /// n.
    pub(super) fn images(&self) -> usize {
        self.labels.nrows()
    }

    /// The labels as what closed forms fit.
    pub(super) fn targets(&self) -> Targets<'a> {
        Targets {
            labels: self.labels,
            assume_negative: self.assume_negative,
        }
    }

    /// Share of entries that are known.
    pub(super) fn known_share(&self) -> f64 {
        let known = self.labels.iter().filter(|y| **y != 0).count();
        known as f64 / self.labels.len().max(1) as f64
    }

    /// `[images, C]`.
    pub(super) fn labels_of(&self, images: &[usize]) -> Array2<i8> {
        self.labels.select(Axis(0), images)
    }

    /// What the forward pass of some images reads: no dense features where no branch needs them.
    pub(super) fn batch(
        &self,
        images: &[usize],
        mask: Option<&Tensor>,
    ) -> Result<Batch, TrainError> {
        if self.model.uses_positions() {
            self.prepare(self.dense(images)?, images, mask)
        } else {
            self.prepare(Vec::new(), images, mask)
        }
    }

    /// The same with dense features in any case.
    pub(super) fn dense_batch(&self, images: &[usize]) -> Result<Batch, TrainError> {
        self.prepare(self.dense(images)?, images, None)
    }

    fn dense(&self, images: &[usize]) -> Result<Vec<f32>, TrainError> {
        self.features.dense(images).map_err(TrainError::Features)
    }

    fn prepare(
        &self,
        dense: Vec<f32>,
        images: &[usize],
        mask: Option<&Tensor>,
    ) -> Result<Batch, TrainError> {
        let global = self.global.select(Axis(0), images);
        let (global, _) = global.into_raw_vec_and_offset();
        Ok(Batch::new(dense, &global, &self.standard, mask)?)
    }

    /// All images in batches, in their order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (n, size) = (self.images(), self.model.config().optimizer.batch);
        (0..n)
            .step_by(size)
            .map(move |start| start..(start + size).min(n))
    }

    /// The forward pass of all images in their order, without feature dropout.
    pub(super) fn passes(
        &self,
        weights: &Weights,
        text: &TextFeatures,
    ) -> impl Iterator<Item = Result<Pass, TrainError>> {
        self.in_order().map(|images| {
            let rows: Vec<usize> = images.clone().collect();
            let batch = self.batch(&rows, None)?;
            Ok(Pass {
                images,
                labels: self.labels_of(&rows),
                forward: self.model.forward(weights, text, &batch)?,
            })
        })
    }

    /// Text features of these weights.
    pub(super) fn text(&self, weights: &Weights) -> Result<TextFeatures, TrainError> {
        Ok(self.model.text(weights, self.encoder)?)
    }

    /// Feature dropout: one mask an image, survivors scaled up.
    pub(super) fn mask(
        &self,
        images: usize,
        seed: u64,
        step: u64,
    ) -> Result<Option<Tensor>, TrainError> {
        let drop = self.model.config().optimizer.feature_dropout;
        if drop == 0.0 {
            return Ok(None);
        }
        let mut random = stream(seed, Purpose::Dropout, step);
        let survivor = (1.0 / (1.0 - drop)) as f32;
        let d = self.model.dim();
        let mask: Vec<f32> = (0..images * d)
            .map(|_| {
                if random.random::<f64>() < drop {
                    0.0
                } else {
                    survivor
                }
            })
            .collect();
        Ok(Some(Tensor::from_vec(mask, (images, d), &Device::Cpu)?))
    }

    /// A hash of everything that decides what a training gives.
    pub(super) fn identity(
        &self,
        seed: u64,
        warm: &Option<(Weights, Vec<Option<usize>>)>,
    ) -> Result<String, TrainError> {
        let mut hash = Sha256::new();
        let config =
            serde_json::to_vec(self.model.config()).map_err(|e| TrainError::Data(e.to_string()))?;
        hash.update(config);
        hash.update(seed.to_le_bytes());
        for group in self.groups.folds(GROUP_PARTS) {
            hash.update(group.to_le_bytes());
        }
        hash.update(self.labels.iter().map(|y| *y as u8).collect::<Vec<_>>());
        let mut numbers = |values: &[f32]| {
            for x in values {
                hash.update(x.to_le_bytes());
            }
        };
        numbers(self.features.global());
        numbers(&self.model.template().flatten_all()?.to_vec1::<f32>()?);
        if let Some((weights, rows)) = warm {
            for (name, _) in weights.iter() {
                numbers(&weights.values(name)?);
            }
            hash.update(format!("{rows:?}"));
        }
        Ok(hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

/// Near-duplicates, where nobody says which images are relatives.
fn relatives(global: ArrayView2<'_, f32>) -> Groups {
    let GroupConfig {
        similarity,
        compared,
        ..
    } = GroupConfig::default();
    let linked = near_duplicates(global, similarity, compared);
    Groups::of_names(linked.roots.iter().map(usize::to_string))
}

/// The branches' logits by their shares, `[images, C]`.
pub(super) fn branch_sum(
    model: &Model,
    forward: &Forward,
    images: usize,
    blend: &Blend,
) -> Result<Array2<f32>, TrainError> {
    let mut sum = Array2::zeros((images, model.categories()));
    for branch in &forward.branches {
        let share = model.share(branch.name, blend) as f32;
        sum.scaled_add(share, &to_matrix(&branch.logits)?);
    }
    Ok(sum)
}
