//! No message stops the stage by its size or its topic's rules: what leaves is made to fit, and
//! what is refused for good ends the process with what has to be done, not with 75.

use crate::acl;
use crate::child::Launch;
use crate::harness::{World, is_real_broker, not_tested, unique};
use crate::servers::{admin, bootstrap, create_topic_with};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::bindings::rd_kafka_AclOperation_t as Operation;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::Value;
use std::time::Duration;

/// A message of the images topic: key, header, value.
struct Message(Option<String>, Option<String>, String);

impl World {
    /// A world whose outgoing topics have settings of their own.
    fn with_topics(name: &str, predictions: &[(&str, &str)], dead: &[(&str, &str)]) -> Self {
        let mut world = World::new(name, 1);
        world.config.output.predictions_topic = unique(&format!("{name}-narrow-predictions"));
        world.config.output.dead_letter_topic = unique(&format!("{name}-narrow-dead"));
        create_topic_with(&world.config.output.predictions_topic, 1, predictions);
        create_topic_with(&world.config.output.dead_letter_topic, 1, dead);
        world.config.fetch.allow_schemes.push("data".into());
        world
    }

    fn reference(&self, id: &str) -> Message {
        let uri = format!("file://{}", self.picture(1).display());
        let value = serde_json::json!({"image_id": id, "uri": uri}).to_string();
        Message(None, None, value)
    }

    /// A picture of about `bytes` inside the message.
    fn inline(&self, id: &str, bytes: usize) -> Message {
        use base64::Engine as _;
        let mut picture = std::fs::read(self.picture(2)).unwrap();
        // Decoders stop at the end of the picture.
        picture.resize(bytes * 3 / 4, 0);
        let picture = base64::engine::general_purpose::STANDARD.encode(picture);
        let uri = format!("data:image/png;base64,{picture}");
        let value = serde_json::json!({"image_id": id, "uri": uri}).to_string();
        Message(None, None, value)
    }

    fn send(&self, messages: &[Message]) {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("message.max.bytes", "8388608")
            .create()
            .unwrap();
        for Message(key, header, value) in messages {
            let mut record = BaseRecord::<str, str>::to(&self.config.source.images_topic)
                .partition(0)
                .payload(value);
            record.key = key.as_deref();
            if let Some(value) = header.as_deref() {
                let header = Header {
                    key: "trace",
                    value: Some(value),
                };
                record = record.headers(OwnedHeaders::new().insert(header));
            }
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    fn set_limit(&self, topic: &str, bytes: &str) {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let change = change.set("max.message.bytes", bytes);
        let options = AdminOptions::new();
        let done = futures::executor::block_on(admin().alter_configs(&[change], &options));
        done.unwrap()[0].as_ref().expect("the limit is set");
    }

    fn predictions(&self) -> Vec<Value> {
        let messages = self.read_topic(&self.config.output.predictions_topic);
        let values = messages.iter().map(|(_, value, _)| value);
        values.map(|v| serde_json::from_str(v).unwrap()).collect()
    }
}

/// Everything that a message can be too large by: as it is sent on, or as a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_too_large_for_its_topic_is_sent_shortened_and_the_row_is_whole() {
    if !is_real_broker() {
        return not_tested("limits of topics: an embedded broker has none");
    }
    let narrow = [("max.message.bytes", "2000")];
    for (name, predictions, dead) in [
        ("narrow", &narrow[..], &narrow[..]),
        // By the segment's size; Kafka's own limit for the other.
        (
            "segment",
            &[],
            &[
                ("segment.bytes", "1048576"),
                ("max.message.bytes", "2000000"),
            ],
        ),
    ] {
        let world = World::with_topics(name, predictions, dead);
        let long = |n: usize| Some("k".repeat(n));
        let large = 1_100_000;
        let id = "i".repeat(3_000);
        world.send(&[
            world.reference("first"),
            Message(None, None, format!("not json {}", "x".repeat(large))),
            Message(long(large), None, "not json".into()),
            Message(None, long(large), "not json".into()),
            Message(long(large), long(large), format!("no{}", "x".repeat(large))),
            world.inline("inline", large),
            world.reference(&id),
            world.reference("last"),
        ]);
        world.drain().await.unwrap();
        world.assert_exactly_once(&[8], 4);
        assert!(world.rows().iter().any(|row| row.image_id == id), "{name}");

        let letters = world.read_topic(&world.config.output.dead_letter_topic);
        let offsets: Vec<&str> = letters
            .iter()
            .map(|(_, _, h)| &*h["source.offset"])
            .collect();
        assert_eq!(offsets, ["1", "2", "3", "4"], "{name}");
        for (_, _, headers) in &letters {
            assert_eq!(headers["error.kind"], "bad_message");
            assert_eq!(headers["source.topic"], *world.config.source.images_topic);
        }
        let omitted = |i: usize, what: &str| letters[i].2.contains_key(&format!("error.{what}"));
        assert!(omitted(0, "value_omitted_bytes") && omitted(1, "key_omitted_bytes"));
        assert!(omitted(2, "headers_omitted") && omitted(3, "value_omitted_bytes"));
        assert_eq!(letters[1].1, "not json", "{name}: what fits stays");

        let predictions = world.predictions();
        assert_eq!(predictions.len(), 4, "{name}");
        assert_eq!(predictions[1]["shortened"], serde_json::json!(["uri"]));
        assert_eq!(predictions[1]["image_id"], "inline");
        assert_eq!(predictions[1]["source"]["offset"], 5);
        assert!(predictions[0].get("shortened").is_none());
        assert_eq!(predictions[2].get("shortened").is_some(), name == "narrow");
    }
}

/// The limit is lowered below what a batch has while the stage runs, and nobody tells.
#[test]
fn a_limit_that_falls_while_the_stage_runs_is_followed() {
    if !is_real_broker() {
        return not_tested("limits of topics: an embedded broker has none");
    }
    let world = World::with_topics("falling", &[], &[]);
    world.send(&[world.reference("first")]);
    let launch = Launch {
        for_ever: true,
        ..Launch::default()
    };
    let mut stage = world.launch("falling", &launch);
    stage.says("file committed", 1);
    let (predictions, dead) = {
        let output = &world.config.output;
        (
            output.predictions_topic.clone(),
            output.dead_letter_topic.clone(),
        )
    };
    world.set_limit(&predictions, "1500");
    world.set_limit(&dead, "1500");
    let mut messages: Vec<Message> = (0..60)
        .map(|i| world.reference(&format!("image-{i}")))
        .collect();
    messages.push(Message(None, None, "x".repeat(5_000)));
    messages.push(world.reference(&"i".repeat(2_000)));
    world.send(&messages);
    let letters = || world.read_topic(&dead).len();
    stage.until("every message is answered", || {
        letters() == 1 && world.predictions().len() == 62
    });
    stage.signal("TERM");
    stage.finish();
    world.assert_exactly_once(&[63], 62);
}

/// Who may not ask for a topic's limit learns it from what is refused.
#[test]
fn a_limit_that_may_not_be_asked_for_is_learned() {
    if !is_real_broker() {
        return not_tested("rights: an embedded broker has none");
    }
    let narrow = [("max.message.bytes", "3000")];
    let world = World::with_topics("untold", &narrow, &narrow);
    for topic in [
        &world.config.output.predictions_topic,
        &world.config.output.dead_letter_topic,
    ] {
        if !acl::deny(topic, Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS) {
            return not_tested("rights: this broker has no authorizer");
        }
    }
    let mut messages: Vec<Message> = (0..40)
        .map(|i| world.reference(&format!("image-{i}")))
        .collect();
    messages.push(Message(None, None, "x".repeat(500_000)));
    messages.push(world.inline("inline", 100_000));
    world.send(&messages);
    world.start("untold", "").finish();
    world.assert_exactly_once(&[42], 41);
    assert_eq!(world.predictions().len(), 41);
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].2["error.value_omitted_bytes"], "500000");
}

