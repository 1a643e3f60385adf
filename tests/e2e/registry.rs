//! Topics behind a schema registry: Avro, Protobuf and JSON by JSON Schema, with the configuration
//! that docs/sources.md shows; what does not fit is a dead letter, a registry that is away is none.

use crate::common::web_server::{Answer, WebServer};
use crate::harness::{World, create_topic, unique};
use crate::topics::{Sent, repository, run, send, text};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use tagstream::labelling::store::read_labels;
use tagstream::stage::pipeline::RunOptions;
use tagstream_core::config::{StageConfig, UnknownId, read_with};
use tagstream_core::storage::store::TableStore;

pub(crate) const AVRO: &str = r#"{"type":"record","name":"Picture","fields":[
    {"name":"asset","type":{"type":"record","name":"Asset","fields":[
        {"name":"number","type":"long"},{"name":"file","type":"string"}]}},
    {"name":"taken","type":["null",{"type":"long","logicalType":"timestamp-millis"}]}]}"#;
const PROTOBUF: &str = r#"
    syntax = "proto3";
    import "assets.proto";
    import "google/protobuf/timestamp.proto";
    message Picture { Asset asset = 1; google.protobuf.Timestamp taken = 2; }"#;
const ASSETS: &str = r#"syntax = "proto3"; message Asset { int64 number = 1; string file = 2; }"#;

fn says(body: Value) -> Answer {
    Answer::ok("application/vnd.schemaregistry.v1+json", body.to_string())
}

fn unknown() -> Answer {
    let body = json!({"error_code": 40403, "message": "Schema not found"}).to_string();
    let head = "HTTP/1.1 404 Not Found\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\n";
    let length = body.len();
    Answer::Raw(
        format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes(),
    )
}

async fn registry(more: &[(&str, Answer)]) -> WebServer {
    let uses = json!([{"name": "assets.proto", "subject": "assets", "version": 1}]);
    let protobuf = json!({"schema": PROTOBUF, "schemaType": "PROTOBUF", "references": uses});
    let assets = json!({"schema": ASSETS, "schemaType": "PROTOBUF", "subject": "assets"});
    let answers = [
        ("/schemas/ids/1", says(json!({"schema": AVRO}))),
        ("/schemas/ids/2", says(protobuf)),
        ("/subjects/assets/versions/1?deleted=true", says(assets)),
        (
            "/schemas/ids/3",
            says(json!({"schema": "{}", "schemaType": "JSON"})),
        ),
    ];
    let answers = answers.iter().chain(more);
    let answers: HashMap<String, Answer> = answers
        .map(|(path, answer)| ((*path).to_owned(), answer.clone()))
        .collect();
    WebServer::start("127.0.0.1", 0, answers).await
}

/// A world with the configuration of docs/sources.md, its registry at `url`.
pub(crate) fn world(name: &str, url: &str) -> World {
    let text = std::fs::read_to_string(repository().join("docs/sources.md")).unwrap();
    let mut blocks = text.split("```toml\n").skip(1);
    let block = blocks.find_map(|block| {
        let block = block.split("```").next().unwrap();
        block.contains("source.registry.url").then_some(block)
    });
    let block = block.expect("docs/sources.md shows a registry");
    assert!(block.lines().count() <= 10, "{block}");
    let mut world = World::new(name, 1);
    let path = world.folder.path().join("shown.toml");
    std::fs::write(&path, block).unwrap();
    let shown = read_with::<StageConfig>(Some(&path), &[], []).unwrap();
    let topic = world.config.source.images_topic.clone();
    world.config.source = shown.config.source;
    world.config.source.images_topic = topic;
    world.config.source.registry.url = url.to_owned();
    world.config.source.registry.user.clear();
    world.config.source.registry.password = String::new().into();
    world
}

pub(crate) fn uri(world: &World, shade: u8) -> String {
    format!("file://{}", world.picture(shade).display())
}

