//! Expiry beside writers, readers and foreign hands, on a store in memory and on a folder.

use super::{Expired, Expiry, expire};
use crate::stage::sink::begun::FirstOffset;
use crate::stage::sink::chain::{Chain, WriterId};
use crate::stage::sink::chain::{Seal, SealReason, TopicIdentity};
use crate::stage::sink::fence::Fence;
use crate::stage::sink::files::{Committed, FileSink, SinkError};
use crate::stage::sink::floor::Notes;
use crate::stage::sink::hint::CommitHint;
use crate::stage::sink::lineage::LogLineage;
use crate::stage::sink::log_facts::{CommittedOffset, LogFacts};
use crate::stage::sink::predictions::PredictionRow;
use crate::stage::sink::predictions::tests::{layout, row};
use crate::stage::sink::seal::RepairError;
use crate::stage::sink::table::TableRow;
use crate::stage::sink::walk::ResumeError;
use chrono::{TimeDelta, Utc};
use object_store::path::Path;
use std::time::Duration;
use tagstream_core::config::{FileFormat, ObjectStoreConfig};
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::names::{Epoch, Folder};
use tagstream_core::storage::store::TableStore;

const TABLE: &str = "t";

struct Case {
    store: TableStore,
    sink: FileSink<PredictionRow>,
    _folder: Option<tempfile::TempDir>,
}

impl Case {
    fn at(store: TableStore, format: FileFormat) -> Self {
        let sink = FileSink::new(store.clone(), TABLE, format);
        let _folder = None;
        Case {
            store,
            sink,
            _folder,
        }
    }

    async fn all() -> Vec<Case> {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().display().to_string();
        let store = TableStore::open(&url, &ObjectStoreConfig::default()).await;
        let mut on_disk = Case::at(store.unwrap(), FileFormat::Parquet);
        on_disk._folder = Some(folder);
        let memory = |format| Case::at(TableStore::in_memory(), format);
        vec![
            memory(FileFormat::Parquet),
            memory(FileFormat::Arrow),
            on_disk,
        ]
    }

    fn folder(&self) -> Folder {
        Folder::new(self.store.root(), TABLE, &partition())
    }

    async fn resume(&self, log: &LogFacts) -> Result<Chain, ResumeError> {
        let writer = WriterId("resumes".into());
        self.sink
            .resume(&partition(), &writer, log, &FirstOffset::Earliest)
            .await
            .and_then(|resumed| resumed.unbroken(&partition()))
            .map(|resumed| resumed.chain)
    }

    async fn put(
        &self,
        chain: &mut Chain,
        end: i64,
        by: &str,
        fence: &Fence,
    ) -> Result<Committed, SinkError> {
        let layout = layout(false);
        let rows: Vec<_> = (chain.end.0..end).map(|o| row(o, &layout)).collect();
        let range = OffsetRange::new(chain.end, Offset(end)).unwrap();
        let read = (range, &LogLineage::default());
        let writer = WriterId(by.into());
        let file = self
            .sink
            .encode(&partition(), chain, read, &writer, &layout, &rows)?;
        self.sink.commit(&partition(), chain, &file, fence).await
    }

    /// Files of ten offsets each, up to `end`.
    async fn written_to(&self, end: i64) -> Chain {
        let mut chain = self.resume(&log(None)).await.unwrap();
        while chain.end.0 < end {
            let next = chain.end.0 + 10;
            let put = self.put(&mut chain, next, "a", &Fence::default()).await;
            assert_eq!(put.unwrap(), Committed::Landed);
        }
        chain
    }

    async fn expire(&self, expiry: &Expiry) -> Vec<Expired> {
        expire(&self.store, TABLE, expiry).await.unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let names = self.store.list(self.folder().path(), None).await.unwrap();
        names
            .iter()
            .map(|n| n.filename().unwrap().to_owned())
            .collect()
    }

    async fn delete(&self, names: &[Path]) {
        for name in names {
            self.store.delete(name).await.unwrap();
        }
    }

    fn file(&self, epoch: u32, start: i64, format: FileFormat) -> Path {
        self.folder().file(Epoch(epoch), Offset(start), format)
    }

    fn committed(&self, offset: i64, start: i64) -> Option<CommittedOffset> {
        let hint = CommitHint {
            epoch: Epoch(0),
            start: Offset(start),
        };
        Some(CommittedOffset {
            offset: Offset(offset),
            table: Some(self.sink.tag()),
            hint: Some(hint),
        })
    }
}

fn partition() -> PartitionId {
    PartitionId::new("images", 0)
}

fn log(committed: Option<CommittedOffset>) -> LogFacts {
    LogFacts {
        low: Offset(0),
        stable: Offset(1000),
        high: Offset(1000),
        leader_epoch: None,
        committed,
        identity: TopicIdentity::default(),
    }
}

