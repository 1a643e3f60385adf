//! Single looks into a log, by a consumer that belongs to no assignment of the group.

use super::Covering;
use super::asking::{ANSWER, PATIENCE, passes};
use super::leader_epochs::{leader_epoch, set_leader_epoch};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset as KafkaOffset, TopicPartitionList};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};
use tagstream_core::events::{Offset, PartitionId};

/// A message, as far as it tells one log from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRecord {
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that took it.
    pub leader_epoch: Option<i32>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Message(LogRecord),
    /// The log ends before a message came.
    End,
    /// The offset is not in the log, or belongs to another record than that of its leader's epoch.
    NotThere,
}

/// A consumer that looks into one partition. One at a time.
pub(super) struct Reading<'a> {
    pub consumer: &'a BaseConsumer<Covering>,
    pub partition: &'a PartitionId,
    pub _alone: MutexGuard<'a, ()>,
}

impl Reading<'_> {
    /// What lies at `from`; with a leader's epoch, librdkafka asks the leader about it (KIP-320).
    ///
    /// # Errors
    /// Why there is no answer.
    pub(super) fn at(self, from: Offset, leader_epoch: Option<i32>) -> Result<Read, String> {
        let (topic, number) = (&*self.partition.topic, self.partition.partition);
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, number, KafkaOffset::Offset(from.0))
            .map_err(|e| e.to_string())?;
        set_leader_epoch(&mut at, topic, number, leader_epoch);
        self.consumer.assign(&at).map_err(|e| e.to_string())?;
        if leader_epoch.is_some() {
            self.seek(&at)?;
        }
        self.next()
    }

    /// An assignment is not validated, a seek is. It is refused until the assignment has begun.
    fn seek(&self, at: &TopicPartitionList) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let sought = self.consumer.seek_partitions(at.clone(), ANSWER);
            let refusal = match sought {
                Ok(done) => done.elements().first().and_then(|e| e.error().err()),
                Err(error) => Some(error),
            };
            match refusal {
                None => return Ok(()),
                Some(error) if started.elapsed() > PATIENCE => return Err(error.to_string()),
                Some(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn next(&self) -> Result<Read, String> {
        use RDKafkaErrorCode as Code;
        let started = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    return Ok(Read::Message(LogRecord {
                        offset: Offset(message.offset()),
                        leader_epoch: leader_epoch(&message),
                    }));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(Read::End),
                Some(Err(error))
                    if matches!(
                        error.rdkafka_error_code(),
                        Some(Code::AutoOffsetReset | Code::LogTruncation)
                    ) =>
                {
                    return Ok(Read::NotThere);
                }
                Some(Err(error)) if !passes(&error) => return Err(error.to_string()),
                _ if started.elapsed() > PATIENCE => {
                    return Err(format!("no message of {} came", self.partition));
                }
                _ => {}
            }
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // Fails only for a client that is shutting down.
        let _ = self.consumer.unassign();
    }
}
