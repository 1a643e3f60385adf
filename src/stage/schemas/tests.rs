//! Values behind a schema registry.

use super::avro_schema::AvroSchema;
use super::*;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tagstream_core::config::SchemaRegistryConfig;
use tokio::net::TcpListener;

fn fixture(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/topics/avro");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn avro(text: &str) -> AvroSchema {
    AvroSchema::read(text, &[]).unwrap()
}

fn json_of(schema: &AvroSchema, bytes: &[u8]) -> Result<Value, MisfitError> {
    let json = avro::value_of(schema, bytes)?;
    Ok(serde_json::from_slice(&json).unwrap())
}

/// A value of every kind, as `make.py` there had it written by another implementation.
fn golden() -> (AvroSchema, Vec<u8>) {
    let hex = fixture("value.hex");
    let bytes = hex.trim().as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    (avro(&fixture("schema.json")), bytes.map(byte).collect())
}

#[test]
fn a_value_of_every_kind_is_read_as_it_was_written() {
    let (schema, bytes) = golden();
    let inner = json!({
        "image_id": -5, "uri": null, "taken": "2026-01-31T12:00:00.250Z",
        "local": "2026-01-31T12:00:00.000001", "day": "2026-01-31", "price": "-12.05",
        "kind": "JPEG", "meta": {"iso": 100}, "sizes": [1, -2, 70000], "ratio": 1.5,
        "gain": 0.25, "sharp": true, "hash": "AAH+/w==", "raw": "YWJj",
        "uid": "00000000-0000-0000-0000-000000000001", "before": null,
    });
    let mut outer = inner.clone();
    outer["image_id"] = json!(9_007_199_254_740_993_i64);
    outer["uri"] = json!("file:///a.png");
    outer["before"] = inner;
    assert_eq!(json_of(&schema, &bytes).unwrap(), outer);
}

/// Whatever was cut off, added or changed: an error or another value, never a panic, and never
/// more memory than is bounded.
#[test]
fn no_bytes_of_avro_do_harm() {
    let (schema, bytes) = golden();
    for end in 0..bytes.len() {
        assert!(json_of(&schema, &bytes[..end]).is_err(), "{end}");
    }
    let more = [&bytes[..], &[0]].concat();
    assert_eq!(json_of(&schema, &more), Err(MisfitError::Longer(1)));
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = json_of(&schema, &changed);
        }
    }
    // Two to the 40th nulls, which take no bytes.
    let nulls = avro(r#"{"type":"array","items":"null"}"#);
    let many = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0];
    assert!(json_of(&nulls, &many).is_err());
    // A record within itself without end, and one that goes on as long as its bytes say.
    let endless = avro(r#"{"type":"record","name":"R","fields":[{"name":"r","type":"R"}]}"#);
    assert!(json_of(&endless, &[]).is_err());
    let chain = r#"{"type":"record","name":"R","fields":[{"name":"r","type":["null","R"]}]}"#;
    let long = [vec![2; 1 << 20], vec![0]].concat();
    assert!(json_of(&avro(chain), &long).is_err());
    assert_eq!(
        json_of(&avro(chain), &[2, 0]).unwrap(),
        json!({"r": {"r": null}})
    );
}

