//! Topics as they are: every form that docs/sources.md shows, with the configuration that it shows
//! there; messages of several records; `tagstream source check`.

use crate::common::object_server::serve_objects;
use crate::harness::{World, bootstrap, create_topic, unique};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Int32Array, Int64Array, StringArray};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tagstream::stage::pipeline::RunOptions;
use tagstream_core::config::{ObjectStoreConfig, StageConfig, read_with};

/// The name of the picture in the fixtures, as three services know it.
const PICTURES: [&str; 2] = ["/photos/cats/a ü+1.jpg", "/photos/cats/a 1.jpg"];
/// The longest configuration that docs/sources.md may show.
const LINES: usize = 10;

/// A message: key, value, headers.
pub(crate) struct Sent<'a> {
    pub key: Option<&'a str>,
    pub value: &'a [u8],
    pub headers: &'a BTreeMap<String, String>,
}

pub(crate) fn send(topic: &str, messages: &[Sent<'_>]) {
    let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .set("message.max.bytes", "8388608")
        .create()
        .unwrap();
    for message in messages {
        let mut headers = OwnedHeaders::new();
        for (key, value) in message.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let mut record = BaseRecord::<str, [u8]>::to(topic)
            .partition(0)
            .payload(message.value)
            .headers(headers);
        record.key = message.key;
        producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(repository().join("tests/fixtures/topics").join(name)).unwrap()
}

/// The configurations of docs/sources.md, by the names of their presets.
fn shown() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(repository().join("docs/sources.md")).unwrap();
    let blocks = text.split("```toml\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap().to_owned());
    let preset = |block: &str| {
        let line = block
            .lines()
            .find(|line| line.starts_with("source.mapping.preset"))?;
        Some(line.split('"').nth(1).unwrap().to_owned())
    };
    blocks
        .filter_map(|block| Some((preset(&block)?, block)))
        .collect()
}

fn stores_at(server: &str) -> ObjectStoreConfig {
    let mut stores = ObjectStoreConfig::default();
    let options = |of: &[(&str, &str)]| {
        of.iter()
            .map(|(k, v)| (k.to_string(), v.to_string().into()))
            .collect::<BTreeMap<_, _>>()
    };
    stores.s3 = options(&[
        ("endpoint", server),
        ("region", "none"),
        ("allow_http", "true"),
        ("access_key_id", "none"),
        ("secret_access_key", "none"),
    ]);
    stores.gs = options(&[
        ("base_url", server),
        ("skip_signature", "true"),
        ("allow_http", "true"),
    ]);
    stores.az = options(&[
        ("endpoint", server),
        ("account_name", "example"),
        ("skip_signature", "true"),
        ("allow_http", "true"),
    ]);
    stores
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_in_the_documents_runs_with_the_few_lines_that_are_shown() {
    let shown = shown();
    let names: Vec<&str> = shown.iter().map(|(name, _)| name.as_str()).collect();
    for preset in tagstream_core::mapping::preset_names() {
        assert!(
            names.contains(&preset),
            "docs/sources.md does not show {preset}"
        );
    }
    let base = World::new("forms", 1);
    let server = serve_objects(std::fs::read(base.picture(3)).unwrap(), &PICTURES);
    for (preset, text) in &shown {
        assert!(
            text.lines().count() <= LINES,
            "{preset} takes too many lines:\n{text}"
        );
        let path = base.folder.path().join(format!("{preset}.toml"));
        std::fs::write(&path, text).unwrap();
        let loaded = read_with::<StageConfig>(Some(&path), &[], []).unwrap();
        let mut world = World::new(preset, 1);
        let own = loaded.config;
        let topic = world.config.source.images_topic.clone();
        world.config.source = own.source;
        world.config.source.images_topic = topic.clone();
        // What the configuration says of fetching counts, where it says anything.
        world.config.fetch = own.fetch;
        world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
        world.config.object_store = stores_at(&server);
        let files: &[&str] = match preset.as_str() {
            "cloudevents" => &["cloudevents", "cloudevents-binary"],
            other => &[other],
        };
        for file in files {
            let headers = repository().join(format!("tests/fixtures/topics/{file}.headers.json"));
            let headers = std::fs::read(headers).unwrap_or_else(|_| b"{}".to_vec());
            let headers: BTreeMap<String, String> = serde_json::from_slice(&headers).unwrap();
            let value = fixture(&format!("{file}.json"));
            let message = Sent {
                key: None,
                value: &value,
                headers: &headers,
            };
            send(&topic, &[message]);
        }
        world.drain().await.unwrap();
        let letters = world.read_topic(&world.config.output.dead_letter_topic);
        assert!(letters.is_empty(), "{preset}: {letters:?}");
        let rows = world.rows();
        assert_eq!(rows.len(), files.len(), "{preset}");
        assert!(
            rows.iter().all(|row| row.image_id.contains("cats/a")),
            "{preset}: {rows:?}"
        );
        let predictions = world.read_topic(&world.config.output.predictions_topic);
        let prediction: Value = serde_json::from_str(&predictions[0].1).unwrap();
        assert!(
            prediction["attributes"].is_object(),
            "{preset}: {prediction}"
        );
    }
}

/// What a row of a message with several records says: offset, record, name.
fn records(world: &World) -> Vec<(i64, i32, String)> {
    let mut all = Vec::new();
    for (batches, _) in world.files().values() {
        for batch in batches {
            let ids: &StringArray = batch["image_id"].as_string();
            let offsets: &Int64Array = batch["offset"].as_primitive::<Int64Type>();
            let records: &Int32Array = batch["record"].as_primitive::<Int32Type>();
            let row = |i| (offsets.value(i), records.value(i), ids.value(i).to_owned());
            all.extend((0..batch.num_rows()).map(row));
        }
    }
    all.sort();
    all
}

/// A notification of pictures in the world's folder, by their names.
fn notification(names: &[&str]) -> Vec<u8> {
    let record = |name: &&str| {
        let event = if name.starts_with('-') {
            "ObjectRemoved:Delete"
        } else {
            "ObjectCreated:Put"
        };
        json!({
            "eventName": event, "eventTime": "2026-01-31T12:00:00Z",
            "s3": {"bucket": {"name": "photos"}, "object": {"key": name, "size": 1}},
        })
    };
    let records: Vec<Value> = names.iter().map(record).collect();
    json!({"Records": records}).to_string().into_bytes()
}

/// A world whose messages are notifications of files in its folder.
fn notified(name: &str) -> World {
    let mut world = World::new(name, 1);
    let folder = world.folder.path().display().to_string();
    let mapping = &mut world.config.source.mapping;
    mapping.preset = "s3".into();
    mapping.uri = format!("file://{folder}/{{/s3/object/key | url-decoded | url-encoded}}");
    mapping.image_id = "/s3/object/key".into();
    world
}

pub(crate) fn run(world: &World, arguments: &[&str]) -> Output {
    let path = world.folder.path().join("cli.toml");
    let mut config = world.config.clone();
    config.object_store = ObjectStoreConfig::default();
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(arguments)
        .arg("--config")
        .arg(&path)
        .envs(world.credentials())
        .output()
        .unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_of_a_message_is_one_row_or_in_one_letter_and_is_sent_again_alone() {
    let world = notified("records");
    let headers = [("trace".to_owned(), "t-1".to_owned())].into();
    let both = notification(&["1.png", "later.png", "-2.png", "3.png", "gone.png"]);
    let one = notification(&["4.png"]);
    let none = notification(&["-5.png"]);
    let values = [&both[..], &one, &none, b"{\"Records\": 7}"];
    let messages = values.map(|value| Sent {
        key: Some("key"),
        value,
        headers: &headers,
    });
    send(&world.config.source.images_topic, &messages);
    world.drain().await.unwrap();
    let row = |offset, record, name: &str| (offset, record, name.to_owned());
    let first = [row(0, 0, "1.png"), row(0, 3, "3.png"), row(1, 0, "4.png")];
    assert_eq!(records(&world), first);
    let footers: Vec<BTreeMap<String, String>> = world
        .files()
        .into_values()
        .map(|(_, footer)| footer)
        .collect();
    assert_eq!(footers.len(), 1);
    let range: Value = serde_json::from_str(&footers[0]["tagstream.range"]).unwrap();
    assert_eq!(range, json!({"start": 0, "end": 4}));
    assert_eq!(footers[0]["tagstream.rows"], "3");

    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    let said: Vec<(&str, Option<&str>)> = letters
        .iter()
        .map(|(_, _, h)| {
            (
                &*h["error.kind"],
                h.get("source.records").map(String::as_str),
            )
        })
        .collect();
    assert_eq!(said, [("not_found", Some("1,4")), ("bad_message", None)]);
    assert!(
        letters[0].2["error.message"].starts_with("record 1: "),
        "{:?}",
        letters[0]
    );

    let predictions = world.read_topic(&world.config.output.predictions_topic);
    let sources: Vec<Value> = predictions
        .iter()
        .map(|(_, value, headers)| {
            assert_eq!(headers["trace"], "t-1");
            let prediction: Value = serde_json::from_str(value).unwrap();
            assert_eq!(prediction["attributes"]["size"], "1");
            prediction["source"]["record"].clone()
        })
        .collect();
    assert_eq!(sources, [Value::Null, json!(3), Value::Null]);

    // One of the pictures is there now. The others of its message are rows already.
    std::fs::copy(world.picture(1), world.folder.path().join("later.png")).unwrap();
    for (sent, before) in [(1, 0), (0, 1)] {
        let replay = run(
            &world,
            &["dead-letters", "replay", "--kind", "not_found", "--json"],
        );
        let told = text(&replay.stdout);
        let counts: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&counts["sent"], &counts["sent_before"]),
            (&json!(sent), &json!(before))
        );
    }
    world.drain().await.unwrap();
    let mut all = first.to_vec();
    all.push(row(4, 1, "later.png"));
    assert_eq!(records(&world), all);
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    let last: Vec<_> = letters
        .iter()
        .filter_map(|(_, _, h)| h.get("source.records"))
        .collect();
    assert_eq!(last.last().map(|list| list.as_str()), Some("4"));
}

/// More records than may be, and exactly as many.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_too_many_records_is_a_letter_and_takes_no_memory() {
    let mut world = notified("many");
    world.config.source.mapping.max_records = 40;
    let names: Vec<String> = (0..41).map(|i| format!("{}.png", i % 8)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let headers = BTreeMap::new();
    let (good, bad) = (notification(&names[..40]), notification(&names));
    let messages = [&good, &bad, &good].map(|value| Sent {
        key: None,
        value,
        headers: &headers,
    });
    send(&world.config.source.images_topic, &messages);
    world.drain().await.unwrap();
    assert_eq!(records(&world).len(), 80);
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].2["error.kind"], "too_large");
    assert!(
        letters[0].2["error.message"].contains("41 records"),
        "{:?}",
        letters[0].2
    );
}

