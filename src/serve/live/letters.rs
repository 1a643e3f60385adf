//! The newest dead letters: what became of them, and the picture where it can be had.

use crate::stage::source::{ClientSettings, Covering, Refusal, await_token};
use chrono::{DateTime, Utc};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::{ImageReference, header};
use tagstream_core::redact::redact_place;
use tokio::sync::watch;

/// Letters that are shown.
pub(crate) const SHOWN: usize = 12;
/// How often the topic is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long one question to the brokers may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest cause that is shown, characters.
const LONGEST: usize = 300;

/// A dead letter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Letter {
    /// When it was written.
    pub time: Option<DateTime<Utc>>,
    /// Why the message became one: `fetch_failed` and the like.
    pub kind: String,
    /// What went wrong.
    pub cause: String,
    /// Where its original was read.
    pub source: String,
    /// The image's name and address, if the original tells them; the address is not for pages.
    pub image: Option<(String, String)>,
}

/// The newest letters, or why there are none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Letters {
    /// Newest first.
    pub letters: Vec<Letter>,
    /// What went wrong at the last look.
    pub trouble: Option<String>,
}

/// The end of the topic.
pub(crate) struct Tail {
    consumer: BaseConsumer<Covering>,
    topic: String,
    brokers: String,
    /// Of each partition, the offset behind the last letter that was looked at.
    read: BTreeMap<i32, i64>,
}

impl Tail {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`Refusal`] if librdkafka takes no such client.
    pub(crate) fn new(kafka: &KafkaConfig, topic: &str) -> Result<Self, Refusal> {
        let mut settings = ClientSettings::of(kafka);
        settings
            .set("group.id", "tagstream-serve")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "latest")
            .set("allow.auto.create.topics", "false");
        Ok(Tail {
            consumer: settings.create()?,
            topic: topic.to_owned(),
            brokers: kafka.brokers.clone(),
            read: BTreeMap::new(),
        })
    }

    /// Looks for new letters for as long as anybody may want to see them. Blocks.
    pub(crate) fn watch(mut self, letters: &watch::Sender<Letters>) {
        await_token(&self.consumer);
        while !letters.is_closed() {
            let found = self.look();
            letters.send_if_modified(|all| take(all, found));
            // Asked in short steps, so that the process does not wait for this to end.
            let begun = Instant::now();
            while begun.elapsed() < LOOK && !letters.is_closed() {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn look(&mut self) -> Result<Vec<Letter>, String> {
        let silent = |error: KafkaError| {
            format!(
                "no answer from {} about {}: {error}",
                redact_place(&self.brokers),
                self.topic
            )
        };
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), ANSWER);
        let metadata = metadata.map_err(silent)?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.topic);
        let partitions: Vec<i32> = topic.map_or(Vec::new(), |topic| {
            topic.partitions().iter().map(|p| p.id()).collect()
        });
        let mut wanted = TopicPartitionList::new();
        let mut ends = BTreeMap::new();
        for partition in partitions {
            let bounds = self
                .consumer
                .fetch_watermarks(&self.topic, partition, ANSWER);
            let (low, high) = bounds.map_err(silent)?;
            let newest = low.max(high - SHOWN as i64);
            // A topic that was made anew begins before what was read.
            let read = self
                .read
                .get(&partition)
                .copied()
                .filter(|read| *read <= high);
            let from = newest.max(read.unwrap_or(newest));
            if from < high {
                let from = Offset::Offset(from);
                let added = wanted.add_partition_offset(&self.topic, partition, from);
                added.map_err(silent)?;
                ends.insert(partition, high);
            }
            self.read.insert(partition, high);
        }
        if ends.is_empty() {
            return Ok(Vec::new());
        }
        self.consumer.assign(&wanted).map_err(silent)?;
        let found = self.read_to(ends);
        // Fails only for a client that is shutting down.
        let _ = self.consumer.unassign();
        Ok(found)
    }

    /// Reads the assigned partitions up to `ends`.
    fn read_to(&self, mut ends: BTreeMap<i32, i64>) -> Vec<Letter> {
        let mut found = Vec::new();
        let begun = Instant::now();
        while !ends.is_empty() && begun.elapsed() < 2 * ANSWER {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    found.extend(letter(&message));
                    if ends.get(&partition).is_some_and(|end| next >= *end) {
                        ends.remove(&partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    ends.remove(&partition);
                }
                Some(Err(_)) | None => {}
            }
        }
        found
    }
}

/// Whether anything is another than before.
fn take(all: &mut Letters, found: Result<Vec<Letter>, String>) -> bool {
    match found {
        Ok(more) => {
            let changed = all.trouble.take().is_some() || !more.is_empty();
            all.letters.extend(more);
            all.letters
                .sort_by_key(|letter| std::cmp::Reverse(letter.time));
            all.letters.truncate(SHOWN);
            changed
        }
        Err(trouble) => {
            let changed = all.trouble.as_deref() != Some(trouble.as_str());
            all.trouble = Some(trouble);
            changed
        }
    }
}

fn letter(message: &BorrowedMessage<'_>) -> Option<Letter> {
    let headers = message.headers()?;
    // The stage's headers stand behind the original's, which may have the same names.
    let text = |name: &str| {
        let found = headers.iter().filter(|h| h.key == name).last()?;
        Some(String::from_utf8_lossy(found.value.unwrap_or_default()).into_owned())
    };
    let kind = text(header::ERROR_KIND)?;
    let cause = text(header::ERROR_MESSAGE).unwrap_or_default();
    let place = |name| text(name).unwrap_or_else(|| "?".into());
    let reference = message
        .payload()
        .and_then(|bytes| ImageReference::from_json(bytes).ok());
    Some(Letter {
        time: message
            .timestamp()
            .to_millis()
            .and_then(DateTime::from_timestamp_millis),
        kind,
        cause: cause.chars().take(LONGEST).collect(),
        source: format!(
            "{}/{}@{}",
            place(header::SOURCE_TOPIC),
            place(header::SOURCE_PARTITION),
            place(header::SOURCE_OFFSET)
        ),
        image: reference.map(|reference| (reference.image_id, reference.uri)),
    })
}
