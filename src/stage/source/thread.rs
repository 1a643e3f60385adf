//! The polling thread.

mod pausing;

use super::clients::ClientSettings;
use super::commits::{Commits, commit_within};
use super::context::{Context, LAST_COMMIT, Pulse, StageConsumer, offsets};
use super::held::Held;
use super::leader_epochs::leader_epoch;
use super::log_ends::position;
use super::{
    Admission, Generation, OffsetCommit, SourceCommand, SourceError, SourceEvent, SourceMessage,
};
use crate::stage::sink::hint::TableTag;
use bytes::Bytes;
use chrono::DateTime;
use rdkafka::Message as _;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::failpoint;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What librdkafka may have fetched ahead when it stops asking, KiB; a configuration can say
/// otherwise.
const PREFETCH_KIB: u32 = 8 << 10;
/// What one answer of a broker may bring, KiB, if more than one message; a configuration can say
/// otherwise.
const ANSWER_KIB: u32 = 4 << 10;
/// Longest wait for a message.
const POLL: Duration = Duration::from_millis(50);
/// Wait between two attempts to admit a message.
const ADMIT: Duration = Duration::from_millis(2);
/// Longest wait for a message while others wait for admission, in paused partitions.
const POLL_PAUSED: Duration = Duration::from_millis(10);
/// How often the stage is told that memory is short.
const TELL_SHORT: Duration = Duration::from_millis(50);
/// Hot warnings are logged this often.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// The group's offset is committed at most this often; it is only for lag tools and a hint.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

/// What the source is told at its start.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// The topic read.
    pub topic: Arc<str>,
    /// The table that its messages become rows of.
    pub table: TableTag,
    /// The consumer group.
    pub group: String,
    /// How often lag is measured.
    pub statistics_interval: Duration,
}

/// A running source.
#[derive(Debug)]
pub struct Source {
    /// What it tells.
    pub events: UnboundedReceiver<SourceEvent>,
    commands: Sender<SourceCommand>,
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Starts reading.
    ///
    /// # Errors
    /// [`SourceError::Config`].
    pub fn start(
        kafka: &KafkaConfig,
        settings: &SourceSettings,
        admission: Admission,
    ) -> Result<Self, SourceError> {
        let (events, receiver) = unbounded_channel();
        let (commands, orders) = channel();
        // Half of what the group allows between polls, so that a slow answer does not throw us out.
        let answer_within =
            Duration::from_millis(kafka.max_poll_interval_ms / 2).min(Duration::from_secs(120));
        let pulse = Arc::<Pulse>::default();
        let config = consumer_settings(kafka, settings);
        let context = Context {
            covering: config.covering(),
            topic: Arc::clone(&settings.topic),
            table: settings.table,
            events: events.clone(),
            answer_within,
            pulse: Arc::clone(&pulse),
            assigned: Default::default(),
            ends: Default::default(),
            changes: Default::default(),
            closing: Default::default(),
            failed: Default::default(),
            next_generation: 1.into(),
            last_commit_warning: Default::default(),
        };
        let consumer: StageConsumer = config.create_with(context)?;
        consumer
            .subscribe(&[&settings.topic])
            .map_err(|e| SourceError::Fatal(e.to_string()))?;
        // SAFETY: the poller drops it before the consumer.
        let commits = unsafe { Commits::of(&consumer) };
        let poller = Poller {
            consumer,
            commits,
            events,
            orders,
            admission,
            held: Held::default(),
            told_short: None,
            paused: BTreeMap::new(),
            shared_at_change: None,
            reading: true,
            last_warning: None,
            to_commit: BTreeMap::new(),
            last_commit: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("source-{}", settings.topic))
            .spawn(move || poller.run())
            .map_err(|e| SourceError::Fatal(format!("cannot start a thread: {e}")))?;
        Ok(Source {
            events: receiver,
            commands,
            pulse,
            thread: Some(thread),
        })
    }

    /// A source that another thread feeds.
    pub(super) fn from_parts(
        events: UnboundedReceiver<SourceEvent>,
        commands: Sender<SourceCommand>,
        pulse: Arc<Pulse>,
        thread: JoinHandle<()>,
    ) -> Self {
        Source {
            events,
            commands,
            pulse,
            thread: Some(thread),
        }
    }

    /// Tells the source something; nobody hears it after its end.
    pub fn command(&self, command: SourceCommand) {
        let _ = self.commands.send(command);
    }

