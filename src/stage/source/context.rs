//! What librdkafka calls back: assignments, revocations, commits, statistics. All of it on the
//! polling thread.

use super::commits::commit_within;
use super::leader_epochs::set_leader_epoch;
use super::{Covering, Generation, OffsetCommit, SourceError, SourceEvent};
use crate::stage::sink::hint::TableTag;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{
    BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol, base_consumer,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset as KafkaOffset, Statistics, TopicPartitionList};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tagstream_core::events::{Offset, PartitionId};
use tokio::sync::mpsc::UnboundedSender;

/// The last commit before partitions are given up may take this long: it is a hint, and the group
/// waits for us.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(5);

/// The consumer's context.
pub(super) struct Context {
    pub covering: Covering,
    pub topic: Arc<str>,
    /// The table that commits are about.
    pub table: TableTag,
    pub events: UnboundedSender<SourceEvent>,
    /// How long the stage may take to say where partitions start, or to let go of them.
    pub answer_within: Duration,
    pub pulse: Arc<Pulse>,
    pub assigned: Mutex<BTreeMap<PartitionId, Generation>>,
    /// Where the files of the partitions end, for their lag.
    pub ends: Mutex<BTreeMap<PartitionId, Offset>>,
    /// Counts changes of the assignment.
    pub changes: AtomicU64,
    /// Set once nobody answers any more.
    pub closing: AtomicBool,
    pub failed: Mutex<Option<SourceError>>,
    pub next_generation: AtomicU64,
    /// Unix milliseconds of the last refused commit that was logged.
    pub last_commit_warning: AtomicI64,
}

/// When the polling thread last moved.
#[derive(Debug, Default)]
pub(super) struct Pulse(AtomicI64);

impl Pulse {
    pub(super) fn moved(&self) {
        self.0
            .store(chrono::Utc::now().timestamp_millis(), Ordering::Relaxed);
    }

    /// The thread waits for the stage's answer, as it must: until it moves again, its stillness is
    /// the stage's, who has a pulse of its own.
    fn waits_for_the_stage(&self) {
        self.0.store(i64::MAX, Ordering::Relaxed);
    }

