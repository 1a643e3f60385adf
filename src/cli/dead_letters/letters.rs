//! One message of the dead-letter topic.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use serde_json::{Value, json};
use tagstream_core::events::{Offset, PartitionId, header, listed_records, record_list};

/// What a replayed message says of itself: the dead letter that it was.
pub(super) const REPLAY_OF: &str = "replay.of";

/// What an original is known by: its place, its time, and which record of it.
pub(super) type Identity = (PartitionId, Offset, i64, Option<u32>);

/// Headers, a value may be missing.
pub(in crate::cli) type HeaderList = Vec<(String, Option<Bytes>)>;

/// A dead letter, without its value.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub partition: i32,
    pub offset: i64,
    /// When it was written.
    pub time: Option<DateTime<Utc>>,
    pub kind: String,
    pub reason: String,
    /// Where its original was read.
    pub source: Option<(PartitionId, Offset)>,
    /// The records of it that the letter is about; none: all of it.
    pub records: Vec<u32>,
    /// The original's time.
    pub source_time: Option<i64>,
    /// What was left out of it: (header, how much).
    pub omitted: Vec<(String, u64)>,
    /// Whether it was sent again.
    pub replayed: bool,
    /// Of the message that became the letter.
    pub topic: String,
}

/// An original, ready to be sent.
pub(super) struct Replayed {
    pub letter: Letter,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: HeaderList,
    pub time: Option<i64>,
}

/// Where the original of a letter is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Original {
    /// In the letter.
    Here,
    /// Only where it was read.
    AtItsSource,
    /// It cannot be had, and why.
    Nowhere(String),
}

/// The headers of a message.
pub(in crate::cli) fn headers(message: &BorrowedMessage<'_>) -> HeaderList {
    let Some(headers) = message.headers() else {
        return Vec::new();
    };
    let owned = |h: rdkafka::message::Header<'_, &[u8]>| {
        (h.key.to_owned(), h.value.map(Bytes::copy_from_slice))
    };
    headers.iter().map(owned).collect()
}

/// The original's headers, and those that the stage added: the original's stand first, also where
/// they have the same names.
pub(super) fn split(mut headers: HeaderList) -> (HeaderList, HeaderList) {
    let at = headers
        .iter()
        .rposition(|(key, _)| key == header::ERROR_KIND);
    let added = headers.split_off(at.unwrap_or(headers.len()));
    (headers, added)
}

/// The text of the header `name`.
pub(super) fn text(headers: &HeaderList, name: &str) -> Option<String> {
    let (_, value) = headers.iter().rev().find(|(key, _)| key == name)?;
    Some(String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into_owned())
}

impl Letter {
    /// Reads a message; `None` if it is no dead letter.
    pub(super) fn of(message: &BorrowedMessage<'_>) -> Option<Self> {
        let (_, added) = split(headers(message));
        let number = |name: &str| text(&added, name)?.parse::<i64>().ok();
        let source = || {
            let topic = text(&added, header::SOURCE_TOPIC)?;
            let partition = number(header::SOURCE_PARTITION)?.try_into().ok()?;
            let partition = PartitionId::new(topic.as_str(), partition);
            Some((partition, Offset(number(header::SOURCE_OFFSET)?)))
        };
        let omitted = [
            header::VALUE_OMITTED,
            header::KEY_OMITTED,
            header::HEADERS_OMITTED,
        ];
        let omitted = omitted.into_iter().filter_map(|name| {
            let much = text(&added, name)?.parse().unwrap_or_default();
            Some((name.to_owned(), much))
        });
        let millis = message.timestamp().to_millis();
        Some(Letter {
            partition: message.partition(),
            offset: message.offset(),
            time: millis.and_then(DateTime::from_timestamp_millis),
            kind: text(&added, header::ERROR_KIND)?,
            reason: text(&added, header::ERROR_MESSAGE).unwrap_or_default(),
            source: source(),
            records: text(&added, header::SOURCE_RECORDS)
                .and_then(|list| listed_records(&list))
                .unwrap_or_default(),
            source_time: number(header::SOURCE_TIMESTAMP),
            omitted: omitted.collect(),
            replayed: false,
            topic: message.topic().to_owned(),
        })
    }

    /// What its original is known by, one for each of its records: after a crash the stage writes a
    /// letter again. A topic that was created anew has the same offsets, but not the same times.
    pub(super) fn identities(&self) -> Vec<Identity> {
        let (Some((partition, offset)), Some(time)) = (&self.source, self.source_time) else {
            return Vec::new();
        };
        let of = |record| (partition.clone(), *offset, time, record);
        match self.records.is_empty() {
            true => vec![of(None)],
            false => self.records.iter().map(|r| of(Some(*r))).collect(),
        }
    }

    /// Leaves out the records of which `sent` is true; whether nothing is left to be sent.
    pub(super) fn without(&mut self, sent: impl Fn(&Identity) -> bool) -> bool {
        let identities = self.identities();
        let left: Vec<&Identity> = identities.iter().filter(|i| !sent(i)).collect();
        if identities.is_empty() || !left.is_empty() {
            self.records = left.iter().filter_map(|(.., record)| *record).collect();
            return false;
        }
        true
    }

    /// Its partition and offset.
    pub(super) fn place(&self) -> String {
        format!("{}@{}", self.partition, self.offset)
    }

    /// Its whole name, as the message that it becomes carries it.
    pub(super) fn name(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }

    /// Where its original was read, for people.
    pub(super) fn source_text(&self) -> String {
        match &self.source {
            Some((partition, offset)) if !self.records.is_empty() => {
                format!(
                    "{partition}@{offset} records {}",
                    record_list(&self.records)
                )
            }
            Some((partition, offset)) => format!("{partition}@{offset}"),
            None => "no source".to_owned(),
        }
    }

    /// The topic that its original was read from.
    pub(super) fn source_topic(&self) -> Option<&str> {
        self.source.as_ref().map(|(partition, _)| &*partition.topic)
    }

    /// Where the original is; `sources` are the topics that may be written to.
    pub(super) fn original(&self, sources: &[&str]) -> Original {
        match &self.source {
            None => Original::Nowhere("it does not say where it was read".into()),
            Some((partition, _)) if !sources.contains(&&*partition.topic) => {
                Original::Nowhere(format!(
                    "it was read from the topic {}, which is not one of this configuration",
                    partition.topic
                ))
            }
            Some(_) if self.omitted.is_empty() => Original::Here,
            Some(_) => Original::AtItsSource,
        }
    }

    /// A line of `list --json`.
    pub(super) fn json(&self, sources: &[&str]) -> Value {
        let source = self.source.as_ref().map(|(partition, offset)| {
            json!({
                "topic": &*partition.topic, "partition": partition.partition, "offset": offset.0,
            })
        });
        let original = match self.original(sources) {
            Original::Here => json!("here"),
            Original::AtItsSource => json!("at its source"),
            Original::Nowhere(reason) => json!({"nowhere": reason}),
        };
        json!({
            "partition": self.partition,
            "offset": self.offset,
            "time": self.time,
            "kind": self.kind,
            "reason": self.reason,
            "source": source,
            "records": self.records,
            "original": original,
            "replayed": self.replayed,
        })
    }
}
