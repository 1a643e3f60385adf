//! One idempotent producer for both topics: messages leave in the order given, each with an
//! acknowledgement that can be awaited.
//!
//! A message that is too large for its topic is made smaller before it is sent, and again if it is
//! refused all the same. What is refused for a reason that passes is sent again; what is refused
//! for good ends the stage with what has to be done. A message that was sent again may leave after
//! its successors.

mod forwarder;

use super::limits::Limits;
use super::shortening::shortened;
use super::verdict::{ProduceVerdict, Remedy, verdict};
use crate::stage::source::{ClientSettings, Refusal};
use forwarder::Forwarder;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub use super::outgoing::{MessageForm, Outgoing};

/// Why a message was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// Refused for a reason that passes, for longer than was waited.
    #[error("cannot write to topic {topic}: {reason}")]
    Refused {
        /// The topic.
        topic: String,
        /// What the broker, or librdkafka on its behalf, said.
        reason: KafkaError,
    },
    /// Refused until somebody does something.
    #[error("cannot write to topic {topic}: {reason}: {}", .remedy.words())]
    ForGood {
        /// The topic.
        topic: String,
        /// What the broker, or librdkafka on its behalf, said.
        reason: KafkaError,
        /// What has to be done.
        remedy: Remedy,
    },
    /// The topic is not there, and was not created meanwhile.
    #[error(
        "cannot write to topic {topic}: the brokers do not have it ({reason}): create it, or name \
         another, then start again"
    )]
    Missing {
        /// The topic.
        topic: String,
        /// What the broker, or librdkafka on its behalf, said.
        reason: KafkaError,
    },
    /// Not even the least form of the message fits.
    #[error(
        "topic {topic} takes messages of at most {limit} bytes, and the shortest form of one has \
         {bytes}: raise the topic's `max.message.bytes` (or `message.max.bytes` under \
         `kafka.properties`), then start again"
    )]
    NoRoom {
        /// The topic.
        topic: String,
        /// What it takes.
        limit: usize,
        /// What would be needed.
        bytes: usize,
    },
    /// A file in the place of a topic cannot be written.
    #[error("cannot write to {path}: {reason}")]
    LetterFile {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The producer was stopped.
    #[error("the producer was stopped before the message was acknowledged")]
    Stopped,
}

impl ProduceError {
    /// Whether starting again may help without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        matches!(self, ProduceError::Refused { .. } | ProduceError::Stopped)
    }

    fn of(topic: &str, reason: KafkaError) -> Self {
        let topic = topic.to_owned();
        match code(&reason).map(verdict) {
            Some(ProduceVerdict::ForGood(remedy)) => ProduceError::ForGood {
                topic,
                reason,
                remedy,
            },
            Some(ProduceVerdict::Missing) => ProduceError::Missing { topic, reason },
            _ => ProduceError::Refused { topic, reason },
        }
    }
}

fn code(reason: &KafkaError) -> Option<RDKafkaErrorCode> {
    reason.rdkafka_error_code()
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
        Ack::answered(Ok(()))
    }

    /// One that says that the message was not written.
    pub fn failed(error: ProduceError) -> Self {
        Ack::answered(Err(error))
    }

    fn answered(answer: Result<(), ProduceError>) -> Self {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(answer);
        Ack(receiver)
    }
}

type Answer = oneshot::Sender<Result<(), ProduceError>>;

/// Where messages for the topics go. A trait, so that a stage can be tested without a broker.
pub trait Topics: Send + Sync + 'static {
    /// Takes a message; messages of one partition key leave in the order of the calls.
    fn send(&self, message: Outgoing) -> Ack;

    /// The message as it will be sent, so that what its topic has no room for takes no memory until
    /// then.
    fn prepared(&self, message: Outgoing) -> Outgoing {
        message
    }
}

/// The producer. Dropping it loses what is not acknowledged.
pub struct KafkaTopics {
    queue: mpsc::UnboundedSender<(Outgoing, Answer)>,
    limits: Arc<Limits>,
}

impl KafkaTopics {
    /// Starts the producer; `settings` name the brokers. `topics` will be written to: how large
    /// their messages may be is asked before the first is sent. `patience` is how long a message
    /// is sent again for.
    ///
    /// # Errors
    /// What librdkafka says about the configuration.
    pub fn start(
        mut settings: ClientSettings,
        topics: Vec<Arc<str>>,
        patience: Duration,
    ) -> Result<Self, Refusal> {
        let limits = Arc::new(Limits::of(&mut settings));
        let (queue, messages) = mpsc::unbounded_channel();
        let forwarder = Forwarder::start(settings, Arc::clone(&limits), patience)?;
        tokio::spawn(forwarder.run(topics, messages));
        Ok(KafkaTopics { queue, limits })
    }
}

impl Topics for KafkaTopics {
    fn send(&self, message: Outgoing) -> Ack {
        let (answer, receiver) = oneshot::channel();
        // A closed queue drops `answer`, which the waiter sees as `Stopped`.
        let _ = self.queue.send((message, answer));
        Ack(receiver)
    }

    fn prepared(&self, message: Outgoing) -> Outgoing {
        // What may fit when it is compressed is tried as it is.
        let fits = |m: &Outgoing| match self.limits.compresses {
            true => self.limits.client_takes(m),
            false => self.limits.fits(m),
        };
        // What cannot be made to fit is told of when it is sent.
        shortened(&message, &fits).unwrap_or(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: RDKafkaErrorCode) -> ProduceError {
        ProduceError::of("dead-letters", KafkaError::MessageProduction(code))
    }

    #[test]
    fn what_is_for_good_names_the_topic_and_the_remedy_and_is_not_temporary() {
        for (code, word) in [
            (RDKafkaErrorCode::TopicAuthorizationFailed, "grant Write"),
            (RDKafkaErrorCode::InvalidRecord, "schema validation"),
            (RDKafkaErrorCode::UnknownTopic, "create it"),
            (RDKafkaErrorCode::UnsupportedCompressionType, "compression"),
            (RDKafkaErrorCode::Authentication, "password"),
        ] {
            let error = refused(code);
            let said = error.to_string();
            assert!(
                said.contains("dead-letters") && said.contains(word),
                "{said}"
            );
            assert!(!error.is_temporary(), "{said}");
        }
        assert!(refused(RDKafkaErrorCode::MessageTimedOut).is_temporary());
        assert!(ProduceError::Stopped.is_temporary());
    }
}
