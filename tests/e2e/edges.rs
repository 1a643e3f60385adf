//! The edges of Kafka's log on a real broker: transactions, compaction, messages without value or
//! key, every codec, the broker's own clock.

use crate::harness::{STUCK, World, is_real_broker, not_tested, unique};
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const ANSWER: Duration = Duration::from_secs(20);

impl World {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.config.kafka.brokers)
            .create()
            .unwrap()
    }

    pub(crate) fn producer(&self, settings: &[(&str, &str)]) -> BaseProducer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.config.kafka.brokers);
        for (key, value) in settings {
            config.set(*key, *value);
        }
        config.create().unwrap()
    }

    /// A producer whose messages are seen only once they are committed.
    fn transactions(&self) -> BaseProducer {
        let producer = self.producer(&[("transactional.id", &unique("transactions"))]);
        producer.init_transactions(ANSWER).unwrap();
        producer
    }

    /// Sends good images of these names and waits until the broker has them.
    pub(crate) fn send_images(
        &self,
        producer: &BaseProducer,
        names: impl IntoIterator<Item = String>,
    ) {
        for name in names {
            let value = self.good_reference(&name);
            let topic = &self.config.source.images_topic;
            let record = BaseRecord::<str, str>::to(topic)
                .partition(0)
                .payload(&value);
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(ANSWER).unwrap();
    }

    pub(crate) fn good_reference(&self, name: &str) -> String {
        let uri = format!("file://{}", self.picture(0).display());
        serde_json::json!({"image_id": name, "uri": uri}).to_string()
    }

    async fn set_topic(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in settings {
            change = change.set(key, value);
        }
        let admin = self.admin();
        let changed = admin.alter_configs([&change], &AdminOptions::new()).await;
        changed.unwrap()[0].as_ref().unwrap();
    }

    pub(crate) fn consumer(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.config.kafka.brokers)
            .set("group.id", group)
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_uncommitted")
            .create()
            .unwrap()
    }

    /// The log's beginning and end, whatever belongs to transactions.
    pub(crate) fn watermarks(&self) -> (i64, i64) {
        let consumer = self.consumer(&unique("watermarks"));
        let topic = &self.config.source.images_topic;
        consumer.fetch_watermarks(topic, 0, ANSWER).unwrap()
    }

    /// What the stage's group has committed.
    pub(crate) fn group_offset(&self) -> Option<i64> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.config.source.images_topic, 0);
        let consumer = self.consumer(&self.config.kafka.group_id);
        // A fresh broker may not coordinate groups at once.
        let started = Instant::now();
        let committed = loop {
            match consumer.committed_offsets(list.clone(), ANSWER) {
                Ok(committed) => break committed,
                Err(error) => assert!(started.elapsed() < STUCK, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        match committed.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// Every row's event time, in microseconds.
    fn event_times(&self) -> Vec<i64> {
        let files = self.files().into_values();
        let batches = files.flat_map(|(batches, _)| batches);
        let times = |batch: arrow_array::RecordBatch| {
            let column = batch["event_time"].clone();
            let times = column.as_primitive::<TimestampMicrosecondType>();
            times.values().to_vec()
        };
        batches.flat_map(times).collect()
    }

    pub(crate) fn image_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.rows().into_iter().map(|r| r.image_id).collect();
        names.sort();
        names
    }
}

pub(crate) fn named(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    let prefix = prefix.to_owned();
    (0..count).map(move |i| format!("{prefix}{i}"))
}

/// Waits for what comes in the end.
pub(crate) async fn until(what: &str, mut come: impl FnMut() -> bool) {
    let started = Instant::now();
    while !come() {
        assert!(started.elapsed() < STUCK, "never: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Markers end every transaction and are no messages; aborted ones are never seen. The files cover
/// both, or nothing could tell later that retention took nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_transactional_log_is_read_to_its_last_marker_and_retention_may_empty_it() {
    if !is_real_broker() {
        return not_tested("transactions: an embedded broker writes no markers");
    }
    let world = World::new("transactional", 1);
    let producer = world.transactions();
    for (prefix, commit) in [("a", true), ("x", false), ("b", true), ("y", false)] {
        producer.begin_transaction().unwrap();
        world.send_images(&producer, named(prefix, 5));
        if commit {
            producer.commit_transaction(ANSWER).unwrap();
        } else {
            producer.abort_transaction(ANSWER).unwrap();
        }
    }
    world.drain().await.unwrap();
    let seen: Vec<_> = named("a", 5).chain(named("b", 5)).collect();
    assert_eq!(world.image_names(), seen);
    let (_, end) = world.watermarks();
    assert_eq!(end, 24);
    world.assert_exactly_once(&[end], 10);
    assert_eq!(world.group_offset(), Some(end), "lag is not zero");
    // Retention empties the log: nothing was lost, and the next run must go on.
    world.delete_records_before(end).await;
    assert_eq!(world.watermarks(), (end, end));
    world.drain().await.unwrap();
    // An aborted transaction alone: a file without rows, and again no lag.
    producer.begin_transaction().unwrap();
    world.send_images(&producer, named("z", 3));
    producer.abort_transaction(ANSWER).unwrap();
    world.drain().await.unwrap();
    world.assert_exactly_once(&[end + 4], 10);
    assert_eq!(world.group_offset(), Some(end + 4));
}

/// A stage that goes on reading puts markers into files as well, after a file's age.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_goes_on_covers_an_aborted_end_by_itself() {
    if !is_real_broker() {
        return not_tested("aborted transactions: an embedded broker knows none");
    }
    let world = World::new("aborted", 1);
    let producer = world.transactions();
    let launch = crate::child::Launch {
        for_ever: true,
        ..Default::default()
    };
    let mut stage = world.launch("stage", &launch);
    stage.says("partition assigned", 1);
    producer.begin_transaction().unwrap();
    world.send_images(&producer, named("x", 3));
    producer.abort_transaction(ANSWER).unwrap();
    until("the aborted end is committed", || {
        assert!(stage.is_running(), "{}", stage.log());
        world.group_offset() == Some(4)
    })
    .await;
    stage.signal("TERM");
    stage.finish();
    world.assert_exactly_once(&[4], 0);
}

/// Whoever acknowledged a message counts on a run that reads to the end: it waits for transactions
/// that were open when it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_to_the_end_waits_for_open_transactions() {
    if !is_real_broker() {
        return not_tested("open transactions: an embedded broker shows their messages");
    }
    for commit in [true, false] {
        let world = World::new("open", 1);
        let plain = world.producer(&[]);
        world.send_images(&plain, named("a", 5));
        let producer = world.transactions();
        producer.begin_transaction().unwrap();
        world.send_images(&producer, named("b", 5));
        world.send_images(&plain, named("c", 7));
        let drained = world.drain();
        let ended = async {
            until("what is stable is in files", || world.rows().len() == 5).await;
            // The run could end now, if it took the stable end for the log's.
            let looks = Instant::now();
            until("it looked around", || {
                looks.elapsed() > Duration::from_secs(1)
            })
            .await;
            if commit {
                producer.commit_transaction(ANSWER).unwrap();
            } else {
                producer.abort_transaction(ANSWER).unwrap();
            }
        };
        let (outcome, ()) = tokio::join!(drained, ended);
        outcome.unwrap();
        let (_, end) = world.watermarks();
        assert_eq!(end, 18);
        world.assert_exactly_once(&[end], if commit { 17 } else { 12 });
    }
}

/// Compaction leaves holes, and tombstones disappear altogether.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_log_is_read_over_its_holes() {
    if !is_real_broker() {
        return not_tested("compaction: an embedded broker keeps everything");
    }
    let world = World::new("compacted", 1);
    let topic = world.config.source.images_topic.clone();
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "0"),
        ("max.compaction.lag.ms", "1"),
    ];
    world.set_topic(&topic, &settings).await;
    let producer = world.producer(&[]);
    let sent = std::cell::Cell::new(chrono::Utc::now().timestamp_millis() - 1_000_000);
    let send = |key: &str, value: Option<&str>| {
        // A segment for each message: all but the last are compacted.
        sent.set(sent.get() + 1_000);
        let record = BaseRecord::<str, str>::to(&topic).partition(0).key(key);
        let mut record = record.timestamp(sent.get());
        if let Some(value) = value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(e, _)| e).unwrap();
        producer.flush(ANSWER).unwrap();
    };
    for i in 0..60 {
        let key = format!("key-{}", i % 3);
        send(&key, Some(&world.good_reference(&format!("image-{i}"))));
    }
    send("key-0", None);
    for i in 0..20 {
        send(
            "filler",
            Some(&world.good_reference(&format!("filler-{i}"))),
        );
    }
    let left = || {
        let reader = world.consumer(&unique("left"));
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning)
            .unwrap();
        reader.assign(&list).unwrap();
        let messages = std::iter::from_fn(|| reader.poll(ANSWER)?.ok());
        let left: Vec<_> = messages
            .map(|m| (m.offset(), m.payload().is_some()))
            .collect();
        left
    };
    until("the log is compacted", || left().len() < 6).await;
    world.drain().await.unwrap();
    let (_, end) = world.watermarks();
    let read: BTreeSet<i64> = world.rows().into_iter().map(|r| r.offset).collect();
    // Compaction may have gone on meanwhile: what is left now was there before.
    for (offset, value) in left() {
        assert!(!value || read.contains(&offset), "{offset} is not in files");
    }
    assert!(read.len() < 6);
    world.assert_exactly_once(&[end], read.len());
}

