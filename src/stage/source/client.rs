//! Clients of the broker: their configuration, and the questions asked before anything is read.

use super::asking::{ANSWER, Asker, code_passes, leaders};
use super::{ClientSettings, Covering, SourceError, topic_identity};
use crate::stage::sink::chain::TopicIdentity;
use crate::stage::sink::walk::{CommitHint, CommittedOffset, LogFacts};
use rdkafka::bindings::rd_kafka_controllerid;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientContext, Message as _, Offset as KafkaOffset, TopicPartitionList};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::{Offset, OffsetRange, PartitionId};

/// Errors that only last while leaders move are asked again for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// By then every broker knows of a topic that was created before the question.
const SPREAD: Duration = Duration::from_secs(5);

/// What Kafka says about partitions. A trait, so that a line can be tested without a broker.
pub trait Logs: Send + Sync + 'static {
    /// What Kafka says about `partition` now. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if it says nothing.
    fn facts(&self, partition: &PartitionId) -> Result<LogFacts, SourceError>;

    /// Whether a message lies in `range` of `partition`. Its end may be transaction markers, or
    /// compaction may have emptied it. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if the log is silent.
    fn has_messages(
        &self,
        partition: &PartitionId,
        range: OffsetRange,
    ) -> Result<bool, SourceError>;
}

/// What is there when everything answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// Brokers of the cluster.
    pub brokers: usize,
    /// Partitions of the topic.
    pub partitions: usize,
}

/// A client that reads nothing, for questions about one topic. Its own connection: the polling
/// thread is not kept waiting.
pub struct Broker {
    consumer: BaseConsumer<Covering>,
    brokers: String,
    topic: Arc<str>,
    /// Whether the brokers have told the topic's id before.
    tells_topic_id: AtomicBool,
    /// Held by who reads with the consumer: it has one assignment.
    reading: Mutex<()>,
    patience: Duration,
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
            .create()?;
        Ok(Broker {
            consumer,
            brokers: kafka.brokers.clone(),
            topic,
            tells_topic_id: AtomicBool::new(false),
            reading: Mutex::default(),
            patience: PATIENCE,
        })
    }

    /// The same with less patience, or more.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Hears what librdkafka says of the connections. What nobody hears is kept, and would pile
    /// up.
    fn listen(&self) {
        if let Ok(_reading) = self.reading.try_lock() {
            while self.consumer.poll(Duration::ZERO).is_some() {}
        }
    }

    fn asking<T>(&self, work: impl FnOnce(&Asker<'_>) -> T) -> T {
        work(&Asker {
            brokers: &self.brokers,
            troubles: self.consumer.context().troubles(),
            listen: &|| self.listen(),
            patience: self.patience,
        })
    }

    /// Whether this is librdkafka's mock cluster, as `tagstream broker` and the demonstration have
    /// it. Blocks until the brokers have answered once.
    pub fn is_embedded(&self) -> bool {
        let id = self.consumer.client().fetch_cluster_id(ANSWER);
        id.is_some_and(|id| id.starts_with("mockCluster"))
    }

    /// Asks the leaders of the topic's partitions and the group's coordinator: all brokers that
    /// this process needs. The first brokers may answer although the addresses that they give for
    /// these are no good here. Blocks.
    ///
    /// # Errors
    /// [`SourceError`] names the address that does not answer.
    pub fn reach(&self) -> Result<Reached, SourceError> {
        self.asking(|asker| {
            let metadata = metadata_of(self.consumer.client(), asker, &self.topic, "Read")?;
            for (broker, partition) in leaders(&metadata, &self.topic) {
                let ask = |within| {
                    self.consumer
                        .fetch_watermarks(&self.topic, partition, within)
                };
                asker
                    .ask(ask)
                    .map_err(|e| asker.at_its_address(e, broker))?;
            }
            let ask = |within| {
                let mut asked = TopicPartitionList::new();
                asked.add_partition(&self.topic, 0);
                self.consumer.committed_offsets(asked, within)
            };
            asker.ask(ask).map_err(|e| asker.at_its_address(e, None))?;
            asker.troubles.clear();
            Ok(Reached {
                brokers: metadata.brokers().len(),
                partitions: partitions_in(&metadata, &self.topic).len(),
            })
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
        let metadata =
            self.asking(|asker| metadata_of(self.consumer.client(), asker, &self.topic, "Read"))?;
        let named = |partition| PartitionId::new(Arc::clone(&self.topic), partition);
        Ok(partitions_in(&metadata, &self.topic)
            .into_iter()
            .map(named)
            .collect())
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
        self.listen();
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
        let (low, high) = patiently(|| self.consumer.fetch_watermarks(topic, number, ANSWER))
            .map_err(|e| self.unreachable(e))?;
        let committed = patiently(|| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition(topic, number);
            self.consumer.committed_offsets(asked, ANSWER)
        })
        .map_err(|e| self.unreachable(e))?;
        let committed = committed.elements().first().and_then(|element| {
            let hint = CommitHint::from_metadata(element.metadata());
            match element.offset() {
                KafkaOffset::Offset(offset) => Some(CommittedOffset {
                    offset: Offset(offset),
                    hint: hint.map(|(hint, _)| hint),
                    table: hint.and_then(|(_, table)| table),
                }),
                _ => None,
            }
        });
        Ok(LogFacts {
            low: Offset(low),
            high: Offset(high),
            committed,
            identity,
        })
    }

    fn has_messages(
        &self,
        partition: &PartitionId,
        range: OffsetRange,
    ) -> Result<bool, SourceError> {
        let _reading = self.reading.lock().expect("no panic while locked");
        let mut list = TopicPartitionList::new();
        let start = KafkaOffset::Offset(range.start.0);
        list.add_partition_offset(&partition.topic, partition.partition, start)
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|e| self.unreachable(e))?;
        let started = Instant::now();
        let answer = loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => break Ok(message.offset() < range.end.0),
                Some(Err(KafkaError::PartitionEOF(_))) => break Ok(false),
                // Retention took the beginning: whoever owns the partition must be told by a person
                // how to go on.
                Some(Err(error))
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) =>
                {
                    break Ok(true);
                }
                Some(Err(error)) if !passes(&error) => break Err(self.unreachable(error)),
                _ if started.elapsed() > PATIENCE => {
                    break Err(self.unreachable(format!("no message of {partition} came")));
                }
                _ => {}
            }
        };
        // Fails only for a client that is shutting down.
        let _ = self.consumer.unassign();
        answer
    }
}

