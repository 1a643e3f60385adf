//! The chain of files of one partition: the decisions of exactly-once, without any IO.
//!
//! A file holds a half-open range of offsets and its name depends on the range's *start* only. A
//! start is always the origin or the end of a file that exists, files never change, and each start
//! can be put once. So the files of an epoch form one chain without overlap or gap, whoever wrote
//! them and however late. The model checker in `chain_model.rs` walks every interleaving of two
//! writers with lost answers and crashes.

use super::lineage::LogLineage;
use serde::{Deserialize, Serialize};
use tagstream_core::events::{Offset, OffsetRange};
use tagstream_core::storage::names::Epoch;

/// Who wrote a file: one process and one assignment of the partition to it. Never used twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(pub String);

/// The end of a chain for good: the file that carries it has no rows, and the next epoch goes on at
/// `origin`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seal {
    /// First offset of the next epoch.
    pub origin: Offset,
    /// Why the chain was ended.
    pub reason: SealReason,
    /// The topic's identity, as the next epoch's origin will carry it.
    pub identity: TopicIdentity,
    /// The group's committed offset at that time; it says nothing about the next epoch.
    pub group_offset: Option<Offset>,
    /// Set where the log lost its end: what the chain holds from there on is in the log no more,
    /// and its offsets were given to other messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated_at: Option<Offset>,
}

/// Why a chain was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SealReason {
    /// An operator asked for a new epoch (a skip, a re-created topic).
    NewEpoch,
    /// An operator accepted that retention deleted messages before they were read.
    AcceptedGap,
}

/// Which topic of which cluster a chain belongs to. What the broker does not tell is `None` and is
/// not compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct TopicIdentity {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The topic's id (base64), changed when a topic is deleted and created again.
    pub topic_id: Option<String>,
}

impl TopicIdentity {
    /// Whether both are known to be the same topic.
    pub fn is_surely(&self, other: &TopicIdentity) -> bool {
        self.topic_id.is_some() && self.topic_id == other.topic_id && !self.contradicts(other)
    }

    /// Whether both cannot be the same topic.
    pub fn contradicts(&self, other: &TopicIdentity) -> bool {
        let differ =
            |a: &Option<String>, b: &Option<String>| matches!((a, b), (Some(a), Some(b)) if a != b);
        differ(&self.cluster_id, &other.cluster_id) || differ(&self.topic_id, &other.topic_id)
    }
}

/// What a committed file says about itself, in its footer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileFacts {
    /// The offsets it holds.
    pub range: OffsetRange,
    /// Who wrote it.
    pub writer: WriterId,
    /// Set on the file that ends a chain for good.
    pub seal: Option<Seal>,
    /// Which log it and the files before it were read from.
    pub lineage: LogLineage,
}

/// Where a partition's next file starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    /// The chain written to.
    pub epoch: Epoch,
    /// The end so far: the next file's start.
    pub end: Offset,
    /// Which log the files were read from.
    pub lineage: LogLineage,
}

/// A file about to be put.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Proposal {
    /// Its chain.
    pub epoch: Epoch,
    /// The offsets it holds.
    pub range: OffsetRange,
    /// Who writes it.
    pub writer: WriterId,
    /// Which log it and the files before it were read from.
    pub lineage: LogLineage,
}

impl Proposal {
    /// Whether a file with the same start was read from the same log, as far as that is known.
    fn agrees_with(&self, facts: &FileFacts) -> bool {
        let (Some((ours, _)), Some((theirs, _))) = (self.lineage.last(), facts.lineage.last())
        else {
            return true;
        };
        let both = self.range.end.min(facts.range.end);
        let earlier = ours.min(theirs);
        // Up to where both have read, they have read the same messages.
        (ours == theirs || ours.max(theirs) >= both)
            && self.lineage.leader_epoch_at(earlier) == facts.lineage.leader_epoch_at(earlier)
    }
}

/// What the store answered to a create-if-absent put.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PutAnswer {
    /// The file is now there, and it is ours.
    Created,
    /// A file of that name was there; this is what it says.
    Exists(FileFacts),
    /// A file of that name was said to be there, but could not be found when it was read.
    Vanished,
    /// No answer, or one that says to try again: the file may or may not have landed.
    Unknown,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChainOutcome {
    /// The file is committed; the chain has moved to its end.
    Landed,
    /// Put the same bytes again.
    Repeat,
    /// Another writer was first. The chain has moved to the winner's end; rows before it are
    /// covered and must be dropped.
    Covered {
        /// The winner's end.
        to: Offset,
    },
    /// The chain was ended for good; nothing may be written to it any more.
    Sealed(Seal),
}

