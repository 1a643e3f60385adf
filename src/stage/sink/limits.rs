//! How large a message each topic takes, as its brokers say, and as refusals have taught.

use super::outgoing::Outgoing;
use super::topic_settings::topic_settings;
use crate::stage::source::{ClientSettings, has_controller};
use rdkafka::producer::{Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tagstream_core::process::blocking;

/// Kafka's own default of `max.message.bytes`: taken where the brokers do not tell.
const KAFKA_S_DEFAULT: usize = 1_048_588;
/// librdkafka's default of `queue.buffering.max.kbytes`.
const QUEUE_KIB: usize = 1 << 20;
/// Largest `message.max.bytes` that librdkafka takes.
const CLIENT_MOST: usize = 1_000_000_000;
/// librdkafka's default of `batch.size`.
const BATCH_SIZE: usize = 1_000_000;
/// How long the brokers may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A topic's limits are asked for again at most this often.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// What one topic takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TopicLimit {
    /// As its brokers say: `max.message.bytes`, or `segment.bytes` if that is less.
    told: Option<usize>,
    /// Less than a message that was refused alone.
    learned: Option<usize>,
    /// Whether it is compacted: every message needs a key, and one without a value is a tombstone.
    compacted: bool,
    asked: Option<Instant>,
}

impl TopicLimit {
    fn bytes(&self) -> usize {
        let told = self.told.unwrap_or(KAFKA_S_DEFAULT);
        self.learned.map_or(told, |learned| told.min(learned))
    }
}

/// The limits of all topics that are written to, and of the client itself.
#[derive(Debug)]
pub(super) struct Limits {
    /// `message.max.bytes`.
    client: usize,
    /// Bytes of one value that fit into the producer's queue.
    queue: usize,
    /// `batch.size` as the user wants it.
    batch_size: usize,
    /// Whether batches are compressed: a message above its topic's limit may fit all the same.
    pub(super) compresses: bool,
    topics: Mutex<BTreeMap<Arc<str>, TopicLimit>>,
}

fn number(settings: &ClientSettings, keys: &[&str]) -> Option<usize> {
    keys.iter().find_map(|key| settings.get(key)?.parse().ok())
}

impl Limits {
    /// The limits that `settings` make. Without a wish of the user's the client refuses nothing by
    /// its size: topics do.
    pub(super) fn of(settings: &mut ClientSettings) -> Self {
        let client = number(settings, &["message.max.bytes"]).unwrap_or_else(|| {
            settings.set("message.max.bytes", CLIENT_MOST.to_string());
            CLIENT_MOST
        });
        let compression = ["compression.type", "compression.codec"];
        let compression = compression.iter().find_map(|key| settings.get(key));
        Limits {
            client,
            queue: number(settings, &["queue.buffering.max.kbytes"]).unwrap_or(QUEUE_KIB) << 10,
            batch_size: number(settings, &["batch.size"]).unwrap_or(BATCH_SIZE),
            compresses: compression.is_some_and(|codec| codec != "none"),
            topics: Mutex::default(),
        }
    }

    fn topic(&self, topic: &str) -> TopicLimit {
        let topics = self.topics.lock().expect("no panic while locked");
        topics.get(topic).copied().unwrap_or_default()
    }

    fn change(&self, topic: &str, change: impl FnOnce(&mut TopicLimit)) {
        let mut topics = self.topics.lock().expect("no panic while locked");
        change(topics.entry(topic.into()).or_default());
    }

    /// Takes note that `topic` refused a message for having no key.
    pub(super) fn found_compacted(&self, topic: &str) {
        self.change(topic, |limit| limit.compacted = true);
    }

    /// Bytes of a batch that `topic` takes.
    pub(super) fn bytes(&self, topic: &str) -> usize {
        self.topic(topic).bytes()
    }

    /// Whether every message of `topic` needs a key and a value.
    pub(super) fn is_compacted(&self, topic: &str) -> bool {
        self.topic(topic).compacted
    }

    /// Whether the client itself takes `message`.
    pub(super) fn client_takes(&self, message: &Outgoing) -> bool {
        let value = message.payload.as_ref().map_or(0, bytes::Bytes::len);
        message.client_bytes() <= self.client && value <= self.queue
    }

    /// Whether `message` fits into its topic as it is, uncompressed.
    pub(super) fn fits(&self, message: &Outgoing) -> bool {
        self.client_takes(message) && message.batch_bytes() <= self.bytes(&message.topic)
    }

