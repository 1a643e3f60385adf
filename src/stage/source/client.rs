//! Clients of the broker: their configuration, and the questions asked before anything is read.

use super::log_ends::{EndOfLog, LogEnd, log_ends};
use super::reading::{Read, Reading};
use super::{ClientSettings, Covering, SourceError, topic_identity};
use crate::stage::sink::chain::TopicIdentity;
use crate::stage::sink::walk::{CommitHint, CommittedOffset, LogFacts};
use rdkafka::bindings::rd_kafka_controllerid;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientContext, Offset as KafkaOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::{Offset, PartitionId};

/// One question to the broker may take this long.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
/// Errors that only last while leaders move are asked again for this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// By then every broker knows of a topic that was created before the question.
const SPREAD: Duration = Duration::from_secs(5);

/// What Kafka says about partitions. A trait, so that a line can be tested without a broker.
pub trait Logs: Send + Sync + 'static {
    /// What Kafka says about `partition` now. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if it says nothing.
    fn facts(&self, partition: &PartitionId) -> Result<LogFacts, SourceError>;

    /// The first message of `partition` at or behind `from`, which must be in the log; `None` if
    /// there is none up to the log's (stable) end. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if the brokers do not answer.
    fn first_from(
        &self,
        partition: &PartitionId,
        from: Offset,
    ) -> Result<Option<LogRecord>, SourceError>;

    /// Whether, as the partition's leader knows (OffsetsForLeaderEpoch), what leaders up to
    /// `leader_epoch` took reaches to `end`. `true` where brokers do not know. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if the brokers do not answer.
    fn reaches(
        &self,
        partition: &PartitionId,
        end: Offset,
        leader_epoch: i32,
    ) -> Result<bool, SourceError>;

    /// How far `partition` holds no message from `from` on, and will never hold one. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if the brokers do not answer.
    fn silence(&self, partition: &PartitionId, from: Offset) -> Result<Silence, SourceError>;
}

/// A message, as far as it tells one log from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRecord {
    /// Its offset.
    pub offset: Offset,
    /// The epoch of the leader that took it.
    pub leader_epoch: Option<i32>,
}

/// A stretch of a log without messages: markers of transactions, aborted messages, what compaction
/// removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Where it ends. At most `stable`: what lies behind that may still become messages.
    pub until: Offset,
    /// The last stable offset.
    pub stable: Offset,
}

/// A client that reads nothing, for questions about one topic. Its own connection: the polling
/// thread is not kept waiting.
pub struct Broker {
    pub(super) consumer: BaseConsumer<Covering>,
    brokers: String,
    topic: Arc<str>,
    /// Whether the brokers have told the topic's id before.
    tells_topic_id: AtomicBool,
    /// Held by who reads with the consumer: it has one assignment.
    pub(super) reading: Mutex<()>,
}

