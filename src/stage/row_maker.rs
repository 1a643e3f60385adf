//! How a message becomes a row. The stage's source, ledger and sinks do not know what they carry:
//! images go through fetch, decode and inference, label events through a parser.

use super::sink::outgoing::Outgoing;
use super::sink::table::TableRow;
use super::source::SourceMessage;
use std::sync::Arc;
use tagstream_core::events::DeadLetterKind;
use tagstream_core::failpoint::Injected;
use tagstream_image::decode::DecodeError;

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
    /// Nothing that can be used, and why.
    DeadLetter {
        /// The kind of failure.
        kind: DeadLetterKind,
        /// What went wrong, for people.
        reason: String,
    },
    /// Nothing, and nothing is wrong (a tombstone).
    Nothing,
}

/// Why no message can become a row any more.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The model is gone.
    #[error("inference stopped: {0}")]
    Model(String),
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

    /// Works on one message. Must end by itself: every wait in it has a deadline.
    ///
    /// # Errors
    /// [`MakeError`] ends the stage; what is wrong with one message is a dead letter.
    fn make(
        &self,
        message: &SourceMessage,
    ) -> impl Future<Output = Result<RowOutcome<Self::Row>, MakeError>> + Send;

    /// The layout of rows made now; files without rows take it.
    fn layout(&self) -> Arc<<Self::Row as TableRow>::Layout>;

    /// Bytes that a row may take beside its message: taken from the budget before the message is
    /// worked on, so that finishing it never has to wait for memory.
    fn row_bytes(&self) -> u64;

    /// How many messages are worked on at once.
    fn places(&self) -> usize;
}
