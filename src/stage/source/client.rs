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
    ClientConfig, ClientContext, Offset as KafkaOffset, TopicPartitionList,
    client::Client,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::time::{Duration, Instant};

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

/// A consumer that reads nothing, for questions; fails if the brokers do not answer or the topic is not there.
///
/// # Errors
/// [`SourceError`] names what is missing.
pub fn connect(
    kafka: &KafkaConfig,
    group: &str,
    topic: &str,
) -> Result<(BaseConsumer, Vec<PartitionId>), SourceError> {
    let consumer: BaseConsumer = client_config(kafka)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .create()
        .map_err(|e| SourceError::Config(e.to_string()))?;
    let unreachable = |reason: String| SourceError::Unreachable {
        brokers: kafka.brokers.clone(),
        reason,
    };
    let metadata = patiently(|| consumer.fetch_metadata(Some(topic), ANSWER))
        .map_err(|e| unreachable(e.to_string()))?;
    let partitions: Vec<PartitionId> = metadata
        .topics()
        .iter()
        .filter(|t| t.name() == topic && t.error().is_none())
        .flat_map(|t| t.partitions())
        .map(|p| PartitionId::new(topic, p.id()))
        .collect();
    if partitions.is_empty() {
        return Err(SourceError::NoTopic {
            brokers: kafka.brokers.clone(),
            topic: topic.into(),
        });
    }
    Ok((consumer, partitions))
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

/// Which topic of which cluster `topic` is, as far as the broker tells.
pub(super) fn identity<C: ClientContext>(client: &Client<C>, topic: &str) -> TopicIdentity {
    TopicIdentity {
        cluster_id: client.fetch_cluster_id(ANSWER).filter(|id| !id.is_empty()),
        // SAFETY: the client lives as long as the borrow.
        topic_id: unsafe { topic_identity::topic_id(client.native_ptr(), topic, ANSWER) },
    }
}

/// What Kafka says about one partition.
///
/// # Errors
/// [`SourceError::Unreachable`] if it says nothing.
pub fn partition_log<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partition: &PartitionId,
) -> Result<LogFacts, SourceError> {
    let identity = identity(consumer.client(), &partition.topic);
    log_facts(consumer, partition, &identity)
}

/// As [`partition_log`], with the identity known.
pub(super) fn log_facts<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partition: &PartitionId,
    identity: &TopicIdentity,
) -> Result<LogFacts, SourceError> {
    let unreachable = |e: KafkaError| SourceError::Unreachable {
        brokers: format!("partition {partition}"),
        reason: e.to_string(),
    };
    let (topic, number) = (&*partition.topic, partition.partition);
    let (low, high) =
        patiently(|| consumer.fetch_watermarks(topic, number, ANSWER)).map_err(unreachable)?;
    let committed = patiently(|| {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, number);
        consumer.committed_offsets(asked, ANSWER)
    })
    .map_err(unreachable)?;
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
        identity: identity.clone(),
    })
}