/// Everything so far expires; what expired before is freed if `frees`.
fn everything(frees: bool) -> Expiry {
    let later = Utc::now() + TimeDelta::hours(1);
    let never = Utc::now() - TimeDelta::days(1);
    Expiry {
        before: later,
        free_before: if frees { later } else { never },
        dry_run: false,
        writer: WriterId("expires".into()),
    }
}

#[tokio::test]
async fn a_table_that_is_not_there_is_named() {
    let none = expire(&TableStore::in_memory(), "tabel", &everything(true)).await;
    assert!(none.unwrap_err().to_string().contains("no table `tabel`"));
}

#[tokio::test]
async fn rows_go_and_the_chain_goes_on() {
    for case in Case::all().await {
        let chain = case.written_to(30).await;
        let before = case.names().await;
        let dry = Expiry {
            dry_run: true,
            ..everything(true)
        };
        let told = case.expire(&dry).await;
        assert_eq!((told[0].files, told[0].rows), (3, 30));
        assert_eq!(case.names().await, before);

        let done = case.expire(&everything(false)).await;
        assert_eq!((done[0].files, done[0].rows, done[0].freed), (3, 30, 0));
        assert_eq!(done[0].floor, Some((Epoch(0), Offset(30))));
        for committed in [None, case.committed(30, 20), case.committed(20, 10)] {
            assert_eq!(case.resume(&log(committed)).await.unwrap(), chain);
        }
        // Names stay for a day, that of the last for good.
        assert_eq!(case.names().await.len(), 5);
        let freed = case.expire(&everything(true)).await;
        assert_eq!((freed[0].files, freed[0].freed), (0, 2));
        assert_eq!(case.names().await.len(), 3);
        for committed in [None, case.committed(30, 20), case.committed(20, 10)] {
            assert_eq!(case.resume(&log(committed)).await.unwrap(), chain);
        }
        let freed = case.expire(&everything(true)).await;
        assert_eq!((freed[0].files, freed[0].freed), (0, 0));
        // The origin may go, too: the floor has it.
        case.delete(&[case.folder().origin(Epoch(0))]).await;
        assert_eq!(case.resume(&log(None)).await.unwrap(), chain);
        assert_eq!(case.written_to(40).await.end, Offset(40));
    }
}

/// A floor goes up with what is young staying, and old floors go.
#[tokio::test]
async fn only_what_is_old_expires_and_one_floor_is_left() {
    let case = Case::at(TableStore::in_memory(), FileFormat::Parquet);
    case.written_to(20).await;
    let now = Utc::now();
    let chain = case.written_to(40).await;
    let until_now = Expiry {
        before: now,
        ..everything(false)
    };
    let done = case.expire(&until_now).await;
    assert_eq!(
        (done[0].rows, done[0].floor),
        (20, Some((Epoch(0), Offset(20))))
    );
    assert_eq!(case.expire(&until_now).await[0].rows, 0);
    let done = case.expire(&everything(true)).await;
    assert_eq!((done[0].rows, done[0].freed), (20, 2));
    let notes = Notes::read(&case.store, &case.folder()).await.unwrap();
    assert_eq!(notes.floor, Some((Epoch(0), Offset(40))));
    let floors = case.names().await;
    assert_eq!(
        floors.iter().filter(|n| n.ends_with("floor.json")).count(),
        1
    );
    assert_eq!(case.resume(&log(None)).await.unwrap(), chain);
}

/// A process that holds a put of an expired range: while the name is taken it finds the winner's
/// end, afterwards it looks and stops.
#[tokio::test]
async fn a_late_put_of_an_expired_start_writes_nothing() {
    for case in Case::all().await {
        let zombie = case.resume(&log(None)).await.unwrap();
        case.written_to(30).await;
        case.expire(&everything(false)).await;
        let mut late = zombie.clone();
        let put = case.put(&mut late, 25, "zombie", &Fence::default()).await;
        assert_eq!(put.unwrap(), Committed::Covered { to: Offset(10) });

        case.expire(&everything(true)).await;
        let before = case.names().await;
        let frozen = Fence::default();
        frozen.freeze(Duration::from_secs(2 * 24 * 3_600));
        let mut late = zombie.clone();
        let put = case.put(&mut late, 25, "zombie", &frozen).await;
        assert!(matches!(put, Err(SinkError::Outlived { .. })), "{put:?}");
        assert_eq!(case.names().await, before);
        // The owner of the end looks, too, and may.
        let mut owner = case.resume(&log(None)).await.unwrap();
        let put = case.put(&mut owner, 40, "owner", &frozen).await;
        assert_eq!(put.unwrap(), Committed::Landed);
    }
}

