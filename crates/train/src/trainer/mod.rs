//! The training loop: from frozen features and partial labels to a head.

use crate::trainer::checkpoint::Checkpoint;
use crate::trainer::optimizer::{Optimizer, one_cycle};
use crate::trainer::run::{Run, normal, shuffled};
use crate::trainer::teacher::Teacher;
pub mod checkpoint;
mod error;
mod memories;
pub mod optimizer;
mod run;
pub mod run_folder;
pub mod scoring;
mod teacher;

pub use error::TrainError;

use crate::trm::export::Memories;
use crate::trm::features::FeatureSource;
use crate::trm::model::{Model, Standard, TextFeatures};
use crate::trm::prompts::PromptEncoder;
use crate::trm::weights::Weights;
use candle_core::{Device, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tagstream_model::head::{ExportedHead, NamedTensor, TRAINABLE_PREFIX};

/// Where a run stands, after every step.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingProgress {
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
    /// Seed of everything random. The same seed, data, settings and number of threads give the same
    /// bits.
    pub seed: u64,
    /// Stop after the epoch in which this much time has passed.
    pub max_minutes: Option<f64>,
    /// Where to keep the state after every epoch; a run that finds its own state there goes on from
    /// it.
    pub checkpoint: Option<PathBuf>,
    /// Weights of an earlier model, and for every category its index there.
    pub warm_start: Option<(Weights, Vec<Option<usize>>)>,
    /// Called after every step.
    pub progress: Option<&'a mut dyn FnMut(&TrainingProgress)>,
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
    /// What was fitted in closed form, and how much it counts.
    pub memories: Memories,
    /// The head for inference.
    pub head: ExportedHead,
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

/// Trains `model` on `features` with partial `labels` (`[n, C]`: +1, -1, 0).
///
/// # Errors
/// If there is nothing to learn from, features cannot be read, or the loss diverges.
pub fn train(
    model: &Model,
    encoder: &dyn PromptEncoder,
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
    // Before the warm start, whose weights may have seen these labels.
    let remembered = run.remember(&weights, options.seed)?;
    if let Some((stored, rows)) = &options.warm_start {
        weights.warm_start(stored, rows)?;
    }
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
        teacher.prepare(&run, &average, &remembered, share)?;
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
                progress(&TrainingProgress {
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
    let memories = remembered.memories;
    let head = model.export(&weights, &text, &run.standard, &memories)?;
    Ok(Trained {
        weights,
        text,
        standard: run.standard,
        memories,
        head,
        epochs: done,
        steps: optimizer.step(),
        curves,
    })
}

#[cfg(test)]
mod tests;
