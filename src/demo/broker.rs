//! An embedded broker: librdkafka's mock cluster, in this process, on loopback, for the
//! demonstration and for tests.
//!
//! It speaks enough of the protocol for producers, consumer groups and offset commits. It is no
//! database: a partition keeps at most 5 MiB or 100,000 message sets and drops the oldest silently,
//! transactions are only acknowledged, and everything is gone with the process. Send references
//! through it, never image bytes.

use crate::stage::source::{ClientSettings, Covering, Refusal};
use rdkafka::bindings::{
    rd_kafka_handle_mock_cluster, rd_kafka_mock_group_initial_rebalance_delay_ms,
};
use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, Producer};
use std::time::Duration;

/// A group's first rebalance waits this long for further members. Zero would cost a second
/// rebalance.
const REBALANCE_DELAY_MS: i32 = 200;

/// Why the embedded broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// librdkafka makes no client.
    #[error("the embedded broker: {0}")]
    Refused(#[from] Refusal),
    /// librdkafka refused.
    #[error("the embedded broker: {0}")]
    Kafka(#[from] KafkaError),
    /// librdkafka started no mock cluster.
    #[error("the embedded broker did not start")]
    NoCluster,
}

/// The embedded broker; ends when dropped.
pub struct EmbeddedBroker {
    /// The cluster lives inside this client.
    holder: BaseProducer<Covering>,
    bootstrap: String,
}

impl EmbeddedBroker {
    /// Starts one broker on a free port of the loopback address.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn start() -> Result<Self, BrokerError> {
        let holder: BaseProducer<Covering> = ClientSettings::without_brokers()
            .set("test.mock.num.brokers", "1")
            .create()?;
        // SAFETY: the handle is live; the cluster belongs to it and is only used while it is
        // borrowed.
        unsafe {
            let cluster = rd_kafka_handle_mock_cluster(holder.client().native_ptr());
            if cluster.is_null() {
                return Err(BrokerError::NoCluster);
            }
            rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, REBALANCE_DELAY_MS);
        }
        let bootstrap = holder
            .client()
            .mock_cluster()
            .ok_or(BrokerError::NoCluster)?
            .bootstrap_servers();
        Ok(EmbeddedBroker { holder, bootstrap })
    }

    fn cluster(&self) -> Result<MockCluster<'_, Covering>, BrokerError> {
        self.holder
            .client()
            .mock_cluster()
            .ok_or(BrokerError::NoCluster)
    }

    /// `host:port`, for `kafka.brokers`.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`BrokerError`], also if it exists.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), BrokerError> {
        Ok(self.cluster()?.create_topic(name, partitions, 1)?)
    }

    /// Delays every answer of the broker.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn set_round_trip(&self, delay: Duration) -> Result<(), BrokerError> {
        Ok(self.cluster()?.broker_round_trip_time(1, delay)?)
    }

    /// Takes the broker down, or brings it back.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn set_down(&self, down: bool) -> Result<(), BrokerError> {
        let cluster = self.cluster()?;
        if down {
            cluster.broker_down(1)?;
        } else {
            cluster.broker_up(1)?;
        }
        Ok(())
    }
}
