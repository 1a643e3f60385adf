//! The task that gives messages to librdkafka, and takes back those that it or a broker refused.

use super::{Answer, MessageForm, Outgoing, ProduceError, code};
use crate::stage::sink::dead_letter_topic;
use crate::stage::sink::limits::Limits;
use crate::stage::sink::outgoing::LEAST_LIMIT;
use crate::stage::sink::shortening::shortened;
use crate::stage::sink::verdict::{ProduceVerdict, may_be_sent_again, verdict};
use crate::stage::source::{ClientSettings, Covering, Refusal};
use bytes::Bytes;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Message as _, Statistics};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::process::blocking;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Pause before a message is offered again to a full queue.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(10);
/// Pause between two looks at whether everything has been answered.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
/// Pause before what was refused for a reason that passes is sent again.
const AGAIN_PAUSE: Duration = Duration::from_millis(500);
/// How long a topic may take to come into being.
const CREATION: Duration = Duration::from_secs(30);
/// Hot warnings are logged this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A message on its way.
struct Parcel {
    message: Outgoing,
    fate: Fate,
}

/// What goes with a message through librdkafka.
struct Fate {
    answer: Answer,
    form: MessageForm,
    since: Instant,
    /// Whether it was sent with no other message under way.
    alone: bool,
    /// The client's `batch.size` when it was sent.
    batch_size: usize,
}

impl Fate {
    fn new(answer: Answer, form: MessageForm) -> Self {
        Fate {
            answer,
            form,
            since: Instant::now(),
            alone: false,
            batch_size: 0,
        }
    }
}

struct Returned {
    parcel: Parcel,
    reason: KafkaError,
}

struct Context {
    covering: Covering,
    returns: UnboundedSender<Returned>,
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
        self.covering.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        ClientContext::error(&self.covering, error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Fate>;

    fn delivery(&self, result: &DeliveryResult<'_>, fate: Box<Fate>) {
        match result {
            Ok(_) => {
                // Nobody waits any more if the partition was taken away.
                let _ = fate.answer.send(Ok(()));
            }
            Err((reason, message)) => {
                let message = outgoing(message, fate.form);
                let returned = Returned {
                    parcel: Parcel {
                        message,
                        fate: *fate,
                    },
                    reason: reason.clone(),
                };
                // A forwarder that has ended answers nobody: who waits sees `Stopped`.
                let _ = self.returns.send(returned);
            }
        }
    }
}

fn outgoing(message: &BorrowedMessage<'_>, form: MessageForm) -> Outgoing {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        let owned = |h: Header<'_, &[u8]>| (h.key.to_owned(), h.value.map(Bytes::copy_from_slice));
        headers.iter().map(owned).collect()
    });
    Outgoing {
        topic: message.topic().into(),
        key: message.key().map(Bytes::copy_from_slice),
        payload: message.payload().map(Bytes::copy_from_slice),
        headers,
        form,
    }
}

type Client = ThreadedProducer<Context>;

/// Gives messages to librdkafka, in order; waits where its queue is full. Memory is bounded by the
/// reservations of the rows that wait for the acknowledgements.
pub(super) struct Forwarder {
    settings: ClientSettings,
    limits: Arc<Limits>,
    patience: Duration,
    client: Arc<Client>,
    /// As `client` was made with.
    batch_size: usize,
    /// What refusals of batches have taught, where no broker tells.
    batch_cap: usize,
    returns: UnboundedSender<Returned>,
    returned: UnboundedReceiver<Returned>,
    /// When messages that are sent again were last paused for.
    paused: Option<Instant>,
    warned: Option<Instant>,
}

impl Forwarder {
    pub(super) fn start(
        settings: ClientSettings,
        limits: Arc<Limits>,
        patience: Duration,
    ) -> Result<Self, Refusal> {
        let (returns, returned) = unbounded_channel();
        let batch_size = limits.batch_size();
        let client = client(&settings, &returns, batch_size)?;
        Ok(Forwarder {
            settings,
            limits,
            patience,
            client,
            batch_size,
            batch_cap: usize::MAX,
            returns,
            returned,
            paused: None,
            warned: None,
        })
    }

