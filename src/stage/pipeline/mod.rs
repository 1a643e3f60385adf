//! The pipeline: source, row maker, ledgers and sinks of one table joined into a line, and the
//! lines of a process.
//!
//! Memory: half of the budget is for messages and rows (taken when a message is admitted, row
//! included, so that finishing never waits), half for images between fetch and inference. Images
//! only wait for images, rows are only freed by files, and a file is cut early when memory is
//! short: nothing waits for what only its own progress could free.

mod around;
mod commit;
mod dead_letter_news;
mod engine_model;
mod framed;
mod images;
mod labels;
mod line;
mod listed;
mod lives;
mod no_row;
mod owned;
mod records;
mod repairs;
mod run;
mod several;
mod status;

pub use engine_model::{EngineModel, TagColumns};
pub use framed::Framing;
pub use images::{ImageModel, ImageRows, ImageSettings, PixelSlot, TagError, Tagged};
pub use labels::{LABELS_BUDGET_MIB, run_labels};
pub use line::{Line, LineSettings};
pub use listed::{ListingRun, run_listing};
pub use run::{LineContext, LineSpec, PipelineError, RunOptions, run};
pub use status::StageStatus;

use super::row_maker::MakeError;
use super::sink::chain::ChainError;
use super::sink::files::SinkError;
use super::sink::producer::ProduceError;
use super::sink::walk::ResumeError;
use super::source::SourceError;
use tagstream_core::events::PartitionId;
use tagstream_core::failpoint::Injected;
use tagstream_core::process::blocking::NoResult;

/// What the lines are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Run,
    /// Stop reading, finish what was read, leave.
    Drain,
}

/// Why a line ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The consumer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A partition could not be resumed.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// A file could not be committed.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A topic.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// No row can be made any more.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// An operator ended the chain that was being written.
    #[error(
        "{0}: the chain was ended by an operator (--new-epoch or --accept-gap); starting again \
         goes on with the next epoch"
    )]
    Sealed(PartitionId),
    /// Another writer read before brokers lost the log's end, and was first with a file.
    #[error(
        "{0}: another writer's file was read from a log that brokers have truncated since; start \
         again to see what was lost, and the command that helps"
    )]
    OtherLog(PartitionId),
    /// A bug.
    #[error("a task of the stage panicked: {0}")]
    Panicked(NoResult),
    /// A test made it fail.
    #[error(transparent)]
    Injected(#[from] Injected),
}

impl LineError {
    /// Whether a message may be what ended the line: a bug that it meets, a model that it ends.
    /// Such an end is a death, as that of a process is.
    pub fn may_be_a_message_s_fault(&self) -> bool {
        matches!(
            self,
            LineError::Panicked(_) | LineError::Make(MakeError::Model(_))
        )
    }

    /// Whether starting again may help without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        use super::sink::footer::FooterError;
        match self {
            LineError::Source(error) => error.is_temporary(),
            LineError::Sink(SinkError::Store { source, .. })
            | LineError::Sink(SinkError::Footer(FooterError::Store(source)))
            | LineError::Resume(ResumeError::Footer(FooterError::Store(source))) => {
                source.is_transient()
            }
            // Read anew, they are of one log, or the next start says what was lost.
            LineError::Sink(SinkError::Chain {
                source: ChainError::OtherLog { .. },
                ..
            }) => true,
            LineError::Sink(SinkError::Injected(_))
            | LineError::OtherLog(_)
            | LineError::Make(
                MakeError::Decoder(_) | MakeError::Injected(_) | MakeError::Lacking(_),
            )
            | LineError::Injected(_)
            | LineError::Sealed(_)
            | LineError::Sink(SinkError::Outlived { .. })
            | LineError::Resume(ResumeError::Unsettled { .. }) => true,
            LineError::Produce(error) => error.is_temporary(),
            _ => false,
        }
    }
}
