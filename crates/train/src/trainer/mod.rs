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
pub mod left_out;
pub mod optimizer;
mod random;
mod ranking;
pub mod run_folder;
pub mod scoring;
mod teacher;

pub use error::TrainError;

use crate::groups::Groups;
use crate::trm::export::KernelRidges;
use crate::trm::features::FeatureSource;
use crate::trm::model::{Model, Standard, TextFeatures};
use crate::trm::prompts::PromptEncoder;
use crate::trm::weights::Weights;
use actor::Trainer;
use candle_core::{Device, Tensor};
use checkpoint::Checkpoint;
use data::TrainingSet;
use ndarray::Array2;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tagstream_model::head::{ExportedHead, HeadFiles, NamedTensor, TRAINABLE_PREFIX};

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
    /// Estimated time to the end.
    pub left: Duration,
}

/// Options of a training that are not the method's settings.
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
    /// Which images are relatives; near-duplicates by their global features if not told.
    pub groups: Option<Groups>,
    /// Called after every step.
    pub progress: Option<&'a mut dyn FnMut(&TrainingProgress)>,
}

/// The result of a training.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The moving average of the weights.
    pub weights: Weights,
    /// Text features of the averaged contexts.
    pub text: TextFeatures,
    /// Of the global feature over the training images.
    pub standard: Standard,
    /// The kernel ridge regressions, and how much they count.
    pub ridges: KernelRidges,
    /// The head for inference.
    pub head: ExportedHead,
    /// Where all is closed form: logits of the training images, each from folds that had not seen
    /// its group, `[n, C]`. What the head itself says of them is too good to calibrate by.
    pub left_out: Option<Array2<f32>>,
    /// Epochs done; fewer than asked for if time ran out, none where the trained branches would
    /// count less than `optimizer.least_share`.
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

    /// The head's two files, for a dense map of `positions`, with the weights that the next
    /// training starts from.
    ///
    /// # Errors
    /// If the head's sizes do not fit each other, or a weight cannot be read.
    pub fn head_files(&self, positions: usize) -> Result<HeadFiles, TrainError> {
        Ok(self.head.to_files(Some(positions), &self.trainable()?)?)
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
/// ```
/// use half::f16;
/// use tagstream_train::trainer::{TrainOptions, train};
/// use tagstream_train::trm::config::{Method, MethodConfig};
/// use tagstream_train::trm::features::FeatureSet;
/// use tagstream_train::trm::model::Model;
/// use tagstream_train::trm::prompts::{PromptEncoder, PromptTokens, Prompts};
/// # use candle_core::{Device, Result, Tensor};
/// # /// Token n is the n-th unit vector, and a prompt the sum of its tokens.
/// # struct Tower;
/// # impl PromptEncoder for Tower {
/// #     fn width(&self) -> usize {
/// #         5
/// #     }
/// #     fn dim(&self) -> usize {
/// #         5
/// #     }
/// #     fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
/// #         let table = Tensor::eye(5, candle_core::DType::F32, &Device::Cpu)?;
/// #         table.index_select(&Tensor::new(tokens, &Device::Cpu)?, 0)
/// #     }
/// #     fn encode(&self, prompts: &Tensor, _ends: &[usize]) -> Result<Tensor> {
/// #         prompts.sum(1)
/// #     }
/// # }
///
/// // The tower is a text tower of CLIP; "a photo of" cat, dog.
/// let tokens = PromptTokens {
///     begin: 0,
///     end: 1,
///     template: vec![2],
///     names: vec![vec![3], vec![4]],
/// };
/// let mut config = MethodConfig::preset(Method::LinearProbe);
/// config.optimizer.epochs = 20;
/// let model = Model::new(config, Prompts::new(&tokens, &Tower)?, &Tower)?;
///
/// // Two cats, two dogs: one position each, five dimensions. Some labels are unknown.
/// let global: Vec<f32> = [[0.9, 0.1], [0.8, 0.0], [0.1, 0.7], [0.0, 0.9]]
///     .iter()
///     .flat_map(|&[cat, dog]| [0.0, 0.0, 0.1, cat, dog])
///     .collect();
/// let dense = global.iter().map(|x| f16::from_f32(*x)).collect();
/// let features = FeatureSet::new(dense, global.clone(), 1, 5);
/// let labels = [1, -1, 1, 0, -1, 1, 0, 1];
/// let trained = train(&model, &Tower, &features, &labels, TrainOptions::default())?;
///
/// assert_eq!(trained.epochs, 20);
/// let logits = trained.head.evaluate(&global, &global, 4).logits;
/// assert!(logits[0] > logits[4] && logits[5] > logits[1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    let set = TrainingSet::new(model, encoder, features, labels, options.groups.as_ref())?;
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