#[test]
fn schemas_of_avro_use_names_of_their_own_and_of_others_and_what_is_none_is_refused() {
    let point = r#"{"type":"record","name":"Point","namespace":"org.example","fields":[
        {"name":"x","type":"int"}]}"#;
    let of = |kind: &str| {
        format!(
            r#"{{"type":"record","name":"P","namespace":"org.example","fields":[
                {{"name":"a","type":"{kind}"}}]}}"#
        )
    };
    for kind in ["Point", "org.example.Point"] {
        let points = [("Point".to_owned(), point.to_owned())];
        let schema = AvroSchema::read(&of(kind), &points).unwrap();
        assert_eq!(json_of(&schema, &[6]).unwrap(), json!({"a": {"x": 3}}));
    }
    for none in [
        &of("Point")[..],
        "{",
        "7",
        r#"{"type":"record"}"#,
        r#"{"type":"fixed","name":"f"}"#,
    ] {
        assert!(AvroSchema::read(none, &[]).is_err(), "{none}");
    }
    let deep = "[".repeat(200) + "\"int\"" + &"]".repeat(200);
    assert!(AvroSchema::read(&deep, &[]).is_err());
    // What a later specification adds is read as it is written.
    let later = avro(r#"{"type":"long","logicalType":"stardate"}"#);
    assert_eq!(json_of(&later, &[0x01]), Ok(json!(-1)));
    // Text and bytes alone are what they are.
    let text = avro(r#""string""#);
    assert_eq!(avro::value_of(&text, b"\x06{1}").unwrap(), b"{1}");
    let bytes = avro(r#"{"type":"bytes"}"#);
    assert_eq!(
        avro::value_of(&bytes, b"\x04\xff\x00").unwrap(),
        b"\xff\x00"
    );
}

#[cfg(feature = "protobuf")]
mod of_protobuf {
    use super::protobuf::ProtobufSchema;
    use super::*;

    const PICTURE: &str = r#"
        syntax = "proto3";
        package example;
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";
        import "google/protobuf/struct.proto";
        import "confluent/meta.proto";
        import "parts/place.proto";
        message First { string a = 1; }
        message Picture {
          map<string, int64> counts = 1;
          message Within { int32 n = 1; }
          int64 image_id = 2 [(confluent.field_meta).doc = "its number"];
          string uri = 3;
          google.protobuf.Timestamp taken = 4;
          google.protobuf.StringValue lens = 5;
          bool sharp = 6;
          enum Kind { RAW = 0; JPEG = 1; }
          Kind kind = 7;
          repeated uint32 sizes = 8;
          bytes raw = 9;
          parts.Place place = 10;
          google.protobuf.Struct meta = 11;
          optional string note = 12;
          double ratio = 13;
        }"#;
    const PLACE: &str = r#"syntax = "proto3"; package parts; message Place { string name = 1; }"#;

    fn picture() -> ProtobufSchema {
        let place = ("parts/place.proto".to_owned(), PLACE.to_owned());
        ProtobufSchema::read(PICTURE.to_owned(), [place]).unwrap()
    }

    fn read(schema: &ProtobufSchema, bytes: &[u8]) -> Result<Value, MisfitError> {
        Ok(serde_json::from_slice(&schema.json(bytes)?).unwrap())
    }

    /// A field of a length, as the wire format has it.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    #[test]
    fn a_message_of_every_kind_is_read_with_the_names_of_its_file() {
        // The path to the second type of the file, then the message.
        let bytes = [
            vec![2, 2],
            field(1, b"\x0a\x01b\x10\x05"),
            field(1, b"\x0a\x01a\x10\x80\x80\x80\x80\x80\x80\x80\x10"),
            vec![2 << 3, 7],
            field(3, b"file:///a.png"),
            field(4, b"\x08\xc0\xdd\xf7\xcb\x06\x10\x80\xe5\x9a\x77"),
            field(5, b"\x0a\x0250"),
            vec![7 << 3, 1],
            field(8, &[1, 0xac, 2]),
            field(9, b"abc"),
            field(10, b"\x0a\x03sea"),
            field(11, b"\x0a\x0a\x0a\x01k\x12\x05\x1a\x03iso"),
            field(12, b""),
        ];
        let value = read(&picture(), &bytes.concat()).unwrap();
        let expected = json!({
            "counts": {"a": 1_i64 << 53, "b": 5}, "image_id": 7, "uri": "file:///a.png",
            "taken": "2026-01-31T12:00:00.250Z", "lens": "50", "sharp": false, "kind": "JPEG",
            "sizes": [1, 300], "raw": "YWJj", "place": {"name": "sea"}, "meta": {"k": "iso"},
            "note": "", "ratio": 0,
        });
        assert_eq!(value, expected);
        // Numbers have their default, text that is not there does not; no path is the first type.
        let empty = json!({"image_id": 0, "sharp": false, "kind": "RAW", "ratio": 0});
        assert_eq!(read(&picture(), &[2, 2]).unwrap(), empty);
        assert_eq!(
            read(&picture(), &[0, 0x0a, 1, b'x']).unwrap(),
            json!({"a": "x"})
        );
        // Within the second, where the entries of its map do not count.
        assert_eq!(read(&picture(), &[4, 2, 0, 8, 5]).unwrap(), json!({"n": 5}));
    }

    #[test]
    fn what_is_no_message_and_no_file_is_refused() {
        let schema = picture();
        for bytes in [
            &[][..],
            &[2],
            &[2, 8],
            &[1],
            &[200, 1],
            &[2, 2, 0x1a, 9, b'x'],
            &[0xff; 20],
        ] {
            assert!(read(&schema, bytes).is_err(), "{bytes:?}");
        }
        for none in [
            "syntax = ",
            "import \"not/there.proto\";",
            "message A { B b = 1; }",
        ] {
            let refused = ProtobufSchema::read(none.to_owned(), [])
                .unwrap_err()
                .to_string();
            assert!(refused.contains("Protobuf"), "{refused}");
        }
    }
}

/// A registry that keeps what it was asked.
#[derive(Clone, Default)]
struct Fake {
    answers: Arc<Mutex<HashMap<String, (u16, String)>>>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

async fn answer(State(fake): State<Fake>, request: Request) -> Response {
    let path = request.uri().path_and_query().unwrap().to_string();
    let login = request.headers().get("authorization");
    let login = login.map_or("", |l| l.to_str().unwrap()).to_owned();
    fake.asked.lock().unwrap().push((path.clone(), login));
    let known = fake.answers.lock().unwrap().get(&path).cloned();
    let missing = json!({"error_code": 40403, "message": "Schema not found"}).to_string();
    let (status, body) = known.unwrap_or((404, missing));
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

impl Fake {
    async fn start(&self) -> SchemaRegistryConfig {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        SchemaRegistryConfig {
            url: format!("http://{address}/below"),
            ..SchemaRegistryConfig::default()
        }
    }

    fn says(&self, path: &str, status: u16, body: impl ToString) {
        let answer = (status, body.to_string());
        self.answers
            .lock()
            .unwrap()
            .insert(format!("/below/{path}"), answer);
    }

    fn asked(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn registry(config: &SchemaRegistryConfig) -> SchemaRegistry {
    SchemaRegistry::new(config).unwrap().unwrap()
}

#[tokio::test]
async fn each_schema_is_asked_for_once_with_the_login_and_with_what_it_uses() {
    let fake = Fake::default();
    let mut config = fake.start().await;
    config.user = "me".into();
    config.password = "hunter2".to_owned().into();
    let uses = json!([{"name": "org.example.Point", "subject": "a/b", "version": 3}]);
    let outer =
        r#"{"type":"record","name":"P","fields":[{"name":"a","type":"org.example.Point"}]}"#;
    let point = r#"{"type":"fixed","name":"Point","namespace":"org.example","size":1}"#;
    fake.says(
        "schemas/ids/7",
        200,
        json!({"schema": outer, "references": uses}),
    );
    fake.says(
        "subjects/a%2Fb/versions/3?deleted=true",
        200,
        json!({"schema": point}),
    );
    let registry = registry(&config);
    let all = (0..50).map(|_| registry.schema(SchemaId::Number(7)));
    for schema in futures::future::join_all(all).await {
        let value = schema.unwrap().json_of(&Bytes::from_static(&[0xff]));
        assert_eq!(value.unwrap(), Bytes::from_static(br#"{"a":"/w=="}"#));
    }
    let asked = fake.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked
            .iter()
            .all(|(_, login)| login == "Basic bWU6aHVudGVyMg=="),
        "{asked:?}"
    );
    assert!(!format!("{registry:?}").contains("hunter2"));

    config.user.clear();
    config.token = "t-1".to_owned().into();
    let other = SchemaRegistry::new(&config).unwrap().unwrap();
    other.schema(SchemaId::Number(7)).await.unwrap();
    assert_eq!(fake.asked()[0].1, "Bearer t-1");
}

#[tokio::test]
async fn every_way_not_to_get_a_schema_has_a_name_and_blames_no_message() {
    use SchemaRegistryError as Error;
    let fake = Fake::default();
    let config = fake.start().await;
    let one = registry(&config);
    let missing = one.schema(SchemaId::Number(1)).await.unwrap_err();
    assert!(
        matches!(
            missing,
            Error::UnknownId {
                id: SchemaId::Number(1),
                ..
            }
        ),
        "{missing}"
    );
    fake.says("schemas/ids/2", 401, "hunter2");
    let refused = one.schema(SchemaId::Number(2)).await.unwrap_err();
    assert!(
        matches!(refused, Error::Refused { status: 401, .. }),
        "{refused}"
    );
    fake.says("schemas/ids/3", 500, "");
    let failed = one.schema(SchemaId::Number(3)).await.unwrap_err();
    assert!(matches!(failed, Error::Unreachable { .. }), "{failed}");
    fake.says(
        "schemas/ids/4",
        404,
        json!({"error_code": 404, "message": "HTTP 404"}),
    );
    fake.says("schemas/ids/5", 404, "<html>");
    fake.says("schemas/ids/6", 200, "<html>");
    for id in [4, 5, 6] {
        let other = one.schema(SchemaId::Number(id)).await.unwrap_err();
        assert!(matches!(other, Error::NoRegistry { .. }), "{other}");
    }
    // What failed a moment ago is not asked again, and what was asked since is there.
    fake.says(
        "schemas/ids/3",
        200,
        json!({"schema": "{}", "schemaType": "JSON"}),
    );
    let began = fake.asked().len();
    assert_eq!(one.schema(SchemaId::Number(3)).await.unwrap_err(), failed);
    assert!(began > 0 && fake.asked().is_empty());
    let answered = async {
        while one.schema(SchemaId::Number(3)).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let stuck = std::time::Duration::from_secs(60);
    tokio::time::timeout(stuck, answered).await.unwrap();
    let schema = one.known(SchemaId::Number(3)).unwrap();
    assert_eq!(schema.json_of(&Bytes::from_static(b"{}")).unwrap(), "{}");

    // Of a GUID, which the registry has, and which an older one does not know at all.
    let guid = SchemaId::Guid([0xab; 16]);
    let path = "schemas/guids/abababab-abab-abab-abab-abababababab";
    fake.says(path, 200, json!({"schema": "{}", "schemaType": "JSON"}));
    assert_eq!(one.schema(guid).await.unwrap().id(), guid);
    let path = "schemas/guids/01010101-0101-0101-0101-010101010101";
    fake.says(
        path,
        404,
        json!({"error_code": 404, "message": "HTTP 404 Not Found"}),
    );
    let other = one.schema(SchemaId::Guid([1; 16])).await.unwrap_err();
    assert!(other.to_string().contains("knows no GUIDs yet"), "{other}");

    let mut nobody = config.clone();
    nobody.url = "http://127.0.0.1:1".into();
    let away = registry(&nobody)
        .schema(SchemaId::Number(1))
        .await
        .unwrap_err();
    assert!(matches!(away, Error::Unreachable { .. }), "{away}");
    nobody.ca_file = "not-there.pem".into();
    let refused = SchemaRegistry::new(&nobody).unwrap_err().to_string();
    assert!(refused.contains("source.registry.ca_file"), "{refused}");
    for said in [missing, refused_of(&one).await] {
        assert!(!said.to_string().contains("hunter2"));
    }
}

async fn refused_of(registry: &SchemaRegistry) -> SchemaRegistryError {
    registry.schema(SchemaId::Number(2)).await.unwrap_err()
}

#[tokio::test]
async fn schemas_that_are_of_no_use_are_told_with_each_message() {
    let fake = Fake::default();
    let one = registry(&fake.start().await);
    fake.says(
        "schemas/ids/1",
        200,
        json!({"schema": "?", "schemaType": "THRIFT"}),
    );
    fake.says("schemas/ids/2", 200, json!({"schema": "{"}));
    let uses = json!([{"name": "a", "subject": "gone", "version": 1}]);
    fake.says(
        "schemas/ids/3",
        200,
        json!({"schema": "\"int\"", "references": uses}),
    );
    for (id, said) in [(1, "THRIFT"), (2, "JSON"), (3, "gone")] {
        let schema = one.schema(SchemaId::Number(id)).await.unwrap();
        let error = schema
            .json_of(&Bytes::from_static(&[0; 4]))
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
    }
}
