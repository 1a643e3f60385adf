//! Writing originals and records of the journal.

use super::journal::{JOURNAL, Record, Step};
use super::letters::{REPLAY_OF, Replayed};
use super::topic::Topic;
use super::{refused_client, temporary};
use anyhow::Context as _;
use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tagstream::stage::source::{ClientSettings, Covering};
use tagstream_core::config::KafkaConfig;
use tagstream_core::events::header;

/// Time for a message to be acknowledged.
pub(super) const WITHIN: Duration = Duration::from_secs(30);

type Delivered = Result<i64, KafkaError>;

struct Context(Covering);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        ClientContext::error(&self.0, error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Sender<Delivered>>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Box<Sender<Delivered>>) {
        let outcome = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        // Nobody waits any more if the command has failed.
        let _ = answer.send(outcome);
    }
}

/// Writes originals and records.
pub(super) struct Writer {
    producer: ThreadedProducer<Context>,
    kafka: KafkaConfig,
    partitions: std::cell::RefCell<BTreeMap<String, usize>>,
    ours: std::cell::RefCell<BTreeSet<String>>,
}

impl Writer {
    pub(super) fn new(kafka: &KafkaConfig) -> anyhow::Result<Self> {
        let mut settings = ClientSettings::of(kafka);
        settings
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", WITHIN.as_millis().to_string())
            .set("linger.ms", "5");
        let context = Context(settings.covering());
        Ok(Writer {
            producer: settings.create_with(context).map_err(refused_client)?,
            kafka: kafka.clone(),
            partitions: Default::default(),
            ours: Default::default(),
        })
    }

    pub(super) fn is_ours(&self, batch: &str) -> bool {
        self.ours.borrow().contains(batch)
    }

    /// Writes a record into a partition of the dead-letter topic; returns its offset.
    pub(super) fn note(
        &self,
        topic: &Topic,
        partition: i32,
        step: Step,
        record: &Record,
    ) -> anyhow::Result<i64> {
        self.ours.borrow_mut().insert(record.batch.clone());
        let value = serde_json::to_vec(record)?;
        // A compacted topic keeps one message of each key.
        let key = format!("replay/{}/{}", record.batch, step.as_str());
        let (answer, answers) = channel();
        let headers = OwnedHeaders::new().insert(Header {
            key: JOURNAL,
            value: Some(step.as_str()),
        });
        let message = BaseRecord::with_opaque_to(&topic.name, Box::new(answer))
            .partition(partition)
            .key(key.as_bytes())
            .payload(&value[..])
            .headers(headers);
        self.hand_over(message)?;
        let offset = one(&answers)
            .with_context(|| format!("noting in {}/{partition} what is sent again", topic.name))?;
        Ok(offset)
    }

    /// Sends originals and waits for all acknowledgements.
    pub(super) fn send(&self, batch: &[Replayed]) -> anyhow::Result<()> {
        let (answer, answers) = channel();
        for outgoing in batch {
            let Some((source, _)) = &outgoing.letter.source else {
                continue;
            };
            let name = outgoing.letter.name();
            let mut headers = OwnedHeaders::new_with_capacity(outgoing.headers.len() + 2);
            for (key, value) in outgoing.headers.iter().filter(|(key, _)| key != REPLAY_OF) {
                headers = headers.insert(Header {
                    key,
                    value: value.as_deref(),
                });
            }
            // What is sent for the third time has the time of the first.
            let replayed = outgoing
                .headers
                .iter()
                .any(|(key, _)| key == header::REPLAY_TIME);
            let time = outgoing.time.filter(|_| !replayed).map(|t| t.to_string());
            if let Some(time) = &time {
                headers = headers.insert(Header {
                    key: header::REPLAY_TIME,
                    value: Some(time.as_bytes()),
                });
            }
            headers = headers.insert(Header {
                key: REPLAY_OF,
                value: Some(name.as_bytes()),
            });
            let opaque = Box::new(answer.clone());
            let mut message: BaseRecord<'_, [u8], [u8], _> =
                BaseRecord::with_opaque_to(&source.topic, opaque).headers(headers);
            if self.has(&source.topic, source.partition)? {
                message = message.partition(source.partition);
            }
            message.key = outgoing.key.as_deref();
            message.payload = outgoing.value.as_deref();
            self.hand_over(message)?;
        }
        for _ in batch {
            one(&answers)?;
        }
        Ok(())
    }

    /// Whether a topic has that partition.
    fn has(&self, topic: &str, partition: i32) -> anyhow::Result<bool> {
        let mut known = self.partitions.borrow_mut();
        let count = match known.get(topic) {
            Some(count) => *count,
            None => {
                let count = Topic::open(&self.kafka, topic)?.partitions()?.len();
                known.insert(topic.to_owned(), count);
                count
            }
        };
        Ok(usize::try_from(partition).is_ok_and(|p| p < count))
    }

    fn hand_over(
        &self,
        mut message: BaseRecord<'_, [u8], [u8], Box<Sender<Delivered>>>,
    ) -> anyhow::Result<()> {
        use rdkafka::error::RDKafkaErrorCode::QueueFull;
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(QueueFull), back)) => {
                    message = back;
                    self.producer.flush(Duration::from_secs(1)).ok();
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }
}

/// One acknowledgement.
fn one(answers: &Receiver<Delivered>) -> anyhow::Result<i64> {
    let answer = answers.recv_timeout(2 * WITHIN);
    let answer = answer.map_err(|_| temporary("no answer from the brokers".into()))?;
    Ok(answer?)
}
