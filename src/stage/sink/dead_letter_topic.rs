//! The dead-letter topic: the original message, whole, and why it yields no row.

use super::producer::Outgoing;
use crate::{
    events::{DeadLetterKind, header},
    stage::source::SourceMessage,
};
use std::sync::Arc;

/// Longest explanation kept, bytes.
const MAX_REASON: usize = 1000;

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
    Outgoing {
        topic: Arc::clone(topic),
        key: message.key.clone(),
        payload: message.payload.clone(),
        headers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Offset, PartitionId};

    #[test]
    fn the_original_is_kept_and_the_reason_is_added() {
        let original = SourceMessage {
            partition: PartitionId::new("images", 2),
            offset: Offset(7),
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
}
