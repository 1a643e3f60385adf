//! Every preset on a message of its form, and mappings of one's own.

use super::*;
use std::fs;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/topics");
    fs::read(folder.join(name)).unwrap()
}

fn headers_of(name: &str) -> Vec<(String, Option<Bytes>)> {
    let headers: BTreeMap<String, String> = serde_json::from_slice(&fixture(name)).unwrap();
    let headers = headers.into_iter();
    headers
        .map(|(name, value)| (name, Some(value.into())))
        .collect()
}

fn preset(name: &str) -> Mapping {
    let spec = MappingSpec {
        preset: name.into(),
        time_zone: "+00:00".into(),
        ..MappingSpec::default()
    };
    Mapping::new(&spec).unwrap()
}

fn message<'a>(value: &'a [u8], headers: HeaderBytes<'a>) -> MessageParts<'a> {
    MessageParts {
        key: Some(b"key"),
        value: Some(value),
        headers,
    }
}

/// The one image of a message.
fn image(mapping: &Mapping, parts: &MessageParts<'_>) -> ImageReference {
    let records = mapping.read(parts).unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    records[0].reference.clone().unwrap()
}

#[test]
fn every_preset_reads_the_message_of_its_form() {
    const NAME: &str = "cats/a%20%C3%BC%2B1.jpg";
    let plain = "s3://photos/cats/a%201.jpg".to_owned();
    // Preset, file, address, name and attributes.
    type Case<'a> = (&'a str, &'a str, String, &'a str, &'a [(&'a str, &'a str)]);
    let all: &[Case] = &[
        (
            "tagstream",
            "tagstream",
            plain.clone(),
            "cats/a 1",
            &[("camera", "north")],
        ),
        (
            "connect",
            "connect",
            plain.clone(),
            "cats/a 1",
            &[("camera", "north")],
        ),
        (
            "cloudevents",
            "cloudevents",
            plain.clone(),
            "cats/a 1",
            &[
                ("camera", "north"),
                ("ce_type", "org.example.picture.taken"),
                ("ce_source", "/cameras/north"),
            ],
        ),
        (
            "cloudevents",
            "cloudevents-binary",
            plain,
            "cats/a 1",
            &[
                ("camera", "north"),
                ("ce_type", "org.example.picture.taken"),
            ],
        ),
        (
            "s3",
            "s3",
            format!("s3://photos/{NAME}"),
            "",
            &[("size", "1024")],
        ),
        (
            "minio",
            "minio",
            format!("s3://photos/{NAME}"),
            "",
            &[("X-Amz-Meta-Camera", "north")],
        ),
        (
            "ceph",
            "ceph",
            format!("s3://photos/{NAME}"),
            "",
            &[("size", "1024")],
        ),
        (
            "s3-sns",
            "s3-sns",
            format!("s3://photos/{NAME}"),
            "",
            &[("size", "1024")],
        ),
        (
            "s3-eventbridge",
            "s3-eventbridge",
            format!("s3://photos/{NAME}"),
            "",
            &[("size", "1024")],
        ),
        (
            "gcs",
            "gcs",
            format!("gs://photos/{NAME}"),
            "",
            &[("camera", "north")],
        ),
        (
            "gcs-pubsub",
            "gcs-pubsub",
            format!("gs://photos/{NAME}"),
            "",
            &[("size", "1024")],
        ),
        (
            "azure",
            "azure",
            format!("az://photos/{NAME}"),
            "",
            &[("size", "1024")],
        ),
        (
            "azure-cloudevents",
            "azure-cloudevents",
            format!("az://photos/{NAME}"),
            "",
            &[("content_type", "image/jpeg")],
        ),
    ];
    for (name, file, uri, image_id, attributes) in all {
        let headers = match *file {
            "cloudevents-binary" | "gcs" => headers_of(&format!("{file}.headers.json")),
            _ => Vec::new(),
        };
        let value = fixture(&format!("{file}.json"));
        let read = image(&preset(name), &message(&value, &headers));
        assert_eq!(read.uri, *uri, "{file}");
        let expected = if image_id.is_empty() {
            uri.as_str()
        } else {
            image_id
        };
        assert_eq!(read.image_id, expected, "{file}");
        let time = read.event_time.unwrap().to_rfc3339();
        assert_eq!(time, "2026-01-31T12:00:00+00:00", "{file}");
        for (key, value) in *attributes {
            assert_eq!(
                read.attributes.get(*key).map(String::as_str),
                Some(*value),
                "{file} {key}"
            );
        }
    }
    let shown: std::collections::BTreeSet<&str> = all.iter().map(|(name, ..)| *name).collect();
    assert!(preset_names().all(|name| shown.contains(name)));
}

