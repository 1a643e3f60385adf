//! Files as the stage writes them, read back whatever their layout.

mod counting;
mod kept;

use super::*;
use crate::stage::label_rows::{LabelRow, LabelRows};
use crate::stage::row_maker::{Leave, RowMaker, RowOutcome};
use crate::stage::sink::predictions::{ModelStamp, PredictionLayout, PredictionRow};
use crate::stage::sink::{arrow_ipc, parquet};
use crate::stage::source::SourceMessage;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::path::Path as ObjectPath;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use tagstream_core::config::VectorEncoding;
use tagstream_core::events::{LabelState, Offset, PartitionId};

pub(super) async fn row(partition: i32, offset: i64, json: &str) -> LabelRow {
    let message = SourceMessage {
        partition: PartitionId::new("labels", partition),
        offset: Offset(offset),
        leader_epoch: None,
        key: None,
        payload: Some(Bytes::copy_from_slice(json.as_bytes())),
        headers: Vec::new(),
        timestamp: Some("2026-01-01T00:00:00Z".parse().unwrap()),
    };
    match LabelRows::default()
        .make(&message, &Leave::never())
        .await
        .unwrap()
    {
        RowOutcome::Row { row, .. } => row,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn put(store: &TableStore, path: &str, bytes: Vec<u8>) {
    store
        .put_if_absent(&ObjectPath::from(path), bytes.into())
        .await
        .unwrap();
}

pub(super) fn parquet_file(rows: &[LabelRow]) -> Vec<u8> {
    parquet::encode(&(), rows, &BTreeMap::new(), VectorEncoding::Plain).unwrap()
}

/// The width of the predictions' embeddings.
const EMBEDDING: usize = 64;

pub(super) fn prediction(id: &str, uri: &str) -> PredictionRow {
    PredictionRow {
        image_id: id.into(),
        uri: uri.into(),
        event_time: DateTime::UNIX_EPOCH,
        processed_time: DateTime::UNIX_EPOCH,
        partition: PartitionId::new("images", 0),
        offset: Offset(0),
        record: 0,
        model: Arc::new(ModelStamp {
            version: "m".into(),
            preprocessing_hash: "h".into(),
        }),
        width: 1,
        height: 1,
        tags: Vec::new(),
        scores: vec![0.5],
        // Nothing that could be packed.
        embedding: (0..EMBEDDING)
            .map(|at| f32::from_bits(0x3f00_0000 ^ rand::random::<u32>() >> 10 ^ at as u32))
            .collect(),
        attributes: BTreeMap::new(),
        layout: Arc::new(PredictionLayout {
            categories: vec!["cat".into()],
            display: Default::default(),
            embedding: EMBEDDING,
            region_embeddings: false,
            boxes: Default::default(),
            records: false,
        }),
        trace: Default::default(),
    }
}

pub(super) fn predictions_file(rows: &[PredictionRow]) -> Vec<u8> {
    let entries = BTreeMap::new();
    parquet::encode(&*rows[0].layout, rows, &entries, VectorEncoding::Plain).unwrap()
}

async fn rows() -> Vec<LabelRow> {
    let said = [
        r#"{"image_id":"a","uri":"s3://b/a.jpg","present":["cat"],"absent":["owl"],
            "annotator":"x"}"#,
        r#"{"image_id":"b","present":["cat","dog"]}"#,
        // Later in the log, but said earlier: loses against offset 0.
        r#"{"image_id":"a","absent":["cat"],"event_time":"2025-12-31T00:00:00Z"}"#,
        // Same time, higher offset: wins.
        r#"{"image_id":"b","retract":["dog"]}"#,
        r#"{"image_id":"c","absent":["cat"]}"#,
    ];
    let mut rows = Vec::new();
    for (offset, json) in said.iter().enumerate() {
        rows.push(row(0, offset as i64, json).await);
    }
    rows
}

#[tokio::test]
async fn the_state_does_not_depend_on_how_events_are_filed() {
    let rows = rows().await;
    let one = TableStore::in_memory();
    put(&one, "labels/labels/0/0-00.parquet", parquet_file(&rows)).await;
    put(&one, "labels/labels/0/_0-origin.json", b"{}".to_vec()).await;
    put(
        &one,
        "other/labels/0/0-00.parquet",
        b"not a table of ours".to_vec(),
    )
    .await;
    let reference = read_labels(&one, "labels").await.unwrap();
    let known: Vec<_> = reference.known().collect();
    assert_eq!(
        known,
        [
            ("a", "cat", LabelState::Present),
            ("a", "owl", LabelState::Absent),
            ("b", "cat", LabelState::Present),
            ("c", "cat", LabelState::Absent),
        ]
    );

    let many = TableStore::in_memory();
    for (i, chunk) in rows.chunks(2).enumerate().rev() {
        let path = format!("labels/labels/0/0-{i:02}.parquet");
        put(&many, &path, parquet_file(chunk)).await;
    }
    put(&many, "labels/labels/1/0-00.parquet", parquet_file(&[])).await;
    assert_eq!(read_labels(&many, "labels").await.unwrap(), reference);

    let arrow = TableStore::in_memory();
    let bytes = arrow_ipc::encode(&(), &rows, &BTreeMap::new()).unwrap();
    put(&arrow, "labels/labels/0/0-00.arrow", bytes).await;
    let read = read_labels(&arrow, "labels").await.unwrap();
    assert_eq!(read, reference);
    assert_eq!(read.hash(), reference.hash());
    assert!(
        read_labels(&arrow, "nothing")
            .await
            .unwrap()
            .known()
            .next()
            .is_none()
    );
}

/// A file of the predictions table for each picture, given by name and address.
async fn put_predictions(store: &TableStore, rows: &[(&str, &str)]) {
    for (i, (id, uri)) in rows.iter().enumerate() {
        let path = format!("predictions/images/0/0-0{i}.parquet");
        put(store, &path, predictions_file(&[prediction(id, uri)])).await;
    }
}

#[tokio::test]
async fn pictures_that_predictions_do_not_know_are_named_with_the_nearest() {
    let store = TableStore::in_memory();
    let rows = [
        ("a", "s3://b/a.jpg"),
        ("video_a/frame_0001", "file:///x/video_a/frame_0001.jpg"),
        ("video_b/frame_0001", "file:///x/video_b/frame_0001.jpg"),
        ("uuid-7", "s3://b/cat.jpg"),
    ];
    put_predictions(&store, &rows).await;
    let asked = [
        ("a", ""),
        ("deep/video_b/FRAME_0001.jpg", ""),
        ("cat", "s3://b/cat.jpg"),
        ("zebra", ""),
    ];
    let found = known_pictures(&store, "predictions", asked).await.unwrap();
    assert_eq!((found.asked, found.known, found.predicted), (4, 1, 4));
    let misses = found.misses.iter();
    let misses: Vec<_> = misses
        .map(|m| (&*m.image_id, m.nearest.as_deref()))
        .collect();
    let expected = [
        ("cat", Some("uuid-7")),
        ("deep/video_b/FRAME_0001.jpg", Some("video_b/frame_0001")),
        ("zebra", None),
    ];
    assert_eq!(misses, expected);
}

#[tokio::test]
async fn addresses_come_from_predictions_and_else_from_label_events() {
    let store = TableStore::in_memory();
    put(
        &store,
        "labels/labels/0/0-00.parquet",
        parquet_file(&rows().await),
    )
    .await;
    let rows = [
        ("a", "file:///tagged/a.jpg"),
        ("b", "s3://old/b.jpg"),
        ("b", "s3://new/b.jpg"),
    ];
    put_predictions(&store, &rows).await;
    let mut labels = read_labels(&store, "labels").await.unwrap();
    let hash = labels.hash();
    join_uris(&mut labels, &store, ("labels", "predictions"))
        .await
        .unwrap();
    let uris: Vec<_> = labels
        .images()
        .map(|(id, image)| {
            let all = image.addresses().map(Cow::into_owned);
            (id, all.collect::<Vec<_>>())
        })
        .collect();
    // Where it was tagged it could be fetched once; the label's own address is what is left.
    let expected = [
        (
            "a",
            vec!["file:///tagged/a.jpg".to_owned(), "s3://b/a.jpg".into()],
        ),
        ("b", vec!["s3://new/b.jpg".into()]),
        ("c", vec![]),
    ];
    assert_eq!(uris, expected);
    assert_eq!(labels.without_uri().collect::<Vec<_>>(), ["c"]);
    assert_eq!(labels.hash(), hash, "addresses are no labels");
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let store = TableStore::in_memory();
    put(
        &store,
        "labels/labels/0/0-00.parquet",
        b"PAR1 no PAR1".to_vec(),
    )
    .await;
    let error = read_labels(&store, "labels").await.unwrap_err();
    assert!(
        error.to_string().contains("labels/labels/0/0-00.parquet"),
        "{error}"
    );
}

/// Builds before this one let such labels into the table.
#[tokio::test]
async fn a_label_of_the_year_9999_counts_as_said_when_it_came() {
    let store = TableStore::in_memory();
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let mut early = row(0, 0, r#"{"image_id":"a","present":["cat"]}"#).await;
    early.event_time = at("9999-12-31T23:59:59Z");
    early.processed_time = at("2026-01-01T00:00:00Z");
    let later = r#"{"image_id":"a","absent":["cat"],"event_time":"2026-02-01T00:00:00Z"}"#;
    let rows = [early, row(0, 1, later).await];
    put(&store, "labels/labels/0/0-00.parquet", parquet_file(&rows)).await;
    let table = read_labels(&store, "labels").await.unwrap();
    let known: Vec<_> = table.known().collect();
    assert_eq!(known, [("a", "cat", LabelState::Absent)]);
}
