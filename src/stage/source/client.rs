//! Clients of the broker: their configuration, and the questions asked before anything is read.

use super::asking::{ANSWER, Asker, PATIENCE, code_passes, leaders, passes};
use super::log_ends::{EndOfLog, LogEnd, log_ends};
use super::reading::{LogRecord, Read, Reading};
use super::trouble::answered;
use super::{ClientSettings, Covering, SourceError, topic_identity};
use crate::stage::sink::chain::TopicIdentity;
use crate::stage::sink::hint::CommitHint;
use crate::stage::sink::log_facts::{CommittedOffset, LogFacts};
use rdkafka::bindings::rd_kafka_controllerid;
use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{ClientContext, Offset as KafkaOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::{Offset, PartitionId};

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

/// A stretch of a log without messages: markers of transactions, aborted messages, what compaction
/// removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Where it ends. At most `stable`: what lies behind that may still become messages.
    pub until: Offset,
    /// The last stable offset.
    pub stable: Offset,
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
            let learned = metadata.brokers().iter();
            let learned = learned.map(|broker| format!("{}:{}", broker.host(), broker.port()));
            answered(learned);
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

    /// The (stable) ends of all partitions. Blocks.
    ///
    /// # Errors
    /// As [`Broker::partitions`].
    pub fn ends(&self) -> Result<BTreeMap<i32, Offset>, SourceError> {
        let metadata =
            self.asking(|asker| metadata_of(self.consumer.client(), asker, &self.topic, "Read"))?;
        let partitions = partitions_in(&metadata, &self.topic);
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
        match self.read_at(partition, from, None)? {
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
        Ok(self.read_at(partition, end, Some(leader_epoch))? != Read::NotThere)
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

    /// What lies at `from`; with a leader's epoch, if it is what that leader had there.
    fn read_at(
        &self,
        partition: &PartitionId,
        from: Offset,
        leader_epoch: Option<i32>,
    ) -> Result<Read, SourceError> {
        let alone = self.reading.lock().expect("no panic while locked");
        let reading = Reading {
            consumer: &self.consumer,
            partition,
            _alone: alone,
        };
        let read = reading.at(from, leader_epoch);
        read.map_err(|reason| self.unreachable(reason))
    }

    /// Whether a message lies in `partition` from `from` on and before `end`, up to which the log
    /// is stable.
    fn has_messages(
        &self,
        partition: &PartitionId,
        from: Offset,
        end: Offset,
    ) -> Result<bool, SourceError> {
        Ok(match self.read_at(partition, from, None)? {
            Read::Message(record) => record.offset < end,
            Read::End => false,
            // Retention took the beginning: whoever owns the partition must be told by a person
            // how to go on.
            Read::NotThere => true,
        })
    }
}

/// What the brokers say of `topic`, which has at least one partition. Blocks.
///
/// A broker may not know of a topic that another has created a moment ago, nor its leaders, so the
/// question is put again for a while.
pub(super) fn metadata_of<C: ClientContext>(
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
