//! What runs keep for one another never changes what is read, and spares them reading it.

use super::counting::Counting;
use super::*;
use crate::stage::label_rows::LabelRow;
use chrono::{TimeDelta, Utc};
use object_store::path::Path as ObjectPath;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::Ordering;
use tagstream_core::events::LabelState;
use tagstream_train::labels::LabelTable;

const TABLES: (&str, &str) = ("labels", "predictions");

async fn said(random: &mut StdRng, partition: i32, offset: i64) -> LabelRow {
    let id = random.random_range(0..8);
    let names = ["present", "absent", "retract"];
    let name = names[random.random_range(0..3)];
    let second = random.random_range(0..30);
    let uri = match random.random_range(0..3) {
        0 => format!("s3://b/i{id}.jpg"),
        1 => format!("s3://c/{}", random.random_range(0..9)),
        _ => String::new(),
    };
    let json = format!(
        r#"{{"image_id":"i{id}","uri":"{uri}","{name}":["c{}"],"annotator":"a{}",
            "event_time":"2026-01-01T00:00:{second:02}Z"}}"#,
        random.random_range(0..3),
        random.random_range(0..2),
    );
    row(partition, offset, &json).await
}

async fn delete_kept(store: &TableStore) {
    for path in store.list(&"labels/_snapshot".into(), None).await.unwrap() {
        store.delete(&path).await.unwrap();
    }
}

/// The reference: every file, nothing kept.
async fn whole(store: &TableStore) -> LabelTable {
    let copy = TableStore::in_memory();
    for file in data_files(store, "labels").await.unwrap() {
        let bytes = store.read(&file.location).await.unwrap().unwrap();
        copy.put_if_absent(&file.location, bytes).await.unwrap();
    }
    read_labels(&copy, "labels").await.unwrap()
}

/// Files are added in any place, replayed, expired, replaced and removed; snapshots are kept,
/// damaged, left behind by others. What is read is always what reading all files gives.
#[tokio::test]
async fn a_snapshot_never_changes_what_is_read() {
    for seed in 0..4 {
        let random = &mut StdRng::seed_from_u64(seed);
        let store = TableStore::in_memory();
        let snapshot = ObjectPath::from("labels/_snapshot/labels-1.bin");
        let mut stolen = None;
        let mut next = [0i64; 3];
        for step in 0..30 {
            let files = data_files(&store, "labels").await.unwrap();
            let any = (!files.is_empty())
                .then(|| files[random.random_range(0..files.len())].location.clone());
            match (random.random_range(0..10), any) {
                // A few more files, in any partition.
                (0..=4, _) | (_, None) => {
                    for _ in 0..random.random_range(1..12) {
                        let partition = random.random_range(0..3);
                        let offset = next[partition];
                        next[partition] += 2;
                        let rows = [
                            said(random, partition as i32, offset).await,
                            said(random, partition as i32, offset + 1).await,
                        ];
                        let path = format!("labels/labels/{partition}/{offset:08}-0.parquet");
                        put(&store, &path, parquet_file(&rows)).await;
                    }
                }
                // The same events once more, in a file that sorts before all others.
                (5, Some(path)) => {
                    let bytes = store.read(&path).await.unwrap().unwrap();
                    let copy = format!("labels/a-replay/0/{step:08}-0.parquet");
                    store.put_if_absent(&copy.into(), bytes).await.unwrap();
                }
                // Expired: without rows, under the same name.
                (6, Some(path)) => store
                    .replace(&path, parquet_file(&[]).into())
                    .await
                    .unwrap(),
                // Other rows under the same name.
                (7, Some(path)) => {
                    let rows = [said(random, 0, 1000 + step).await];
                    store
                        .replace(&path, parquet_file(&rows).into())
                        .await
                        .unwrap();
                }
                (8, Some(path)) => store.delete(&path).await.unwrap(),
                // An old snapshot comes back, or a damaged one.
                (_, Some(_)) => match store.read(&snapshot).await.unwrap() {
                    Some(bytes) if random.random_range(0..2) == 0 => {
                        let older = stolen.replace(bytes);
                        if let Some(older) = older {
                            store.replace(&snapshot, older).await.unwrap();
                        }
                    }
                    Some(bytes) => {
                        let mut bytes = bytes.to_vec();
                        let at = random.random_range(0..bytes.len());
                        bytes[at] ^= 1 << random.random_range(0..8);
                        store.replace(&snapshot, bytes.into()).await.unwrap();
                    }
                    None => {}
                },
            }
            let expected = whole(&store).await;
            let read = match random.random_range(0..2) {
                0 => read_labels(&store, "labels").await.unwrap(),
                _ => read_labels_and_keep(&store, "labels").await.unwrap(),
            };
            assert_eq!(read, expected, "seed {seed}, step {step}");
            assert_eq!(read.hash(), expected.hash());
        }
    }
}