/// Checks that `topics` can be written to: they are there, or the brokers create what a producer
/// asks for. Blocks.
///
/// # Errors
/// [`SourceError::NoTopic`] names the first that is missing.
pub fn require_topics(kafka: &KafkaConfig, topics: &[Arc<str>]) -> Result<(), SourceError> {
    // It lives for a moment: without the id that an idempotent one would ask for, and what needs
    // it.
    let mut settings = ClientSettings::of(kafka);
    settings.set("enable.gapless.guarantee", "false");
    let producer: BaseProducer<Covering> = settings.create()?;
    let asker = Asker {
        brokers: &kafka.brokers,
        troubles: producer.context().troubles(),
        listen: &|| _ = producer.poll(Duration::ZERO),
        patience: PATIENCE,
    };
    for topic in topics {
        metadata_of(producer.client(), &asker, topic, "Write")?;
    }
    Ok(())
}

/// What the brokers say of `topic`, which has at least one partition. Blocks.
///
/// A broker may not know of a topic that another has created a moment ago, nor its leaders, so the
/// question is put again for a while.
fn metadata_of<C: ClientContext>(
    client: &Client<C>,
    asker: &Asker<'_>,
    topic: &str,
    right: &'static str,
) -> Result<Metadata, SourceError> {
    let started = Instant::now();
    let mut said = false;
    loop {
        let metadata = asker.ask(|within| client.fetch_metadata(Some(topic), within))?;
        let of_topic = metadata.topics().iter().find(|t| t.name() == topic);
        let error = of_topic.map_or(Some(RDKafkaErrorCode::UnknownTopicOrPartition), |t| {
            t.error().map(RDKafkaErrorCode::from)
        });
        let brokers = asker.brokers.to_owned();
        let refusal = match error {
            None if of_topic.is_some_and(|t| !t.partitions().is_empty()) => return Ok(metadata),
            None | Some(RDKafkaErrorCode::UnknownTopicOrPartition) => SourceError::NoTopic {
                brokers,
                topic: topic.into(),
            },
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => SourceError::NoRight {
                topic: topic.into(),
                right,
            },
            Some(code) => SourceError::Unreachable {
                brokers,
                reason: format!("topic {topic:?}: {code}"),
            },
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

fn partitions_in(metadata: &Metadata, topic: &str) -> Vec<i32> {
    let of_topic = metadata.topics().iter().find(|t| t.name() == topic);
    let partitions = of_topic.map_or(&[][..], |t| t.partitions());
    partitions.iter().map(|p| p.id()).collect()
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
    error.rdkafka_error_code().is_some_and(code_passes)
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
