//! The source: a librdkafka consumer polled on a thread of its own, which never waits for inference
//! or a sink.
//!
//! Start positions come from the files, not from Kafka: the assign callback asks the stage where
//! each partition's chain ends and sets that. On a revoke the stage finishes what it can, its
//! commit is sent, and only then the partition is given up. Memory is bounded by admission: a
//! message goes on only with a reservation on the budget; if none is free for a second, partitions
//! are paused (and the consumer is polled on, so that the group keeps us). Where only one partition
//! has too much in the making, only that one is.

mod admission;
mod asking;
mod client;
mod clients;
mod commits;
mod context;
mod continuity;
mod held;
mod interdependent;
mod leader_epochs;
mod listing;
mod log_ends;
mod logins;
mod msk;
mod properties;
mod reading;
mod recreated;
mod security;
mod thread;
mod token_keys;
mod tokens;
mod topic_identity;
mod topic_names;
mod trouble;

pub use admission::{Admission, Place, Short};
pub(in crate::stage) use client::has_controller;
pub use client::{Broker, Logs, Reached, Silence};
pub use clients::{ClientSettings, Covering, await_token};
pub use continuity::compared;
pub use listing::{Listing, OnStart};
pub use properties::{Refusal, check_properties, known_properties};
pub use reading::LogRecord;
pub use recreated::recreated;
pub use security::{SecurityFeatures, security_features};
pub use thread::{Source, SourceSettings};
pub use topic_names::{ImageTopics, require_topics};
pub use trouble::{Cause, Trouble, Troubles};

use super::budget::Reservation;
use super::sink::hint::CommitHint;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::sync::mpsc::SyncSender;
use tagstream_core::events::{MessageError, Offset, PartitionId, header, readable_time};
#[cfg(test)]
use thread::consumer_settings;

/// A message as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceMessage {
    /// Where it came from.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that took it; `None` where the broker does not tell.
    pub leader_epoch: Option<i32>,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Its Kafka timestamp.
    pub timestamp: Option<DateTime<Utc>>,
}

impl SourceMessage {
    /// Bytes of memory that it holds, roughly.
    pub fn bytes(&self) -> u64 {
        let of = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + of(v) + 64).sum();
        (std::mem::size_of::<Self>() + of(&self.key) + of(&self.payload) + headers) as u64
    }

    /// The time of what it tells: what it says itself (`own`), else the time that it had before
    /// it was sent again, else its Kafka timestamp, which producers set as they like, else now.
    ///
    /// # Errors
    /// [`MessageError::TimeOutOfRange`] if the tables' readers could not read its timestamp.
    pub fn time_of(&self, own: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, MessageError> {
        let timestamp = self.time_before_replay().or(self.timestamp);
        if let (None, Some(timestamp)) = (own, timestamp) {
            readable_time(timestamp, "Kafka timestamp (it has no `event_time`)")?;
        }
        Ok(own.or(timestamp).unwrap_or_else(Utc::now))
    }

    fn time_before_replay(&self) -> Option<DateTime<Utc>> {
        let named = |(name, _): &&(String, Option<Bytes>)| name == header::REPLAY_TIME;
        let value = self.headers.iter().rev().find(named)?.1.as_deref()?;
        let millis = std::str::from_utf8(value).ok()?.parse().ok()?;
        DateTime::from_timestamp_millis(millis)
    }
}

/// Which assignment of a partition to this process something belongs to; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

/// A commit of the group's offset, and the file that ends there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Which log it is read from.
    pub partition: PartitionId,
    /// The offset: everything before it is in files.
    pub offset: Offset,
    /// The file that ends there; `None` where a chain begins.
    pub hint: Option<CommitHint>,
    /// The epoch of the leader that the last of it was read from.
    pub leader_epoch: Option<i32>,
}

/// Where a partition is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPosition {
    /// Which log it is read from.
    pub partition: PartitionId,
    /// The first offset.
    pub offset: Offset,
    /// The epoch of the leader that the record before was read from: with it librdkafka notices by
    /// itself that a log was truncated.
    pub leader_epoch: Option<i32>,
}