    pub(super) async fn run(
        mut self,
        topics: Vec<Arc<str>>,
        mut messages: UnboundedReceiver<(Outgoing, Answer)>,
    ) {
        self.limits.ask(&self.client, &topics).await;
        self.follow_limits().await;
        loop {
            tokio::select! {
                biased;
                Some(returned) = self.returned.recv() => self.take_back(returned).await,
                message = messages.recv() => {
                    let Some((message, answer)) = message else { break };
                    let form = message.form;
                    self.forward(Parcel { message, fate: Fate::new(answer, form) }).await;
                }
            }
        }
        // What was acknowledged counts; the rest is read and produced again by the next run.
        let client = self.client;
        let _ = blocking::run(move || client.flush(Duration::from_secs(1))).await;
    }

    /// Sends a message for the first time.
    async fn forward(&mut self, mut parcel: Parcel) {
        self.adapt(&mut parcel.message);
        if self.limits.fits(&parcel.message) {
            return self.produce(parcel).await;
        }
        // The limit may have been raised since it was asked for.
        let topics = [Arc::clone(&parcel.message.topic)];
        self.limits.ask(&self.client, &topics).await;
        let tried_compressed = self.limits.compresses && self.limits.client_takes(&parcel.message);
        if self.limits.fits(&parcel.message) {
            self.produce(parcel).await;
        } else if tried_compressed {
            parcel.fate.alone = true;
            self.produce_alone(parcel).await;
        } else if let Some(parcel) = self.shortened(parcel, usize::MAX) {
            self.produce(parcel).await;
        }
    }

    /// A compacted topic takes no message without a key, and forgets one without a value.
    fn adapt(&self, message: &mut Outgoing) {
        if message.form == MessageForm::DeadLetter && self.limits.is_compacted(&message.topic) {
            dead_letter_topic::keep_in_compacted(message);
        }
    }

