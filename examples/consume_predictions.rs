//! A consumer of the predictions topic that takes each prediction once.
//!
//! ```sh
//! cargo run --example consume_predictions -- localhost:9092 predictions my-group
//! cargo run --example consume_predictions -- localhost:9092 predictions my-group --until-end
//! ```
//!
//! The topic is at least once: after a crash or a rebalance of the stage some predictions come
//! again. Each carries the key that tells: topic, partition and offset of the message that asked,
//! and the model's version. Here the keys seen last are kept in memory. A service with a data base
//! makes them its table's unique key, in the transaction that also does the work, and then each
//! prediction counts once whatever crashes; what must never be doubled at all stands in the Parquet
//! files.
// A program of its own makes its client itself.
#![allow(clippy::disallowed_methods)]

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::io::Write;
use std::time::Duration;
use tagstream::events::{Prediction, SourcePosition};

/// Keys that are remembered, about 150 bytes each. What comes again is what the stage had not yet
/// committed: less than a file (`output.max_file_mib`, `output.max_file_age_ms`) of each partition.
const REMEMBERED: usize = 1_000_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (names, until_end) = match arguments.as_slice() {
        [names @ .., flag] if flag == "--until-end" => (names, true),
        names => (names, false),
    };
    let [brokers, topic, group] = names else {
        bail!("usage: consume_predictions BROKERS TOPIC GROUP [--until-end]");
    };
    let counts = consume(brokers, topic, group, until_end, &mut std::io::stdout())?;
    eprintln!(
        "{} predictions, {} of them again, {} messages that are none",
        counts.new + counts.again,
        counts.again,
        counts.unreadable
    );
    Ok(())
}

/// What was read.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Predictions read for the first time.
    pub new: usize,
    /// Predictions that had been read before.
    pub again: usize,
    /// Messages that are no predictions.
    pub unreadable: usize,
}

/// What makes a prediction the same one.
type Key = (SourcePosition, String);

/// The keys seen last.
#[derive(Default)]
struct Seen {
    keys: HashSet<Key>,
    order: VecDeque<Key>,
}

impl Seen {
    /// Whether `key` is new; it is not from now on.
    fn insert(&mut self, key: Key) -> bool {
        if !self.keys.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}

/// Reads `topic` and writes a line for each prediction to `out`; for ever, or until there is
/// nothing more.
///
/// # Errors
/// What librdkafka reports and cannot mend by itself, or `out`.
pub(crate) fn consume(
    brokers: &str,
    topic: &str,
    group: &str,
    until_end: bool,
    out: &mut dyn Write,
) -> anyhow::Result<Counts> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        // A consumer that is gone without a word keeps its partitions for so long.
        .set("session.timeout.ms", "6000")
        // An offset is committed in the background, but only of what was dealt with (below).
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    consumer.subscribe(&[topic])?;
    let (mut seen, mut counts, mut ended) = (Seen::default(), Counts::default(), BTreeSet::new());
    loop {
        let message = match consumer.poll(Duration::from_secs(1)) {
            None => continue,
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
                if until_end && ended.len() == consumer.assignment()?.count() {
                    break;
                }
                continue;
            }
            Some(Err(error)) => return Err(error).with_context(|| format!("reading {topic}")),
        };
        ended.remove(&message.partition());
        match serde_json::from_slice::<Prediction>(message.payload().unwrap_or_default()) {
            Ok(prediction) => {
                let key = (prediction.source.clone(), prediction.model_version.clone());
                if seen.insert(key) {
                    counts.new += 1;
                    write_line(out, &prediction).context("writing")?;
                } else {
                    counts.again += 1;
                }
            }
            Err(error) => {
                counts.unreadable += 1;
                let (partition, offset) = (message.partition(), message.offset());
                eprintln!("{topic}/{partition}@{offset} is no prediction: {error}");
            }
        }
        consumer.store_offset_from_message(&message)?;
    }
    // Closing the consumer commits what is stored.
    Ok(counts)
}

/// `image-7    cat 0.93, sofa 0.61`.
fn write_line(out: &mut dyn Write, prediction: &Prediction) -> std::io::Result<()> {
    let tags = prediction.tags.iter();
    let tags: Vec<String> = tags
        .map(|tag| format!("{} {:.2}", tag.category, tag.score))
        .collect();
    writeln!(out, "{}\t{}", prediction.image_id, tags.join(", "))
}