    /// Takes note that `message`, alone in its batch, was refused.
    pub(super) fn refused(&self, message: &Outgoing) {
        let below = message.batch_bytes() - 1;
        self.change(&message.topic, |limit| {
            limit.learned = Some(limit.learned.map_or(below, |learned| learned.min(below)));
        });
    }

    /// The `batch.size` that makes no batch of several messages that a topic would refuse. A
    /// request's frame counts in it, so a batch stays below.
    pub(super) fn batch_size(&self) -> usize {
        let topics = self.topics.lock().expect("no panic while locked");
        let least = topics.values().map(TopicLimit::bytes).min();
        self.batch_size.min(least.unwrap_or(usize::MAX)).max(1)
    }

    /// Asks the brokers about `topics`, but not more often than every half minute. What they do not
    /// tell (an old or an embedded broker, a user who may not ask) is learned from refusals.
    pub(super) async fn ask<C: ProducerContext + 'static>(
        &self,
        client: &Arc<ThreadedProducer<C>>,
        topics: &[Arc<str>],
    ) {
        let due = |topic: &&Arc<str>| {
            let asked = self.topic(topic).asked;
            asked.is_none_or(|at| at.elapsed() > ASK_EVERY)
        };
        let due: Vec<Arc<str>> = topics.iter().filter(due).cloned().collect();
        if due.is_empty() {
            return;
        }
        for topic in &due {
            self.change(topic, |limit| limit.asked = Some(Instant::now()));
        }
        let client = Arc::clone(client);
        let asked = blocking::run(move || {
            let told = |topic: Arc<str>| (told_of(&client, &topic), topic);
            due.into_iter().map(told).collect::<Vec<_>>()
        });
        for (told, topic) in asked.await.unwrap_or_default() {
            match told {
                Ok(settings) => self.told(&topic, &settings),
                Err(reason) => tracing::info!(%topic, reason, "the brokers do not tell how large \
                    a message this topic takes (it needs the right DescribeConfigs); it is \
                    learned from what they refuse"),
            }
        }
    }

    fn told(&self, topic: &str, settings: &BTreeMap<String, String>) {
        let bytes = |name: &str| settings.get(name)?.parse::<usize>().ok();
        let sizes = [bytes("max.message.bytes"), bytes("segment.bytes")];
        let told = sizes.into_iter().flatten().min();
        let policy = settings.get("cleanup.policy");
        let compacted = policy.is_some_and(|policy| policy.contains("compact"));
        tracing::debug!(topic, ?told, compacted, "limits of a topic");
        self.change(topic, |limit| {
            if limit.told != told {
                // What was learned under another limit is not true any more.
                limit.learned = None;
            }
            (limit.told, limit.compacted) = (told, compacted);
        });
    }
}

/// What the brokers tell of `topic`. Blocks.
fn told_of<C: ProducerContext + 'static>(
    client: &ThreadedProducer<C>,
    topic: &str,
) -> Result<BTreeMap<String, String>, String> {
    let client = client.client();
    match has_controller(client, ANSWER) {
        // SAFETY: the client lives as long as the borrow.
        Ok(true) => unsafe { topic_settings(client.native_ptr(), topic, ANSWER) }
            .map_err(|untold| untold.to_string()),
        Ok(false) => Err("they name no controller".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Outgoing {
        Outgoing {
            topic: "t".into(),
            payload: Some(vec![0; length].into()),
            ..Outgoing::default()
        }
    }

    #[test]
    fn without_a_wish_of_the_user_s_only_the_topic_refuses() {
        let limits = Limits::of(&mut ClientSettings::new("127.0.0.1:9"));
        assert!(limits.fits(&message(1_048_000)));
        assert!(!limits.fits(&message(1_048_588)));
        assert!(limits.client_takes(&message(1_048_588)));
        limits.change("t", |limit| limit.told = Some(2_000));
        assert!(!limits.fits(&message(2_000)));
        assert_eq!(limits.batch_size(), 2_000);
        limits.refused(&message(1_500));
        assert!(!limits.fits(&message(1_500)) && limits.fits(&message(1_400)));
    }

    #[test]
    fn the_user_s_properties_are_limits_too() {
        let mut settings = ClientSettings::new("127.0.0.1:9");
        settings
            .set("message.max.bytes", "5000")
            .set("queue.buffering.max.kbytes", "4")
            .set("batch.size", "100")
            .set("compression.codec", "zstd");
        let limits = Limits::of(&mut settings);
        assert!(limits.compresses);
        assert!(limits.fits(&message(4_096)));
        assert!(
            !limits.fits(&message(4_097)),
            "the queue would be full for ever"
        );
        assert_eq!(limits.batch_size(), 100);
    }
}
