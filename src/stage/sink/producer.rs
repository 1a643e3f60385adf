//! One idempotent producer for both topics: messages leave in the order given, each with an
//! acknowledgement that can be awaited.

use crate::stage::source::{ClientSettings, Covering, Refusal};
use bytes::Bytes;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Message as _, Statistics};
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::process::blocking;
use tokio::sync::{mpsc, oneshot};

/// Pause before a message is offered again to a full queue.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);

/// A message for a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// The topic.
    pub topic: Arc<str>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub payload: Option<Bytes>,
    /// Headers; a value may be missing.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Why a message was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The broker, or librdkafka on its behalf, refused.
    #[error("cannot write to topic {topic}: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker said.
        reason: KafkaError,
    },
    /// The producer was stopped.
    #[error("the producer was stopped before the message was acknowledged")]
    Stopped,
}

/// The acknowledgement of one message, to be awaited.
#[derive(Debug)]
pub struct Ack(oneshot::Receiver<Result<(), ProduceError>>);

impl Ack {
    /// Waits for the broker's answer.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn wait(self) -> Result<(), ProduceError> {
        self.0.await.unwrap_or(Err(ProduceError::Stopped))
    }

    /// One that has arrived.
    pub fn acknowledged() -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(Ok(()));
        Ack(receiver)
    }
}

type Answer = oneshot::Sender<Result<(), ProduceError>>;

/// Where messages for the topics go. A trait, so that a stage can be tested without a broker.
pub trait Topics: Send + Sync + 'static {
    /// Takes a message; messages of one partition key leave in the order of the calls.
    fn send(&self, message: Outgoing) -> Ack;
}

struct Context(Covering);

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn stats(&self, statistics: Statistics) {
        self.0.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        ClientContext::error(&self.0, error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Answer>;

    fn delivery(&self, result: &DeliveryResult<'_>, answer: Box<Answer>) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((reason, message)) => Err(ProduceError::Refused {
                topic: message.topic().into(),
                reason: reason.clone(),
            }),
        };
        // Nobody waits any more if the partition was taken away.
        let _ = answer.send(outcome);
    }
}

/// The producer. Dropping it loses what is not acknowledged.
pub struct KafkaTopics {
    queue: mpsc::UnboundedSender<(Outgoing, Answer)>,
}

impl KafkaTopics {
    /// Starts the producer; `settings` name the brokers.
    ///
    /// # Errors
    /// What librdkafka says about the configuration.
    pub fn start(settings: &ClientSettings) -> Result<Self, Refusal> {
        let context = Context(settings.covering());
        let producer: ThreadedProducer<Context> = settings.create_with(context)?;
        let (queue, messages) = mpsc::unbounded_channel();
        tokio::spawn(forward(producer, messages));
        Ok(KafkaTopics { queue })
    }
}

impl Topics for KafkaTopics {
    fn send(&self, message: Outgoing) -> Ack {
        let (answer, receiver) = oneshot::channel();
        // A closed queue drops `answer`, which the waiter sees as `Stopped`.
        let _ = self.queue.send((message, answer));
        Ack(receiver)
    }
}

/// Gives messages to librdkafka, in order; waits where its queue is full. Memory is bounded by the
/// reservations of the rows that wait for the acknowledgements.
async fn forward(
    producer: ThreadedProducer<Context>,
    mut messages: mpsc::UnboundedReceiver<(Outgoing, Answer)>,
) {
    while let Some((message, answer)) = messages.recv().await {
        let mut answer = Box::new(answer);
        loop {
            let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
            for (key, value) in &message.headers {
                headers = headers.insert(Header {
                    key,
                    value: value.as_deref(),
                });
            }
            let mut record =
                BaseRecord::<[u8], [u8], Box<Answer>>::with_opaque_to(&message.topic, answer)
                    .headers(headers);
            record.key = message.key.as_deref();
            record.payload = message.payload.as_deref();
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                    answer = record.delivery_opaque;
                    metrics::counter!("tagstream_producer_queue_full_total").increment(1);
                    tokio::time::sleep(QUEUE_FULL_PAUSE).await;
                }
                Err((reason, record)) => {
                    let _ = record.delivery_opaque.send(Err(ProduceError::Refused {
                        topic: message.topic.to_string(),
                        reason,
                    }));
                    break;
                }
            }
        }
    }
    // What was acknowledged counts; the rest is read and produced again by the next run.
    let _ = blocking::run(move || producer.flush(Duration::from_secs(1))).await;
}

impl ProduceError {
    /// Whether the message is too large for its topic.
    pub fn is_too_large(&self) -> bool {
        let too_large = |code: &RDKafkaErrorCode| {
            matches!(code, RDKafkaErrorCode::MessageSizeTooLarge)
                || *code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE.into()
        };
        let ProduceError::Refused { reason, .. } = self else {
            return false;
        };
        matches!(reason, KafkaError::MessageProduction(code) if too_large(code))
    }
}
