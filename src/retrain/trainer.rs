//! The training loop: from frozen features and partial labels to a head.

use super::checkpoint::{Checkpoint, CheckpointError};
use super::optimizer::{Optimizer, one_cycle};
use super::teacher::Teacher;
use crate::model::head::{FoldedHead, NamedTensor, TRAINABLE_PREFIX};
use crate::trm::features::{FeatureFailure, FeatureSource};
use crate::trm::memory::{Memory, MemoryData, Unseen};
use crate::trm::model::{Batch, Model, Standard, TextFeatures};
use crate::trm::prompts::TextEncoder;
use crate::trm::start::{Entry, fit_calibration};
use crate::trm::weights::{Weights, names};
use candle_core::{Device, Tensor};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A calibrated scale of cosines is at least this: where the start says nothing about the labels the fit would go to zero,
/// and with it every gradient.
const LEAST_START_SCALE: f64 = 5.0;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// Features could not be read.
    #[error("features: {0}")]
    Features(FeatureFailure),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The loss is no number any more.
    #[error("the loss is not finite in epoch {epoch}, step {step}: lower optimizer.rate")]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
        /// The step, from 1.
        step: usize,
    },
    /// A tensor operation failed.
    #[error("training: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// Where a run stands, after every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Epochs finished and in all.
    pub epoch: (usize, usize),
    /// Steps made and in all.
    pub step: (usize, usize),
    /// Names and values of the loss's parts, weighted as in the total.
    pub losses: Vec<(&'static str, f64)>,
    /// Norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Factor of the peak learning rates.
    pub rate: f64,
    /// Estimated time left.
    pub left: Duration,
}

/// How a run is done.
#[derive(Default)]
pub struct TrainOptions<'a> {
    /// Seed of everything random. The same seed, data, settings and number of threads give the same bits.
    pub seed: u64,
    /// Stop after the epoch in which this much time has passed.
    pub max_minutes: Option<f64>,
    /// Where to keep the state after every epoch; a run that finds its own state there goes on from it.
    pub checkpoint: Option<PathBuf>,
    /// Weights of an earlier model, and for every category its index there.
    pub warm_start: Option<(Weights, Vec<Option<usize>>)>,
    /// Called after every step.
    pub progress: Option<&'a mut dyn FnMut(&Progress)>,
}

/// What a run gives.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Averaged weights.
    pub weights: Weights,
    /// Text features of the averaged contexts.
    pub text: TextFeatures,
    /// Of the global feature over the training images.
    pub standard: Standard,
    /// The memory branch, if the method has one.
    pub memory: Option<Memory>,
    /// The head for inference.
    pub head: FoldedHead,
    /// Epochs done; fewer than asked for if time ran out.
    pub epochs: usize,
    /// Optimiser steps made.
    pub steps: usize,
    /// Mean losses of every epoch of this run: epoch from 1, names and values.
    pub curves: Vec<(usize, Vec<(&'static str, f64)>)>,
}

impl Trained {
    /// The weights as `head.safetensors` keeps them for the next run.
    ///
    /// # Errors
    /// Those of tensor operations.
    pub fn trainable(&self) -> candle_core::Result<Vec<NamedTensor>> {
        let tensors = self.weights.iter().map(|(name, tensor)| {
            Ok(NamedTensor {
                name: format!("{TRAINABLE_PREFIX}{name}"),
                shape: tensor.dims().to_vec(),
                data: self.weights.values(name)?,
            })
        });
        tensors.collect()
    }
}

/// The weights that [`Trained::trainable`] stored.
///
/// # Errors
/// If a tensor's shape and content do not agree.
pub fn stored_weights(tensors: &[NamedTensor]) -> candle_core::Result<Weights> {
    tensors
        .iter()
        .filter_map(|tensor| Some((tensor.name.strip_prefix(TRAINABLE_PREFIX)?, tensor)))
        .map(|(name, t)| {
            Ok((
                name.to_owned(),
                Tensor::from_slice(&t.data, t.shape.as_slice(), &Device::Cpu)?,
            ))
        })
        .collect()
}

/// A model with its training data.
pub(super) struct Run<'a> {
    pub(super) model: &'a Model,
    pub(super) encoder: &'a dyn TextEncoder,
    pub(super) features: &'a dyn FeatureSource,
    /// `[n, C]`.
    pub(super) labels: &'a [i8],
    pub(super) standard: Standard,
    /// Weight with which unknown counts as absent.
    pub(super) assume_negative: f64,
}