/// What a lifecycle rule does: origins, files, everything.
#[tokio::test]
async fn what_other_hands_delete_is_named_and_what_is_said_helps() {
    let format = FileFormat::Parquet;
    for (what, committed) in [
        ("the origin", false),
        ("the origin", true),
        ("the last files", true),
        ("all files", true),
        ("everything", true),
    ] {
        let case = Case::at(TableStore::in_memory(), format);
        case.written_to(30).await;
        let starts: &[i64] = match what {
            "the origin" => &[],
            "the last files" => &[20],
            _ => &[0, 10, 20],
        };
        let files: Vec<Path> = starts.iter().map(|s| case.file(0, *s, format)).collect();
        case.delete(&files).await;
        if matches!(what, "the origin" | "everything") {
            case.delete(&[case.folder().origin(Epoch(0))]).await;
        }
        let before = case.names().await;
        let committed = committed.then(|| case.committed(30, 20)).flatten();
        let error = case.resume(&log(committed.clone())).await.unwrap_err();
        assert!(!error.is_transient(), "{what}: {error}");
        let said = error.to_string();
        assert!(
            said.contains("lifecycle rule") && !said.contains("by hand"),
            "{what}: {said}"
        );
        assert_eq!(case.names().await, before, "{what}");

        // The command that is printed.
        let (_, command) = said.split_once("--new-epoch images/0@").expect("a command");
        let command = command.split(['.', ' ']).next().unwrap();
        let (end, origin) = command.split_once('=').unwrap();
        let (end, origin) = (
            Offset(end.parse().unwrap()),
            Offset(origin.parse().unwrap()),
        );
        assert_eq!(origin, Offset(30), "{what}");
        for _ in 0..2 {
            let seal = Seal {
                origin,
                reason: SealReason::NewEpoch,
                identity: TopicIdentity::default(),
                group_offset: committed.as_ref().map(|c| c.offset),
                truncated_at: None,
            };
            let writer = WriterId("operator".into());
            let (log, layout) = (log(committed.clone()), layout(false));
            let sealed = case
                .sink
                .seal(&partition(), &writer, &log, end, seal, &layout)
                .await;
            sealed.unwrap();
        }
        let chain = case.resume(&log(committed)).await.unwrap();
        assert_eq!(chain, Chain::new(Epoch(1), Offset(30)), "{what}");
    }
}

/// The group has committed for another table, or an older build for who knows which.
#[tokio::test]
async fn a_new_table_may_begin_whatever_the_group_has_read() {
    let other =
        FileSink::<PredictionRow>::new(TableStore::in_memory(), "other", FileFormat::Parquet);
    for table in [Some(other.tag()), None] {
        let case = Case::at(TableStore::in_memory(), FileFormat::Parquet);
        let committed = case
            .committed(30, 20)
            .map(|c| CommittedOffset { table, ..c });
        let chain = case.resume(&log(committed)).await.unwrap();
        assert_eq!(chain.end, Offset(0));
    }
}

/// Both epochs' origins go, as an expiry rule takes them.
#[tokio::test]
async fn epochs_whose_origins_are_gone_do_not_begin_again() {
    let case = Case::at(TableStore::in_memory(), FileFormat::Parquet);
    case.written_to(20).await;
    let seal = || Seal {
        origin: Offset(100),
        reason: SealReason::NewEpoch,
        identity: TopicIdentity::default(),
        group_offset: None,
        truncated_at: None,
    };
    let writer = WriterId("operator".into());
    let seal_at = async |end| {
        let (log, layout) = (log(None), layout(false));
        case.sink
            .seal(&partition(), &writer, &log, Offset(end), seal(), &layout)
            .await
    };
    seal_at(20).await.unwrap();
    case.written_to(120).await;
    let origins = [0, 1].map(|e| case.folder().origin(Epoch(e)));
    case.delete(&origins[..1]).await;
    assert_eq!(case.resume(&log(None)).await.unwrap().end, Offset(120));
    case.delete(&origins).await;
    let error = case.resume(&log(None)).await.unwrap_err();
    assert!(
        error.to_string().contains("epoch 1 up to offset 120"),
        "{error}"
    );
    let expired = expire(&case.store, TABLE, &everything(true))
        .await
        .unwrap_err();
    assert!(expired.to_string().contains("_1-origin.json"), "{expired}");
    let wrong = seal_at(30).await.unwrap_err();
    assert!(matches!(wrong, RepairError::OtherEnd { .. }), "{wrong}");
}

#[tokio::test]
async fn an_expired_file_has_columns_and_no_rows() {
    for case in Case::all().await {
        case.written_to(10).await;
        let list = || async { case.store.list(case.folder().path(), None).await.unwrap() };
        let file = list().await.remove(0);
        let before = case.store.read(&file).await.unwrap().unwrap();
        case.expire(&everything(false)).await;
        let after = case.store.read(&file).await.unwrap().unwrap();
        if file.as_ref().ends_with("parquet") {
            use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder as Builder;
            let read = |bytes| Builder::try_new(bytes).unwrap();
            assert_eq!(
                read(before).schema().fields(),
                read(after.clone()).schema().fields()
            );
            assert_eq!(read(after).build().unwrap().count(), 0);
        } else {
            let reader = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(after), None);
            let reader = reader.unwrap();
            assert_eq!(
                reader.schema(),
                PredictionRow::schema(&layout(false)).unwrap()
            );
            assert_eq!(reader.count(), 0);
        }
    }
}