    /// Unix milliseconds when the polling thread last moved.
    pub fn last_moved_ms(&self) -> i64 {
        self.pulse.last_ms()
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// What the consumer is told, beside what the configuration says of both clients.
pub(super) fn consumer_settings(kafka: &KafkaConfig, settings: &SourceSettings) -> ClientSettings {
    let mut config = ClientSettings::of(kafka);
    // Part of the constant above the memory budget (docs/runbook.md).
    for (key, most) in [
        ("queued.max.messages.kbytes", PREFETCH_KIB),
        ("fetch.max.bytes", ANSWER_KIB << 10),
    ] {
        if config.get(key).is_none() {
            config.set(key, most.to_string());
        }
    }
    if config.get("group.protocol") != Some("consumer") {
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", kafka.session_timeout_ms.to_string())
            // Heartbeats go on while an assignment is answered: several must fit into a
            // session.
            .set(
                "heartbeat.interval.ms",
                (kafka.session_timeout_ms / 4).clamp(1, 3_000).to_string(),
            );
    }
    config
        .set("group.id", &settings.group)
        .set(
            "max.poll.interval.ms",
            kafka.max_poll_interval_ms.to_string(),
        )
        .set(
            "statistics.interval.ms",
            settings.statistics_interval.as_millis().to_string(),
        )
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        // The files say where to start; a log that does not have that offset is an error.
        .set("auto.offset.reset", "error");
    config
}

enum Waiting {
    /// With the bytes that it takes, beside one row.
    Message(Generation, SourceMessage, u64),
    End(Generation, PartitionId, Option<Offset>, Offset),
}

struct Poller {
    /// Before the consumer: fields are dropped in their order.
    commits: Commits,
    consumer: StageConsumer,
    events: UnboundedSender<SourceEvent>,
    orders: Receiver<SourceCommand>,
    admission: Admission,
    /// Read, but not admitted yet, in order.
    held: Held<Waiting>,
    told_short: Option<Instant>,
    /// Partitions that are paused, and the assignment that they were paused under.
    paused: BTreeMap<PartitionId, Generation>,
    /// The change of the assignment that shares were made for.
    shared_at_change: Option<u64>,
    reading: bool,
    last_warning: Option<Instant>,
    to_commit: BTreeMap<PartitionId, OffsetCommit>,
    last_commit: Instant,
}

impl Poller {
    fn run(mut self) {
        let outcome = self.poll_until_stopped();
        let context = Arc::clone(self.consumer.context());
        context.closing.store(true, Ordering::SeqCst);
        if let Err(error) = outcome
            && error != SourceError::Dismissed
        {
            let _ = self.events.send(SourceEvent::Failed(error));
        }
        drop(self.commits);
        // Leaves the group; its callbacks find `closing` set and answer themselves.
        drop(self.consumer);
        let _ = self.events.send(SourceEvent::Stopped);
    }

    fn poll_until_stopped(&mut self) -> Result<(), SourceError> {
        let pulse = Arc::clone(&self.consumer.context().pulse);
        loop {
            pulse.moved();
            failpoint::pass_blocking("source.poll");
            while let Ok(order) = self.orders.try_recv() {
                match order {
                    SourceCommand::Commit(commit) => {
                        let context = self.consumer.context();
                        context.reached(&commit.partition, commit.offset);
                        self.to_commit.insert(commit.partition.clone(), commit);
                    }
                    SourceCommand::StopReading => {
                        self.reading = false;
                        self.held.clear();
                    }
                    SourceCommand::Stop(commits) => {
                        if let Some(list) = offsets(&commits, self.consumer.context().table) {
                            let result = commit_within(&self.consumer, &list, LAST_COMMIT);
                            self.consumer.context().committed(result);
                        }
                        return Ok(());
                    }
                }
            }
            if let Some(result) = self.commits.answer(Duration::ZERO) {
                self.consumer.context().committed(result);
            }
            if self.last_commit.elapsed() > COMMIT_EVERY && !self.commits.is_busy() {
                self.commit_due();
            }
            if self.events.is_closed() {
                return Ok(());
            }
            self.admit_held();
            if self.held.must_wait(Instant::now()) {
                std::thread::sleep(ADMIT);
                continue;
            }
            self.pause_or_resume()?;
            self.poll()?;
            let failed = self
                .consumer
                .context()
                .failed
                .lock()
                .expect("no panic while locked")
                .take();
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    /// Commits what is still ours. What was given up was committed then. Nobody waits for the
    /// answer: it is heard on a later round.
    fn commit_due(&mut self) {
        self.last_commit = Instant::now();
        let due: Vec<OffsetCommit> = std::mem::take(&mut self.to_commit)
            .into_values()
            .filter(|c| self.generation(&c.partition).is_some())
            .collect();
        if let Some(list) = offsets(&due, self.consumer.context().table)
            && let Err(error) = self.commits.send(&self.consumer, &list)
        {
            self.consumer.context().committed(Err(error));
        }
    }

    /// Passes on what was held, as far as there is room.
    fn admit_held(&mut self) {
        let now = Instant::now();
        let (admission, events) = (&self.admission, &self.events);
        let memory_is_short = self.held.admit(now, |partition, held| {
            let event = match held {
                Waiting::End(generation, partition, position, high) => SourceEvent::End {
                    generation,
                    partition,
                    position,
                    high,
                },
                Waiting::Message(generation, message, bytes) => {
                    match admission.admit(partition, bytes) {
                        Ok((reservation, place)) => SourceEvent::Message {
                            generation,
                            message,
                            reservation,
                            place,
                        },
                        Err(short) => {
                            return Err((Waiting::Message(generation, message, bytes), short));
                        }
                    }
                }
            };
            let _ = events.send(event);
            Ok(())
        });
        let told = self.told_short.is_some_and(|at| now - at < TELL_SHORT);
        if memory_is_short && !told {
            self.told_short = Some(now);
            let _ = self.events.send(SourceEvent::MemoryShort);
        }
    }

    fn poll(&mut self) -> Result<(), SourceError> {
        let wait = if self.held.is_empty() {
            POLL
        } else {
            POLL_PAUSED
        };
        let held = match self.consumer.poll(wait) {
            None => return Ok(()),
            Some(Ok(message)) => {
                let partition = self.partition(message.partition());
                self.generation(&partition).map(|generation| {
                    let message = owned(partition, &message);
                    let bytes = self.admission.bytes_of(&message);
                    Waiting::Message(generation, message, bytes)
                })
            }
            Some(Err(KafkaError::PartitionEOF(number))) => {
                let partition = self.partition(number);
                let at = position(&self.consumer, &partition.topic, number);
                let (position, high) = (at.offset, at.high);
                self.generation(&partition)
                    .map(|generation| Waiting::End(generation, partition, position, high))
            }
            Some(Err(error)) => return self.judge(&error),
        };
        if let (true, Some(held)) = (self.reading, held) {
            let partition = match &held {
                Waiting::Message(_, message, _) => message.partition.clone(),
                Waiting::End(_, partition, ..) => partition.clone(),
            };
            self.held.push(partition, held);
        }
        Ok(())
    }

    fn partition(&self, number: i32) -> PartitionId {
        PartitionId::new(Arc::clone(&self.consumer.context().topic), number)
    }

    fn generation(&self, partition: &PartitionId) -> Option<Generation> {
        let assigned = self
            .consumer
            .context()
            .assigned
            .lock()
            .expect("no panic while locked");
        assigned.get(partition).copied()
    }

    fn judge(&mut self, error: &KafkaError) -> Result<(), SourceError> {
        use RDKafkaErrorCode as Code;
        let topic = &self.consumer.context().topic;
        let text = error.to_string();
        match (error, error.rdkafka_error_code()) {
            (_, Some(Code::PollExceeded)) => return Err(SourceError::PollExceeded),
            (_, Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation)) => {
                return Err(SourceError::OutOfRange {
                    topic: topic.to_string(),
                });
            }
            (
                _,
                Some(
                    Code::TopicAuthorizationFailed
                    | Code::GroupAuthorizationFailed
                    | Code::ClusterAuthorizationFailed
                    | Code::SaslAuthenticationFailed
                    | Code::Authentication,
                ),
            ) => return Err(SourceError::Refused(text)),
            (KafkaError::MessageConsumptionFatal(_), _) | (_, Some(Code::Fatal)) => {
                return Err(SourceError::Fatal(text));
            }
            _ => {}
        }
        metrics::counter!("tagstream_source_errors_total", "topic" => topic.to_string())
            .increment(1);
        // What is wrong with a connection was told by its cause.
        if error.rdkafka_error_code().is_some_and(is_of_connection) {
            return Ok(());
        }
        if self.last_warning.is_none_or(|at| at.elapsed() > LOG_EVERY) {
            self.last_warning = Some(Instant::now());
            tracing::warn!(%topic, %error, "the consumer has trouble; librdkafka goes on trying");
        }
        Ok(())
    }
}

fn is_of_connection(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve | Code::SSL
    )
}

fn owned(partition: PartitionId, message: &BorrowedMessage<'_>) -> SourceMessage {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|h| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice)))
            .collect()
    });
    SourceMessage {
        partition,
        offset: Offset(message.offset()),
        leader_epoch: leader_epoch(message),
        key: message.key().map(Bytes::copy_from_slice),
        payload: message.payload().map(Bytes::copy_from_slice),
        headers,
        timestamp: message
            .timestamp()
            .to_millis()
            .and_then(DateTime::from_timestamp_millis),
    }
}
