//! A producer of image references, as your own service might be one: a message an image, keyed by
//! the image, and nothing counts as sent before the broker has said so.
//!
//! ```sh
//! printf 'a\tfile:///pictures/a.jpg\nb\thttps://images.example.org/b.png\n' |
//!     cargo run --example produce_references -- localhost:9092 images
//! ```
//!
//! A line of standard input is an image's name, a tab, and its address. Whatever was not delivered
//! is named, and the process ends with 1: sending it again is safe, a tag then comes twice.
// A program of its own makes its client itself.
#![allow(clippy::disallowed_methods)]

use anyhow::{Context, bail};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};
use std::io::BufRead;
use std::sync::Mutex;
use std::time::Duration;
use tagstream::events::ImageReference;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic] = arguments.as_slice() else {
        bail!("usage: produce_references BROKERS TOPIC < lines of IMAGE_ID<tab>URI");
    };
    let references = std::io::stdin().lock().lines().map(|line| {
        let line = line.context("reading standard input")?;
        let (image_id, uri) = line
            .split_once('\t')
            .with_context(|| format!("{line:?} is not IMAGE_ID<tab>URI"))?;
        Ok(ImageReference {
            image_id: image_id.into(),
            uri: uri.into(),
            event_time: None,
            attributes: [("source".into(), "produce_references".into())].into(),
        })
    });
    let sent = produce(brokers, topic, references)?;
    for (image_id, error) in &sent.failed {
        eprintln!("{image_id}: {error}");
    }
    eprintln!(
        "{} delivered, {} not",
        sent.delivered.len(),
        sent.failed.len()
    );
    if !sent.failed.is_empty() {
        bail!("not everything was delivered");
    }
    Ok(())
}

/// What became of the references.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The images whose references the broker holds.
    pub delivered: Vec<String>,
    /// The images whose references it does not hold, or not for certain, and why.
    pub failed: Vec<(String, KafkaError)>,
}

/// Takes the broker's answers: librdkafka calls it once for every message, from `poll` or `flush`.
#[derive(Default)]
struct Reports(Mutex<Sent>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    /// The image's name, handed back with the answer.
    type DeliveryOpaque = Box<String>;

    fn delivery(&self, result: &DeliveryResult<'_>, image_id: Box<String>) {
        // No code that may panic runs while the lock is held.
        let Ok(mut sent) = self.0.lock() else { return };
        match result {
            Ok(_) => sent.delivered.push(*image_id),
            Err((error, _)) => sent.failed.push((*image_id, error.clone())),
        }
    }
}

/// Sends `references` and waits for the answer to each.
///
/// # Errors
/// A reference that cannot be read, or that librdkafka does not take; what was taken before has
/// been answered by then. What the broker refused is no error here but part of [`Sent`].
pub(crate) fn produce(
    brokers: &str,
    topic: &str,
    references: impl IntoIterator<Item = anyhow::Result<ImageReference>>,
) -> anyhow::Result<Sent> {
    let producer: BaseProducer<Reports> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Retries inside librdkafka then neither double nor reorder messages.
        .set("enable.idempotence", "true")
        // What has no answer by then has failed.
        .set("message.timeout.ms", "60000")
        .create_with_context(Reports::default())?;
    let taken = references
        .into_iter()
        .try_for_each(|reference| send(&producer, topic, &reference?));
    // Later than message.timeout.ms: after it, every message has an answer.
    producer
        .flush(Duration::from_secs(70))
        .context("waiting for the brokers")?;
    taken?;
    let reports = &producer.context().0;
    Ok(std::mem::take(&mut *reports.lock().map_err(|_| {
        anyhow::anyhow!("a delivery report could not be taken")
    })?))
}

/// Gives one reference to librdkafka. Messages of one image keep their order: their key is one.
fn send(
    producer: &BaseProducer<Reports>,
    topic: &str,
    reference: &ImageReference,
) -> anyhow::Result<()> {
    let value = serde_json::to_vec(reference)?;
    let image_id = Box::new(reference.image_id.clone());
    let mut record = BaseRecord::with_opaque_to(topic, image_id)
        .key(&reference.image_id)
        .payload(&value);
    loop {
        match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                // Answers make room.
                producer.poll(Duration::from_millis(100));
                record = back;
            }
            Err((error, _)) => {
                return Err(error)
                    .with_context(|| format!("writing {} to {topic}", reference.image_id));
            }
        }
    }
    producer.poll(Duration::ZERO);
    Ok(())
}
