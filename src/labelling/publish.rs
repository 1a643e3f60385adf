//! Label events onto the topic.

use crate::stage::source::{ClientSettings, Covering, Refusal};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::util::Timeout;
use serde::Serialize;
use std::time::Duration;
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::LabelEvent;

/// Messages in flight; bounds memory.
const IN_FLIGHT: usize = 1000;

/// Why label events did not get onto the topic.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// librdkafka makes no producer of the configuration.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The broker refused.
    #[error("writing label events to topic {topic} at {brokers}: {source}")]
    Kafka {
        /// The brokers.
        brokers: String,
        /// The topic.
        topic: String,
        /// What was said.
        source: KafkaError,
    },
}

/// Writes label events to a topic, for as long as there are any.
pub struct Publisher {
    producer: FutureProducer<Covering>,
    brokers: String,
    topic: String,
}

impl Publisher {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`PublishError::Refused`] if librdkafka takes no such client.
    pub fn new(kafka: &KafkaConfig, topic: &str) -> Result<Self, PublishError> {
        Self::of(ClientSettings::producer(kafka), &kafka.brokers, topic)
    }

    fn of(settings: ClientSettings, brokers: &str, topic: &str) -> Result<Self, PublishError> {
        Ok(Publisher {
            producer: settings.create()?,
            brokers: brokers.into(),
            topic: topic.into(),
        })
    }

    fn failed(&self, source: KafkaError) -> PublishError {
        PublishError::Kafka {
            brokers: self.brokers.clone(),
            topic: self.topic.clone(),
            source,
        }
    }

    /// Writes every event (or question, which is one with more in it) and waits until all are
    /// acknowledged. The message key is the image's id, so that events about one image stay in
    /// order.
    ///
    /// # Errors
    /// [`PublishError`]; some events may have been written then, and writing them again is harmless
    /// (last write wins).
    pub async fn publish<E: Serialize + AsRef<LabelEvent>>(
        &self,
        events: &[E],
    ) -> Result<(), PublishError> {
        for chunk in events.chunks(IN_FLIGHT) {
            let mut waiting = Vec::with_capacity(chunk.len());
            for event in chunk {
                let value = serde_json::to_vec(event).expect("a label event is plain data");
                // Sent in order here; only the waiting for acknowledgements is concurrent.
                let mut record = FutureRecord::to(&self.topic)
                    .key(&event.as_ref().image_id)
                    .payload(&value);
                let delivery = loop {
                    match self.producer.send_result(record) {
                        Ok(delivery) => break delivery,
                        Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                            record = back;
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                        Err((error, _)) => return Err(self.failed(error)),
                    }
                };
                waiting.push(delivery);
            }
            for delivery in waiting {
                match delivery.await {
                    Ok(Ok(_)) => {}
                    Ok(Err((error, _))) => return Err(self.failed(error)),
                    Err(_) => return Err(self.failed(KafkaError::Canceled)),
                }
            }
        }
        Ok(())
    }
}

/// Writes events to a topic at `brokers`, once; see [`Publisher::publish`].
///
/// # Errors
/// [`PublishError`].
pub async fn publish<E: Serialize + AsRef<LabelEvent>>(
    brokers: &str,
    topic: &str,
    events: &[E],
) -> Result<(), PublishError> {
    let mut settings = ClientSettings::new(brokers);
    settings
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "30000");
    let publisher = Publisher::of(settings, brokers, topic)?;
    publisher.publish(events).await?;
    let flushed = publisher
        .producer
        .flush(Timeout::After(Duration::from_secs(30)));
    flushed.map_err(|source| publisher.failed(source))
}
