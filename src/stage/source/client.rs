//! Clients of the broker: their configuration, and the questions asked before anything is read.

use super::{SourceError, topic_identity};
use crate::{
    config::KafkaConfig,
    events::{Offset, PartitionId},
    stage::sink::{
        chain::TopicIdentity,
        walk::{CommitHint, CommittedOffset, LogFacts},
    },
};
use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    bindings::rd_kafka_controllerid,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// One question to the broker may take this long.
const ANSWER: Duration = Duration::from_secs(10);
/// Errors that only last while leaders move are asked again for this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What consumer and producer share: the brokers, then the properties of the configuration as they are.
pub fn client_config(kafka: &KafkaConfig) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("client.id", "tagstream");
    for (key, value) in &kafka.properties {
        config.set(key, value.expose());
    }
    config
}

/// What Kafka says about partitions. A trait, so that a line can be tested without a broker.
pub trait Logs: Send + Sync + 'static {
    /// What Kafka says about `partition` now. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if it says nothing.
    fn facts(&self, partition: &PartitionId) -> Result<LogFacts, SourceError>;
}

/// A client that reads nothing, for questions about one topic. Its own connection: the polling thread is not kept waiting.
pub struct Broker {
    consumer: BaseConsumer,
    brokers: String,
    topic: Arc<str>,
    /// Once the broker did not tell the topic's id, it is not asked again.
    tells_topic_id: AtomicBool,
}

impl Broker {
    /// Connects.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(kafka: &KafkaConfig, group: &str, topic: Arc<str>) -> Result<Self, SourceError> {
        let consumer: BaseConsumer = client_config(kafka)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .create()
            .map_err(|e| SourceError::Config(e.to_string()))?;
        Ok(Broker {
            consumer,
            brokers: kafka.brokers.clone(),
            topic,
            tells_topic_id: AtomicBool::new(true),
        })
    }

    fn unreachable(&self, reason: impl ToString) -> SourceError {
        SourceError::Unreachable {
            brokers: self.brokers.clone(),
            reason: reason.to_string(),
        }
    }

    /// The topic's partitions. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] if the brokers do not answer or the topic is not there.
    pub fn partitions(&self) -> Result<Vec<PartitionId>, SourceError> {
        let metadata = patiently(|| self.consumer.fetch_metadata(Some(&self.topic), ANSWER))
            .map_err(|e| self.unreachable(e))?;
        let partitions: Vec<PartitionId> = metadata
            .topics()
            .iter()
            .filter(|t| t.name() == &*self.topic && t.error().is_none())
            .flat_map(|t| t.partitions())
            .map(|p| PartitionId::new(Arc::clone(&self.topic), p.id()))
            .collect();
        if partitions.is_empty() {
            return Err(SourceError::NoTopic {
                brokers: self.brokers.clone(),
                topic: self.topic.to_string(),
            });
        }
        Ok(partitions)
    }

    /// Topic ids are asked of the controller; where none is named (the embedded broker) the question would only time out.
    fn has_controller(&self) -> bool {
        let Ok(metadata) = self.consumer.fetch_metadata(Some(&self.topic), ANSWER) else {
            return false;
        };
        // SAFETY: the client lives as long as the borrow; the call only reads what the metadata brought.
        let controller = unsafe { rd_kafka_controllerid(self.consumer.client().native_ptr(), 0) };
        metadata.brokers().iter().any(|b| b.id() == controller)
    }

    fn identity(&self) -> TopicIdentity {
        let client = self.consumer.client();
        let topic_id =
            (self.tells_topic_id.load(Ordering::Relaxed) && self.has_controller()).then(|| {
                // SAFETY: the client lives as long as the borrow.
                unsafe { topic_identity::topic_id(client.native_ptr(), &self.topic, ANSWER) }
            });
        let topic_id = topic_id.flatten();
        self.tells_topic_id
            .store(topic_id.is_some(), Ordering::Relaxed);
        TopicIdentity {
            cluster_id: client.fetch_cluster_id(ANSWER).filter(|id| !id.is_empty()),
            topic_id,
        }
    }
}

impl Logs for Broker {
    fn facts(&self, partition: &PartitionId) -> Result<LogFacts, SourceError> {
        let identity = self.identity();
        let (topic, number) = (&*partition.topic, partition.partition);
        let (low, high) = patiently(|| self.consumer.fetch_watermarks(topic, number, ANSWER))
            .map_err(|e| self.unreachable(e))?;
        let committed = patiently(|| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition(topic, number);
            self.consumer.committed_offsets(asked, ANSWER)
        })
        .map_err(|e| self.unreachable(e))?;
        let committed = committed
            .elements()
            .first()
            .and_then(|element| match element.offset() {
                KafkaOffset::Offset(offset) => Some(CommittedOffset {
                    offset: Offset(offset),
                    hint: CommitHint::from_metadata(element.metadata()),
                }),
                _ => None,
            });
        Ok(LogFacts {
            low: Offset(low),
            high: Offset(high),
            committed,
            identity,
        })
    }
}

/// Asks again while the answer is an error that passes by itself.
fn patiently<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if passes(&error) && started.elapsed() < PATIENCE => {
                tracing::debug!(%error, "the broker does not answer; asking again");
                std::thread::sleep(Duration::from_millis(200));
            }
            result => return result,
        }
    }
}

fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::RequestTimedOut
                | Code::OperationTimedOut
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::NotCoordinator
                | Code::RebalanceInProgress
        )
    )
}