/// A stage that is killed before and after the put of a file gives every record once.
#[test]
fn records_are_there_once_through_kills() {
    let world = notified("killed");
    let headers = BTreeMap::new();
    let value = notification(&["1.png", "2.png", "-3.png", "4.png"]);
    let message = || Sent {
        key: None,
        value: &value,
        headers: &headers,
    };
    send(
        &world.config.source.images_topic,
        &[message(), message(), message()],
    );
    for (i, failpoints) in ["put.before=kill", "put.after=kill", ""].iter().enumerate() {
        let mut stage = world.start(&format!("killed-{i}"), failpoints);
        let status = stage.wait();
        assert_eq!(status.success(), failpoints.is_empty(), "{}", stage.log());
    }
    let expected: Vec<(i64, i32, String)> = (0..3)
        .flat_map(|offset| {
            let row = move |(record, name): (i32, &str)| (offset, record, name.to_owned());
            [(0, "1.png"), (1, "2.png"), (3, "4.png")].map(row)
        })
        .collect();
    assert_eq!(records(&world), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_mapping_makes_of_the_topic_is_shown_before_anything_runs() {
    let mut world = World::new("check", 1);
    let headers = BTreeMap::new();
    let topic = world.config.source.images_topic.clone();
    let good = notification(&["1.png", "-2.png", "3.png"]);
    let values = [
        &good[..],
        b"not json",
        br#"{"image_id":"a","uri":"s3://u:hunter2@b/a"}"#,
    ];
    let messages = values.map(|value| Sent {
        key: None,
        value,
        headers: &headers,
    });
    send(&topic, &messages);
    let check = |world: &World, more: &[&str]| {
        let checked = run(world, &[&["source", "check"][..], more].concat());
        let (out, err) = (text(&checked.stdout), text(&checked.stderr));
        assert!(
            !out.contains("hunter2") && !err.contains("hunter2"),
            "{out}{err}"
        );
        (checked.status.code(), out, err)
    };
    let (code, out, err) = check(&world, &[]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(
        out.contains("no `image_id`") || out.contains("no `uri`"),
        "{out}"
    );
    assert!(err.contains("the preset `s3` would find 2 images"), "{err}");

    world.config.fetch.allow_schemes = vec!["s3".into()];
    world.config.fetch.allow_buckets = vec!["photos".into()];
    world.config.source.mapping.preset = "minio".into();
    let (code, out, _) = check(&world, &["--json"]);
    let lines: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(code, Some(1));
    assert_eq!(lines[0]["image"]["uri"], "s3://photos/1.png", "{out}");
    assert_eq!(
        (
            &lines[1]["record"],
            &lines[1]["image"]["attributes"]["size"]
        ),
        (&json!(2), &json!("1"))
    );
    let counts = lines.last().unwrap();
    assert_eq!(
        (&counts["messages"], &counts["images"]),
        (&json!(3), &json!(2)),
        "{counts}"
    );
    assert_eq!(counts["refused"], 2);
    let (_, out, _) = check(&world, &["--sample", "1", "--json"]);
    assert!(out.contains("\"messages\":1"), "{out}");

    // A topic of good messages alone.
    let other = unique("check-good");
    create_topic(&other, 1);
    world.config.source.images_topic.clone_from(&other);
    send(&other, &messages[..1]);
    let (code, out, err) = check(&world, &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    world.config.fetch.allow_buckets.clear();
    let (code, out, _) = check(&world, &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("forbidden_uri: see [fetch]"), "{out}");
}

/// A topic with names of its own, an address put together, a name that is a number.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_names_of_its_own_is_mapped_field_by_field() {
    let mut world = World::new("own", 1);
    let folder: &Path = world.folder.path();
    let mapping = &mut world.config.source.mapping;
    mapping.image_id = "/asset/number".into();
    mapping.uri = format!("file://{}/{{/asset/file}}", folder.display());
    mapping.event_time = "header:taken".into();
    mapping.attributes = [("site", "header:site"), ("*", "/meta"), ("who", "key")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let value = br#"{"asset":{"number":12345678901234567890123,"file":"2.png"},
        "meta":{"iso":100,"lens":null,"flash":false}}"#;
    let headers = [("site", "north"), ("taken", "2026-01-31 12:00:00")];
    let headers = headers.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let message = Sent {
        key: Some("me"),
        value,
        headers: &headers,
    };
    send(&world.config.source.images_topic, &[message]);
    world
        .drain_with(&world.config, RunOptions::default())
        .await
        .unwrap();
    assert_eq!(world.rows()[0].image_id, "12345678901234567890123");
    let predictions = world.read_topic(&world.config.output.predictions_topic);
    let prediction: Value = serde_json::from_str(&predictions[0].1).unwrap();
    assert_eq!(prediction["event_time"], "2026-01-31T12:00:00Z");
    let attributes = json!({"site": "north", "iso": "100", "flash": "false", "who": "me"});
    assert_eq!(prediction["attributes"], attributes);
    assert!(predictions[0].2.contains_key("taken"));
}
