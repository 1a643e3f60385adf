//! Single looks into a log, by a consumer that belongs to no assignment of the group.

use super::asking::ANSWER;
use super::client::{Broker, PATIENCE, passes};
use super::leader_epochs::{leader_epoch, set_leader_epoch};
use super::{LogRecord, SourceError};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset as KafkaOffset, TopicPartitionList};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};
use tagstream_core::events::{Offset, PartitionId};

/// What the broker's own consumer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Message(LogRecord),
    /// The log ends before a message came.
    End,
    /// The offset is not in the log, or belongs to another record than that of its leader's epoch.
    NotThere,
}

/// The broker's own consumer at an offset. One at a time.
pub(super) struct Reading<'a> {
    broker: &'a Broker,
    partition: &'a PartitionId,
    _alone: MutexGuard<'a, ()>,
}

impl<'a> Reading<'a> {
    /// Goes to `from`; with a leader's epoch, librdkafka asks the leader about it (KIP-320).
    pub(super) fn begin(
        broker: &'a Broker,
        partition: &'a PartitionId,
        from: Offset,
        leader_epoch: Option<i32>,
    ) -> Result<Self, SourceError> {
        let _alone = broker.reading.lock().expect("no panic while locked");
        let (topic, number) = (&*partition.topic, partition.partition);
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, number, KafkaOffset::Offset(from.0))
            .map_err(|e| broker.unreachable(e))?;
        set_leader_epoch(&mut at, topic, number, leader_epoch);
        let assigned = broker.consumer.assign(&at);
        assigned.map_err(|e| broker.unreachable(e))?;
        let reading = Reading {
            broker,
            partition,
            _alone,
        };
        if leader_epoch.is_some() {
            reading.seek(&at)?;
        }
        Ok(reading)
    }

    /// An assignment is not validated, a seek is. It is refused until the assignment has begun.
    fn seek(&self, at: &TopicPartitionList) -> Result<(), SourceError> {
        let started = Instant::now();
        loop {
            let sought = self.broker.consumer.seek_partitions(at.clone(), ANSWER);
            let refusal = match sought {
                Ok(done) => done.elements().first().and_then(|e| e.error().err()),
                Err(error) => Some(error),
            };
            match refusal {
                None => return Ok(()),
                Some(error) if started.elapsed() > PATIENCE => {
                    return Err(self.broker.unreachable(error));
                }
                Some(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub(super) fn next(&self) -> Result<Read, SourceError> {
        use RDKafkaErrorCode as Code;
        let started = Instant::now();
        loop {
            match self.broker.consumer.poll(Duration::from_millis(100)) {
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
                Some(Err(error)) if !passes(&error) => {
                    return Err(self.broker.unreachable(error));
                }
                _ if started.elapsed() > PATIENCE => {
                    let partition = self.partition;
                    let silent = format!("no message of {partition} came");
                    return Err(self.broker.unreachable(silent));
                }
                _ => {}
            }
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // Fails only for a client that is shutting down.
        let _ = self.broker.consumer.unassign();
    }
}