#[test]
fn what_is_refused_for_good_names_topic_and_remedy_and_does_not_end_with_75() {
    if !is_real_broker() {
        return not_tested("rights: an embedded broker has none");
    }
    for (name, operation, remedy) in [
        (
            "unwritable",
            Operation::RD_KAFKA_ACL_OPERATION_WRITE,
            "grant Write",
        ),
        (
            "unseen",
            Operation::RD_KAFKA_ACL_OPERATION_DESCRIBE,
            "grant Write",
        ),
    ] {
        let world = World::with_topics(name, &[], &[]);
        let topic = &world.config.output.predictions_topic;
        if !acl::deny(topic, operation) {
            return not_tested("rights: this broker has no authorizer");
        }
        world.send(&[world.reference("first")]);
        let mut stage = world.start(name, "");
        assert_eq!(stage.wait().code(), Some(1), "{}", stage.log());
        let log = stage.log();
        assert!(log.contains(&**topic) && log.contains(remedy), "{log}");
        assert!(world.files().is_empty());
    }
}

/// A compacted topic takes no message without a key, and would forget one without a value.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_without_a_key_reach_a_compacted_topic() {
    if !is_real_broker() {
        return not_tested("compaction: an embedded broker has none");
    }
    let compacted = [("cleanup.policy", "compact"), ("max.message.bytes", "2000")];
    let world = World::with_topics("compacted", &compacted, &compacted);
    world.send(&[
        world.reference("first"),
        Message(None, None, "not json".into()),
        Message(None, None, "x".repeat(5_000)),
        world.reference("last"),
    ]);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[4], 2);
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    let images = &world.config.source.images_topic;
    let keys: Vec<_> = letters
        .iter()
        .map(|(key, _, _)| key.clone().unwrap())
        .collect();
    assert_eq!(keys, [format!("{images}/0@1"), format!("{images}/0@2")]);
}

/// One value that the producer's queue can never hold would wait for room for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_the_producer_s_queue_is_shortened() {
    let mut world = World::new("queue", 1);
    let properties = &mut world.config.kafka.properties;
    let small = "4".to_owned().into();
    properties.insert("queue.buffering.max.kbytes".into(), small);
    world.produce_raw([(0, Some("x".repeat(9_000)))]);
    world.produce(0, 5);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[6], 5);
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters[0].2["error.value_omitted_bytes"], "9000");
}
