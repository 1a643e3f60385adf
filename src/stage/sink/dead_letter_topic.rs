//! The dead-letter topic: the original message and why it yields no row.
//!
//! The original is kept whole where the topic has room for it beside the reason. Otherwise value,
//! headers and key are left out, as few of them as is enough, and headers say how much is missing;
//! `source.*` and `error.*` always stay, so that the original can be read where it came from.

use super::outgoing::{MessageForm, Outgoing, beginning};
use crate::stage::row_maker::RefusedRecord;
use crate::stage::source::SourceMessage;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tagstream_core::events::{DeadLetterKind, header, record_list};

/// Longest explanation kept, bytes.
const MAX_REASON: usize = 1000;
/// Longest explanation in a letter of which everything else was left out, bytes.
const SHORT_REASON: usize = 120;

/// Most records that one letter is about: their list is a header, which always stays.
const RECORDS: usize = 24;

/// What a letter says: a message, or records of it, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordsRefused {
    /// The records, in their order; none: the whole message.
    pub records: Vec<u32>,
    /// The kind of failure.
    pub kind: DeadLetterKind,
    /// What went wrong with the first, for people.
    pub reason: String,
}

/// As few letters as tell of all `refused` records of a message: each is of one kind.
pub fn letters_of(refused: Vec<RefusedRecord>) -> Vec<RecordsRefused> {
    let mut by_kind: BTreeMap<DeadLetterKind, Vec<RefusedRecord>> = BTreeMap::new();
    for record in refused {
        by_kind.entry(record.kind).or_default().push(record);
    }
    let mut letters = Vec::new();
    for (kind, mut records) in by_kind {
        records.sort_by_key(|record| record.index);
        for records in records.chunks(RECORDS) {
            let first = &records[0];
            let others = match records.len() - 1 {
                0 => String::new(),
                others => format!(" (and {others} more records, for reasons of the same kind)"),
            };
            letters.push(RecordsRefused {
                records: records.iter().map(|record| record.index).collect(),
                kind,
                reason: format!("record {}: {}{others}", first.index, first.reason),
            });
        }
    }
    letters
}

fn text(value: impl ToString) -> Option<Bytes> {
    Some(value.to_string().into())
}

/// The dead letter for `message`, or for records of it.
pub fn message(topic: &Arc<str>, message: &SourceMessage, refused: &RecordsRefused) -> Outgoing {
    let source = &message.partition;
    let reason = beginning(&refused.reason, MAX_REASON);
    let added = [
        (header::ERROR_KIND, text(refused.kind)),
        (header::ERROR_MESSAGE, text(reason)),
        (header::SOURCE_TOPIC, text(&source.topic)),
        (header::SOURCE_PARTITION, text(source.partition)),
        (header::SOURCE_OFFSET, text(message.offset)),
    ];
    let mut headers = message.headers.clone();
    headers.extend(added.map(|(key, value)| (key.to_owned(), value)));
    if !refused.records.is_empty() {
        let records = text(record_list(&refused.records));
        headers.push((header::SOURCE_RECORDS.to_owned(), records));
    }
    if let Some(time) = message.timestamp {
        let millis = text(time.timestamp_millis());
        headers.push((header::SOURCE_TIMESTAMP.to_owned(), millis));
    }
    Outgoing {
        topic: Arc::clone(topic),
        key: message.key.clone(),
        payload: message.payload.clone(),
        headers,
        form: MessageForm::DeadLetter,
    }
}

/// What can be left out of a dead letter.
#[derive(Clone, Copy)]
struct Without {
    value: bool,
    headers: bool,
    key: bool,
}

/// In this order: one thing, then two, then all.
const STEPS: [Without; 7] = {
    const fn without(value: bool, headers: bool, key: bool) -> Without {
        Without {
            value,
            headers,
            key,
        }
    }
    [
        without(true, false, false),
        without(false, true, false),
        without(false, false, true),
        without(true, true, false),
        without(true, false, true),
        without(false, true, true),
        without(true, true, true),
    ]
};

