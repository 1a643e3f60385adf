//! A partition that is ours for now.

use super::lives::PartitionWatch;
use crate::stage::ledger::{CutReason, Ledger};
use crate::stage::sink::chain::{Chain, WriterId};
use crate::stage::sink::files::Fence;
use crate::stage::sink::lineage::LogLineage;
use crate::stage::sink::table::TableRow;
use crate::stage::source::{Generation, OffsetCommit};
use tagstream_core::events::Offset;
use tokio::sync::watch;
use tokio::time::Instant;

/// A partition that is ours for now.
pub(super) struct Owned<R: TableRow> {
    pub generation: Generation,
    pub ledger: Ledger<R>,
    /// The end of the files; `None` while a file is on its way.
    pub chain: Option<Chain>,
    pub writer: WriterId,
    pub fence: Fence,
    /// What the guard says of it; `None` where no record of its lives can be kept.
    pub watch: Option<PartitionWatch>,
    /// Where its files end.
    pub end: Offset,
    /// Which log they were read from.
    pub lineage: LogLineage,
    /// The log's end as of the start of a run that reads to the end, and markers behind it; else as
    /// of the assignment.
    pub log_end: Offset,
    /// Whether everything up to `log_end` was read.
    pub read_to_end: bool,
    /// Tells messages in the making to leave.
    pub leave: watch::Sender<bool>,
    /// What would be committed to Kafka now.
    pub committed: Option<OffsetCommit>,
}

impl<R: TableRow> Owned<R> {
    /// Whether nothing more can be done for it before it is given back: what was left, and what
    /// comes after it, is read again.
    pub(super) fn is_settled(&self) -> bool {
        let blocked = self.ledger.is_blocked() && !self.ledger.has_ready();
        self.chain.is_some() && (self.ledger.is_empty() || blocked)
    }

    /// Asks messages that wait for others than this process to be left.
    pub(super) fn ask_to_leave(&self) {
        self.leave.send_replace(true);
    }

    /// Why a file should be cut now, if it should. `flush`: nothing more is to be read;
    /// `last_call`: do not wait for what is in the making.
    pub(super) fn due(&self, now: Instant, flush: bool, last_call: bool) -> Option<CutReason> {
        self.chain.as_ref()?;
        let ledger = &self.ledger;
        let complete = last_call || ledger.making() == 0 || ledger.is_blocked();
        let flushed = flush && ledger.has_ready() && complete;
        self.ledger.due(now).or(flushed.then_some(CutReason::Flush))
    }

    /// Notes that everything up to `log_end` was read, if so.
    pub(super) fn note_progress(&mut self) {
        self.read_to_end |= self.ledger.next() >= self.log_end;
    }
}
