//! What a line needs around it: that the store and the brokers answer, asked every so often for
//! `/health/readyz`, and what the brokers are told.

use super::dead_letter_news::TELL_EVERY;
use super::{LineError, StageStatus};
use crate::stage::source::Broker;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::config::{KafkaConfig, StageConfig};
use tagstream_core::process::blocking;
use tagstream_core::storage::store::TableStore;

/// A store that takes longer to answer is not reachable.
const STORE_ANSWER: Duration = Duration::from_secs(10);
/// Brokers that take longer to answer are not reachable.
const BROKER_ANSWER: Duration = Duration::from_secs(5);
/// The longest session of a group of an embedded broker.
const EMBEDDED_SESSION_MS: u64 = 4_000;

/// What is asked, and who is told.
pub(super) struct Watched<'a> {
    pub config: &'a StageConfig,
    pub store: &'a TableStore,
    pub status: &'a StageStatus,
}

impl Watched<'_> {
    /// Tries the store every so often, for `/health/readyz`: a put of what is there already, which
    /// needs all that a file's put needs.
    pub(super) async fn watch_store(&self) -> Infallible {
        let every = Duration::from_millis(self.config.http.sink_check_ms);
        let (store, status) = (self.store, self.status);
        loop {
            let tried = tokio::time::timeout(STORE_ANSWER, store.prove_conditional_put()).await;
            let broken = match tried {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("the store cannot be written to: {error}")),
                Err(_) => Some(format!(
                    "the store does not answer within {} s",
                    STORE_ANSWER.as_secs()
                )),
            };
            if status.report(StageStatus::SINK_REACHABLE, broken.clone()) {
                match broken {
                    None => tracing::info!(url = store.url(), "the store can be written to"),
                    Some(why) => tracing::warn!(url = store.url(), "{why}"),
                }
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Tells of dead letters that no later one told of.
    pub(super) async fn watch_dead_letters(&self) -> Infallible {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            if let Some(before) = Instant::now().checked_sub(TELL_EVERY) {
                self.status.tell_dead_letters(before);
            }
        }
    }

    /// Asks the brokers every so often, for `/health/readyz`. librdkafka goes on trying whatever
    /// happens, so nobody else would tell of an outage.
    pub(super) async fn watch_broker(&self, probe: Broker) -> Infallible {
        let every = Duration::from_millis(self.config.http.broker_check_ms);
        let probe = Arc::new(probe.with_patience(BROKER_ANSWER));
        loop {
            let asked = Arc::clone(&probe);
            let broken = match blocking::run(move || asked.reach()).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if self
                .status
                .report(StageStatus::BROKER_REACHABLE, broken.clone())
            {
                match broken {
                    None => tracing::info!("the brokers answer"),
                    Some(why) => tracing::warn!("{why}; the stage waits for them"),
                }
            }
            tokio::time::sleep(every).await;
        }
    }
}

/// The brokers' configuration for a consumer. An embedded broker lets the next member of a group
/// wait for nearly a whole session after the last one has left.
pub(super) async fn kafka_of(
    config: &StageConfig,
    broker: &Arc<Broker>,
) -> Result<KafkaConfig, LineError> {
    let asked = Arc::clone(broker);
    let embedded = blocking::run(move || asked.is_embedded()).await;
    let mut kafka = config.kafka.clone();
    if embedded.map_err(LineError::Panicked)? {
        kafka.session_timeout_ms = kafka.session_timeout_ms.min(EMBEDDED_SESSION_MS);
    }
    Ok(kafka)
}
