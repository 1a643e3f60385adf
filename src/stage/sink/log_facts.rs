//! What Kafka says about a partition.

use super::chain::TopicIdentity;
use super::hint::{CommitHint, TableTag};
use tagstream_core::events::Offset;
use tagstream_core::storage::names::Epoch;

/// What Kafka says about a partition when it is assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFacts {
    /// The oldest offset kept.
    pub low: Offset,
    /// The last stable offset: where the oldest open transaction begins, else as `high`.
    pub stable: Offset,
    /// The offset after the newest record.
    pub high: Offset,
    /// The epoch of the partition's leader; `None` where the broker does not tell.
    pub leader_epoch: Option<i32>,
    /// The group's committed offset.
    pub committed: Option<CommittedOffset>,
    /// Which topic of which cluster this is.
    pub identity: TopicIdentity,
}

/// A committed offset: a hint at the chain's end, and a way to notice that somebody moved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// Of the message that the facts are about.
    pub offset: Offset,
    /// The table that it was committed for, where that is known.
    pub table: Option<TableTag>,
    /// The file that ends there, if it was us who committed.
    pub hint: Option<CommitHint>,
}

impl CommittedOffset {
    /// Whether it was committed with a file of this epoch of this table.
    pub(super) fn tells_of(&self, table: TableTag, epoch: Epoch) -> bool {
        self.table.is_none_or(|t| t == table) && self.hint.is_some_and(|h| h.epoch == epoch)
    }
}
