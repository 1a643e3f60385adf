//! Questions to the brokers: asked again while an answer may come, given up early where none can.

use super::{SourceError, Troubles};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataBroker};
use std::time::{Duration, Instant};

/// The first try of a question may take this long, the next ones twice as long each.
const FIRST: Duration = Duration::from_millis(500);
/// One question to the broker may take this long.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// A mistake in the configuration is believed after this long: a broker that goes down closes
/// connections as well.
const SETTLED: Duration = Duration::from_secs(1);

/// Errors that only last while leaders move are asked again for this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks, and for how long.
pub(super) struct Asker<'a> {
    /// The brokers, as configured.
    pub brokers: &'a str,
    /// What librdkafka says of the connections meanwhile.
    pub troubles: &'a Troubles,
    /// Hears what librdkafka says: it tells nothing by itself.
    pub listen: &'a dyn Fn(),
    /// How long errors that pass are borne.
    pub patience: Duration,
}

impl Asker<'_> {
    /// Asks until there is an answer. `question` is told how long it may take.
    pub(super) fn ask<T>(
        &self,
        mut question: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, SourceError> {
        let (started, mut within) = (Instant::now(), FIRST);
        loop {
            let answer = question(within.min(ANSWER));
            (self.listen)();
            let error = match answer {
                Ok(answer) => {
                    self.troubles.forget_guesses();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let code = error.rdkafka_error_code();
            if code.is_some_and(refuses) {
                return Err(SourceError::Refused(error.to_string()));
            }
            if let Some(trouble) = self.troubles.mistake(SETTLED) {
                return Err(SourceError::Unfit {
                    brokers: self.brokers.into(),
                    trouble,
                });
            }
            if !code.is_some_and(code_passes) || started.elapsed() >= self.patience {
                return Err(self.unreachable(&error));
            }
            tracing::debug!(%error, "the broker does not answer; asking again");
            within = (within * 2).min(ANSWER);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What is known of why no answer came.
    pub(super) fn unreachable(&self, error: &KafkaError) -> SourceError {
        let reason = self.troubles.told().unwrap_or_else(|| error.to_string());
        SourceError::Unreachable {
            brokers: self.brokers.into(),
            reason,
        }
    }

    /// Says of a broker that does not answer whether only the address is wrong that the brokers
    /// themselves give for it.
    pub(super) fn at_its_address(
        &self,
        error: SourceError,
        broker: Option<&MetadataBroker>,
    ) -> SourceError {
        let SourceError::Unreachable { brokers, reason } = error else {
            return error;
        };
        let learned = match broker {
            Some(broker) => {
                let address = format!("{}:{}", broker.host(), broker.port());
                (!self.is_configured(&address)).then_some(address)
            }
            // The coordinator's, which metadata does not name.
            None => self
                .troubles
                .addresses()
                .into_iter()
                .find(|a| !self.is_configured(a)),
        };
        match learned {
            Some(address) => SourceError::Advertised {
                cause: match self.troubles.at(&address) {
                    Some(cause) => cause.to_string(),
                    None => "it does not answer".into(),
                },
                brokers,
                address,
            },
            None => SourceError::Unreachable { brokers, reason },
        }
    }

    fn is_configured(&self, address: &str) -> bool {
        let plain = |entry: &str| {
            let entry = entry.trim();
            entry
                .split_once("://")
                .map_or(entry, |(_, e)| e)
                .to_ascii_lowercase()
        };
        let address = address.to_ascii_lowercase();
        let configured = |entry: &str| {
            let entry = plain(entry);
            // librdkafka's default port.
            entry == address || format!("{entry}:9092") == address
        };
        self.brokers.split(',').any(configured)
    }
}

/// For each broker that leads partitions of `topic`, itself and one of these partitions.
pub(super) fn leaders<'a>(
    metadata: &'a Metadata,
    topic: &str,
) -> Vec<(Option<&'a MetadataBroker>, i32)> {
    let of_topic = metadata.topics().iter().find(|t| t.name() == topic);
    let mut leaders: Vec<(i32, i32)> = of_topic
        .map_or(&[][..], |t| t.partitions())
        .iter()
        .map(|p| (p.leader(), p.id()))
        .collect();
    leaders.sort_unstable();
    leaders.dedup_by_key(|(leader, _)| *leader);
    let broker = |id| metadata.brokers().iter().find(|b| b.id() == id);
    leaders
        .into_iter()
        .map(|(id, partition)| (broker(id), partition))
        .collect()
}

fn refuses(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
    )
}

/// Whether an error passes by itself.
pub(super) fn code_passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::SSL
            | Code::Authentication
            | Code::AllBrokersDown
            | Code::RequestTimedOut
            | Code::OperationTimedOut
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::RebalanceInProgress
    )
}

pub(super) fn passes(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(code_passes)
}