impl Broker {
    /// Connects.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn new(kafka: &KafkaConfig, group: &str, topic: Arc<str>) -> Result<Self, SourceError> {
        let consumer: BaseConsumer<Covering> = ClientSettings::of(kafka)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            // It reads single messages, and where the log ends it does not wait for more.
            .set("fetch.wait.max.ms", "20")
            .set("fetch.message.max.bytes", "65536")
            .set("queued.min.messages", "1")
            .create()?;
        Ok(Broker {
            consumer,
            brokers: kafka.brokers.clone(),
            topic,
            tells_topic_id: AtomicBool::new(false),
            reading: Mutex::default(),
        })
    }

    pub(super) fn unreachable(&self, reason: impl ToString) -> SourceError {
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
        let partitions = partitions_of(self.consumer.client(), &self.brokers, &self.topic, "Read")?;
        let named = |partition| PartitionId::new(Arc::clone(&self.topic), partition);
        Ok(partitions.into_iter().map(named).collect())
    }

    /// The (stable) ends of all partitions. Blocks.
    ///
    /// # Errors
    /// As [`Broker::partitions`].
    pub fn ends(&self) -> Result<BTreeMap<i32, Offset>, SourceError> {
        let partitions = partitions_of(self.consumer.client(), &self.brokers, &self.topic, "Read")?;
        let ask = || {
            let stable = LogEnd::Stable;
            log_ends(&self.consumer, &self.topic, &partitions, stable, ANSWER)
        };
        let ends = patiently(ask).map_err(|e| self.unreachable(e))?;
        Ok(ends.into_iter().map(|(p, end)| (p, end.offset)).collect())
    }

    /// Topic ids are asked of the controller; where none is named (the embedded broker) the
    /// question would only time out.
    fn has_controller(&self) -> Result<bool, SourceError> {
        patiently(|| names_controller(self.consumer.client(), Some(&self.topic), ANSWER))
            .map_err(|e| self.unreachable(e))
    }

    /// The topic's id; `None` only where ids are not known, never because an answer was lost: what
    /// is `None` is not compared.
    fn topic_id(&self) -> Result<Option<String>, SourceError> {
        let started = Instant::now();
        loop {
            if self.has_controller()? {
                let client = self.consumer.client();
                // SAFETY: the client lives as long as the borrow.
                let id =
                    unsafe { topic_identity::topic_id(client.native_ptr(), &self.topic, ANSWER) };
                if let Ok(id) = id {
                    self.tells_topic_id
                        .fetch_or(id.is_some(), Ordering::Relaxed);
                    return Ok(id);
                }
            } else if !self.tells_topic_id.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if started.elapsed() > PATIENCE {
                return Err(self.unreachable("the topic's id is not told"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Which topic of which cluster this is. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if the brokers do not tell, though they could.
    pub fn identity(&self) -> Result<TopicIdentity, SourceError> {
        let topic_id = self.topic_id()?;
        let cluster_id = self.consumer.client().fetch_cluster_id(ANSWER);
        Ok(TopicIdentity {
            cluster_id: cluster_id.filter(|id| !id.is_empty()),
            topic_id,
        })
    }
}

/// Whether the brokers name a controller, who answers what administrators ask.
///
/// # Errors
/// What librdkafka says if no broker answers.
pub(in crate::stage) fn has_controller<C: ClientContext>(
    client: &Client<C>,
    timeout: Duration,
) -> Result<bool, KafkaError> {
    names_controller(client, None, timeout)
}

fn names_controller<C: ClientContext>(
    client: &Client<C>,
    topic: Option<&str>,
    timeout: Duration,
) -> Result<bool, KafkaError> {
    let metadata = client.fetch_metadata(topic, timeout)?;
    // SAFETY: the client lives as long as the borrow; the call only reads what the metadata
    // brought.
    let controller = unsafe { rd_kafka_controllerid(client.native_ptr(), 0) };
    Ok(metadata.brokers().iter().any(|b| b.id() == controller))
}

/// Ends when the topic is no longer the one that it was when first asked. A consumer whose topic
/// was created again may get neither messages nor an error (its knowledge of the leaders is newer
/// than the new topic's), and would be silent for ever.
pub async fn recreated<A>(ask: impl Fn() -> A, every: Duration)
where
    A: Future<Output = Option<TopicIdentity>>,
{
    let mut first: Option<TopicIdentity> = None;
    loop {
        if let Some(now) = ask().await {
            let first = first.get_or_insert_with(|| now.clone());
            if first.contradicts(&now) {
                return;
            }
        }
        tokio::time::sleep(every).await;
    }
}

impl Logs for Broker {
    fn facts(&self, partition: &PartitionId) -> Result<LogFacts, SourceError> {
        let identity = self.identity()?;
        let (topic, number) = (&*partition.topic, partition.partition);
        let (low, stable) = patiently(|| self.consumer.fetch_watermarks(topic, number, ANSWER))
            .map_err(|e| self.unreachable(e))?;
        let high = self.end(partition, LogEnd::High)?;
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
            stable: Offset(stable),
            // Asked for later: it may have moved, never backwards.
            high: high.offset.max(Offset(stable)),
            leader_epoch: high.leader_epoch,
            committed,
            identity,
        })
    }

    fn silence(&self, partition: &PartitionId, from: Offset) -> Result<Silence, SourceError> {
        let stable = self.end(partition, LogEnd::Stable)?.offset;
        let silent = stable > from && !self.has_messages(partition, from, stable)?;
        let until = if silent { stable } else { from };
        Ok(Silence { until, stable })
    }

    fn first_from(
        &self,
        partition: &PartitionId,
        from: Offset,
    ) -> Result<Option<LogRecord>, SourceError> {
        let reading = Reading::begin(self, partition, from, None)?;
        match reading.next()? {
            Read::Message(record) => Ok(Some(record)),
            Read::End => Ok(None),
            Read::NotThere => {
                Err(self.unreachable(format!("offset {from} of {partition} left the log")))
            }
        }
    }

    fn reaches(
        &self,
        partition: &PartitionId,
        end: Offset,
        leader_epoch: i32,
    ) -> Result<bool, SourceError> {
        let reading = Reading::begin(self, partition, end, Some(leader_epoch))?;
        Ok(reading.next()? != Read::NotThere)
    }
}

impl Broker {
    fn end(&self, partition: &PartitionId, end: LogEnd) -> Result<EndOfLog, SourceError> {
        let (topic, number) = (&*partition.topic, partition.partition);
        let ends = patiently(|| log_ends(&self.consumer, topic, &[number], end, ANSWER))
            .map_err(|e| self.unreachable(e))?;
        let known = ends.get(&number).copied();
        known.ok_or_else(|| self.unreachable(format!("the end of {partition} is not told")))
    }

    /// Whether a message lies in `partition` from `from` on and before `end`, up to which the log
    /// is stable.
    fn has_messages(
        &self,
        partition: &PartitionId,
        from: Offset,
        end: Offset,
    ) -> Result<bool, SourceError> {
        let reading = Reading::begin(self, partition, from, None)?;
        Ok(match reading.next()? {
            Read::Message(record) => record.offset < end,
            Read::End => false,
            // Retention took the beginning: whoever owns the partition must be told by a person
            // how to go on.
            Read::NotThere => true,
        })
    }
}

/// Checks that `topics` can be written to: they are there, or the brokers create what a producer
/// asks for. Blocks.
///
/// # Errors
/// [`SourceError::NoTopic`] names the first that is missing.
pub fn require_topics(kafka: &KafkaConfig, topics: &[Arc<str>]) -> Result<(), SourceError> {
    let producer: BaseProducer<Covering> = ClientSettings::producer(kafka).create()?;
    for topic in topics {
        partitions_of(producer.client(), &kafka.brokers, topic, "Write")?;
    }
    Ok(())
}

/// The partitions of `topic`, never empty. Blocks.
///
/// A broker may not know of a topic that another has created a moment ago, nor its leaders, so the
/// question is put again for a while.
fn partitions_of<C: ClientContext>(
    client: &Client<C>,
    brokers: &str,
    topic: &str,
    right: &'static str,
) -> Result<Vec<i32>, SourceError> {
    let unreachable = |reason: String| SourceError::Unreachable {
        brokers: brokers.into(),
        reason,
    };
    let started = Instant::now();
    let mut said = false;
    loop {
        let metadata = patiently(|| client.fetch_metadata(Some(topic), ANSWER))
            .map_err(|e| unreachable(e.to_string()))?;
        let of_topic = metadata.topics().iter().find(|t| t.name() == topic);
        let error = of_topic.map_or(Some(RDKafkaErrorCode::UnknownTopicOrPartition), |t| {
            t.error().map(RDKafkaErrorCode::from)
        });
        let partitions = of_topic.map_or(&[][..], |t| t.partitions());
        let refusal = match error {
            None if !partitions.is_empty() => {
                return Ok(partitions.iter().map(|p| p.id()).collect());
            }
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => SourceError::NoTopic {
                brokers: brokers.into(),
                topic: topic.into(),
            },
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => SourceError::NoRight {
                topic: topic.into(),
                right,
            },
            Some(code) => unreachable(format!("topic {topic:?}: {code}")),
        };
        let patience = match error {
            Some(code) if code_passes(code) => PATIENCE,
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => SPREAD,
            Some(_) => Duration::ZERO,
        };
        if started.elapsed() >= patience {
            return Err(refusal);
        }
        if !said {
            said = true;
            tracing::info!(
                topic,
                ?error,
                "the broker does not know the topic yet; asking again"
            );
        }
        std::thread::sleep(Duration::from_millis(200));
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

pub(super) fn passes(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(code_passes)
}

fn code_passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn identity(topic: Option<&str>) -> Option<TopicIdentity> {
        Some(TopicIdentity {
            cluster_id: Some("cluster".into()),
            topic_id: topic.map(Into::into),
        })
    }

    #[tokio::test]
    async fn a_topic_created_again_while_nothing_arrives_is_noticed() {
        let answers = [
            identity(Some("a")),
            None,
            identity(Some("a")),
            identity(Some("b")),
        ];
        let next = AtomicUsize::new(0);
        let ask = || {
            let answer = answers[next.fetch_add(1, Ordering::SeqCst)].clone();
            async move { answer }
        };
        recreated(ask, Duration::ZERO).await;
        assert_eq!(next.load(Ordering::SeqCst), answers.len());
    }

    #[tokio::test]
    async fn brokers_that_do_not_answer_or_know_no_ids_are_no_new_topic() {
        let next = AtomicUsize::new(0);
        let ask = || {
            let n = next.fetch_add(1, Ordering::SeqCst);
            async move { [identity(Some("a")), None, identity(None)][n % 3].clone() }
        };
        let asked_often = async {
            while next.load(Ordering::SeqCst) < 100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = recreated(ask, Duration::ZERO) => panic!("taken for a new topic"),
            () = asked_often => {}
        }
    }
}