/// What the source tells the stage.
#[derive(Debug)]
pub enum SourceEvent {
    /// Partitions were assigned. The consumer waits for the offsets to start from; dropping `reply`
    /// ends it.
    Assigned {
        /// The assignment.
        generation: Generation,
        /// The partitions.
        partitions: Vec<PartitionId>,
        /// Where each starts.
        reply: SyncSender<Vec<StartPosition>>,
    },
    /// Partitions are taken away. The consumer waits until the stage has let go of them.
    Revoked {
        /// The partitions.
        partitions: Vec<PartitionId>,
        /// Whether they were lost without being asked for: somebody else may own them already.
        lost: bool,
        /// What to commit before they are given up.
        reply: SyncSender<Vec<OffsetCommit>>,
    },
    /// A message, admitted.
    Message {
        /// The assignment that it was read under.
        generation: Generation,
        /// The message.
        message: SourceMessage,
        /// Bytes for it and its row.
        reservation: Reservation,
        /// Its place among those in the making.
        place: Place,
    },
    /// What readers may see of a partition was read to its end.
    End {
        /// The assignment that it was read under.
        generation: Generation,
        /// The partition.
        partition: PartitionId,
        /// Nothing before this offset is still to come: it lies after the last message, and after
        /// markers of transactions behind it. `None` where nothing was read since the assignment.
        position: Option<Offset>,
        /// The log's end, which lies further on while a transaction is open.
        high: Offset,
    },
    /// A message waits because memory is short.
    MemoryShort,
    /// The group's offsets were committed.
    OffsetsCommitted,
    /// The consumer cannot go on.
    Failed(SourceError),
    /// The consumer has left the group.
    Stopped,
}

/// What the stage tells the source.
#[derive(Debug)]
pub enum SourceCommand {
    /// Commit the group's offset.
    Commit(OffsetCommit),
    /// Read no more messages, but stay in the group.
    StopReading,
    /// Commit these, leave the group and end.
    Stop(Vec<OffsetCommit>),
}

/// Why the source cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// librdkafka refused the configuration.
    #[error("configuration: {0}")]
    Config(#[from] Refusal),
    /// The brokers do not answer.
    #[error("no answer from the brokers at {brokers}: {reason}")]
    Unreachable {
        /// The brokers asked.
        brokers: String,
        /// What librdkafka says.
        reason: String,
    },
    /// The brokers answer, and send their clients to an address that is no good here.
    #[error(
        "the brokers at {brokers} answer, but send clients on to {address} (their \
         `advertised.listeners`), and from here {cause}"
    )]
    Advertised {
        /// The brokers asked.
        brokers: String,
        /// Where they send clients.
        address: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The brokers are there, but this configuration does not fit them.
    #[error("the brokers at {brokers} cannot be used as configured: {trouble}")]
    Unfit {
        /// The brokers asked.
        brokers: String,
        /// What is wrong.
        trouble: Trouble,
    },
    /// The topic is not there.
    #[error("the brokers at {brokers} have no topic {topic:?}: create it, then start again")]
    NoTopic {
        /// The brokers asked.
        brokers: String,
        /// The topic.
        topic: String,
    },
    /// No topic is like it.
    #[error("the brokers at {brokers} have no topic like {pattern}: create one, then start again")]
    NoTopicLike {
        /// The brokers asked.
        brokers: String,
        /// The patterns.
        pattern: String,
    },
    /// We may not use the topic.
    #[error(
        "the brokers do not let this user use topic {topic:?}: grant {right} and Describe on it \
         (kafka-acls.sh), then start again"
    )]
    NoRight {
        /// The topic.
        topic: String,
        /// What is needed.
        right: &'static str,
    },
    /// The consumer did not poll for too long and was thrown out of the group.
    #[error(
        "thrown out of the consumer group: no poll within kafka.max_poll_interval_ms; the process \
         ends rather than stay silent"
    )]
    PollExceeded,
    /// The next offset is not in the log.
    #[error(
        "topic {topic}: what is to be read next is not in the log (retention overtook the stage, \
         the topic was re-created, or brokers lost messages); start again to see which partition, \
         and the command that helps"
    )]
    OutOfRange {
        /// The topic.
        topic: String,
    },
    /// The topic is another one than when the stage started.
    #[error(
        "topic {topic} was deleted and created again while the stage read it; start again to see \
         which partition, and the command that helps"
    )]
    Recreated {
        /// The topic.
        topic: String,
    },
    /// We may not read this.
    #[error("the brokers refuse access: {0}")]
    Refused(String),
    /// librdkafka says that it is over.
    #[error("fatal error of the consumer: {0}")]
    Fatal(String),
    /// The stage has ended and waits for nothing any more; it knows why.
    #[error("the stage has ended")]
    Dismissed,
    /// The file in the place of the dead-letter topic.
    #[error("{0}")]
    Letters(String),
    /// The stage did not say where to start.
    #[error("no start position for the assigned partitions within {seconds} s")]
    NoStart {
        /// How long was waited.
        seconds: u64,
    },
}

impl SourceError {
    /// Whether starting again may help without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(
            self,
            SourceError::Unreachable { .. }
                | SourceError::Advertised { .. }
                | SourceError::PollExceeded
                | SourceError::NoStart { .. }
        ) || matches!(self, SourceError::Unfit { trouble, .. } if trouble.cause.is_guessed())
    }

    /// Whether somebody has to change the configuration.
    pub fn is_usage(&self) -> bool {
        matches!(self, SourceError::Config(_) | SourceError::Unfit { .. }) && !self.is_temporary()
    }
}
