//! Label events onto the topic.

use crate::stage::source::{ClientSettings, Covering, Refusal};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::util::Timeout;
use serde::Serialize;
use std::time::Duration;
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

/// Writes every event (or question, which is one with more in it) by a client that is told what
/// `client` says, and waits until all are
/// acknowledged. The message key is the image's id, so that events about one image stay in order.
///
/// # Errors
/// [`PublishError`]; some events may have been written then, and writing them again is harmless
/// (last write wins).
pub async fn publish<E: Serialize + AsRef<LabelEvent>>(
    client: &ClientSettings,
    topic: &str,
    events: &[E],
) -> Result<(), PublishError> {
    let mut client = client.clone();
    client
        .set("enable.idempotence", "true")
        .set_unless_users("message.timeout.ms", "30000");
    let brokers = client
        .get("bootstrap.servers")
        .unwrap_or_default()
        .to_owned();
    let failed = |source| PublishError::Kafka {
        brokers: brokers.clone(),
        topic: topic.into(),
        source,
    };
    let producer: FutureProducer<Covering> = client.create()?;
    for chunk in events.chunks(IN_FLIGHT) {
        let mut waiting = Vec::with_capacity(chunk.len());
        for event in chunk {
            let value = serde_json::to_vec(event).expect("a label event is plain data");
            let producer = producer.clone();
            // Sent in order here; only the waiting for acknowledgements is concurrent.
            let mut record = FutureRecord::to(topic)
                .key(&event.as_ref().image_id)
                .payload(&value);
            let delivery = loop {
                match producer.send_result(record) {
                    Ok(delivery) => break delivery,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                        record = back;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Err((error, _)) => return Err(failed(error)),
                }
            };
            waiting.push(delivery);
        }
        for delivery in waiting {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(failed(error)),
                Err(_) => return Err(failed(KafkaError::Canceled)),
            }
        }
    }
    producer
        .flush(Timeout::After(Duration::from_secs(30)))
        .map_err(failed)
}