    pub(super) fn last_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(super) type StageConsumer = BaseConsumer<Context>;

impl Context {
    pub(super) fn fail(&self, error: SourceError) {
        let mut failed = self.failed.lock().expect("no panic while locked");
        failed.get_or_insert(error);
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<PartitionId> {
        list.elements()
            .iter()
            .map(|e| PartitionId::new(Arc::clone(&self.topic), e.partition()))
            .collect()
    }

    fn assign(&self, list: &mut TopicPartitionList) -> Result<(), SourceError> {
        let generation = Generation(self.next_generation.fetch_add(1, Ordering::SeqCst));
        let partitions = self.partitions(list);
        let topic = self.topic.to_string();
        metrics::counter!("tagstream_rebalances_total", "topic" => topic, "kind" => "assign")
            .increment(1);
        let (reply, starts) = sync_channel(1);
        let gone = || SourceError::NoStart {
            seconds: self.answer_within.as_secs(),
        };
        let event = SourceEvent::Assigned {
            generation,
            partitions: partitions.clone(),
            reply,
        };
        self.events.send(event).map_err(|_| gone())?;
        self.pulse.waits_for_the_stage();
        // Heartbeats go on in librdkafka's own thread meanwhile; `answer_within` lies below
        // max.poll.interval.ms.
        let starts = match starts.recv_timeout(self.answer_within) {
            Ok(starts) => starts,
            Err(RecvTimeoutError::Timeout) => return Err(gone()),
            Err(RecvTimeoutError::Disconnected) => return Err(SourceError::Dismissed),
        };
        for start in &starts {
            let (topic, number) = (&*start.partition.topic, start.partition.partition);
            list.set_partition_offset(topic, number, KafkaOffset::Offset(start.offset.0))
                .map_err(|e| SourceError::Fatal(e.to_string()))?;
            set_leader_epoch(list, topic, number, start.leader_epoch);
        }
        self.ends
            .lock()
            .expect("no panic while locked")
            .extend(starts.into_iter().map(|s| (s.partition, s.offset)));
        let mut assigned = self.assigned.lock().expect("no panic while locked");
        assigned.extend(partitions.into_iter().map(|p| (p, generation)));
        Ok(())
    }

    /// Takes note of where the files of a partition end.
    pub(super) fn reached(&self, partition: &PartitionId, end: Offset) {
        let mut ends = self.ends.lock().expect("no panic while locked");
        ends.insert(partition.clone(), end);
    }

    fn show_lag(&self, partition: &PartitionId, messages: i64) {
        metrics::gauge!(
            "tagstream_partition_lag_messages",
            "topic" => self.topic.to_string(),
            "partition" => partition.partition.to_string()
        )
        .set(messages as f64);
    }

    fn revoke(&self, consumer: &StageConsumer, list: &TopicPartitionList) {
        let partitions = self.partitions(list);
        let lost = consumer.assignment_lost();
        let kind = if lost { "lost" } else { "revoke" };
        let topic = self.topic.to_string();
        metrics::counter!("tagstream_rebalances_total", "topic" => topic, "kind" => kind)
            .increment(1);
        {
            let mut assigned = self.assigned.lock().expect("no panic while locked");
            for partition in &partitions {
                assigned.remove(partition);
                // Its lag is its next owner's to tell.
                self.show_lag(partition, 0);
            }
        }
        let (reply, commits) = sync_channel(1);
        let event = SourceEvent::Revoked {
            partitions,
            lost,
            reply,
        };
        if self.events.send(event).is_err() {
            return;
        }
        self.pulse.waits_for_the_stage();
        let commits = commits.recv_timeout(self.answer_within).unwrap_or_default();
        if !lost && let Some(list) = offsets(&commits, self.table) {
            self.committed(commit_within(consumer, &list, LAST_COMMIT));
        }
    }

    pub(super) fn committed(&self, result: KafkaResult<()>) {
        match result {
            Ok(()) => {
                let _ = self.events.send(SourceEvent::OffsetsCommitted);
            }
            // The files are the truth; the next commit, or the next owner's, catches up.
            Err(error) => {
                let topic = self.topic.to_string();
                metrics::counter!("tagstream_offset_commit_failures_total", "topic" => topic)
                    .increment(1);
                let now = chrono::Utc::now().timestamp_millis();
                if now - self.last_commit_warning.swap(now, Ordering::Relaxed) > 10_000 {
                    tracing::warn!(topic = %self.topic, %error, "the group's offset was not \
                        committed; files are not affected");
                }
            }
        }
    }
}

/// A list for librdkafka; `None` if there is nothing to commit.
pub(super) fn offsets(commits: &[OffsetCommit], table: TableTag) -> Option<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let (topic, partition) = (&*commit.partition.topic, commit.partition.partition);
        let mut element = list.add_partition(topic, partition);
        if element
            .set_offset(KafkaOffset::Offset(commit.offset.0))
            .is_ok()
        {
            let hint = commit.hint.map(|hint| hint.to_metadata(table));
            element.set_metadata(hint.unwrap_or_default());
        }
        set_leader_epoch(&mut list, topic, partition, commit.leader_epoch);
    }
    (!commits.is_empty()).then_some(list)
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.covering.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.covering.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        let Some(topic) = statistics.topics.get(&*self.topic) else {
            return;
        };
        let assigned = self.assigned.lock().expect("no panic while locked");
        let ends = self.ends.lock().expect("no panic while locked");
        for partition in assigned.keys() {
            let Some(of) = topic.partitions.get(&partition.partition) else {
                continue;
            };
            // librdkafka's own figure is missing until something is read or committed: after a
            // restart on an idle topic, for ever.
            let log_end = if of.ls_offset >= 0 {
                of.ls_offset
            } else {
                of.hi_offset
            };
            if let Some(end) = ends.get(partition).filter(|_| log_end >= 0) {
                self.show_lag(partition, (log_end - end.0).max(0));
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.covering.report(&error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &base_consumer::BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let cooperative = matches!(
            consumer.rebalance_protocol(),
            RebalanceProtocol::Cooperative
        );
        let closing = self.closing.load(Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
        let result = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                if !closing && let Err(error) = self.assign(list) {
                    self.fail(error);
                    // Nothing may be read from where nobody said: the partitions are taken, paused
                    // for ever, and the thread ends.
                    let _ = list.set_all_offsets(KafkaOffset::End);
                }
                if cooperative {
                    consumer.incremental_assign(list)
                } else {
                    consumer.assign(list)
                }
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                if !closing {
                    self.revoke(consumer, list);
                }
                if cooperative {
                    consumer.incremental_unassign(list)
                } else {
                    consumer.unassign()
                }
            }
            other => {
                let code: RDKafkaErrorCode = other.into();
                self.fail(SourceError::Fatal(format!("rebalance: {code}")));
                consumer.unassign()
            }
        };
        if let Err(error) = result
            && !closing
        {
            self.fail(SourceError::Fatal(format!("rebalance: {error}")));
        }
    }
}
