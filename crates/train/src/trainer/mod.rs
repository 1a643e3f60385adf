//! Training: from frozen features and partial labels to a head.
//!
//! [`train()`] drives one `Trainer` (module `actor`), which owns everything that changes; time,
//! checkpoints and progress are this module's.

mod actor;
mod calibrated_start;
pub mod checkpoint;
mod closed_form;
mod data;
mod error;
pub mod optimizer;
mod random;
pub mod run_folder;
pub mod scoring;
mod teacher;

pub use error::TrainError;

use crate::trm::export::KernelRidges;
use crate::trm::features::FeatureSource;
use crate::trm::model::{Model, Standard, TextFeatures};
use crate::trm::prompts::PromptEncoder;
use crate::trm::weights::Weights;
use actor::Trainer;
use candle_core::{Device, Tensor};
use checkpoint::Checkpoint;
use data::TrainingSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tagstream_model::head::{ExportedHead, NamedTensor, TRAINABLE_PREFIX};

/// Where a training stands, after every step.
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

/// How a training is done.
#[derive(Default)]
pub struct TrainOptions<'a> {
    /// Seed of everything random. The same seed, data, settings and number of threads give the same
    /// bits.
    pub seed: u64,
    /// Stop after the epoch in which this much time has passed.
    pub max_minutes: Option<f64>,
    /// Where to keep the state after every epoch; a training that finds its own state there goes on
    /// from it.
    pub checkpoint: Option<PathBuf>,
    /// Weights of an earlier model, and for every category its index there.
    pub warm_start: Option<(Weights, Vec<Option<usize>>)>,
    /// Called after every step.
    pub progress: Option<&'a mut dyn FnMut(&TrainingProgress)>,
}

/// What a training gives.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Averaged weights.
    pub weights: Weights,
    /// Text features of the averaged contexts.
    pub text: TextFeatures,
    /// Of the global feature over the training images.
    pub standard: Standard,
    /// The kernel ridge regressions, and how much they count.
    pub ridges: KernelRidges,
    /// The head for inference.
    pub head: ExportedHead,
    /// Epochs done; fewer than asked for if time ran out.
    pub epochs: usize,
    /// Optimizer steps made.
    pub steps: usize,
    /// Mean losses of every epoch done here: epoch from 1, names and values.
    pub curves: Vec<(usize, Vec<(&'static str, f64)>)>,
}

impl Trained {
    /// The weights as `head.safetensors` keeps them for the next training.
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
    let set = TrainingSet::new(model, encoder, features, labels)?;
    let identity = set.identity(options.seed, &options.warm_start)?;
    let mut trainer = Trainer::start(set, options.seed, options.warm_start.as_ref())?;
    if let Some(path) = &options.checkpoint
        && let Some(state) = Checkpoint::read(path, &identity)?
    {
        trainer.restore(state)?;
    }
    let (began, first) = (Instant::now(), trainer.steps());
    while !trainer.is_done() {
        trainer.epoch(&mut |stepped| {
            let Some(progress) = &mut options.progress else {
                return;
            };
            let (now, all) = stepped.count;
            let each = began.elapsed() / (now - first).max(1) as u32;
            progress(&TrainingProgress {
                epoch: stepped.epoch,
                step: stepped.count,
                losses: stepped.losses,
                gradient_norm: stepped.gradient_norm,
                rate: stepped.rate,
                left: each * (all - now) as u32,
            });
        })?;
        if let Some(path) = &options.checkpoint {
            trainer.checkpoint(&identity)?.write(path)?;
        }
        let limit = options.max_minutes.unwrap_or(f64::INFINITY) * 60.0;
        if began.elapsed().as_secs_f64() >= limit {
            break;
        }
    }
    trainer.finish()
}

#[cfg(test)]
mod tests;