#[tokio::test]
async fn a_run_reads_the_snapshot_and_what_came_after() {
    let random = &mut StdRng::seed_from_u64(1);
    let (counting, store) = Counting::new();
    let file = async |random: &mut StdRng, offset: i64| {
        let rows = [said(random, 0, offset).await];
        let path = format!("labels/labels/0/{offset:08}-0.parquet");
        put(&store, &path, parquet_file(&rows)).await;
        path
    };
    for offset in 0..40 {
        file(random, offset).await;
    }
    read_labels_and_keep(&store, "labels").await.unwrap();
    assert_eq!(counting.take_read().len(), 40);
    let expected = whole(&store).await;
    counting.take_read();
    assert_eq!(read_labels(&store, "labels").await.unwrap(), expected);
    assert_eq!(counting.take_read(), [""; 0]);
    let (early, late) = (file(random, 40).await, file(random, 41).await);
    let expected = whole(&store).await;
    counting.take_read();
    assert_eq!(read_labels(&store, "labels").await.unwrap(), expected);
    assert_eq!(counting.take_read(), [early, late]);
}

/// A label that was said ahead of its time counts as said when it came, until its time comes.
#[tokio::test]
async fn a_snapshot_ends_when_a_label_s_time_comes() {
    let store = TableStore::in_memory();
    let soon = Utc::now() + TimeDelta::days(1) + TimeDelta::milliseconds(1500);
    for offset in 0..20 {
        let json = format!(r#"{{"image_id":"i{offset}","present":["cat"]}}"#);
        let mut row = row(0, offset, &json).await;
        row.event_time = soon;
        let path = format!("labels/labels/0/{offset:08}-0.parquet");
        put(&store, &path, parquet_file(&[row])).await;
    }
    let early = read_labels_and_keep(&store, "labels").await.unwrap();
    let said = |table: &LabelTable| table.image("i3").unwrap().last_said().unwrap();
    if Utc::now() + TimeDelta::days(1) < soon {
        assert!(said(&early) < soon);
    }
    while Utc::now() + TimeDelta::days(1) <= soon {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let late = read_labels(&store, "labels").await.unwrap();
    assert_eq!(said(&late).timestamp_micros(), soon.timestamp_micros());
}

/// The address join read 165 times the bytes that it needs.
#[tokio::test]
async fn readers_take_columns_and_not_files() {
    let (counting, store) = Counting::new();
    let rows: Vec<_> = (0..6000)
        .map(|n| prediction(&format!("i{n}"), &format!("s3://b/i{n}.jpg")))
        .collect();
    let file = predictions_file(&rows);
    let size = file.len() as u64;
    assert!(size > 1 << 20, "{size}");
    put(&store, "predictions/images/0/00-0.parquet", file).await;
    let said = (0..20).map(|n| format!(r#"{{"image_id":"i{}","present":["cat"]}}"#, 300 * n));
    let mut labels = Vec::new();
    for (offset, json) in said.enumerate() {
        labels.push(row(0, offset as i64, &json).await);
    }
    put(
        &store,
        "labels/labels/0/00-0.parquet",
        parquet_file(&labels),
    )
    .await;
    let mut table = read_labels(&store, "labels").await.unwrap();
    counting.bytes.store(0, Ordering::SeqCst);
    join_uris(&mut table, &store, TABLES).await.unwrap();
    for (id, image) in table.images() {
        assert_eq!(image.address(), format!("s3://b/{id}.jpg"));
    }
    let read = counting.bytes.load(Ordering::SeqCst);
    assert!(read < size / 5, "{read} of {size} bytes");
}

async fn address_world(files: usize) -> (std::sync::Arc<Counting>, TableStore) {
    let (counting, store) = Counting::new();
    for n in 0..files {
        let row = prediction(&format!("i{n}"), &format!("s3://old/i{n}.jpg"));
        let path = format!("predictions/images/0/{n:08}-0.parquet");
        put(&store, &path, predictions_file(&[row])).await;
    }
    let mut rows = Vec::new();
    for (offset, id) in ["i3", "never", "i7"].into_iter().enumerate() {
        let json = format!(r#"{{"image_id":"{id}","present":["cat"]}}"#);
        rows.push(row(0, offset as i64, &json).await);
    }
    put(&store, "labels/labels/0/00-0.parquet", parquet_file(&rows)).await;
    (counting, store)
}

async fn addresses(store: &TableStore) -> Vec<(String, String)> {
    let mut table = read_labels(store, "labels").await.unwrap();
    join_uris_and_remember(&mut table, store, TABLES)
        .await
        .unwrap();
    let images = table.images();
    images
        .map(|(id, image)| (id.to_owned(), image.address().into_owned()))
        .collect()
}

/// One id that is in no file made each run read all of them.
#[tokio::test]
async fn an_image_that_is_never_found_is_looked_for_once() {
    let (counting, store) = address_world(30).await;
    let of = |found: &[(String, String)]| -> Vec<String> {
        found.iter().map(|(_, uri)| uri.clone()).collect()
    };
    let first = addresses(&store).await;
    assert_eq!(of(&first), ["s3://old/i3.jpg", "s3://old/i7.jpg", ""]);
    let all = counting.take_read();
    assert_eq!(
        all.iter()
            .filter(|path| path.starts_with("predictions/"))
            .count(),
        30
    );
    let again = addresses(&store).await;
    assert_eq!(again, first);
    let read = counting.take_read();
    assert!(
        read.iter().all(|path| path.starts_with("labels/")),
        "{read:?}"
    );

    // New files are searched, and tell of images that were looked for in vain, or have moved.
    let rows = [
        prediction("never", "s3://new/never.jpg"),
        prediction("i3", "s3://new/i3.jpg"),
    ];
    put(
        &store,
        "predictions/images/0/99-0.parquet",
        predictions_file(&rows),
    )
    .await;
    let found = addresses(&store).await;
    assert_eq!(
        of(&found),
        ["s3://new/i3.jpg", "s3://old/i7.jpg", "s3://new/never.jpg"]
    );
    let read = counting.take_read();
    assert_eq!(
        read.iter()
            .filter(|path| path.starts_with("predictions/"))
            .count(),
        1
    );
}

/// As hard as snapshots: whatever happens to the files, what was remembered gives what searching
/// all of them gives.
#[tokio::test]
async fn what_was_remembered_never_changes_what_is_found() {
    for seed in 0..3 {
        let random = &mut StdRng::seed_from_u64(seed);
        let (_, store) = address_world(6).await;
        let mut labels = 100;
        for step in 0..40 {
            let files = data_files(&store, "predictions").await.unwrap();
            let file = files[random.random_range(0..files.len())].location.clone();
            let id = format!("i{}", random.random_range(0..12));
            let uri = format!("s3://{step}/{id}.jpg");
            match random.random_range(0..6) {
                0..=2 => {
                    let at = random.random_range(0..1000);
                    let path = format!("predictions/images/{}/{at:08}-0.parquet", at % 3);
                    let bytes = predictions_file(&[prediction(&id, &uri)]);
                    let _ = store
                        .put_if_absent(&path.into(), bytes.into())
                        .await
                        .unwrap();
                }
                3 => {
                    let bytes = predictions_file(&[prediction(&id, &uri)]);
                    store.replace(&file, bytes.into()).await.unwrap();
                }
                4 if files.len() > 1 => store.delete(&file).await.unwrap(),
                _ => {
                    labels += 1;
                    let json = format!(r#"{{"image_id":"{id}","present":["cat"]}}"#);
                    let row = row(0, labels, &json).await;
                    let path = format!("labels/labels/0/{labels:08}-0.parquet");
                    put(&store, &path, parquet_file(&[row])).await;
                }
            }
            let found = addresses(&store).await;
            let place = ObjectPath::from("labels/_snapshot/predictions-addresses-1.bin");
            let kept = store.read(&place).await.unwrap();
            delete_kept(&store).await;
            assert_eq!(found, addresses(&store).await, "seed {seed}, step {step}");
            delete_kept(&store).await;
            if let Some(kept) = kept {
                store.replace(&place, kept).await.unwrap();
            }
        }
    }
}

/// What is kept is no data file, for our readers or for anybody's.
#[tokio::test]
async fn what_is_kept_is_no_part_of_the_table() {
    let (_, store) = address_world(3).await;
    addresses(&store).await;
    let kept = store.list(&"labels/_snapshot".into(), None).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept.iter().all(|path| !path.as_ref().ends_with(".parquet")));
    assert_eq!(data_files(&store, "labels").await.unwrap().len(), 1);
    let known = read_labels(&store, "labels").await.unwrap();
    assert_eq!(known.state("never", "cat"), Some(LabelState::Present));
}
