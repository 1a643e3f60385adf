//! What Kafka says about a partition.

use super::chain::TopicIdentity;
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
    /// The offset.
    pub offset: Offset,
    /// The file that ends there, if it was us who committed.
    pub hint: Option<CommitHint>,
}

/// The metadata that we commit beside an offset: the file that ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHint {
    /// The file's chain.
    pub epoch: Epoch,
    /// The file's start.
    pub start: Offset,
}

impl CommitHint {
    /// As Kafka keeps it.
    pub fn to_metadata(self) -> String {
        format!("tagstream/{}/{}", self.epoch, self.start)
    }

    /// Reads it back; `None` for what we did not write.
    pub fn from_metadata(metadata: &str) -> Option<Self> {
        let (epoch, start) = metadata.strip_prefix("tagstream/")?.split_once('/')?;
        Some(CommitHint {
            epoch: Epoch(epoch.parse().ok()?),
            start: Offset(start.parse().ok()?),
        })
    }
}
