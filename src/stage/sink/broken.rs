//! Why a log cannot continue a chain, and what a person can do about it. Every command that a
//! refusal prints is made here.

use super::broken_table::DELETED;
use super::chain::{Chain, TopicIdentity};
use super::hint::CommitHint;
use super::repair::{Repair, RepairKind, SkipTo};
use tagstream_core::events::{Offset, PartitionId};

/// Why a partition cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokenChain {
    /// The chain lies ahead of the log: the topic was deleted and created again, or lost its end.
    AheadOfLog {
        /// The log's end.
        high: Offset,
        /// Whether the topic is known to be the same.
        same_topic: bool,
    },
    /// The log lost its end, and it was written anew.
    Truncated {
        /// The first offset that now belongs to another message, or to none.
        at: Offset,
        /// Whether no offset before it does; else files of older versions tell too little.
        known: bool,
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
        /// The log's end.
        high: Offset,
    },
}

impl BrokenChain {
    /// What may be done about it, for a chain of `partition` that ends at `end`: none of it puts a
    /// message into the table twice.
    pub fn remedies(&self, partition: &PartitionId, end: Offset) -> Vec<Repair> {
        let kinds: &[RepairKind] = match self {
            BrokenChain::AheadOfLog {
                same_topic: true, ..
            } => &[RepairKind::NewEpoch(SkipTo::Latest)],
            BrokenChain::AheadOfLog { .. } | BrokenChain::Recreated { .. } => {
                &[RepairKind::NewEpoch(SkipTo::Earliest)]
            }
            BrokenChain::Truncated { at, .. } => &[RepairKind::NewEpoch(SkipTo::At(*at))],
            BrokenChain::Overtaken { .. } => &[RepairKind::AcceptGap],
            BrokenChain::FilesGone { committed } => &[RepairKind::NewEpoch(SkipTo::At(*committed))],
            BrokenChain::OffsetMoved { committed, high }
                if end < *committed && committed <= high =>
            {
                &[
                    RepairKind::NewEpoch(SkipTo::At(*committed)),
                    RepairKind::RestoreOffset,
                ]
            }
            BrokenChain::OffsetMoved { .. } => &[RepairKind::RestoreOffset],
        };
        let of = |kind: &RepairKind| Repair {
            partition: partition.clone(),
            end,
            kind: *kind,
        };
        kinds.iter().map(of).collect()
    }

    /// What was found and what to do, after "the files end at offset END, ".
    pub(super) fn message(&self, partition: &PartitionId, end: Offset) -> String {
        let remedies = self.remedies(partition, end);
        let [first, rest @ ..] = &remedies[..] else {
            unreachable!("something can always be done");
        };
        match self {
            BrokenChain::AheadOfLog {
                high,
                same_topic: true,
            } => format!(
                "but the log of the same topic ends at {high}: brokers lost its newest messages. \
                 Since which offset is not known, for the files tell no leader epochs; messages \
                 that were written anew before {high} can only be read to a new table. \
                 To go on with what comes from now on: {first}"
            ),
            BrokenChain::AheadOfLog { high, .. } => format!(
                "but the log ends at {high}: the topic was deleted and created again, or lost its \
                 newest messages. To read the log from its beginning: {first}"
            ),
            BrokenChain::Truncated { at, known, high } => format!(
                "but brokers lost what the log had from offset {at} on (it ends at {high} now): \
                 messages that are in files are in the log no more, and others have their offsets. \
                 {}To read on where the log was cut: {first}",
                match known {
                    true => "",
                    false => {
                        "It may have been cut even before, where the files tell no leader epochs: \
                         what was written anew there can only be read to a new table. "
                    }
                }
            ),
            BrokenChain::Recreated { expected, found } => format!(
                "and were read from another topic of that name (then {expected:?}, now {found:?}). \
                 To read the new one from its beginning: {first}"
            ),
            BrokenChain::Overtaken { low } => format!(
                "but the log now begins at {low}: retention deleted {} offsets before they were \
                 read. To record the gap and go on: {first}",
                low.0 - end.0
            ),
            BrokenChain::FilesGone { committed } => format!(
                "but the group's offset {committed} was committed with a file that ended there, \
                 and it is gone: {DELETED}. To go on from there: {first}"
            ),
            BrokenChain::OffsetMoved { committed, .. } => match rest {
                [stay] => format!(
                    "but the group's offset was moved to {committed}, where no file ends. To skip \
                     what lies between: {first} or, to stay with the files: {stay}"
                ),
                _ => format!(
                    "but the group's offset was moved to {committed}, where no file ends, and \
                     cannot be followed: what lies before {end} is in files, what lies behind the \
                     log's end was never written. To read messages again, write to a new table. \
                     To stay with the files: {first}"
                ),
            },
        }
    }
}

/// Where a partition goes on, if nothing speaks against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// The chain, at its end.
    pub chain: Chain,
    /// The start of its last file.
    pub last_start: Option<Offset>,
    /// Why the log cannot continue it.
    pub broken: Option<BrokenChain>,
}

impl Resumed {
    /// The file that ends where the chain does.
    pub fn hint(&self) -> Option<CommitHint> {
        let epoch = self.chain.epoch;
        self.last_start.map(|start| CommitHint { epoch, start })
    }
}