fn framed(id: u32, value: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], value].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// 2026-01-31T12:00:00Z, in seconds.
const TAKEN: u64 = 1_769_860_800;

pub(crate) fn avro(number: u64, uri: &str) -> Vec<u8> {
    let (number, length) = (varint(2 * number), varint(2 * uri.len() as u64));
    let taken = varint(2 * 1_000 * TAKEN);
    framed(
        1,
        &[&number, &length, uri.as_bytes(), &[2], &taken].concat(),
    )
}

fn protobuf(number: u64, uri: &str) -> Vec<u8> {
    let (number, length) = (varint(number), varint(uri.len() as u64));
    let asset = [&[0x08], &number[..], &[0x12], &length, uri.as_bytes()].concat();
    let taken = [&[0x08], &varint(TAKEN)[..]].concat();
    let (asset_length, taken_length) = (varint(asset.len() as u64), [taken.len() as u8]);
    let parts = [
        &[0, 0x0a],
        &asset_length[..],
        &asset,
        &[0x12],
        &taken_length,
        &taken,
    ];
    framed(2, &parts.concat())
}

fn json_schema(number: u64, uri: &str) -> Vec<u8> {
    let value = json!({"asset": {"number": number, "file": uri}, "taken": "2026-01-31T12:00:00Z"});
    framed(3, value.to_string().as_bytes())
}

pub(crate) fn send_all(world: &World, values: &[Vec<u8>]) {
    let headers = BTreeMap::new();
    let messages: Vec<Sent<'_>> = values
        .iter()
        .map(|value| Sent {
            key: None,
            value,
            headers: &headers,
        })
        .collect();
    send(&world.config.source.images_topic, &messages);
}

fn letters(world: &World) -> Vec<(String, String)> {
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    let told = |(_, _, headers): &(_, String, BTreeMap<String, String>)| {
        (
            headers["error.kind"].clone(),
            headers["error.message"].clone(),
        )
    };
    letters.iter().map(told).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_every_form_are_mapped_alike_and_a_misfit_is_a_letter() {
    let server = registry(&[]).await;
    let world = world("schemas", &server.url(""));
    let all = [
        avro(9_007_199_254_740_993, &uri(&world, 0)),
        protobuf(2, &uri(&world, 1)),
        json_schema(3, &uri(&world, 2)),
        // Cut off within the address; a Protobuf message of another kind; no JSON.
        avro(4, &uri(&world, 3))[..20].to_vec(),
        framed(2, b"\0\x0a\x03abc"),
        framed(3, b"not json"),
        // Whoever does not frame is read, too.
        json_schema(7, &uri(&world, 3))[5..].to_vec(),
    ];
    send_all(&world, &all);
    let checked = run(&world, &["source", "check", "--json"]);
    let out = text(&checked.stdout);
    let counts: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(
        checked.status.code(),
        Some(1),
        "{out}{}",
        text(&checked.stderr)
    );
    assert_eq!(
        (&counts["images"], &counts["refused"]),
        (&json!(4), &json!(3)),
        "{out}"
    );
    assert!(
        out.contains("with schema 1: it ends within a value"),
        "{out}"
    );

    let before = server.requests();
    world.drain().await.unwrap();
    assert_eq!(
        server.requests() - before,
        4,
        "each schema is asked for once"
    );
    let rows: Vec<(i64, String)> = world
        .rows()
        .into_iter()
        .map(|row| (row.offset, row.image_id))
        .collect();
    let row = |offset, id: &str| (offset, id.to_owned());
    let expected = [
        row(0, "9007199254740993"),
        row(1, "2"),
        row(2, "3"),
        row(6, "7"),
    ];
    assert_eq!(rows, expected);
    let predictions = world.read_topic(&world.config.output.predictions_topic);
    for (_, value, _) in &predictions {
        let prediction: Value = serde_json::from_str(value).unwrap();
        assert_eq!(prediction["event_time"], "2026-01-31T12:00:00Z");
    }
    let letters = letters(&world);
    assert_eq!(letters.len(), 3, "{letters:?}");
    for ((kind, reason), schema) in letters.iter().zip(["1", "2", ""]) {
        assert_eq!(kind, "bad_message");
        let named = format!("with schema {schema}");
        assert!(schema.is_empty() || reason.contains(&named), "{reason}");
    }
}

/// As Confluent's newer serializers write it, with nothing before the value.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_a_header_names_is_asked_for_by_its_guid() {
    let path = "/schemas/guids/61626364-6566-6768-696a-6b6c6d6e6f70";
    let server = registry(&[(path, says(json!({"schema": AVRO})))]).await;
    let world = world("guid", &server.url(""));
    let named = BTreeMap::from([(
        "__value_schema_id".to_owned(),
        "\u{1}abcdefghijklmnop".to_owned(),
    )]);
    let plain = BTreeMap::new();
    let value = avro(5, &uri(&world, 0))[5..].to_vec();
    let glue = [&[3, 0][..], &[7; 40]].concat();
    let sent = |value, headers| Sent {
        key: None,
        value,
        headers,
    };
    let messages = [sent(&value, &named), sent(&glue, &plain)];
    send(&world.config.source.images_topic, &messages);
    let checked = run(&world, &["source", "check", "--json"]);
    let out = text(&checked.stdout);
    assert!(out.contains("AWS Glue"), "{out}");
    world.drain().await.unwrap();
    let ids: Vec<String> = world.rows().into_iter().map(|row| row.image_id).collect();
    assert_eq!(ids, ["5"]);
    let letters = letters(&world);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].1.contains("AWS Glue"), "{letters:?}");
}