/// What can only be a bug or foreign hands in the folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The file to be put does not start at the chain's end.
    #[error("a file for {range} does not continue a chain that ends at {end}")]
    NotContiguous {
        /// The range proposed.
        range: OffsetRange,
        /// The chain's end.
        end: Offset,
    },
    /// A file without a seal would hold no offset: the chain could not advance.
    #[error("a file for the empty range {range} would not advance the chain")]
    Empty {
        /// The range proposed.
        range: OffsetRange,
    },
    /// The file found under a name does not start where its name says, or does not advance.
    #[error(
        "the file that should start at {start} says that it holds {found}: it was not written by \
         tagstream, or it was changed"
    )]
    Foreign {
        /// The start that the name says.
        start: Offset,
        /// The range that the footer says.
        found: OffsetRange,
    },
    /// The messages were read from a log that has lost them since, or is not yet the one that the
    /// files before were read from.
    #[error(
        "the messages of {range} were read from another log than the files before them: it was \
         truncated meanwhile"
    )]
    OtherLog {
        /// The range proposed.
        range: OffsetRange,
    },
}

impl Chain {
    /// A chain that ends at `end`.
    pub fn new(epoch: Epoch, end: Offset) -> Self {
        let lineage = LogLineage::default();
        Chain {
            epoch,
            end,
            lineage,
        }
    }

    /// The file that continues the chain with `range`, whose messages are of the log that `read`
    /// tells.
    ///
    /// # Errors
    /// [`ChainError`] unless `range` starts at the chain's end, holds an offset, and is of the
    /// chain's log.
    pub fn propose(
        &self,
        range: OffsetRange,
        writer: &WriterId,
        read: &LogLineage,
    ) -> Result<Proposal, ChainError> {
        if range.start != self.end {
            return Err(ChainError::NotContiguous {
                range,
                end: self.end,
            });
        }
        if range.is_empty() {
            return Err(ChainError::Empty { range });
        }
        let lineage = self.lineage.then(read);
        Ok(Proposal {
            epoch: self.epoch,
            range,
            writer: writer.clone(),
            lineage: lineage.map_err(|_| ChainError::OtherLog { range })?,
        })
    }

    /// Moves the chain over a file found at its end (the resume walk).
    ///
    /// # Errors
    /// [`ChainError::Foreign`] if the file does not continue the chain.
    pub fn follow(&mut self, facts: &FileFacts) -> Result<ChainOutcome, ChainError> {
        let advances = facts.seal.is_some() || !facts.range.is_empty();
        if facts.range.start != self.end || !advances {
            return Err(ChainError::Foreign {
                start: self.end,
                found: facts.range,
            });
        }
        self.end = facts.range.end;
        self.lineage = facts.lineage.clone();
        Ok(match &facts.seal {
            Some(seal) => ChainOutcome::Sealed(seal.clone()),
            None => ChainOutcome::Covered { to: self.end },
        })
    }

    /// Decides what follows from the store's answer to putting `proposal`.
    ///
    /// # Errors
    /// [`ChainError`] if the answer contradicts the chain.
    pub fn answer(
        &mut self,
        proposal: &Proposal,
        answer: PutAnswer,
    ) -> Result<ChainOutcome, ChainError> {
        if proposal.range.start != self.end || proposal.epoch != self.epoch {
            return Err(ChainError::NotContiguous {
                range: proposal.range,
                end: self.end,
            });
        }
        match answer {
            PutAnswer::Created => {
                self.landed(proposal);
                Ok(ChainOutcome::Landed)
            }
            PutAnswer::Unknown | PutAnswer::Vanished => Ok(ChainOutcome::Repeat),
            // A put whose answer was lost had landed.
            PutAnswer::Exists(facts)
                if facts.writer == proposal.writer
                    && facts.range == proposal.range
                    && facts.seal.is_none() =>
            {
                self.landed(proposal);
                Ok(ChainOutcome::Landed)
            }
            PutAnswer::Exists(facts) => {
                // A writer that read before the log was cut may be first, and cover what came anew.
                if facts.seal.is_none() && !proposal.agrees_with(&facts) {
                    return Err(ChainError::OtherLog {
                        range: proposal.range,
                    });
                }
                self.follow(&facts)
            }
        }
    }

