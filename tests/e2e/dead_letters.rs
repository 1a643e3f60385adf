//! `tagstream dead-letters`: each original is sent again once, as it was.

use crate::common::web_server::{Answer, WebServer};
use crate::harness::World;
use crate::servers::bootstrap;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use tagstream_core::events::DeadLetterKind;

/// A message as it lies in a topic.
#[derive(Debug, Clone, PartialEq)]
struct Raw {
    partition: i32,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, String)>,
    time: i64,
}

fn raw(partition: i32, key: &str, value: Option<String>, headers: &[(&str, &str)]) -> Raw {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    Raw {
        partition,
        key: Some(key.into()),
        value,
        headers: headers.iter().map(own).collect(),
        // Not long ago: what is older than a topic keeps may be gone before it is read.
        time: chrono::Utc::now().timestamp_millis() - 60_000,
    }
}

/// `again` as it was before it was sent again.
fn before_replay(mut again: Raw, dead: &str) -> Raw {
    let (name, of) = again.headers.pop().unwrap();
    assert!(name == "replay.of" && of.starts_with(dead), "{name} {of}");
    let (name, time) = again.headers.pop().unwrap();
    assert_eq!(name, "replay.time");
    let time = time.parse().unwrap();
    assert!(again.time > time, "it was sent at {}", again.time);
    Raw { time, ..again }
}