/// A key with a frame is taken out of it where the mapping reads it, whatever its schema is of.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_framed_names_the_image_as_text() {
    let text_schema = says(json!({"schema": "\"string\""}));
    let server = registry(&[("/schemas/ids/4", text_schema)]).await;
    let mut world = world("keys", &server.url(""));
    world.config.source.mapping.image_id = "key".into();
    let value = avro(5, &uri(&world, 0));
    let none = BTreeMap::new();
    // Avro's text (twice its length before it), JSON by JSON Schema, no frame, and one cut short.
    let keys = [
        "\0\0\0\0\u{4}\u{e}photo-7",
        "\0\0\0\0\u{3}\"photo-8\"",
        "photo-9",
        "\0\0\0\0\u{4}\u{40}short",
    ];
    let messages = keys.map(|key| Sent {
        key: Some(key),
        value: &value,
        headers: &none,
    });
    send(&world.config.source.images_topic, &messages);
    let checked = run(&world, &["source", "check", "--json"]);
    let out = text(&checked.stdout);
    assert!(
        out.contains("photo-7") && out.contains("the key: with schema 4"),
        "{out}"
    );
    world.drain().await.unwrap();
    let mut ids: Vec<String> = world.rows().into_iter().map(|row| row.image_id).collect();
    ids.sort();
    assert_eq!(ids, ["photo-7", "photo-8", "photo-9"]);
    let letters = letters(&world);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0].1.contains("the key, with schema 4"),
        "{letters:?}"
    );
}

const LABELS_AVRO: &str = r#"{"type":"record","name":"Label","fields":[
    {"name":"image_id","type":"string"},
    {"name":"present","type":{"type":"array","items":"string"}},
    {"name":"event_time","type":["null",{"type":"long","logicalType":"timestamp-millis"}]},
    {"name":"annotator","type":["null","string"],"default":null}]}"#;
const LABELS_PROTOBUF: &str = r#"syntax = "proto3";
    message Label {
        string image_id = 1; repeated string present = 2; repeated string absent = 3;
    }"#;