/// The form of `letter` that leaves out least among those that `fits`.
pub(super) fn shortened(letter: &Outgoing, fits: &dyn Fn(&Outgoing) -> bool) -> Option<Outgoing> {
    let steps = STEPS.iter().map(|step| left_out(letter, *step));
    let least = || {
        let mut least = left_out(letter, STEPS[STEPS.len() - 1]);
        for (name, value) in &mut least.headers {
            if name == header::ERROR_MESSAGE {
                let reason = value.take().unwrap_or_default();
                *value = text(beginning(&String::from_utf8_lossy(&reason), SHORT_REASON));
            }
        }
        least
    };
    steps.chain(std::iter::once_with(least)).find(fits)
}

fn left_out(letter: &Outgoing, without: Without) -> Outgoing {
    // The original's headers stand before ours, also where they have the same names.
    let ours = letter
        .headers
        .iter()
        .rposition(|(k, _)| k == header::ERROR_KIND);
    let (originals, ours) = letter.headers.split_at(ours.unwrap_or(0));
    let mut short = letter.clone();
    let mut said = Vec::new();
    if without.value
        && let Some(value) = short.payload.take_if(|value| !value.is_empty())
    {
        said.push((header::VALUE_OMITTED.to_owned(), text(value.len())));
    }
    if without.headers && !originals.is_empty() {
        short.headers = ours.to_vec();
        said.push((header::HEADERS_OMITTED.to_owned(), text(originals.len())));
    }
    if without.key
        && let Some(key) = short.key.take_if(|key| !key.is_empty())
    {
        said.push((header::KEY_OMITTED.to_owned(), text(key.len())));
    }
    short.headers.extend(said);
    short
}