    fn landed(&mut self, proposal: &Proposal) {
        self.end = proposal.range.end;
        self.lineage = proposal.lineage.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end)).unwrap()
    }
    fn writer(name: &str) -> WriterId {
        WriterId(name.into())
    }
    fn facts(start: i64, end: i64, by: &str) -> FileFacts {
        FileFacts {
            range: range(start, end),
            writer: writer(by),
            seal: None,
            lineage: LogLineage::default(),
        }
    }
    fn started() -> (Chain, Proposal) {
        let chain = Chain::new(Epoch(0), Offset(10));
        let read = LogLineage::default();
        let proposal = chain.propose(range(10, 20), &writer("a"), &read).unwrap();
        (chain, proposal)
    }

    #[test]
    fn only_the_exact_continuation_can_be_proposed() {
        let (chain, _) = started();
        for bad in [range(9, 20), range(11, 20), range(10, 10)] {
            let read = LogLineage::default();
            assert!(chain.propose(bad, &writer("a"), &read).is_err(), "{bad}");
        }
    }

    #[test]
    fn created_and_a_lost_answer_both_land() {
        for answer in [PutAnswer::Created, PutAnswer::Exists(facts(10, 20, "a"))] {
            let (mut chain, proposal) = started();
            assert_eq!(chain.answer(&proposal, answer), Ok(ChainOutcome::Landed));
            assert_eq!(chain.end, Offset(20));
        }
    }

    #[test]
    fn an_unknown_or_contradictory_answer_repeats_the_same_put() {
        for answer in [PutAnswer::Unknown, PutAnswer::Vanished] {
            let (mut chain, proposal) = started();
            assert_eq!(chain.answer(&proposal, answer), Ok(ChainOutcome::Repeat));
            assert_eq!(chain.end, Offset(10));
        }
    }

    #[test]
    fn the_loser_moves_to_the_winners_end_shorter_or_longer() {
        for end in [15, 20, 30] {
            let (mut chain, proposal) = started();
            let step = chain.answer(&proposal, PutAnswer::Exists(facts(10, end, "b")));
            assert_eq!(step, Ok(ChainOutcome::Covered { to: Offset(end) }));
            assert_eq!(chain.end, Offset(end));
        }
    }

    #[test]
    fn rows_of_a_log_that_was_truncated_meanwhile_are_not_proposed() {
        let read = |offset, leader_epoch| {
            let mut lineage = LogLineage::default();
            lineage.read(Offset(offset), Some(leader_epoch));
            lineage
        };
        let (mut chain, proposal) = started();
        // The winner had read on, under the new leader.
        let won = FileFacts {
            lineage: read(10, 5),
            ..facts(10, 12, "b")
        };
        chain.answer(&proposal, PutAnswer::Exists(won)).unwrap();
        let late = chain.propose(range(12, 20), &writer("a"), &read(12, 4));
        let range = range(12, 20);
        assert_eq!(late, Err(ChainError::OtherLog { range }));
        let next = chain.propose(range, &writer("a"), &read(12, 6)).unwrap();
        assert_eq!(next.lineage.leader_epoch(), Some(6));
    }

    #[test]
    fn a_winner_that_read_another_log_is_not_followed() {
        let read = |offsets: std::ops::Range<i64>, leader_epoch| {
            let mut lineage = LogLineage::default();
            offsets.for_each(|offset| lineage.read(Offset(offset), Some(leader_epoch)));
            lineage
        };
        let chain = Chain::new(Epoch(0), Offset(10));
        let ours = read(10..20, 5);
        let proposal = chain.propose(range(10, 20), &writer("a"), &ours).unwrap();
        for (end, lineage, agrees) in [
            (15, read(10..15, 5), true),
            (30, read(10..30, 5), true),
            (15, LogLineage::default(), true),
            // It found no messages where we did.
            (20, read(10..18, 5), false),
            (15, read(10..15, 4), false),
            (30, read(10..30, 4), false),
        ] {
            let won = FileFacts {
                lineage,
                ..facts(10, end, "b")
            };
            let answer = chain.clone().answer(&proposal, PutAnswer::Exists(won));
            let range = range(10, 20);
            match agrees {
                true => assert_eq!(answer, Ok(ChainOutcome::Covered { to: Offset(end) })),
                false => assert_eq!(answer, Err(ChainError::OtherLog { range })),
            }
        }
    }

    #[test]
    fn a_foreign_file_is_an_error() {
        for bad in [facts(11, 20, "b"), facts(10, 10, "b")] {
            let (mut chain, proposal) = started();
            assert!(matches!(
                chain.answer(&proposal, PutAnswer::Exists(bad)),
                Err(ChainError::Foreign { .. })
            ));
        }
    }

    #[test]
    fn a_seal_ends_the_chain_for_the_owner_and_the_zombie() {
        let (mut chain, proposal) = started();
        let seal = Seal {
            origin: Offset(500),
            reason: SealReason::NewEpoch,
            identity: TopicIdentity::default(),
            group_offset: None,
            truncated_at: None,
        };
        let sealed = FileFacts {
            seal: Some(seal.clone()),
            ..facts(10, 10, "operator")
        };
        assert_eq!(
            chain.answer(&proposal, PutAnswer::Exists(sealed)),
            Ok(ChainOutcome::Sealed(seal))
        );
    }

    #[test]
    fn an_identity_contradicts_only_what_both_know() {
        let id = |c: Option<&str>, t: Option<&str>| TopicIdentity {
            cluster_id: c.map(Into::into),
            topic_id: t.map(Into::into),
        };
        assert!(id(Some("a"), Some("x")).contradicts(&id(Some("a"), Some("y"))));
        assert!(id(Some("a"), None).contradicts(&id(Some("b"), None)));
        assert!(!id(None, Some("x")).contradicts(&id(Some("b"), None)));
    }
}
