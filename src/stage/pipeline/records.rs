//! Messages that hold several records: each is an image of its own, and all rows of a message lie
//! in one file.

use super::StageStatus;
use super::framed::{Framed, Framing};
use super::no_row::NoRow;
use crate::stage::row_maker::{Leave, MakeError, RefusedRecord, RowOutcome};
use crate::stage::schemas::Frame;
use crate::stage::sink::outgoing::Outgoing;
use crate::stage::sink::predictions::{PredictionLayout, PredictionRow};
use crate::stage::source::SourceMessage;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};
use tagstream_core::events::{DeadLetterKind, header, listed_records};
use tagstream_core::mapping::{MappedRecord, Mapping, MessageParts};

/// What a message comes to that gives no row.
pub(super) fn outcome_of<R>(none: NoRow) -> Result<RowOutcome<R>, MakeError> {
    match none {
        NoRow::DeadLetter(kind, reason) => Ok(RowOutcome::DeadLetter { kind, reason }),
        NoRow::Left => Ok(RowOutcome::Left),
        // Waiting goes on until it has been enough, which is fatal.
        NoRow::Lacking(_, reason) => Err(MakeError::Lacking(reason)),
        NoRow::Fatal(error) => Err(error),
    }
}

/// Why nothing of a message can be read.
type Refusal = (DeadLetterKind, String);

/// What becomes of one record.
type Made = (u32, Result<PredictionRow, NoRow>);

/// Which records messages have.
pub(super) struct Records {
    mapping: Mapping,
    framing: Option<Framing>,
    most: usize,
    layouts: Layouts,
}

/// The making of a message's rows.
pub(super) struct Work<'a, M, P> {
    pub message: &'a SourceMessage,
    /// How it is read.
    pub framed: &'a Framed,
    /// How many records are worked on at once.
    pub at_once: usize,
    /// Makes the row of one record.
    pub make: M,
    /// A row's message for the predictions topic.
    pub prediction: P,
}

impl Records {
    pub(super) fn new(mapping: Mapping, framing: Option<Framing>, most: usize) -> Self {
        Records {
            most,
            framing,
            layouts: Layouts::new(mapping.has_many()),
            mapping,
        }
    }

    /// Whether a message may have several.
    pub(super) fn are_many(&self) -> bool {
        self.mapping.has_many()
    }

    /// The table's layout for the model's.
    pub(super) fn layout(&self, told: &Arc<PredictionLayout>) -> Arc<PredictionLayout> {
        self.layouts.of(told)
    }

    /// How a message is read. Waits for a schema registry.
    pub(super) async fn framed(
        &self,
        message: &SourceMessage,
        status: &StageStatus,
        leave: &Leave,
    ) -> Result<Framed, NoRow> {
        match &self.framing {
            None => Ok(Framed::default()),
            Some(framing) => {
                let with_key = self.mapping.reads_key();
                framing.of(message, with_key, status, leave).await
            }
        }
    }

    /// Most rows that a message may become.
    pub(super) fn most_rows(&self, message: &SourceMessage) -> usize {
        if !self.are_many() {
            return 1;
        }
        let framing = self.framing.as_ref();
        let known = match framing {
            None => Some(Framed::default()),
            Some(framing) => framing.known(message, self.mapping.reads_key()),
        };
        match known {
            // What cannot be looked into yet may hold as many as any.
            None => self.most,
            // What is more than may be is a dead letter, which takes no more than one row.
            Some(known) => self.of(message, &known).map_or(1, |all| all.len()).max(1),
        }
    }

    /// The records of a message that are to be images.
    pub(super) fn of(
        &self,
        message: &SourceMessage,
        framed: &Framed,
    ) -> Result<Vec<MappedRecord>, Refusal> {
        let bad = |reason: String| (DeadLetterKind::BadMessage, reason);
        let (value, key) = opened(message, framed).map_err(bad)?;
        let parts = MessageParts {
            key: key.as_deref(),
            value: value.as_deref(),
            headers: &message.headers,
        };
        let read = self.mapping.read(&parts);
        let mut records = read.map_err(|error| {
            let alike = match &framed.value {
                None => Frame::alike(parts.value.unwrap_or_default(), parts.headers),
                Some(_) => None,
            };
            bad(alike.map_or_else(|| error.to_string(), |alike| format!("{error}: {alike}")))
        })?;
        if !self.are_many() {
            return Ok(records);
        }
        // Others of it became rows when the message was read for the first time.
        let only = message.headers.iter().rev();
        let mut only = only.filter(|(name, _)| name == header::ONLY_RECORDS);
        if let Some((name, list)) = only.next() {
            let list = std::str::from_utf8(list.as_deref().unwrap_or_default());
            let list = list.ok().and_then(listed_records);
            let none = || bad(format!("its header `{name}` is no list of records"));
            let list = list.ok_or_else(none)?;
            records.retain(|record| list.contains(&record.index));
        }
        let (count, most) = (records.len(), self.most);
        if count > most {
            let reason = format!(
                "the message holds {count} records, more than `source.mapping.max_records` ({most})"
            );
            return Err((DeadLetterKind::TooLarge, reason));
        }
        Ok(records)
    }