#[test]
fn what_is_no_new_picture_is_passed_over() {
    let changed = |file: &str, from: &str, to: &str| {
        let text = String::from_utf8(fixture(file)).unwrap();
        assert!(text.contains(from), "{file}");
        text.replace(from, to).into_bytes()
    };
    let removed = ("ObjectCreated:Put", "ObjectRemoved:Delete");
    let test = br#"{"Service":"Amazon S3","Event":"s3:TestEvent","Bucket":"photos"}"#.to_vec();
    let subscribed = br#"{"Type":"SubscriptionConfirmation","Message":"You have chosen"}"#.to_vec();
    for (name, value) in [
        ("s3", changed("s3.json", removed.0, removed.1)),
        ("minio", changed("minio.json", removed.0, removed.1)),
        ("ceph", changed("ceph.json", removed.0, removed.1)),
        ("s3-sns", changed("s3-sns.json", removed.0, removed.1)),
        (
            "s3-eventbridge",
            changed("s3-eventbridge.json", "Object Created", "Object Deleted"),
        ),
        (
            "gcs-pubsub",
            changed("gcs-pubsub.json", "OBJECT_FINALIZE", "OBJECT_DELETE"),
        ),
        ("azure", changed("azure.json", "BlobCreated", "BlobDeleted")),
        (
            "azure-cloudevents",
            changed("azure-cloudevents.json", "BlobCreated", "BlobDeleted"),
        ),
        ("s3", test),
        ("s3-sns", subscribed),
    ] {
        assert_eq!(
            preset(name).read(&message(&value, &[])),
            Ok(Vec::new()),
            "{name}"
        );
    }
    let mut headers = headers_of("gcs.headers.json");
    let kind = headers
        .iter_mut()
        .find(|(name, _)| name == "eventType")
        .unwrap();
    kind.1 = Some("OBJECT_DELETE".into());
    let value = fixture("gcs.json");
    assert_eq!(
        preset("gcs").read(&message(&value, &headers)),
        Ok(Vec::new())
    );
    let tombstone = MessageParts {
        value: None,
        ..message(b"", &[])
    };
    assert_eq!(preset("s3").read(&tombstone), Ok(Vec::new()));
}

#[test]
fn each_record_of_a_message_is_read_by_itself() {
    let value = br#"{"Records":[
        {"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"1.jpg"}}},
        {"eventName":"ObjectRemoved:Delete","s3":{"bucket":{"name":"b"},"object":{"key":"2"}}},
        {"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"}}},
        7,
        {"eventName":"ObjectCreated:Copy","s3":{"bucket":{"name":"b"},"object":{"key":"5.jpg"}}}
    ]}"#;
    let mapping = preset("s3");
    assert!(mapping.has_many() && !preset("tagstream").has_many());
    let records = mapping.read(&message(value, &[])).unwrap();
    let said: Vec<(u32, Result<String, String>)> = records
        .into_iter()
        .map(|r| {
            (
                r.index,
                r.reference.map(|r| r.uri).map_err(|e| e.to_string()),
            )
        })
        .collect();
    let indices: Vec<u32> = said.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, [0, 2, 3, 4]);
    assert_eq!(said[0].1.as_deref(), Ok("s3://b/1.jpg"));
    assert!(
        said[1].1.as_ref().unwrap_err().contains("no `uri`"),
        "{said:?}"
    );
    assert!(
        said[2].1.as_ref().unwrap_err().contains("not an object"),
        "{said:?}"
    );
    assert_eq!(said[3].1.as_deref(), Ok("s3://b/5.jpg"));
}

#[test]
fn fields_of_ones_own_stand_above_the_preset() {
    let spec = MappingSpec {
        image_id: "key".into(),
        uri: "{header:base || /base}/{/file | url-encoded}".into(),
        event_time: "none".into(),
        attributes: [
            ("*", "/meta"),
            ("site", "header:site"),
            ("a/b", "/a~1b/0"),
            ("gone", ""),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
        ..MappingSpec::default()
    };
    let mapping = Mapping::new(&spec).unwrap();
    let value = br#"{"base":"https://h","file":"a b?.jpg","event_time":"nonsense",
        "meta":{"iso":100,"site":"x"},"a/b":["first"]}"#;
    let headers = [("site".to_owned(), Some(Bytes::from_static(b"berlin")))];
    let read = image(&mapping, &message(value, &headers));
    assert_eq!(
        (&*read.image_id, &*read.uri),
        ("key", "https://h/a%20b%3F.jpg")
    );
    assert_eq!(read.event_time, None);
    let attributes = [("a/b", "first"), ("iso", "100"), ("site", "berlin")];
    let attributes = attributes.map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(read.attributes, attributes.into());
}

