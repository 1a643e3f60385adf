//! Following the stage from outside: what it has written to the predictions and dead-letter topics.

use super::{DemoError, Running, Story, topic};
use crate::stage::source::{ClientSettings, Covering};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, OwnedMessage};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tagstream_core::events::header;

/// The part of a prediction that is followed.
#[derive(Deserialize)]
struct Seen {
    model_version: String,
    source: tagstream_core::events::SourcePosition,
}

/// What has come out of the stage so far, each source position counted once.
pub struct Followed {
    consumer: BaseConsumer<Covering>,
    /// Source position to the version of the model that tagged it.
    predictions: HashMap<(i32, i64), String>,
    /// Source position to the kind of dead letter.
    dead: HashMap<(i32, i64), String>,
}

impl Story {
    /// Starts following.
    ///
    /// # Errors
    /// [`DemoError::Kafka`].
    pub fn follow(&self) -> Result<Followed, DemoError> {
        let consumer: BaseConsumer<Covering> = ClientSettings::new(self.brokers())
            .set("group.id", "demo-follower")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..super::PARTITIONS {
            all.add_partition_offset(topic::PREDICTIONS, partition, Offset::Beginning)?;
        }
        all.add_partition_offset(topic::DEAD_LETTERS, 0, Offset::Beginning)?;
        consumer.assign(&all)?;
        Ok(Followed {
            consumer,
            predictions: HashMap::new(),
            dead: HashMap::new(),
        })
    }
}

impl Followed {
    /// Messages that have come to an end.
    pub fn done(&self) -> usize {
        self.predictions.len() + self.dead.len()
    }

    /// Dead letters by kind.
    pub fn dead_letters(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for kind in self.dead.values() {
            *kinds.entry(kind.clone()).or_default() += 1;
        }
        kinds
    }

    /// How many messages each model version has tagged.
    pub fn versions(&self) -> BTreeMap<String, usize> {
        let mut versions = BTreeMap::new();
        for version in self.predictions.values() {
            *versions.entry(version.clone()).or_default() += 1;
        }
        versions
    }

    /// Reads on until `total` messages have come to an end, calling `show` with the number so far.
    ///
    /// # Errors
    /// [`DemoError::Ended`] if the stage ends before.
    pub fn wait_for(
        &mut self,
        total: usize,
        stage: &mut Running,
        mut show: impl FnMut(usize),
    ) -> Result<(), DemoError> {
        while self.done() < total {
            match self.consumer.poll(Duration::from_millis(200)) {
                Some(message) => self.take(&message?.detach()),
                None => stage.check()?,
            }
            show(self.done());
        }
        Ok(())
    }

    fn take(&mut self, message: &OwnedMessage) {
        if message.topic() == topic::PREDICTIONS {
            let seen = message
                .payload()
                .and_then(|p| serde_json::from_slice::<Seen>(p).ok());
            if let Some(seen) = seen {
                let at = (seen.source.partition, seen.source.offset.0);
                self.predictions.insert(at, seen.model_version);
            }
            return;
        }
        let header_of = |name: &str| -> Option<String> {
            let headers = message.headers()?;
            let value = headers.iter().find(|h| h.key == name)?.value?;
            String::from_utf8(value.to_vec()).ok()
        };
        let number = |name: &str| header_of(name).and_then(|v| v.parse::<i64>().ok());
        if let (Some(partition), Some(offset), Some(kind)) = (
            number(header::SOURCE_PARTITION),
            number(header::SOURCE_OFFSET),
            header_of(header::ERROR_KIND),
        ) {
            self.dead.insert((partition as i32, offset), kind);
        }
    }
}