/// Null values, null keys, odd headers, every codec, and time as the broker gives it.
#[tokio::test(flavor = "multi_thread")]
async fn every_codec_and_odd_messages_are_read() {
    if !is_real_broker() {
        return not_tested("log-append time: an embedded broker has none");
    }
    let world = World::new("odd", 1);
    let topic = world.config.source.images_topic.clone();
    let settings = [("message.timestamp.type", "LogAppendTime")];
    world.set_topic(&topic, &settings).await;
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        let producer = world.producer(&[("compression.type", codec), ("linger.ms", "50")]);
        let good: Vec<_> = named(codec, 20).map(|n| world.good_reference(&n)).collect();
        let to = || BaseRecord::<[u8], [u8]>::to(&topic).partition(0);
        for value in &good {
            let record = to().payload(value.as_bytes()).timestamp(1);
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        let headers = || {
            let none = Header::<&str> {
                key: "nothing",
                value: None,
            };
            let bytes = Header {
                key: "",
                value: Some(&[0u8, 255, 10]),
            };
            OwnedHeaders::new().insert(none).insert(bytes)
        };
        let bad = b"\xff\x00 no reference".as_slice();
        for record in [
            to().key(b"tombstone").headers(headers()),
            to(),
            to().key(b"").payload(b"".as_slice()),
            to().key(b"\xff\xfe").payload(bad).headers(headers()),
        ] {
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(ANSWER).unwrap();
    }
    let before = chrono::Utc::now() - chrono::Duration::hours(1);
    world.drain().await.unwrap();
    let count = codecs.len() as i64;
    world.assert_exactly_once(&[24 * count], 20 * codecs.len());
    for codec in codecs {
        let all = world
            .image_names()
            .iter()
            .filter(|n| n.starts_with(codec))
            .count();
        assert_eq!(all, 20, "{codec}");
    }
    // Two tombstones come to nothing; the empty value and the bytes become dead letters.
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters.len(), 2 * codecs.len());
    let odd = letters
        .iter()
        .filter(|(_, _, headers)| headers.contains_key("nothing"));
    assert_eq!(odd.count(), codecs.len(), "headers are kept");
    // The producer said 1970.
    let earliest = world.event_times().into_iter().min().unwrap();
    assert!(earliest > before.timestamp_micros(), "{earliest}");
}
