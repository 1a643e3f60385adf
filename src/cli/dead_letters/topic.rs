//! Reading a topic from one offset to another, without a group.

use super::journal::{Journal, Record};
use super::letters::{Letter, headers};
use super::{refused_client, temporary};
use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use std::time::{Duration, Instant};
use tagstream::stage::source::{ClientSettings, Covering, await_token};
use tagstream_core::config::KafkaConfig;

/// One question to the brokers may take this long.
const ANSWER: Duration = Duration::from_secs(10);
/// Silence after which the brokers are taken for gone.
const SILENCE: Duration = Duration::from_secs(30);

/// A topic that is read.
pub(in crate::cli) struct Topic {
    consumer: BaseConsumer<Covering>,
    pub name: String,
    brokers: String,
}

/// All letters, and what of them was sent again.
pub(super) struct Scanned {
    pub letters: Vec<Letter>,
    pub journal: Journal,
    /// Of each partition, the offset behind the last message that was looked at.
    pub ends: Vec<(i32, i64)>,
}

impl Topic {
    /// Connects.
    pub(in crate::cli) fn open(kafka: &KafkaConfig, name: &str) -> anyhow::Result<Self> {
        let mut settings = ClientSettings::of(kafka);
        settings
            .set("group.id", "tagstream-dead-letters")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed");
        let consumer = settings.create().map_err(refused_client)?;
        await_token(&consumer);
        Ok(Topic {
            consumer,
            name: name.to_owned(),
            brokers: kafka.brokers.clone(),
        })
    }

    fn silent(&self, error: impl std::fmt::Display) -> anyhow::Error {
        let Topic { name, brokers, .. } = self;
        temporary(format!(
            "no answer from the brokers at {brokers} about {name}: {error}"
        ))
    }

    /// Numbers of those that exist now.
    pub(in crate::cli) fn partitions(&self) -> anyhow::Result<Vec<i32>> {
        let metadata = self.consumer.fetch_metadata(Some(&self.name), ANSWER);
        let metadata = metadata.map_err(|e| self.silent(e))?;
        let topic = metadata.topics().iter().find(|t| t.name() == self.name);
        let partitions = topic.map_or(&[][..], |t| t.partitions());
        anyhow::ensure!(!partitions.is_empty(), "there is no topic {}", self.name);
        Ok(partitions.iter().map(|p| p.id()).collect())
    }

    /// The first and the next offset of a partition.
    pub(in crate::cli) fn bounds(&self, partition: i32) -> anyhow::Result<(i64, i64)> {
        let bounds = self
            .consumer
            .fetch_watermarks(&self.name, partition, ANSWER);
        bounds.map_err(|e| self.silent(e))
    }

    /// Reads `[from, to)` of a partition. `each` says whether to go on.
    pub(in crate::cli) fn read(
        &self,
        partition: i32,
        from: i64,
        to: i64,
        mut each: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let (low, high) = self.bounds(partition)?;
        let (from, to) = (from.max(low), to.min(high));
        if from >= to {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(from))?;
        self.consumer.assign(&list).map_err(|e| self.silent(e))?;
        let mut heard = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(200)) {
                None if heard.elapsed() > SILENCE => return Err(self.silent("nothing comes")),
                None => continue,
                Some(Ok(message)) if message.partition() != partition => {}
                Some(Ok(message)) if message.offset() >= to => break,
                Some(Ok(message)) => {
                    if !each(&message)? || message.offset() + 1 >= to {
                        break;
                    }
                }
                Some(Err(KafkaError::PartitionEOF(p))) if p == partition => break,
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if heard.elapsed() > SILENCE => return Err(self.silent(error)),
                Some(Err(_)) => continue,
            }
            heard = Instant::now();
        }
        // Fails only for a client that is shutting down.
        let _ = self.consumer.unassign();
        Ok(())
    }

    /// Reads everything that is there now.
    pub(super) fn scan(&self) -> anyhow::Result<Scanned> {
        let mut scanned = Scanned {
            letters: Vec::new(),
            journal: Journal::default(),
            ends: Vec::new(),
        };
        for partition in self.partitions()? {
            let (low, high) = self.bounds(partition)?;
            scanned.ends.push((partition, high));
            self.read(partition, low, high, |message| {
                let record = Record::of(&headers(message), message.payload());
                let record = record
                    .with_context(|| format!("{}/{partition}@{}", self.name, message.offset()))?;
                if let Some((step, record)) = record {
                    let ms = message.timestamp().to_millis().unwrap_or_default();
                    let journal = &mut scanned.journal;
                    journal.note(partition, ms, step, record);
                } else if let Some(letter) = Letter::of(message) {
                    scanned.letters.push(letter);
                }
                Ok(true)
            })?;
        }
        Ok(scanned)
    }
}
