//! The newest messages of a topic.

use crate::cli::dead_letters::letters::{HeaderList, headers};
use crate::cli::dead_letters::topic::Topic;
use bytes::Bytes;
use rdkafka::Message as _;
use std::collections::VecDeque;
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::PartitionId;
use tagstream_core::mapping::MessageParts;

/// Offsets that are looked at for one message: a log has holes, and so have compacted topics.
const WIDER: i64 = 4;

/// A message that was looked at.
pub(super) struct Sampled {
    pub partition: PartitionId,
    pub offset: i64,
    time: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// Why its value or key cannot be taken out of its frame.
    pub unreadable: Option<String>,
    pub headers: HeaderList,
}

impl Sampled {
    /// As a mapping takes it.
    pub(super) fn parts(&self) -> MessageParts<'_> {
        MessageParts {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &self.headers,
        }
    }
}

/// The newest `count` messages of all partitions together, in the order of partition and offset.
pub(super) fn newest(
    kafka: &KafkaConfig,
    name: &str,
    count: usize,
) -> anyhow::Result<Vec<Sampled>> {
    let topic = Topic::open(kafka, name)?;
    let mut all = Vec::new();
    for partition in topic.partitions()? {
        let (low, high) = topic.bounds(partition)?;
        let most = i64::try_from(count).unwrap_or(i64::MAX);
        let from = high.saturating_sub(most.saturating_mul(WIDER)).max(low);
        let mut last = VecDeque::new();
        let id = PartitionId::new(name, partition);
        topic.read(partition, from, high, |message| {
            last.push_back(Sampled {
                partition: id.clone(),
                offset: message.offset(),
                time: message.timestamp().to_millis().unwrap_or_default(),
                key: message.key().map(Bytes::copy_from_slice),
                value: message.payload().map(Bytes::copy_from_slice),
                unreadable: None,
                headers: headers(message),
            });
            if last.len() > count {
                last.pop_front();
            }
            Ok(true)
        })?;
        all.extend(last);
    }
    Ok(newest_of(all, count))
}

/// The newest `count` of messages, in the order of partition and offset.
pub(super) fn newest_of(mut all: Vec<Sampled>, count: usize) -> Vec<Sampled> {
    all.sort_by_key(|message| std::cmp::Reverse((message.time, message.offset)));
    all.truncate(count);
    all.sort_by(|a, b| (&a.partition, a.offset).cmp(&(&b.partition, b.offset)));
    all
}