    /// The parcel with a message that fits, and has at most `most` bytes; otherwise its waiter is
    /// told that there is no room.
    fn shortened(&mut self, parcel: Parcel, most: usize) -> Option<Parcel> {
        let Parcel { message, fate } = parcel;
        let limits = &self.limits;
        let fits = |m: &Outgoing| limits.fits(m) && m.batch_bytes() <= most;
        let Some(mut shorter) = shortened(&message, &fits) else {
            let least = shortened(&message, &|m| m.batch_bytes() <= LEAST_LIMIT);
            let _ = fate.answer.send(Err(ProduceError::NoRoom {
                topic: message.topic.to_string(),
                limit: limits.bytes(&message.topic),
                bytes: least.unwrap_or(message).batch_bytes(),
            }));
            return None;
        };
        self.adapt(&mut shorter);
        let topic = message.topic.to_string();
        metrics::counter!("tagstream_messages_shortened_total", "topic" => topic).increment(1);
        if self.warned.is_none_or(|at| at.elapsed() > LOG_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                topic = &*message.topic,
                bytes = message.batch_bytes(),
                limit = limits.bytes(&message.topic),
                sent = shorter.batch_bytes(),
                "a message is too large for its topic and is sent shortened (the row in the table \
                 is whole); raise the topic's max.message.bytes to send such messages whole"
            );
        }
        Some(Parcel {
            message: shorter,
            fate,
        })
    }

    /// Hands a message to librdkafka.
    async fn produce(&mut self, parcel: Parcel) {
        let Parcel { message, fate } = parcel;
        let mut fate = Box::new(fate);
        fate.batch_size = self.batch_size;
        loop {
            let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
            for (key, value) in &message.headers {
                let value = value.as_deref();
                headers = headers.insert(Header { key, value });
            }
            let mut record =
                BaseRecord::<[u8], [u8], Box<Fate>>::with_opaque_to(&message.topic, fate)
                    .headers(headers);
            record.key = message.key.as_deref();
            record.payload = message.payload.as_deref();
            match self.client.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                    fate = record.delivery_opaque;
                    metrics::counter!("tagstream_producer_queue_full_total").increment(1);
                    tokio::time::sleep(QUEUE_FULL_PAUSE).await;
                }
                Err((reason, record)) => {
                    let mut fate = *record.delivery_opaque;
                    // The client judges a message by itself.
                    fate.alone = true;
                    let parcel = Parcel { message, fate };
                    let _ = self.returns.send(Returned { parcel, reason });
                    return;
                }
            }
        }
    }

    /// Hands a message to librdkafka while no other is under way, and waits until it is answered.
    async fn produce_alone(&mut self, mut parcel: Parcel) {
        parcel.fate.alone = true;
        self.settle().await;
        self.produce(parcel).await;
        self.settle().await;
    }

    /// Waits until nothing is under way; librdkafka gives up on each message in time.
    async fn settle(&self) {
        while self.client.in_flight_count() > 0 {
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// Decides about a message that was refused.
    async fn take_back(&mut self, returned: Returned) {
        let Returned { mut parcel, reason } = returned;
        let refusal = code(&reason);
        let waited = parcel.fate.since.elapsed();
        let again = refusal.is_some_and(may_be_sent_again);
        match refusal.map(verdict) {
            Some(ProduceVerdict::TooLarge) => return self.too_large(parcel).await,
            Some(ProduceVerdict::Passes) if again && waited < self.patience => {}
            Some(ProduceVerdict::Missing) if waited < CREATION => {}
            _ if self.needs_key(&parcel.message, refusal) => {
                self.limits.found_compacted(&parcel.message.topic);
                self.adapt(&mut parcel.message);
                return self.produce(parcel).await;
            }
            _ => {
                let refused = ProduceError::of(&parcel.message.topic, reason);
                let _ = parcel.fate.answer.send(Err(refused));
                return;
            }
        }
        if self.paused.is_none_or(|at| at.elapsed() > AGAIN_PAUSE) {
            let topic = &*parcel.message.topic;
            tracing::warn!(topic, %reason, "messages were refused; sending them again");
            tokio::time::sleep(AGAIN_PAUSE).await;
            self.paused = Some(Instant::now());
        }
        self.produce(parcel).await;
    }

    /// Whether a topic of which nobody said so turns out to be compacted.
    fn needs_key(&self, message: &Outgoing, refusal: Option<RDKafkaErrorCode>) -> bool {
        refusal == Some(RDKafkaErrorCode::InvalidRecord)
            && message.form == MessageForm::DeadLetter
            && message.key.is_none()
    }

    /// A batch was refused. Whether it was this message's fault shows when it is sent alone.
    async fn too_large(&mut self, mut parcel: Parcel) {
        let topics = [Arc::clone(&parcel.message.topic)];
        let bytes = parcel.message.batch_bytes();
        let was_alone = std::mem::replace(&mut parcel.fate.alone, true);
        self.limits.ask(&self.client, &topics).await;
        let mut most = usize::MAX;
        if was_alone && self.limits.fits(&parcel.message) {
            // It fits as far as anybody says, and was refused: half of it is a guess that ends.
            self.limits.refused(&parcel.message);
            most = bytes / 2;
        }
        if !was_alone && parcel.fate.batch_size == self.batch_size {
            self.batch_cap = (self.batch_size / 2).max(1);
        }
        self.follow_limits().await;
        let whole = self.limits.fits(&parcel.message) && most == usize::MAX;
        let parcel = match whole {
            true => Some(parcel),
            false => self.shortened(parcel, most),
        };
        if let Some(parcel) = parcel {
            self.produce_alone(parcel).await;
        }
    }

    /// Makes a new client where batches of the old one are larger than a topic takes.
    async fn follow_limits(&mut self) {
        let batch_size = self.limits.batch_size().min(self.batch_cap);
        if batch_size >= self.batch_size {
            return;
        }
        self.settle().await;
        match client(&self.settings, &self.returns, batch_size) {
            Ok(client) => {
                tracing::info!(batch_size, "batches follow the least limit of the topics");
                self.batch_size = batch_size;
                let old = std::mem::replace(&mut self.client, client);
                // Its thread is joined.
                let _ = blocking::run(move || drop(old)).await;
            }
            Err(error) => tracing::warn!(%error, "cannot make a client with smaller batches"),
        }
    }
}

fn client(
    settings: &ClientSettings,
    returns: &UnboundedSender<Returned>,
    batch_size: usize,
) -> Result<Arc<Client>, Refusal> {
    let context = Context {
        covering: settings.covering(),
        returns: returns.clone(),
    };
    let mut settings = settings.clone();
    settings.set("batch.size", batch_size.to_string());
    settings.create_with(context).map(Arc::new)
}