/// Makes of `letter` one that a compacted topic takes and keeps: with a key (the original's place,
/// unless it has one) and not without a value.
pub(super) fn keep_in_compacted(letter: &mut Outgoing) {
    let of = |name: &str| {
        let found = letter.headers.iter().rev().find(|(key, _)| key == name);
        let value = found.and_then(|(_, value)| value.as_deref());
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    let place = || {
        let topic = of(header::SOURCE_TOPIC);
        let partition = of(header::SOURCE_PARTITION);
        format!("{topic}/{partition}@{}", of(header::SOURCE_OFFSET))
    };
    if letter.key.is_none() {
        letter.key = text(place());
    }
    letter.payload.get_or_insert_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagstream_core::events::{Offset, PartitionId};

    fn original(key: usize, value: usize, header: usize) -> SourceMessage {
        let bytes = |n: usize| Some(Bytes::from(vec![b'x'; n]));
        SourceMessage {
            partition: PartitionId::new("images", 2),
            offset: Offset(7),
            leader_epoch: None,
            key: bytes(key),
            payload: bytes(value),
            headers: vec![("trace".into(), bytes(header)), ("empty".into(), None)],
            timestamp: None,
        }
    }

    fn letter(original: &SourceMessage, reason: &str) -> Outgoing {
        of_records(original, reason, Vec::new())
    }

    fn of_records(original: &SourceMessage, reason: &str, records: Vec<u32>) -> Outgoing {
        let refused = RecordsRefused {
            records,
            kind: DeadLetterKind::BadMessage,
            reason: reason.to_owned(),
        };
        message(&"dead".into(), original, &refused)
    }

    #[test]
    fn records_share_letters_by_kind_and_are_named() {
        let refused = |index: u32, kind| RefusedRecord {
            index,
            kind,
            reason: format!("reason {index}"),
        };
        let many = (0..60).rev().map(|i| refused(i, DeadLetterKind::NotFound));
        let mut all: Vec<RefusedRecord> = many.collect();
        all.push(refused(70, DeadLetterKind::BadImage));
        let letters = letters_of(all);
        let of = |kind| letters.iter().filter(move |l| l.kind == kind);
        let found: Vec<u32> = of(DeadLetterKind::NotFound)
            .flat_map(|l| l.records.clone())
            .collect();
        assert_eq!(found, (0..60).collect::<Vec<_>>());
        let alone: Vec<_> = of(DeadLetterKind::BadImage).collect();
        assert_eq!(
            (alone.len(), &alone[0].reason[..]),
            (1, "record 70: reason 70")
        );
        assert!(letters.iter().all(|l| l.records.len() <= RECORDS));
        let letter = message(&"dead".into(), &original(1, 1, 1), &letters[0]);
        assert!(value(&letter, "source.records").is_some());
    }

    fn value(letter: &Outgoing, name: &str) -> Option<String> {
        let (_, value) = letter.headers.iter().rev().find(|(k, _)| k == name)?;
        value
            .clone()
            .map(|v| String::from_utf8(v.to_vec()).unwrap())
    }

    fn within(bytes: usize) -> impl Fn(&Outgoing) -> bool {
        move |letter: &Outgoing| letter.batch_bytes() <= bytes
    }

    #[test]
    fn the_original_is_kept_and_the_reason_is_added() {
        let original = original(1, 9, 1);
        let letter = letter(&original, &"ä".repeat(MAX_REASON));
        assert_eq!(
            (&letter.key, &letter.payload),
            (&original.key, &original.payload)
        );
        assert_eq!(value(&letter, "error.kind").as_deref(), Some("bad_message"));
        assert_eq!(value(&letter, "error.message").unwrap().len(), MAX_REASON);
        assert_eq!(value(&letter, "source.offset").as_deref(), Some("7"));
        assert_eq!(value(&letter, "trace").as_deref(), Some("x"));
        assert_eq!(value(&letter, "empty"), None);
    }

    #[test]
    fn only_what_takes_the_room_is_left_out_and_the_source_always_stays() {
        let big = 1_000_000;
        for (key, val, header, left) in [
            (9, big, 9, "value"),
            (9, 9, big, "headers"),
            (big, 9, 9, "key"),
            (9, big, big, "value headers"),
            (big, big, 9, "value key"),
            (big, 9, big, "headers key"),
            (big, big, big, "value headers key"),
        ] {
            let letter = letter(&original(key, val, header), "no");
            let short = shortened(&letter, &within(100_000)).unwrap();
            let left = |what: &str| left.contains(what);
            assert_eq!(short.payload.is_none(), left("value"));
            assert_eq!(short.key.is_none(), left("key"));
            assert_eq!(value(&short, "trace").is_none(), left("headers"));
            let said = |name: &str| value(&short, name);
            let length = |n: usize| Some(n.to_string());
            let omitted = said("error.value_omitted_bytes");
            assert_eq!(omitted, length(val).filter(|_| left("value")));
            let omitted = said("error.key_omitted_bytes");
            assert_eq!(omitted, length(key).filter(|_| left("key")));
            let omitted = said("error.headers_omitted");
            assert_eq!(omitted, length(2).filter(|_| left("headers")));
            for (name, expected) in [
                ("error.kind", "bad_message"),
                ("error.message", "no"),
                ("source.topic", "images"),
                ("source.partition", "2"),
                ("source.offset", "7"),
            ] {
                assert_eq!(said(name).as_deref(), Some(expected));
            }
        }
    }

    #[test]
    fn the_least_form_fits_the_least_limit_whatever_the_original() {
        let mut original = original(5_000, 5_000, 5_000);
        original.partition = PartitionId::new("t".repeat(249), i32::MAX);
        original.offset = Offset(i64::MAX);
        let far = (0..RECORDS as u32)
            .map(|i| u32::MAX - 2 * i)
            .rev()
            .collect();
        let letter = of_records(&original, &"\u{1F600}".repeat(500), far);
        let least = shortened(&letter, &within(super::super::outgoing::LEAST_LIMIT));
        let least = least.expect("it must fit");
        assert!(value(&least, "error.message").unwrap().len() > 100);
        assert!(shortened(&letter, &|_| false).is_none());
    }

    /// A letter that was replayed and failed again has such headers before ours.
    #[test]
    fn an_original_s_own_error_headers_are_not_taken_for_ours() {
        let mut original = original(1, 10, 1);
        let old = Some(Bytes::from(vec![b'o'; 3_000]));
        original.headers.push((header::ERROR_KIND.into(), old));
        let short = shortened(&letter(&original, "no"), &within(1_000)).unwrap();
        assert_eq!(value(&short, "error.kind").as_deref(), Some("bad_message"));
        assert_eq!(value(&short, "error.headers_omitted").as_deref(), Some("3"));
        assert!(short.payload.is_some());
    }

    #[test]
    fn a_compacted_topic_gets_a_key_and_no_tombstone() {
        let mut original = original(0, 10, 1);
        (original.key, original.payload) = (None, None);
        let mut letter = letter(&original, "no");
        keep_in_compacted(&mut letter);
        assert_eq!(letter.key.as_deref(), Some(b"images/2@7".as_slice()));
        assert_eq!(letter.payload.as_deref(), Some(b"".as_slice()));
    }
}
