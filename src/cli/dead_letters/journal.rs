//! What was sent again, noted in the dead-letter topic itself: it lives as long as the letters do,
//! and needs no rights that writing dead letters does not need.
//!
//! A record stands in the partition of the letters that it is about. `begun` comes before a batch
//! is sent, `done` after it was acknowledged, with those that were sent. A batch that is begun and
//! not done belongs to a process that lives, or to one that died: then the source topic tells what
//! of it was sent. The order of the partition decides between two that begin at the same time.

use super::letters::{HeaderList, text};
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The header that makes a message a record of the journal; its value is the step.
pub(super) const JOURNAL: &str = "replay.journal";
/// The format of records.
const FORMAT: u32 = 1;

/// A step of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Begun,
    Done,
}

impl Step {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Step::Begun => "begun",
            Step::Done => "done",
        }
    }
}

/// A record's value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    format: u32,
    pub batch: String,
    /// Offsets of letters of the same partition.
    pub letters: BTreeSet<i64>,
    /// Of the topics that a batch is sent to, the ends of the partitions when it was begun.
    #[serde(default, skip_serializing_if = "Ends::is_empty")]
    pub ends: Ends,
}

/// Ends of partitions, by topic.
pub(super) type Ends = BTreeMap<String, BTreeMap<i32, i64>>;

impl Record {
    pub(super) fn new(batch: &str, letters: BTreeSet<i64>) -> Self {
        Record {
            format: FORMAT,
            batch: batch.to_owned(),
            letters,
            ends: Ends::new(),
        }
    }

    /// Reads a record; `None` if the message is none.
    pub(super) fn of(
        headers: &HeaderList,
        value: Option<&[u8]>,
    ) -> anyhow::Result<Option<(Step, Record)>> {
        let step = match text(headers, JOURNAL).as_deref() {
            None => return Ok(None),
            Some("begun") => Step::Begun,
            Some("done") => Step::Done,
            Some(_) => anyhow::bail!("a record of a newer format; use a newer build"),
        };
        let record: Record = serde_json::from_slice(value.unwrap_or_default())
            .context("a record of the journal of replays that cannot be read")?;
        anyhow::ensure!(
            record.format <= FORMAT,
            "a record of format {}; this build reads {FORMAT}",
            record.format
        );
        Ok(Some((step, record)))
    }
}

/// A batch that is begun and not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenBatch {
    pub partition: i32,
    /// When, milliseconds.
    pub begun_ms: i64,
    pub letters: BTreeSet<i64>,
    pub ends: Ends,
}

/// All that is noted.
#[derive(Debug, Default)]
pub(super) struct Journal {
    sent: BTreeSet<(i32, i64)>,
    /// By partition and name.
    pub open: BTreeMap<(i32, String), OpenBatch>,
}

impl Journal {
    /// Takes note of a record.
    pub(super) fn note(&mut self, partition: i32, ms: i64, step: Step, record: Record) {
        let batch = (partition, record.batch);
        match step {
            Step::Begun => {
                let open = OpenBatch {
                    partition,
                    begun_ms: ms,
                    letters: record.letters,
                    ends: record.ends,
                };
                self.open.insert(batch, open);
            }
            Step::Done => {
                self.open.remove(&batch);
                self.sent
                    .extend(record.letters.into_iter().map(|o| (partition, o)));
            }
        }
    }

    /// Whether a letter was sent again.
    pub(super) fn is_replayed(&self, partition: i32, offset: i64) -> bool {
        self.sent.contains(&(partition, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_sent_and_what_is_only_begun_is_open() {
        let mut journal = Journal::default();
        journal.note(0, 1, Step::Begun, Record::new("a", [1, 2].into()));
        journal.note(1, 1, Step::Begun, Record::new("a", [1].into()));
        assert!(!journal.is_replayed(0, 1));
        journal.note(0, 2, Step::Done, Record::new("a", [2].into()));
        assert!(journal.is_replayed(0, 2) && !journal.is_replayed(0, 1));
        let open: Vec<_> = journal.open.keys().cloned().collect();
        assert_eq!(open, [(1, "a".to_owned())]);
    }

    #[test]
    fn the_format_of_records_stands() {
        let value = br#"{"format":1,"batch":"b","letters":[3,5]}"#;
        let header = |step: &'static str| vec![(JOURNAL.to_owned(), Some(step.into()))];
        let (step, record) = Record::of(&header("begun"), Some(value)).unwrap().unwrap();
        assert_eq!(
            (step, &record),
            (Step::Begun, &Record::new("b", [3, 5].into()))
        );
        assert_eq!(serde_json::to_vec(&record).unwrap(), value);
        assert_eq!(Record::of(&Vec::new(), Some(value)).unwrap(), None);
        assert!(Record::of(&header("later"), Some(value)).is_err());
        let newer = br#"{"format":2,"batch":"b","letters":[]}"#;
        assert!(Record::of(&header("done"), Some(newer)).is_err());
    }
}
