//! How a message becomes a row. The stage's source, ledger and sinks do not know what they carry:
//! images go through fetch, decode and inference, label events through a parser.

use super::sink::outgoing::Outgoing;
use super::sink::table::TableRow;
use super::source::SourceMessage;
use std::sync::Arc;
use tagstream_core::events::DeadLetterKind;
use tagstream_core::failpoint::Injected;
use tagstream_image::decode::DecodeError;
use tokio::sync::watch;

/// What a message came to.
#[derive(Debug)]
pub enum RowOutcome<R> {
    /// A row, and perhaps a message for the predictions topic.
    Row {
        /// The row.
        row: R,
        /// The message.
        prediction: Option<Outgoing>,
    },
    /// What the records of one message came to.
    Records {
        /// Rows of those that are good, of one layout, with their messages for the predictions
        /// topic.
        rows: Vec<(R, Option<Outgoing>)>,
        /// The others.
        refused: Vec<RefusedRecord>,
    },
    /// Nothing that can be used, and why.
    DeadLetter {
        /// The kind of failure.
        kind: DeadLetterKind,
        /// What went wrong, for people.
        reason: String,
    },
    /// Nothing, and nothing is wrong (a tombstone).
    Nothing,
    /// Nothing yet: it waited, and was asked to leave. The next reader reads it again.
    Left,
}

/// A record of a message that comes to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRecord {
    /// Which of the message's records it is.
    pub index: u32,
    /// The kind of failure.
    pub kind: DeadLetterKind,
    /// What went wrong, for people.
    pub reason: String,
}

/// Asks whoever waits for something else than work to leave: the stage stops, or gives the
/// partition back. What is being worked on is finished.
#[derive(Debug, Clone)]
pub struct Leave(Option<watch::Receiver<bool>>);

impl Leave {
    /// One that asks when `true` is sent, or the sender is gone.
    pub fn new(asked: watch::Receiver<bool>) -> Self {
        Leave(Some(asked))
    }

    /// One that has asked.
    pub fn now() -> Self {
        Leave(Some(watch::channel(true).1))
    }

    /// One that never asks.
    pub fn never() -> Self {
        Leave(None)
    }

    /// Ends when asked to leave.
    pub async fn asked(&self) {
        match &self.0 {
            // An error means that the sender is gone.
            Some(asked) => _ = asked.clone().wait_for(|asked| *asked).await,
            None => std::future::pending().await,
        }
    }
}

/// Why no message can become a row any more.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The model is gone.
    #[error("inference stopped: {0}")]
    Model(String),
    /// This process lacked something for longer than it may wait.
    #[error("{0}; nothing was given up: what is not in files is read again by the next run")]
    Lacking(String),
    /// Images cannot be decoded any more, whatever they are.
    #[error(transparent)]
    Decoder(DecodeError),
    /// A test made it fail.
    #[error(transparent)]
    Injected(#[from] Injected),
}

/// Makes rows of one table.
pub trait RowMaker: Send + Sync + 'static {
    /// The table's rows.
    type Row: TableRow;

    /// Works on one message. Every wait in it has a deadline, or ends when `leave` asks.
    ///
    /// # Errors
    /// [`MakeError`] ends the stage; what is wrong with one message is a dead letter.
    fn make(
        &self,
        message: &SourceMessage,
        leave: &Leave,
    ) -> impl Future<Output = Result<RowOutcome<Self::Row>, MakeError>> + Send;

    /// Takes note that nothing of a message can be used.
    fn gave_up(&self, message: &SourceMessage, kind: DeadLetterKind, reason: &str) {
        let _ = (message, kind, reason);
    }

    /// The layout of rows made now; files without rows take it.
    fn layout(&self) -> Arc<<Self::Row as TableRow>::Layout>;

    /// Bytes that a row may take beside its message: taken from the budget before the message is
    /// worked on, so that finishing it never has to wait for memory.
    fn row_bytes(&self) -> u64;

    /// How many rows a message may become, for the budget; what cannot be read counts as one.
    fn rows_in(&self, _message: &SourceMessage) -> u64 {
        1
    }

    /// How many messages are worked on at once.
    fn places(&self) -> usize;

    /// Takes note of how many partitions share what there is.
    fn share_among(&self, _partitions: usize) {}
}