#[test]
fn a_value_that_nobody_looks_into_may_be_anything() {
    let spec = MappingSpec {
        image_id: "key".into(),
        uri: "value".into(),
        event_time: "header:taken".into(),
        attributes: [("*".to_owned(), "headers".to_owned())].into(),
        time_zone: "+01:00".into(),
        ..MappingSpec::default()
    };
    let mapping = Mapping::new(&spec).unwrap();
    let headers = [
        (
            "taken".to_owned(),
            Some(Bytes::from_static(b"2026-01-31 12:00:00")),
        ),
        ("raw".to_owned(), Some(Bytes::from_static(b"\xff"))),
    ];
    let read = image(&mapping, &message(b" https://h/a.jpg\n", &headers));
    assert_eq!(read.uri, "https://h/a.jpg");
    assert_eq!(
        read.event_time.unwrap().to_rfc3339(),
        "2026-01-31T11:00:00+00:00"
    );
    assert_eq!(read.attributes.len(), 1);
}

#[test]
fn what_cannot_be_read_is_named() {
    let refusal = |spec: &MappingSpec, value: &[u8]| {
        let mapping = Mapping::new(spec).unwrap();
        match mapping.read(&message(value, &[])) {
            Err(error) => error.to_string(),
            Ok(records) => records[0].reference.clone().unwrap_err().to_string(),
        }
    };
    let with = |image_id: &str, uri: &str| MappingSpec {
        image_id: image_id.into(),
        uri: uri.into(),
        ..MappingSpec::default()
    };
    for (spec, value, said) in [
        (
            with("/id", ""),
            r#"{"image_id":"a","uri":"x"}"#,
            "no `image_id` (looked for at /id)",
        ),
        (
            with("", "{/a}/{/b}"),
            r#"{"image_id":"a","a":"x"}"#,
            "no `uri`",
        ),
        (with("header:id", ""), r#"{"uri":"x"}"#, "header:id"),
        (
            with("", "/u | base64"),
            r#"{"image_id":"a","u":"@"}"#,
            "`uri` is not Base64",
        ),
        (
            with("", "/u | after:/c/"),
            r#"{"image_id":"a","u":"x"}"#,
            "`uri` has no `/c/`",
        ),
        (
            with("", ""),
            r#"{"image_id":"a","uri":"x","event_time":"2026-01-31"}"#,
            "a zone",
        ),
        (with("", ""), "[1]", "not an object"),
    ] {
        let told = refusal(&spec, value.as_bytes());
        assert!(told.contains(said), "{told}");
    }
    for (name, value, said) in [
        ("s3", r#"{"image_id":"a"}"#, "no records at /Records"),
        ("s3", r#"{"Records":"no"}"#, "where records are to be"),
        ("connect", r#"{"image_id":"a"}"#, "nothing is at /payload"),
        ("cloudevents", r#"{"image_id":"a"}"#, "CloudEvent"),
        ("s3-sns", r#"{"Message":"{"}"#, "within its envelope"),
    ] {
        let spec = MappingSpec {
            preset: name.into(),
            ..MappingSpec::default()
        };
        let told = refusal(&spec, value.as_bytes());
        assert!(told.contains(said), "{name}: {told}");
    }
}

#[test]
fn a_mapping_that_cannot_be_is_refused_by_its_key() {
    let base = MappingSpec::default;
    let texts = |s: &str| vec![s.to_owned()];
    let one = |k: &str, v: &str| [(k.to_owned(), v.to_owned())].into();
    for (key, spec) in [
        (
            "preset",
            MappingSpec {
                preset: "s4".into(),
                ..base()
            },
        ),
        (
            "image_id",
            MappingSpec {
                image_id: "image_id".into(),
                ..base()
            },
        ),
        (
            "image_id",
            MappingSpec {
                image_id: "/a~2".into(),
                ..base()
            },
        ),
        (
            "uri",
            MappingSpec {
                uri: "s3://{/a".into(),
                ..base()
            },
        ),
        (
            "uri",
            MappingSpec {
                uri: "x{uri}".into(),
                ..base()
            },
        ),
        (
            "uri",
            MappingSpec {
                uri: "/a | upper".into(),
                ..base()
            },
        ),
        (
            "event_time",
            MappingSpec {
                event_time: "now".into(),
                ..base()
            },
        ),
        (
            "records",
            MappingSpec {
                records: "Records".into(),
                ..base()
            },
        ),
        (
            "when",
            MappingSpec {
                when: texts("/a = b"),
                ..base()
            },
        ),
        (
            "when",
            MappingSpec {
                when: texts("/a ~ "),
                ..base()
            },
        ),
        (
            "attributes.site",
            MappingSpec {
                attributes: one("site", "berlin"),
                ..base()
            },
        ),
        (
            "time_zone",
            MappingSpec {
                time_zone: "Europe/Berlin".into(),
                ..base()
            },
        ),
    ] {
        let error = Mapping::new(&spec).unwrap_err();
        assert_eq!(error.key, key, "{error}");
    }
}
