//! What goes in and what comes out beside the files: the messages sent, and the dead letters.

use crate::checker::{DeadLetter, Produced};
use crate::world::{DEAD_LETTERS, IMAGES, pause};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Message, TopicPartitionList};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Most that the dead-letter topic takes of a message, bytes.
pub const DEAD_LETTER_LIMIT: &str = "max.message.bytes=3000";
/// Bytes of a message whose letter is too large for it.
const LARGE: usize = 4_000;

/// Writes messages, good ones and garbage, and remembers what went where.
pub struct Producer {
    producer: FutureProducer,
    bootstrap: String,
    good: String,
    /// Where images are instead of in the messages themselves.
    pub elsewhere: Option<String>,
    pub produced: HashMap<String, Produced>,
    places: HashSet<(usize, i32, i64)>,
    /// How often the topic was created again.
    pub incarnation: usize,
    sent: usize,
    transactions: usize,
}

/// An idempotent producer; a fresh one knows nothing of a topic that was deleted.
fn producer(bootstrap: &str) -> Result<FutureProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "120000")
        .set("linger.ms", "0")
        .set("reconnect.backoff.max.ms", "500")
        .create()?)
}

/// The picture of all good messages, as PNG.
pub fn picture() -> Result<Vec<u8>> {
    let mut picture = image::RgbImage::new(40, 30);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        *pixel = image::Rgb([(x * 6) as u8, (y * 8) as u8, ((x + y) * 3) as u8]);
    }
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(png.into_inner())
}

/// Sends one message. A partition that was just added is unknown to a broker that has not heard of
/// it yet, and then the client refuses the message before it sends it: it is tried again.
async fn deliver(
    producer: &FutureProducer,
    partition: i32,
    key: &str,
    value: &str,
) -> Result<Delivery> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let record = FutureRecord::to(IMAGES)
            .partition(partition)
            .key(key)
            .payload(value);
        match producer.send(record, Duration::from_secs(120)).await {
            Ok(delivery) => return Ok(delivery),
            Err((error, _))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition)
                    && Instant::now() < deadline =>
            {
                pause().await;
            }
            Err((error, _)) => return Err(error).context("the chaos producer could not send"),
        }
    }
}

impl Producer {
    pub fn new(bootstrap: &str) -> Result<Producer> {
        let base64 = base64::engine::general_purpose::STANDARD.encode(picture()?);
        Ok(Producer {
            producer: producer(bootstrap)?,
            bootstrap: bootstrap.to_string(),
            good: format!("data:image/png;base64,{base64}"),
            elsewhere: None,
            produced: HashMap::new(),
            places: HashSet::new(),
            incarnation: 0,
            sent: 0,
            transactions: 0,
        })
    }

    /// Sends a message to each of `partitions` and waits until the broker has them all. Every
    /// thirteenth is garbage of some kind.
    pub async fn send(&mut self, partitions: &[i32]) -> Result<()> {
        // A few at a time, so that the stages see them trickle in.
        for some in partitions.chunks(16) {
            let messages: Vec<_> = some.iter().map(|p| (*p, self.next())).collect();
            let incarnation = self.incarnation;
            let sent = messages
                .into_iter()
                .map(|(partition, (image_id, value, expected))| {
                    let producer = &self.producer;
                    async move {
                        let delivery = deliver(producer, partition, &image_id, &value).await?;
                        let produced = Produced {
                            incarnation,
                            partition: delivery.partition,
                            offset: delivery.offset,
                            expected,
                            excused: false,
                        };
                        Ok::<_, anyhow::Error>((image_id, produced))
                    }
                });
            for (image_id, produced) in futures::future::try_join_all(sent).await? {
                let place = (incarnation, produced.partition, produced.offset);
                ensure!(
                    self.places.insert(place),
                    "the broker gave {place:?} twice, the second time for {image_id}"
                );
                self.produced.insert(image_id, produced);
            }
            pause().await;
        }
        Ok(())
    }

    /// Goes on with the topic created again.
    pub fn begin_incarnation(&mut self) -> Result<()> {
        self.incarnation += 1;
        self.renew()
    }

    /// A producer that looks at the topic anew.
    pub fn renew(&mut self) -> Result<()> {
        self.producer = producer(&self.bootstrap)?;
        Ok(())
    }

