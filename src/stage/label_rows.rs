//! Label events into rows of the label table: the same exactly-once line as for images, without a
//! model.

use super::row_maker::{Leave, MakeError, RowMaker, RowOutcome};
use super::sink::table::TableRow;
use super::source::SourceMessage;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use tagstream_core::events::{DeadLetterKind, LabelEvent, Offset, PartitionId, not_ahead};

/// A row of the label table: one label event. `schemas/labels.table.json` states the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRow {
    /// What was said; its `event_time` is set.
    pub event: LabelEvent,
    /// When it was said: the event's time, else the message's.
    pub event_time: DateTime<Utc>,
    /// When the row was made.
    pub processed_time: DateTime<Utc>,
    /// The partition that the message came from.
    pub partition: PartitionId,
    /// The message's offset.
    pub offset: Offset,
    layout: Arc<()>,
}

fn names<'a>(lists: impl Iterator<Item = &'a Vec<String>>) -> ArrayRef {
    let field = Field::new("element", DataType::Utf8, false);
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(field);
    for list in lists {
        for name in list {
            builder.values().append_value(name);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}

impl TableRow for LabelRow {
    type Layout = ();
    const SCHEMA_VERSION: u32 = 1;
    const LOOKED_UP: &'static [&'static str] = &["image_id"];

    fn offset(&self) -> Offset {
        self.offset
    }

    fn bytes(&self) -> u64 {
        let e = &self.event;
        let lists = [&e.present, &e.absent, &e.retract];
        let names: usize = lists.into_iter().flatten().map(|n| n.len() + 24).sum();
        let strings = e.image_id.len() + e.uri.len() + e.annotator.len();
        (std::mem::size_of::<Self>() + strings + names) as u64
    }

    fn layout(&self) -> &Arc<()> {
        &self.layout
    }

    fn batch((): &(), rows: &[Self]) -> Result<RecordBatch, ArrowError> {
        let strings = |of: fn(&Self) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
        };
        let times = |of: fn(&Self) -> DateTime<Utc>| -> ArrayRef {
            let values = rows.iter().map(|r| of(r).timestamp_micros());
            Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
        };
        let partitions = rows.iter().map(|r| r.partition.partition);
        let offsets = rows.iter().map(|r| r.offset.0);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("image_id", strings(|r| &r.event.image_id)),
            ("uri", strings(|r| &r.event.uri)),
            ("event_time", times(|r| r.event_time)),
            ("processed_time", times(|r| r.processed_time)),
            ("topic", strings(|r| &r.partition.topic)),
            (
                "partition",
                Arc::new(Int32Array::from_iter_values(partitions)),
            ),
            ("offset", Arc::new(Int64Array::from_iter_values(offsets))),
            ("present", names(rows.iter().map(|r| &r.event.present))),
            ("absent", names(rows.iter().map(|r| &r.event.absent))),
            ("retract", names(rows.iter().map(|r| &r.event.retract))),
            ("annotator", strings(|r| &r.event.annotator)),
        ];
        let columns = columns
            .into_iter()
            .map(|(name, array)| (name, array, false));
        RecordBatch::try_from_iter_with_nullable(columns)
    }

    fn vector_columns((): &()) -> Vec<String> {
        Vec::new()
    }

    fn describe((): &(), _: &[Self]) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// Makes rows of the label table from messages of the labels topic.
#[derive(Debug, Clone, Default)]
pub struct LabelRows {
    layout: Arc<()>,
}

impl RowMaker for LabelRows {
    type Row = LabelRow;

    async fn make(
        &self,
        message: &SourceMessage,
        _leave: &Leave,
    ) -> Result<RowOutcome<LabelRow>, MakeError> {
        let Some(payload) = &message.payload else {
            return Ok(RowOutcome::Nothing);
        };
        let timed = LabelEvent::from_json(payload)
            .and_then(|event| Ok((message.time_of(event.event_time)?, event)));
        let (event_time, event) = match timed {
            Ok(timed) => timed,
            Err(error) => {
                return Ok(RowOutcome::DeadLetter {
                    kind: DeadLetterKind::BadMessage,
                    reason: error.to_string(),
                });
            }
        };
        let now = Utc::now();
        if let Err(ahead) = not_ahead(event_time, now) {
            let whose = match event.event_time {
                Some(_) => "the message's `event_time`",
                None => "the message has no `event_time`, and its timestamp",
            };
            return Ok(RowOutcome::DeadLetter {
                kind: DeadLetterKind::BadMessage,
                reason: format!("{whose} {ahead}"),
            });
        }
        let row = LabelRow {
            event,
            event_time,
            processed_time: now,
            partition: message.partition.clone(),
            offset: message.offset,
            layout: Arc::clone(&self.layout),
        };
        Ok(RowOutcome::Row {
            row,
            prediction: None,
        })
    }

    fn layout(&self) -> Arc<()> {
        Arc::clone(&self.layout)
    }

    fn row_bytes(&self) -> u64 {
        // A parsed event takes little more than its message, which is counted by itself.
        4 << 10
    }

