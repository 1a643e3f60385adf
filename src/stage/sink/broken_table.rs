//! What is said where a chain cannot go on by itself: the input does not fit it, or a part of it is
//! gone that `tagstream table expire` did not take.

use super::chain::TopicIdentity;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::names::Epoch;

/// Why a partition cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokenChain {
    /// The chain lies ahead of the log: the topic was deleted and created again, or lost its end.
    AheadOfLog {
        /// The log's end.
        high: Offset,
    },
    /// The topic or the cluster is not the one that the chain was read from.
    Recreated {
        /// What the chain says.
        expected: TopicIdentity,
        /// What Kafka says.
        found: TopicIdentity,
    },
    /// Retention deleted messages before they were read.
    Overtaken {
        /// The log's beginning.
        low: Offset,
    },
    /// The group's offset was committed with a file that is gone.
    FilesGone {
        /// The group's offset.
        committed: Offset,
    },
    /// The group's offset was moved by hand to where no file ends.
    OffsetMoved {
        /// The group's offset.
        committed: Offset,
    },
}

pub(super) fn broken_message(
    partition: &PartitionId,
    epoch: Epoch,
    end: Offset,
    broken: &BrokenChain,
) -> String {
    let chain = format!("{partition}: the files of epoch {epoch} end at offset {end}");
    let at = format!("{partition}@{end}");
    match broken {
        BrokenChain::AheadOfLog { high } => format!(
            "{chain}, but the log ends at {high}: the topic was deleted and created again, or \
             lost its newest messages. \
             To read the log from its beginning: tagstream run --new-epoch {at}=earliest"
        ),
        BrokenChain::Recreated { expected, found } => format!(
            "{chain} and were read from another topic of that name (then {expected:?}, now \
             {found:?}). \
             To read the new one from its beginning: tagstream run --new-epoch {at}=earliest"
        ),
        BrokenChain::Overtaken { low } => format!(
            "{chain}, but the log now begins at {low}: retention deleted {} offsets before they \
             were read. \
             To record the gap and go on: tagstream run --accept-gap {at}",
            low.0 - end.0
        ),
        BrokenChain::FilesGone { committed } => {
            format!("{chain}, {}", files_gone(partition, end, *committed))
        }
        BrokenChain::OffsetMoved { committed } => format!(
            "{chain}, but the group's offset was moved to {committed}, where no file ends. To \
             skip to it: \
             tagstream run --new-epoch {at}={committed}. To stay with the files: reset the \
             group's offset to {end}. \
             To read messages again, write to a new table"
        ),
    }
}

/// A chain without its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostChain {
    /// The chain.
    pub epoch: Epoch,
    /// Where it ended at least.
    pub end: Offset,
    /// What tells of it.
    told_by: Teller,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Files,
    Group,
}

const DELETED: &str = "something else than `tagstream table expire` deleted a part of the table (a \
                       lifecycle rule of the bucket?). Nothing was written. Bring it back if the \
                       store keeps versions";

impl LostChain {
    /// Files are there, their origin is not.
    pub(super) fn by_files(epoch: Epoch, end: Offset) -> Self {
        let told_by = Teller::Files;
        LostChain {
            epoch,
            end,
            told_by,
        }
    }

    /// The group's offset names a file of a chain of which nothing is there.
    pub(super) fn by_group(epoch: Epoch, end: Offset) -> Self {
        let told_by = Teller::Group;
        LostChain {
            epoch,
            end,
            told_by,
        }
    }

    /// The cause and what helps.
    pub(super) fn message(&self, partition: &PartitionId, folder: &str) -> String {
        let LostChain { epoch, end, .. } = self;
        let seen = match self.told_by {
            Teller::Files => format!(
                "{folder} holds files of epoch {epoch} up to offset {end}, but not \
                 `_{epoch}-origin.json`, with which they begin"
            ),
            Teller::Group => format!(
                "the group's offset {end} was committed with a file of epoch {epoch} of this \
                 table, but {folder} holds nothing of that epoch"
            ),
        };
        format!(
            "{partition}: {seen}: {DELETED}; or go on from there: tagstream run --new-epoch \
             {partition}@{end}={end}. To read messages again, write to a new table"
        )
    }
}

/// The end of a message: files that the group's offset tells of are gone from a chain's end.
fn files_gone(partition: &PartitionId, end: Offset, committed: Offset) -> String {
    format!(
        "but the group's offset {committed} was committed with a file that ended there, and it is \
         gone: {DELETED}; or go on from there: tagstream run --new-epoch \
         {partition}@{end}={committed}"
    )
}