    /// Makes the rows of a message's records, several at once.
    pub(super) async fn make<'a, M, P>(
        &self,
        records: Vec<MappedRecord>,
        work: &Work<'_, M, P>,
    ) -> Result<RowOutcome<PredictionRow>, MakeError>
    where
        M: Fn(MappedRecord) -> BoxFuture<'a, Made>,
        P: Fn(&PredictionRow) -> Option<Outgoing>,
    {
        let (mut rows, mut refused): (Vec<PredictionRow>, _) = (Vec::new(), Vec::new());
        let mut waiting = records;
        loop {
            let each: Vec<BoxFuture<'a, Made>> = waiting.into_iter().map(&work.make).collect();
            let made = futures::stream::iter(each).buffer_unordered(work.at_once);
            let made: Vec<Made> = made.collect().await;
            for (index, made) in made {
                match made {
                    Ok(row) => rows.push(row),
                    Err(NoRow::DeadLetter(kind, reason)) => refused.push(RefusedRecord {
                        index,
                        kind,
                        reason,
                    }),
                    Err(NoRow::Left) => return Ok(RowOutcome::Left),
                    Err(NoRow::Lacking(_, reason)) => return Err(MakeError::Lacking(reason)),
                    Err(NoRow::Fatal(error)) => return Err(error),
                }
            }
            let Some(odd) = other_layouts(&rows) else {
                break;
            };
            // A model took over meanwhile: the rows of one message lie in one file, and those of a
            // file have one layout.
            rows.retain(|row| !odd.contains(&row.record));
            waiting = self.of(work.message, work.framed).unwrap_or_default();
            waiting.retain(|record| odd.contains(&record.index));
        }
        rows.sort_by_key(|row| row.record);
        let with_prediction = |row: PredictionRow| {
            let prediction = (work.prediction)(&row);
            (row, prediction)
        };
        let rows: Vec<_> = rows.into_iter().map(with_prediction).collect();
        if rows.is_empty() && refused.is_empty() {
            return Ok(RowOutcome::Nothing);
        }
        Ok(RowOutcome::Records { rows, refused })
    }
}

/// Value and key of a message out of their frames; or why that cannot be.
pub(super) fn opened(
    message: &SourceMessage,
    framed: &Framed,
) -> Result<(Option<Bytes>, Option<Bytes>), String> {
    let (mut value, mut key) = (message.payload.clone(), message.key.clone());
    if let (Some(schema), Some(payload)) = (&framed.value, &value) {
        let frame = Frame::of(payload, &message.headers);
        let inside = frame.map_or_else(|| payload.clone(), |frame| frame.value);
        let told = |e| format!("with schema {}: {e}", schema.id());
        value = Some(schema.json_of(&inside).map_err(told)?);
    }
    if let (Some(schema), Some(bytes)) = (&framed.key, &key) {
        let frame = Frame::of_key(bytes, &message.headers);
        let inside = frame.map_or_else(|| bytes.clone(), |frame| frame.value);
        let told = |e| format!("the key, with schema {}: {e}", schema.id());
        key = Some(schema.text_of(&inside).map_err(told)?);
    }
    Ok((value, key))
}

/// The records of the rows whose layout is not that of the row made last.
fn other_layouts(rows: &[PredictionRow]) -> Option<Vec<u32>> {
    let newest = rows.iter().max_by_key(|row| row.processed_time)?;
    let others = rows.iter().filter(|row| row.layout != newest.layout);
    let others: Vec<u32> = others.map(|row| row.record).collect();
    (!others.is_empty()).then_some(others)
}

/// Layouts of rows as the model tells them, with the column that tells records apart where it is
/// wanted. Rows that share one go on sharing one.
struct Layouts {
    with_records: bool,
    last: Mutex<Option<(Arc<PredictionLayout>, Arc<PredictionLayout>)>>,
}

impl Layouts {
    fn new(with_records: bool) -> Self {
        Layouts {
            with_records,
            last: Mutex::default(),
        }
    }

    /// The table's layout for the model's.
    fn of(&self, told: &Arc<PredictionLayout>) -> Arc<PredictionLayout> {
        if !self.with_records {
            return Arc::clone(told);
        }
        let mut last = self.last.lock().expect("no panic while locked");
        if let Some((of, layout)) = &*last
            && (Arc::ptr_eq(of, told) || of == told)
        {
            return Arc::clone(layout);
        }
        let layout = Arc::new(PredictionLayout {
            records: true,
            ..(**told).clone()
        });
        *last = Some((Arc::clone(told), Arc::clone(&layout)));
        layout
    }
}