impl World {
    fn write(&self, topic: &str, messages: &[Raw]) {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .create()
            .unwrap();
        for message in messages {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &message.headers {
                headers = headers.insert(Header {
                    key,
                    value: Some(value.as_str()),
                });
            }
            let mut record = BaseRecord::<str, str>::to(topic)
                .partition(message.partition)
                .timestamp(message.time)
                .headers(headers);
            record.key = message.key.as_deref();
            record.payload = message.value.as_deref();
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(Duration::from_secs(60)).unwrap();
    }

    /// Everything in a topic, by partition and offset.
    fn raw(&self, topic: &str) -> Vec<Raw> {
        let mut all = Vec::new();
        for partition in 0..self.partitions {
            let consumer: BaseConsumer = ClientConfig::new()
                .set("bootstrap.servers", bootstrap())
                .set("group.id", "raw")
                .set("enable.partition.eof", "true")
                .create()
                .unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
            consumer.assign(&list).unwrap();
            while let Ok(m) = consumer
                .poll(Duration::from_secs(30))
                .expect("it has an end")
            {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = m.headers().map_or_else(Vec::new, |h| {
                    h.iter()
                        .map(|h| (h.key.to_owned(), text(h.value.unwrap_or_default())))
                        .collect()
                });
                all.push(Raw {
                    partition,
                    key: m.key().map(text),
                    value: m.payload().map(text),
                    headers,
                    time: m.timestamp().to_millis().unwrap_or_default(),
                });
            }
        }
        all
    }

    /// Runs `tagstream dead-letters` with `--json`: its lines, and its exit code.
    fn dead_letters(&self, arguments: &[&str]) -> (Vec<Value>, i32, String) {
        let path = self.folder.path().join("dead-letters.toml");
        let mut config = self.config.clone();
        config.object_store.s3.clear();
        std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .arg("dead-letters")
            .args(arguments)
            .args(["--json", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        (lines, output.status.code().unwrap(), said)
    }

    fn image_reference(&self, id: &str, uri: &str) -> Option<String> {
        Some(serde_json::json!({"image_id": id, "uri": uri}).to_string())
    }

    fn images(&self) -> &str {
        &self.config.source.images_topic
    }

    fn dead(&self) -> &str {
        &self.config.output.dead_letter_topic
    }
}

fn counts(lines: &[Value], said: &str) -> (u64, u64, u64) {
    let last = lines.last().unwrap_or_else(|| panic!("{said}"));
    let count = |name: &str| last[name].as_u64().unwrap();
    (count("sent"), count("sent_before"), count("not_sent"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_outage_cost_is_sent_again_once_and_becomes_rows() {
    let mut world = World::new("replay", 2);
    world.config.fetch.allow_schemes = vec!["http".into()];
    world.config.fetch.allow_private_addresses = true;
    world.config.fetch.outage_wait_ms = 200;
    world.config.fetch.retries = 0;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let trace = [("trace", "t"), ("error.kind", "of the sender")];
    let mut originals: Vec<Raw> = (0..20)
        .map(|i| {
            let uri = format!("http://{address}/{i}.png");
            raw(
                i % 2,
                &format!("k{i}"),
                world.image_reference(&format!("i{i}"), &uri),
                &trace,
            )
        })
        .collect();
    let broken = raw(0, "broken", Some("{".into()), &[]);
    world.write(world.images(), &originals);
    world.write(world.images(), &[broken]);
    let status = world.drain().await.unwrap();
    let expected = [
        (DeadLetterKind::BadMessage, 1),
        (DeadLetterKind::Outage, 20),
    ];
    assert_eq!(status.dead_letters(), expected.into());

    let (letters, code, said) = world.dead_letters(&["list", "--kind", "outage", "--since", "1h"]);
    assert_eq!((letters.len(), code), (20, 0), "{said}");
    assert!(
        letters
            .iter()
            .all(|l| l["replayed"] == false && l["original"] == "here")
    );
    // A stage that died writes its letters again: one of two is sent.
    let one = world
        .raw(world.dead())
        .into_iter()
        .find(|l| l.key.as_deref() == Some("k3"));
    world.write(world.dead(), &[one.unwrap()]);
    let (none, ..) = world.dead_letters(&["list", "--since", "2100-01-01T00:00:00Z"]);
    assert_eq!(none, [] as [Value; 0]);
    let replay = ["replay", "--kind", "outage"];
    let (dry, code, said) = world.dead_letters(&["replay", "--kind", "outage", "--dry-run"]);
    assert_eq!((counts(&dry, &said), code), ((20, 1, 0), 0), "{said}");
    let (lines, code, said) = world.dead_letters(&replay);
    assert_eq!((counts(&lines, &said), code), ((20, 1, 0), 0), "{said}");
    let (lines, code, said) = world.dead_letters(&replay);
    assert_eq!((counts(&lines, &said), code), ((0, 21, 0), 0), "{said}");
    let (letters, ..) = world.dead_letters(&["list", "--kind", "outage"]);
    assert!(letters.iter().all(|l| l["replayed"] == true));

    let all = world.raw(world.images());
    let (mut again, before): (Vec<Raw>, Vec<Raw>) = all
        .into_iter()
        .partition(|m| m.headers.iter().any(|(k, _)| k == "replay.of"));
    assert_eq!((before.len(), again.len()), (21, 20));
    for messages in [&mut originals, &mut again] {
        messages.sort_by_key(|m| m.key.clone());
    }
    for (original, again) in originals.iter().zip(again) {
        assert_eq!(*original, before_replay(again, world.dead()));
    }

    let png = std::fs::read(world.picture(0)).unwrap();
    let answers = (0..20).map(|i| (format!("/{i}.png"), Answer::ok("image/png", &png)));
    let _server = WebServer::start("127.0.0.1", address.port(), answers.collect()).await;
    world.drain().await.unwrap();
    world.assert_exactly_once(&[21, 20], 20);
}

/// A letter that was made by hand.
fn letter(world: &World, offset: i64, value: Option<String>, more: &[(&str, &str)]) -> Raw {
    let offset = offset.to_string();
    let mut headers = vec![
        ("error.kind", "bad_message"),
        ("error.message", "by hand"),
        ("source.topic", world.images()),
        ("source.partition", "0"),
        ("source.offset", &offset),
    ];
    for (name, value) in more {
        match headers.iter_mut().find(|(n, _)| n == name) {
            Some(header) => header.1 = value,
            None => headers.push((name, value)),
        }
    }
    raw(0, "k", value, &headers)
}

#[test]
fn what_a_letter_left_out_is_read_where_it_was_or_said_to_be_gone() {
    let world = World::new("stubs", 1);
    let original = raw(
        0,
        "key",
        Some("a value of 21 bytes..".into()),
        &[("trace", "t")],
    );
    world.write(world.images(), std::slice::from_ref(&original));
    let stub = [
        ("error.value_omitted_bytes", "21"),
        ("error.headers_omitted", "1"),
    ];
    let other = [("error.value_omitted_bytes", "22")];
    let elsewhere = [("source.topic", "another")];
    let letters = [
        letter(&world, 0, None, &stub),
        letter(&world, 0, None, &other),
        letter(&world, 7, None, &stub),
        letter(&world, 0, Some("x".into()), &elsewhere),
        raw(0, "k", Some("no letter at all".into()), &[]),
    ];
    world.write(world.dead(), &letters);
    let (listed, code, said) = world.dead_letters(&["list"]);
    assert_eq!((listed.len(), code), (4, 0), "{said}");
    assert_eq!(listed[0]["original"], "at its source");
    let (lines, code, said) = world.dead_letters(&["replay"]);
    assert_eq!((counts(&lines, &said), code), ((1, 0, 3), 1), "{said}");
    let reasons = lines
        .iter()
        .map(|l| l["not_sent"].as_str().unwrap_or_default());
    let reasons: String = reasons.collect();
    for text in [
        "another message now",
        "not there any more",
        "not one of this configuration",
    ] {
        assert!(reasons.contains(text), "{reasons}");
    }
    let again = world.raw(world.images()).pop().unwrap();
    assert_eq!(before_replay(again, world.dead()), original);
    // What cannot be sent is said every time, what was sent is not sent again.
    let (lines, code, said) = world.dead_letters(&["replay"]);
    assert_eq!((counts(&lines, &said), code), ((0, 1, 3), 1));
}

#[test]
fn a_replay_that_died_is_finished_and_one_that_lives_is_left_alone() {
    let world = World::new("died", 1);
    let value = |i: i64| Some(format!("value {i}"));
    let originals: Vec<Raw> = (0..6).map(|i| raw(0, "k", value(i), &[])).collect();
    world.write(world.images(), &originals);
    let letters: Vec<Raw> = (0..6).map(|i| letter(&world, i, value(i), &[])).collect();
    world.write(world.dead(), &letters);
    // The first two were sent when the process died.
    let sent = |i: i64| {
        let name = format!("{}/0@{i}", world.dead());
        raw(0, "k", value(i), &[("replay.of", &name)])
    };
    world.write(world.images(), &[sent(0), sent(1)]);
    let record = |step: &str, batch: &str, time: i64| Raw {
        time,
        ..raw(
            0,
            &format!("replay/{batch}/{step}"),
            Some(format!(
                "{{\"format\":1,\"batch\":\"{batch}\",\"letters\":[0,1,2,3]}}"
            )),
            &[("replay.journal", step)],
        )
    };
    let now = chrono::Utc::now().timestamp_millis();
    world.write(world.dead(), &[record("begun", "dead", now - 600_000)]);
    let (lines, code, said) = world.dead_letters(&["replay"]);
    assert_eq!((counts(&lines, &said), code), ((4, 2, 0), 0), "{said}");
    let images = world.raw(world.images());
    for i in 0..6 {
        let count = images.iter().filter(|m| m.value == value(i)).count();
        assert_eq!(count, 2, "value {i}: the original and one more");
    }

    world.write(world.dead(), &[record("begun", "alive", now)]);
    let (_, code, said) = world.dead_letters(&["replay"]);
    assert_eq!(code, 75, "{said}");
    assert!(said.contains("another replay is under way"), "{said}");
    assert_eq!(world.raw(world.images()).len(), images.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_its_topic_keeps_is_read_again_and_has_its_own_time() {
    let world = World::new("old", 1);
    let value = Some(world.good_reference("old"));
    let time = 1_700_000_000_000_i64;
    let old = [("source.timestamp", &*time.to_string())];
    world.write(world.dead(), &[letter(&world, 0, value, &old)]);
    let (lines, code, said) = world.dead_letters(&["replay"]);
    assert_eq!((counts(&lines, &said), code), ((1, 0, 0), 0), "{said}");
    // Had it been sent with its own time, the broker would delete it within its next look.
    let again = world.raw(world.images()).pop().unwrap();
    assert!(again.time > chrono::Utc::now().timestamp_millis() - 600_000);
    world.drain().await.unwrap();
    let mut times = Vec::new();
    for (batches, _) in world.files().values() {
        for batch in batches {
            let column = batch["event_time"].as_primitive::<TimestampMicrosecondType>();
            times.extend_from_slice(column.values());
        }
    }
    assert_eq!(times, [time * 1000]);
}