    fn places(&self) -> usize {
        256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(offset: i64, payload: Option<&str>) -> SourceMessage {
        SourceMessage {
            partition: PartitionId::new("labels", 3),
            offset: Offset(offset),
            leader_epoch: None,
            key: None,
            payload: payload.map(|p| bytes::Bytes::copy_from_slice(p.as_bytes())),
            headers: Vec::new(),
            timestamp: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn an_event_becomes_a_row_with_the_message_time_where_it_has_none() {
        let maker = LabelRows::default();
        let text = r#"{"image_id":"a","present":["cat","dog"],"absent":["owl"],"annotator":"x"}"#;
        let RowOutcome::Row { row, prediction } = maker
            .make(&message(7, Some(text)), &Leave::never())
            .await
            .unwrap()
        else {
            panic!("a good event gave no row");
        };
        assert!(prediction.is_none());
        assert_eq!(row.event_time.to_rfc3339(), "2026-01-01T00:00:00+00:00");
        let batch = LabelRow::batch(&(), &[row]).unwrap();
        assert_eq!(batch.num_rows(), 1);
        assert_eq!(batch.schema(), LabelRow::schema(&()).unwrap());
    }

    /// A label of the year 9999 would win for ever, whoever says so: the event or the producer's
    /// clock.
    #[tokio::test]
    async fn a_label_from_the_future_is_a_dead_letter() {
        let maker = LabelRows::default();
        let in_hours = |hours| Utc::now() + chrono::TimeDelta::hours(hours);
        let said = |time: DateTime<Utc>| {
            format!(r#"{{"image_id":"a","event_time":"{}"}}"#, time.to_rfc3339())
        };
        let late = "9999-12-31T23:59:59Z".parse().unwrap();
        for (time, good) in [(in_hours(23), true), (in_hours(25), false), (late, false)] {
            let text = said(time);
            let mut without = message(8, Some(r#"{"image_id":"a"}"#));
            without.timestamp = Some(time);
            for message in [message(7, Some(&text)), without] {
                let made = maker.make(&message, &Leave::never()).await.unwrap();
                assert_eq!(matches!(made, RowOutcome::Row { .. }), good, "{made:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_timestamp_that_readers_cannot_read_is_a_dead_letter_unless_the_event_has_its_own() {
        let maker = LabelRows::default();
        let bare = r#"{"image_id":"a","present":["cat"]}"#;
        let timed = r#"{"image_id":"a","event_time":"2026-01-01T00:00:00Z"}"#;
        for timestamp in ["9999-12-31T23:59:59Z", "1899-01-01T00:00:00Z"] {
            let at = |payload| SourceMessage {
                timestamp: Some(timestamp.parse().unwrap()),
                ..message(7, Some(payload))
            };
            let made = maker.make(&at(bare), &Leave::never()).await.unwrap();
            let RowOutcome::DeadLetter { reason, .. } = made else {
                panic!("{timestamp} was taken");
            };
            assert!(reason.contains("Kafka timestamp (it has no"), "{reason}");
            let made = maker.make(&at(timed), &Leave::never()).await.unwrap();
            assert!(matches!(made, RowOutcome::Row { .. }), "{timestamp}");
        }
    }

    #[tokio::test]
    async fn a_bad_event_is_a_dead_letter_and_a_tombstone_is_nothing() {
        let maker = LabelRows::default();
        let made = maker
            .make(&message(7, Some("{")), &Leave::never())
            .await
            .unwrap();
        assert!(matches!(
            made,
            RowOutcome::DeadLetter {
                kind: DeadLetterKind::BadMessage,
                ..
            }
        ));
        let made = maker
            .make(&message(8, None), &Leave::never())
            .await
            .unwrap();
        assert!(matches!(made, RowOutcome::Nothing));
    }

    #[test]
    fn columns_are_those_of_the_published_schema() {
        let published: serde_json::Value =
            serde_json::from_str(include_str!("../../schemas/labels.table.json")).unwrap();
        let schema = LabelRow::schema(&()).unwrap();
        let described = |data_type: &DataType| match data_type {
            DataType::Utf8 => "string".to_owned(),
            DataType::Int32 => "int32".to_owned(),
            DataType::Int64 => "int64".to_owned(),
            DataType::Timestamp(_, Some(zone)) => format!("timestamp(us, {zone})"),
            DataType::List(f) if *f.data_type() == DataType::Utf8 => "list<string>".to_owned(),
            other => panic!("unexpected column type {other}"),
        };
        let ours: Vec<(String, String)> = schema
            .fields()
            .iter()
            .map(|f| (f.name().clone(), described(f.data_type())))
            .collect();
        let text = |column: &serde_json::Value, key: &str| column[key].as_str().unwrap().to_owned();
        let theirs: Vec<(String, String)> = published["columns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (text(c, "name"), text(c, "type")))
            .collect();
        assert_eq!(ours, theirs);
        assert!(schema.fields().iter().all(|f| !f.is_nullable()));
        assert_eq!(published["schema_version"], LabelRow::SCHEMA_VERSION);
    }
}