/// Label events in every form, framed or not, are the same labels.
#[tokio::test(flavor = "multi_thread")]
async fn label_events_behind_a_registry_are_labels() {
    let protobuf = json!({"schema": LABELS_PROTOBUF, "schemaType": "PROTOBUF"});
    let server = registry(&[
        ("/schemas/ids/5", says(json!({"schema": LABELS_AVRO}))),
        ("/schemas/ids/6", says(protobuf)),
    ])
    .await;
    let mut world = world("label-events", &server.url(""));
    world.config.labels.topic = unique("framed-labels");
    create_topic(&world.config.labels.topic, 1);
    // Text and lists with twice their lengths before them; the list's end; two unions.
    let mut avro = b"\x02a\x02\x06cat\0\x02".to_vec();
    avro.extend(varint(2 * 1_767_225_600_000));
    avro.push(0);
    let protobuf = b"\0\x0a\x01b\x12\x03cat\x1a\x03dog";
    let values = [
        framed(5, &avro),
        framed(6, protobuf),
        framed(3, br#"{"image_id":"c","absent":["cat"]}"#),
        br#"{"image_id":"d","present":["cat"]}"#.to_vec(),
        framed(5, b"\x40short"),
    ];
    let none = BTreeMap::new();
    let messages: Vec<Sent<'_>> = values
        .iter()
        .map(|value| Sent {
            key: None,
            value,
            headers: &none,
        })
        .collect();
    send(&world.config.labels.topic, &messages);
    crate::labels::drain(&world.config).await;
    let config = &world.config;
    let store = TableStore::open_for_reading(&config.output.url, &config.object_store).unwrap();
    let counts = read_labels(&store, &config.labels.table)
        .await
        .unwrap()
        .counts();
    assert_eq!((counts["cat"].present, counts["cat"].absent), (3, 1));
    assert_eq!((counts["dog"].present, counts["dog"].absent), (0, 1));
    let letters = letters(&world);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].1.contains("with schema 5"), "{letters:?}");
}

/// Neither a registry that is away nor a schema that it does not have costs a message.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_or_does_not_know_is_waited_for() {
    let late = Answer::Then(
        2,
        Box::new(unknown()),
        Box::new(says(json!({"schema": AVRO}))),
    );
    let server = registry(&[("/schemas/ids/9", late)]).await;
    let mut world = world("away", "http://127.0.0.1:1");
    world.config.fetch.outage_wait_ms = 300;
    let mut late = avro(1, &uri(&world, 1));
    late[4] = 9;
    send_all(&world, &[avro(0, &uri(&world, 0)), late]);
    let ended = world.drain().await.unwrap_err();
    assert!(ended.is_temporary(), "{ended}");
    let said = ended.to_string();
    assert!(
        said.contains("the schema registry at http://127.0.0.1:1"),
        "{said}"
    );
    assert!(world.rows().is_empty() && letters(&world).is_empty());
    let checked = run(&world, &["source", "check"]);
    assert_eq!(checked.status.code(), Some(75), "{}", text(&checked.stderr));

    world.config.source.registry.url = server.url("");
    world.config.fetch.outage_wait_ms = 60_000;
    world.drain().await.unwrap();
    assert_eq!(world.rows().len(), 2);
    assert!(letters(&world).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_nobody_knows_is_a_letter_only_if_so_configured() {
    let server = registry(&[("/schemas/ids/9", unknown())]).await;
    let mut world = world("unknown", &server.url(""));
    world.config.fetch.outage_wait_ms = 300;
    send_all(&world, &[framed(9, b"?"), avro(1, &uri(&world, 1))]);
    let ended = world
        .drain_with(&world.config, RunOptions::default())
        .await
        .unwrap_err();
    assert!(ended.to_string().contains("has no schema 9"), "{ended}");
    assert!(letters(&world).is_empty());

    world.config.source.registry.unknown_id = UnknownId::DeadLetter;
    world.drain().await.unwrap();
    let letters = letters(&world);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].1.contains("has no schema 9"), "{letters:?}");
    assert_eq!(world.rows().len(), 1);
}