    /// Sends a transaction's messages. Of one that is aborted nothing is remembered: whatever comes
    /// of its messages is a row without a cause.
    pub async fn transact(&mut self, partitions: &[i32], commits: bool) -> Result<()> {
        self.transactions += 1;
        let transactional: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", format!("chaos-{}", self.transactions))
            .set("message.timeout.ms", "60000")
            .set("reconnect.backoff.max.ms", "500")
            .create()?;
        let patience = Duration::from_secs(60);
        // Its calls wait for the broker on their thread.
        tokio::task::block_in_place(|| -> Result<()> {
            transactional.init_transactions(patience)?;
            Ok(transactional.begin_transaction()?)
        })?;
        let plain = std::mem::replace(&mut self.producer, transactional);
        let known: HashSet<String> = self.produced.keys().cloned().collect();
        let sent = self.send(partitions).await;
        let transactional = std::mem::replace(&mut self.producer, plain);
        sent?;
        tokio::task::block_in_place(|| match commits {
            true => transactional.commit_transaction(patience),
            false => transactional.abort_transaction(patience),
        })?;
        if !commits {
            self.produced.retain(|image_id, _| known.contains(image_id));
        }
        Ok(())
    }

    /// Excuses every message that `gone` says was deleted, unless it is already seen.
    pub fn excuse(&mut self, seen: &HashSet<String>, gone: impl Fn(&Produced) -> bool) {
        for (image_id, produced) in &mut self.produced {
            if gone(produced) && !seen.contains(image_id) {
                produced.excused = true;
            }
        }
    }

    fn next(&mut self) -> (String, String, Option<&'static str>) {
        self.sent += 1;
        let image_id = format!("image-{:07}", self.sent);
        let reference = |uri: &str| format!(r#"{{"image_id":"{image_id}","uri":"{uri}"}}"#);
        let (value, expected) = match self.sent % 65 {
            // More than the dead-letter topic takes: its letter has no value.
            7 => (
                format!(r#"{{"image_id":"{image_id}","uri":"{}"#, "x".repeat(LARGE)),
                Some("bad_message"),
            ),
            13 => (format!(r#"{{"image_id":"{image_id}""#), Some("bad_message")),
            26 => (reference("gopher://example.org/a"), Some("bad_uri")),
            39 => (reference("file:///etc/hostname"), Some("forbidden_uri")),
            52 => (
                reference("data:image/png;base64,aGVsbG8gd29ybGQ="),
                Some("unsupported_image"),
            ),
            0 => (
                // A PNG cut off after its header.
                reference(&self.good[..self.good.len() / 2 / 4 * 4]),
                Some("bad_image"),
            ),
            _ => match &self.elsewhere {
                Some(folder) => (reference(&format!("{folder}/{image_id}.png")), None),
                None => (reference(&self.good), None),
            },
        };
        (image_id, value, expected)
    }
}

/// Follows the dead-letter topic.
pub struct DeadLetterReader {
    consumer: BaseConsumer,
    pub letters: Vec<DeadLetter>,
}

impl DeadLetterReader {
    pub fn new(bootstrap: &str) -> Result<DeadLetterReader> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "chaos-checker")
            .set("enable.auto.commit", "false")
            .create()?;
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(DEAD_LETTERS, 0, rdkafka::Offset::Beginning)?;
        consumer.assign(&all)?;
        Ok(DeadLetterReader {
            consumer,
            letters: Vec::new(),
        })
    }

    /// Reads up to the topic's present end.
    pub fn catch_up(&mut self) -> Result<()> {
        let (_, high) = retry(|| {
            self.consumer
                .fetch_watermarks(DEAD_LETTERS, 0, Duration::from_secs(10))
        })?;
        let position = |c: &BaseConsumer| -> i64 {
            c.position()
                .ok()
                .and_then(|p| p.find_partition(DEAD_LETTERS, 0)?.offset().to_raw())
                .unwrap_or(0)
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while position(&self.consumer) < high {
            ensure!(
                std::time::Instant::now() < deadline,
                "the dead-letter topic could not be read to {high}"
            );
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(200)) else {
                continue;
            };
            let headers = message.headers().context("a dead letter without headers")?;
            let header = |name: &str| -> Result<String> {
                let value = headers
                    .iter()
                    .find(|h| h.key == name)
                    .and_then(|h| h.value)
                    .with_context(|| format!("a dead letter without {name}"))?;
                Ok(String::from_utf8(value.to_vec())?)
            };
            let key = message.key().context("a dead letter without key")?;
            self.letters.push(DeadLetter {
                image_id: String::from_utf8(key.to_vec())?,
                partition: header("source.partition")?.parse()?,
                offset: header("source.offset")?.parse()?,
                kind: header("error.kind")?,
            });
        }
        Ok(())
    }
}

/// Repeats a broker call that may fail while a broker restarts.
pub fn retry<T, E: std::fmt::Display>(mut call: impl FnMut() -> Result<T, E>) -> Result<T> {
    let mut last = String::new();
    for _ in 0..12 {
        match call() {
            Ok(value) => return Ok(value),
            Err(error) => last = error.to_string(),
        }
    }
    bail!("the broker does not answer: {last}")
}
