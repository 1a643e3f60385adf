//! Why a partition was not resumed.

use super::broken::BrokenChain;
use super::broken_table::LostChain;
use super::chain::ChainError;
use super::floor::FloorError;
use super::footer::FooterError;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::names::Epoch;
use tagstream_core::storage::store::StoreError;

/// Why a partition was not resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The store failed, or a file is not ours.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// The files of the folder contradict each other.
    #[error("{partition}: {source}")]
    Chain {
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        source: ChainError,
    },
    /// An origin cannot be read.
    #[error("{path} is not an origin that tagstream wrote: {reason}")]
    BadOrigin {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store's answers contradict each other, or something changed between them.
    #[error("{path}: the store said that it is there, then that it is not")]
    Unsettled {
        /// The file.
        path: String,
    },
    /// A part of the chain was deleted that it cannot do without.
    #[error("{}", .lost.message(.partition, .folder))]
    Lost {
        /// The partition.
        partition: PartitionId,
        /// Its folder.
        folder: String,
        /// What is known of it.
        lost: LostChain,
    },
    /// The table was begun with other settings.
    #[error(
        "{partition}: the table was begun as {begun}, the configuration asks for {asked}: name \
         another `table`, or go back"
    )]
    OtherTable {
        /// The partition.
        partition: PartitionId,
        /// What the origin says.
        begun: String,
        /// What was asked for.
        asked: String,
    },
    /// Input and output do not fit together, and only a person can say how to go on.
    #[error(
        "{partition}: the files of epoch {epoch} end at offset {end}, {}",
        .broken.message(.partition, *.end)
    )]
    BrokenChain {
        /// The partition.
        partition: PartitionId,
        /// The chain.
        epoch: Epoch,
        /// The chain's end.
        end: Offset,
        /// What does not fit.
        broken: BrokenChain,
    },
}

impl ResumeError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            ResumeError::Footer(FooterError::Store(error)) => error.is_transient(),
            ResumeError::Unsettled { .. } => true,
            _ => false,
        }
    }
}

impl From<FloorError> for ResumeError {
    fn from(error: FloorError) -> Self {
        match error {
            FloorError::Store(error) => error.into(),
            FloorError::Bad { path, reason } => ResumeError::BadOrigin { path, reason },
            FloorError::Gone { path } => ResumeError::Unsettled { path },
        }
    }
}

impl From<StoreError> for ResumeError {
    fn from(error: StoreError) -> Self {
        ResumeError::Footer(FooterError::Store(error))
    }
}
