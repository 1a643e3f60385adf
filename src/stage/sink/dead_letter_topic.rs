//! The dead-letter topic: the original message, whole, and why it yields no row.

use super::producer::Outgoing;
use crate::stage::source::SourceMessage;
use std::sync::Arc;
use tagstream_core::events::{DeadLetterKind, header};

/// Longest explanation kept, bytes.
const MAX_REASON: usize = 1000;
/// Largest message: librdkafka's and the brokers' default. An original that fills it leaves no room
/// for the reason.
const MAX_MESSAGE: usize = 1_000_000;
/// What the added headers and the framing may take.
const ROOM: usize = 4_096;
/// Stands in place of a value that was too large to be kept: its length.
pub const VALUE_OMITTED: &str = "error.value_omitted_bytes";

/// The dead letter for `message`.
pub fn message(
    topic: &Arc<str>,
    message: &SourceMessage,
    kind: DeadLetterKind,
    reason: &str,
) -> Outgoing {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let text = |value: String| Some(value.into());
    let added = [
        (header::ERROR_KIND, text(kind.as_str().into())),
        (header::ERROR_MESSAGE, text(reason[..end].into())),
        (
            header::SOURCE_TOPIC,
            text(message.partition.topic.to_string()),
        ),
        (
            header::SOURCE_PARTITION,
            text(message.partition.partition.to_string()),
        ),
        (header::SOURCE_OFFSET, text(message.offset.to_string())),
    ];
    let mut headers = message.headers.clone();
    headers.extend(added.map(|(key, value)| (key.to_owned(), value)));
    let mut payload = message.payload.clone();
    let length = payload.as_ref().map_or(0, |p| p.len());
    if message.bytes() as usize + ROOM > MAX_MESSAGE {
        // Better a dead letter without its value than a stage that stops at it for ever; the source
        // says where the value is.
        payload = None;
        headers.push((VALUE_OMITTED.into(), text(length.to_string())));
    }
    Outgoing {
        topic: Arc::clone(topic),
        key: message.key.clone(),
        payload,
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_core::events::{Offset, PartitionId};

    #[test]
    fn the_original_is_kept_and_the_reason_is_added() {
        let original = SourceMessage {
            partition: PartitionId::new("images", 2),
            offset: Offset(7),
            leader_epoch: None,
            key: Some("k".into()),
            payload: Some(bytes::Bytes::from_static(b"\xffnot json")),
            headers: vec![("trace".into(), Some("1".into())), ("empty".into(), None)],
            timestamp: None,
        };
        let reason = "ä".repeat(MAX_REASON);
        let letter = message(
            &"dead".into(),
            &original,
            DeadLetterKind::BadMessage,
            &reason,
        );
        assert_eq!(
            (&letter.key, &letter.payload),
            (&original.key, &original.payload)
        );
        let value = |name: &str| {
            let (_, value) = letter.headers.iter().find(|(k, _)| k == name).unwrap();
            value
                .clone()
                .map(|v| String::from_utf8(v.to_vec()).unwrap())
        };
        assert_eq!(value("error.kind").as_deref(), Some("bad_message"));
        assert_eq!(value("error.message").unwrap().len(), MAX_REASON);
        assert_eq!(value("source.offset").as_deref(), Some("7"));
        assert_eq!(value("trace").as_deref(), Some("1"));
        assert_eq!(value("empty"), None);
    }

    #[test]
    fn a_value_that_leaves_no_room_for_the_reason_is_omitted() {
        let of = |length: usize| SourceMessage {
            partition: PartitionId::new("images", 0),
            offset: Offset(0),
            leader_epoch: None,
            key: None,
            payload: Some(vec![b'x'; length].into()),
            headers: Vec::new(),
            timestamp: None,
        };
        let letter = |length| {
            message(
                &"dead".into(),
                &of(length),
                DeadLetterKind::BadMessage,
                "no",
            )
        };
        assert_eq!(letter(900_000).payload.unwrap().len(), 900_000);
        let short = letter(999_999);
        assert_eq!(short.payload, None);
        let header = short
            .headers
            .iter()
            .find(|(k, _)| k == VALUE_OMITTED)
            .unwrap();
        assert_eq!(header.1.as_deref(), Some(b"999999".as_slice()));
    }
}