/// Trains `model` on `features` with partial `labels` (`[n, C]`: +1, -1, 0).
///
/// # Errors
/// If there is nothing to learn from, features cannot be read, or the loss diverges.
pub fn train(
    model: &Model,
    encoder: &dyn TextEncoder,
    features: &dyn FeatureSource,
    labels: &[i8],
    mut options: TrainOptions,
) -> Result<Trained, TrainError> {
    let run = Run::new(model, encoder, features, labels)?;
    let config = model.config().clone();
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut weights = model.start(&mut || normal(&mut random))?;
    if config.calibrated_start {
        run.calibrate(&mut weights)?;
    }
    if let Some((stored, rows)) = &options.warm_start {
        weights.warm_start(stored, rows)?;
    }
    let memory = run.remember(options.seed)?;
    let identity = run.identity(options.seed, &options.warm_start)?;

    let mut optimizer = Optimizer::new(&weights, &model.trained(&weights), &config.optimizer)?;
    let mut teacher = Teacher::new(&run, &weights)?;
    let mut done = 0;
    if let Some(path) = &options.checkpoint
        && let Some(state) = Checkpoint::read(path, &identity)?
    {
        let tensors = state
            .tensors
            .into_iter()
            .map(|(name, _, values)| (name, values))
            .collect();
        optimizer.restore(&tensors, state.steps)?;
        teacher.restore(&state.numbers)?;
        done = state.epochs;
    }

    let epochs = config.optimizer.epochs;
    let per_epoch = features.len().div_ceil(config.optimizer.batch);
    let steps = epochs * per_epoch;
    let (began, first) = (Instant::now(), optimizer.step());
    let mut curves = Vec::new();
    while done < epochs {
        let average = optimizer.averaged(&weights)?;
        let share = (done * per_epoch) as f64 / steps as f64;
        teacher.prepare(
            &run,
            &average,
            memory.as_ref().map(|(_, unseen)| unseen),
            share,
        )?;
        let fixed_text = (!model.trains_text(&weights))
            .then(|| model.text(&weights, encoder))
            .transpose()?;
        let mut sums: Vec<(&'static str, f64)> = Vec::new();
        for rows in
            shuffled(features.len(), options.seed, done as u64).chunks(config.optimizer.batch)
        {
            let step = optimizer.step();
            let mask = run.mask(rows.len(), options.seed, step as u64)?;
            let batch = run.batch(rows, mask.as_ref())?;
            let live = optimizer.live(&weights);
            let text = match &fixed_text {
                Some(text) => text.clone(),
                None => model.text(&live, encoder)?,
            };
            let forward = model.forward(&live, &text, &batch)?;
            let teaching = teacher.teaching(&run, rows, step as f64 / steps as f64)?;
            let loss = model.loss(&live, &text, &forward, &teaching)?;
            if loss.parts.iter().any(|(_, value)| !value.is_finite()) {
                return Err(TrainError::Diverged {
                    epoch: done + 1,
                    step: step + 1,
                });
            }
            let rate = one_cycle(step, steps, config.optimizer.warm_up);
            let gradient_norm = optimizer.update(&loss.total.backward()?, rate)?;
            teacher.observe(&run, rows, &forward, &text, step as f64 / steps as f64)?;
            for (name, value) in &loss.parts {
                match sums.iter_mut().find(|(n, _)| n == name) {
                    Some((_, sum)) => *sum += value / per_epoch as f64,
                    None => sums.push((*name, value / per_epoch as f64)),
                }
            }
            if let Some(progress) = &mut options.progress {
                let (now, mine) = (optimizer.step(), optimizer.step() - first);
                let left = began
                    .elapsed()
                    .mul_f64((steps - now) as f64 / mine.max(1) as f64);
                progress(&Progress {
                    epoch: (done, epochs),
                    step: (now, steps),
                    losses: loss.parts,
                    gradient_norm,
                    rate,
                    left,
                });
            }
        }
        done += 1;
        curves.push((done, sums));
        if let Some(path) = &options.checkpoint {
            let state = Checkpoint {
                run: identity.clone(),
                epochs: done,
                steps: optimizer.step(),
                tensors: optimizer.state()?,
                numbers: teacher.state(),
            };
            state.write(path)?;
        }
        let limit = options.max_minutes.unwrap_or(f64::INFINITY) * 60.0;
        if began.elapsed().as_secs_f64() >= limit {
            break;
        }
    }

    let weights = optimizer.averaged(&weights)?;
    let text = model.text(&weights, encoder)?;
    let memory = memory.map(|(memory, _)| memory);
    let head = model.fold(&weights, &text, &run.standard, memory.as_ref())?;
    Ok(Trained {
        weights,
        text,
        standard: run.standard,
        memory,
        head,
        epochs: done,
        steps: optimizer.step(),
        curves,
    })
}

impl<'a> Run<'a> {
    fn new(
        model: &'a Model,
        encoder: &'a dyn TextEncoder,
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

    fn prepared(
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
    fn mask(&self, rows: usize, seed: u64, step: u64) -> Result<Option<Tensor>, TrainError> {
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
    fn calibrate(&self, weights: &mut Weights) -> Result<(), TrainError> {
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

    /// Fits the memory branch, if the method has one.
    fn remember(&self, seed: u64) -> Result<Option<(Memory, Unseen)>, TrainError> {
        let config = &self.model.config().memory;
        if !config.enabled {
            return Ok(None);
        }
        let mut mean = Vec::with_capacity(self.features.global().len());
        for rows in self.in_order() {
            let dense = self.features.dense(&rows).map_err(TrainError::Features)?;
            let positions = self.prepared(dense, &rows, None)?.positions;
            mean.extend(positions.mean(1)?.flatten_all()?.to_vec1::<f32>()?);
        }
        let data = MemoryData {
            global: self.features.global(),
            mean: &mean,
            labels: self.labels,
            assume_negative: self.assume_negative,
            dim: self.features.dim(),
            categories: self.model.categories(),
        };
        let order = shuffled(self.features.len(), seed, u64::MAX);
        Ok(Some(Memory::fit(&data, &order, config)?))
    }

    /// What makes this run this run.
    fn identity(
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

/// A random stream of its own for every use and position, so that a resumed run draws what an unbroken one would.
fn stream(seed: u64, purpose: u64, position: u64) -> StdRng {
    let mut bytes = [0; 32];
    for (at, word) in [seed, purpose, position].iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    StdRng::from_seed(bytes)
}

fn shuffled(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, 1, epoch));
    order
}

/// A draw from N(0, 1) (Box and Muller).
fn normal(random: &mut StdRng) -> f64 {
    let (u, v): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// Helper of `Teaching`'s makers: labels as a tensor.
pub(super) fn label_tensor(labels: &[i8], categories: usize) -> candle_core::Result<Tensor> {
    let values: Vec<f32> = labels.iter().map(|y| f32::from(*y)).collect();
    Tensor::from_vec(
        values,
        (labels.len() / categories.max(1), categories),
        &Device::Cpu,
    )
}

#[cfg(test)]
mod tests;
