//! Messages of topics as they are: mappings, and values behind a schema registry.

use bytes::Bytes;
use tagstream::stage::schemas::MessageSchema;
use tagstream_core::mapping::{Mapping, MappingSpec, MessageParts, preset_names};

/// What parts an input into texts.
const PART: u8 = 0;

/// Mappings: the first byte says which preset, or that the parts that follow are a mapping's own.
/// What it makes of the rest is images with names and addresses, or refusals, and always the same.
pub(crate) fn mapping(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    let mut spec = MappingSpec {
        time_zone: "+00:00".into(),
        ..MappingSpec::default()
    };
    let mut value = rest;
    match preset_names().nth(usize::from(*which)) {
        Some(name) => spec.preset = name.to_owned(),
        None => {
            let mut parts = rest.splitn(8, |byte| *byte == PART);
            let mut next = || parts.next().unwrap_or_default();
            let mut text = || String::from_utf8_lossy(next()).into_owned();
            spec.image_id = text();
            spec.uri = text();
            spec.event_time = text();
            spec.envelope = text();
            spec.records = text();
            spec.when = text().lines().map(str::to_owned).collect();
            spec.attributes = [
                ("a".to_owned(), text()),
                ("*".to_owned(), "/meta".to_owned()),
            ]
            .into();
            value = next();
        }
    }
    let Ok(mapping) = Mapping::new(&spec) else {
        return;
    };
    let header = |name: &str| (name.to_owned(), Some(Bytes::copy_from_slice(value)));
    let binary = [
        header("site"),
        (
            "ce_specversion".to_owned(),
            Some(Bytes::from_static(b"1.0")),
        ),
        header("ce_subject"),
        ("none".to_owned(), None),
    ];
    for headers in [&binary[..1], &binary] {
        let parts = MessageParts {
            key: Some(value),
            value: Some(value),
            headers,
        };
        let read = mapping.read(&parts);
        assert_eq!(mapping.read(&parts), read);
        let records = read.unwrap_or_default();
        assert!(mapping.has_many() || records.len() <= 1);
        assert!(records.is_sorted_by(|a, b| a.index < b.index));
        for image in records
            .into_iter()
            .filter_map(|record| record.reference.ok())
        {
            assert!(!image.image_id.is_empty() && !image.uri.is_empty());
        }
    }
}

/// Values behind a schema registry: the first byte says which kind, then come a schema and, behind
/// a zero byte, a value. What can be read is text or JSON.
pub(crate) fn schemas(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else {
        return;
    };
    let kind = ["AVRO", "PROTOBUF", "JSON"][usize::from(which % 3)];
    let mut parts = rest.splitn(2, |byte| *byte == PART);
    let mut next = || parts.next().unwrap_or_default();
    let text = String::from_utf8_lossy(next()).into_owned();
    let schema = MessageSchema::alone(1, kind, text.clone());
    let Ok(value) = schema.json_of(&Bytes::copy_from_slice(next())) else {
        return;
    };
    let is_bare = text.contains("string") || text.contains("bytes");
    if kind != "JSON" && !is_bare {
        serde_json::from_slice::<serde::de::IgnoredAny>(&value).expect("it is JSON");
    }
}
