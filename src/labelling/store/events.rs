//! The label table's files into a table of labels.

use super::columns::{Footer, read_files};
use super::{TableError, column, strings};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ListArray, PrimitiveArray, RecordBatch, StringArray};
use chrono::{DateTime, TimeDelta, Utc};
use object_store::ObjectMeta;
use std::ops::ControlFlow;
use tagstream_core::events::{LabelState, not_ahead};
use tagstream_core::storage::store::TableStore;
use tagstream_train::labels::{Gathering, Said, Stamp};

const COLUMNS: [&str; 11] = [
    "image_id",
    "uri",
    "event_time",
    "processed_time",
    "topic",
    "partition",
    "offset",
    "present",
    "absent",
    "retract",
    "annotator",
];

/// What files say, on its way into a table.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) gathering: Gathering,
    /// Until when it stays so: from then on a label that was said ahead of its time counts as said
    /// at its time.
    pub(super) until: Option<DateTime<Utc>>,
}

impl Reading {
    /// Takes in all events of `files`.
    pub(super) async fn read(
        &mut self,
        store: &TableStore,
        files: &[&ObjectMeta],
    ) -> Result<(), TableError> {
        let now = Utc::now();
        let files = files.iter().map(|file| (*file).clone()).enumerate();
        let take = |_: usize, batch: &RecordBatch, _: &Footer| {
            self.apply(batch, now)?;
            Ok(ControlFlow::Continue(()))
        };
        read_files(store, files, &COLUMNS, take).await
    }

    fn apply(&mut self, batch: &RecordBatch, now: DateTime<Utc>) -> Result<(), String> {
        let events = EventColumns::of(batch)?;
        for row in 0..batch.num_rows() {
            let time = DateTime::from_timestamp_micros(events.times.value(row))
                .ok_or_else(|| format!("row {row} has an impossible `event_time`"))?;
            // Older builds let labels of any future year into the table, where they would win for
            // ever. They count as said when they came.
            let time = match not_ahead(time, now) {
                Ok(()) => time,
                Err(_) => {
                    let until = time - TimeDelta::days(1);
                    self.until = Some(self.until.map_or(until, |known| known.min(until)));
                    DateTime::from_timestamp_micros(events.processed.value(row))
                        .unwrap_or(now)
                        .min(time)
                }
            };
            let said = Said {
                image_id: events.ids.value(row),
                uri: events.uris.value(row),
                annotator: events.annotators.value(row),
                stamp: Stamp {
                    time,
                    topic: events.topics.value(row),
                    partition: events.partitions.value(row),
                    offset: events.offsets.value(row),
                },
            };
            let present = events.present.row(row, Some(LabelState::Present));
            let absent = events.absent.row(row, Some(LabelState::Absent));
            let retract = events.retract.row(row, None);
            self.gathering
                .take(&said, present.chain(absent).chain(retract));
        }
        Ok(())
    }
}

/// The columns of a batch of label events.
struct EventColumns<'a> {
    ids: &'a StringArray,
    uris: &'a StringArray,
    annotators: &'a StringArray,
    topics: &'a StringArray,
    times: &'a PrimitiveArray<TimestampMicrosecondType>,
    processed: &'a PrimitiveArray<TimestampMicrosecondType>,
    partitions: &'a PrimitiveArray<Int32Type>,
    offsets: &'a PrimitiveArray<Int64Type>,
    present: Names<'a>,
    absent: Names<'a>,
    retract: Names<'a>,
}

impl<'a> EventColumns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, String> {
        let wrong = |name: &str| format!("its column `{name}` has another type");
        let time = |name| {
            let column = column(batch, name)?.as_primitive_opt::<TimestampMicrosecondType>();
            column.ok_or_else(|| wrong(name))
        };
        let partitions = column(batch, "partition")?.as_primitive_opt::<Int32Type>();
        let offsets = column(batch, "offset")?.as_primitive_opt::<Int64Type>();
        Ok(EventColumns {
            ids: strings(batch, "image_id")?,
            uris: strings(batch, "uri")?,
            annotators: strings(batch, "annotator")?,
            topics: strings(batch, "topic")?,
            times: time("event_time")?,
            processed: time("processed_time")?,
            partitions: partitions.ok_or_else(|| wrong("partition"))?,
            offsets: offsets.ok_or_else(|| wrong("offset"))?,
            present: Names::of(batch, "present")?,
            absent: Names::of(batch, "absent")?,
            retract: Names::of(batch, "retract")?,
        })
    }
}

/// A column of lists of names.
struct Names<'a> {
    lists: &'a ListArray,
    values: &'a StringArray,
}

impl<'a> Names<'a> {
    fn of(batch: &'a RecordBatch, name: &str) -> Result<Self, String> {
        let wrong = || format!("its column `{name}` holds no lists of strings");
        let lists = column(batch, name)?
            .as_list_opt::<i32>()
            .ok_or_else(wrong)?;
        let values = lists.values().as_string_opt::<i32>().ok_or_else(wrong)?;
        Ok(Names { lists, values })
    }

    /// The names in a row, each with what is said of it.
    fn row(
        &self,
        row: usize,
        state: Option<LabelState>,
    ) -> impl Iterator<Item = (&'a str, Option<LabelState>)> + use<'a> {
        let offsets = self.lists.value_offsets();
        let values = self.values;
        let names = (offsets[row] as usize..offsets[row + 1] as usize)
            .filter(move |at| values.is_valid(*at))
            .map(move |at| (values.value(at), state));
        // A list that is null has no names, whatever lies behind it.
        let nothing = self.lists.is_null(row);
        names.filter(move |_| !nothing)
    }
}
