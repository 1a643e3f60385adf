//! Why training fails.

use super::checkpoint::CheckpointError;
use crate::arrays::RaggedError;
use crate::trm::features::FeatureFailure;
use tagstream_model::head::HeadError;

/// Why a training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// Features or labels are not whole rows.
    #[error("training: {0}")]
    Ragged(#[from] RaggedError),
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
    /// The trained head cannot be written.
    #[error("the trained head: {0}")]
    Head(#[from] HeadError),
    /// A tensor operation failed.
    #[error("training: {0}")]
    Tensor(#[from] candle_core::Error),
}
