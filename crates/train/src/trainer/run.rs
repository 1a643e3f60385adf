//! A training run's data: batches, masks, the calibrated start and the memory.

use crate::trainer::error::TrainError;
use crate::trm::features::FeatureSource;
use crate::trm::model::{Batch, Model, Standard};
use crate::trm::prompts::PromptEncoder;
use crate::trm::start::{Entry, fit_calibration};
use crate::trm::weights::{Weights, names};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

/// A calibrated scale of cosines is at least this: where the start says nothing about the labels
/// the fit would go to zero, and with it every gradient.
const LEAST_START_SCALE: f64 = 5.0;

/// A model with its training data.
pub(super) struct Run<'a> {
    pub(super) model: &'a Model,
    pub(super) encoder: &'a dyn PromptEncoder,
    pub(super) features: &'a dyn FeatureSource,
    /// `[n, C]`.
    pub(super) labels: &'a [i8],
    pub(super) standard: Standard,
    /// Weight with which unknown counts as absent.
    pub(super) assume_negative: f64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        model: &'a Model,
        encoder: &'a dyn PromptEncoder,
        features: &'a dyn FeatureSource,
        labels: &'a [i8],
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
                "image features of {} dimensions, text features of {}: encoder and text tower do not belong together",
                features.dim(),
                model.dim()
            )));
        }
        if !labels.contains(&1) {
            return Err(TrainError::Data(
                "no label says that anything is present: there is nothing to learn from".into(),
            ));
        }
        let none_absent = !labels.contains(&-1);
        Ok(Self {
            standard: Standard::new(features.global(), features.dim()),
            assume_negative: if none_absent {
                model.config().loss.assume_negative
            } else {
                0.0
            },
            model,
            encoder,
            features,
            labels,
        })
    }

    /// Share of entries that are known.
    pub(super) fn known_share(&self) -> f64 {
        let known = self.labels.iter().filter(|y| **y != 0).count();
        known as f64 / self.labels.len().max(1) as f64
    }

    pub(super) fn batch(&self, rows: &[usize], mask: Option<&Tensor>) -> Result<Batch, TrainError> {
        let dense = if self.model.uses_positions() {
            self.features.dense(rows).map_err(TrainError::Features)?
        } else {
            Vec::new()
        };
        self.prepared(dense, rows, mask)
    }

    pub(super) fn prepared(
        &self,
        dense: Vec<f32>,
        rows: &[usize],
        mask: Option<&Tensor>,
    ) -> Result<Batch, TrainError> {
        let d = self.features.dim();
        let global: Vec<f32> = rows
            .iter()
            .flat_map(|row| &self.features.global()[row * d..(row + 1) * d])
            .copied()
            .collect();
        Ok(Batch::new(dense, &global, &self.standard, mask)?)
    }

    /// All images in batches, in their order.
    pub(super) fn in_order(&self) -> impl Iterator<Item = Vec<usize>> + use<> {
        let (n, size) = (self.features.len(), self.model.config().optimizer.batch);
        (0..n)
            .step_by(size)
            .map(move |start| (start..(start + size).min(n)).collect())
    }

    pub(super) fn label_rows(&self, rows: &[usize]) -> Vec<i8> {
        let c = self.model.categories();
        rows.iter()
            .flat_map(|row| &self.labels[row * c..(row + 1) * c])
            .copied()
            .collect()
    }

    /// Feature dropout: one mask an image, survivors scaled up.
    pub(super) fn mask(
        &self,
        rows: usize,
        seed: u64,
        step: u64,
    ) -> Result<Option<Tensor>, TrainError> {
        let drop = self.model.config().optimizer.feature_dropout;
        if drop == 0.0 {
            return Ok(None);
        }
        let mut random = stream(seed, 2, step);
        let survivor = (1.0 / (1.0 - drop)) as f32;
        let d = self.features.dim();
        let mask: Vec<f32> = (0..rows * d)
            .map(|_| {
                if random.random::<f64>() < drop {
                    0.0
                } else {
                    survivor
                }
            })
            .collect();
        Ok(Some(Tensor::from_vec(mask, (rows, d), &Device::Cpu)?))
    }

    /// One scale and one offset a branch, by logistic regression on the known labels.
    pub(super) fn calibrate(&self, weights: &mut Weights) -> Result<(), TrainError> {
        let branches = self.model.branches();
        for branch in &branches {
            if weights.has(&names::log_scale(branch)) {
                weights.insert(
                    names::log_scale(branch),
                    Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?,
                );
            }
        }
        let text = self.model.text(weights, self.encoder)?;
        let mut entries: Vec<Vec<Entry>> = vec![Vec::new(); branches.len()];
        for rows in self.in_order() {
            let forward = self
                .model
                .forward(weights, &text, &self.batch(&rows, None)?)?;
            let labels = self.label_rows(&rows);
            for (branch, entries) in forward.branches.iter().zip(&mut entries) {
                let scores = branch.logits.flatten_all()?.to_vec1::<f32>()?;
                entries.extend(scores.iter().zip(&labels).filter_map(|(score, label)| {
                    let weight = if *label == 0 {
                        self.assume_negative
                    } else {
                        1.0
                    };
                    (weight > 0.0).then(|| Entry {
                        score: f64::from(*score),
                        offset: 0.0,
                        target: f64::from(u8::from(*label > 0)),
                        weight,
                    })
                }));
            }
        }
        for (branch, mut entries) in branches.iter().zip(entries) {
            let mut found = fit_calibration(entries.iter().copied());
            if weights.has(&names::log_scale(branch)) && found.scale < LEAST_START_SCALE {
                for entry in &mut entries {
                    (entry.offset, entry.score) = (LEAST_START_SCALE * entry.score, 0.0);
                }
                found = fit_calibration(entries.into_iter());
                found.scale = LEAST_START_SCALE;
            }
            let bias = Tensor::full(found.offset as f32, self.model.categories(), &Device::Cpu)?;
            weights.insert(names::bias(branch), bias);
            if weights.has(&names::log_scale(branch)) {
                let log = Tensor::full(found.scale.ln() as f32, 1, &Device::Cpu)?;
                weights.insert(names::log_scale(branch), log);
            }
        }
        Ok(())
    }

    /// What makes this run this run.
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

/// A random stream of its own for every use and position, so that a resumed run draws what an
/// unbroken one would.
fn stream(seed: u64, purpose: u64, position: u64) -> StdRng {
    let mut bytes = [0; 32];
    for (at, word) in [seed, purpose, position].iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    StdRng::from_seed(bytes)
}

pub(super) fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, 1, epoch));
    order
}

/// A draw from N(0, 1) (Box and Muller).
pub(super) fn normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// Labels as a tensor, `[rows, C]`.
pub(super) fn label_tensor(labels: &[i8], categories: usize) -> candle_core::Result<Tensor> {
    let values: Vec<f32> = labels.iter().map(|y| f32::from(*y)).collect();
    Tensor::from_vec(
        values,
        (labels.len() / categories.max(1), categories),
        &Device::Cpu,
    )
}
