//! Two owners of one partition: whoever is first at a start wins, the other drops what is covered;
//! nothing is written twice.

use crate::harness::{World, unique};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tagstream::stage::pipeline::RunOptions;
use tagstream::stage::sink::begun::FirstOffset;
use tagstream::stage::sink::chain::{Chain, TopicIdentity, WriterId};
use tagstream::stage::sink::files::{Committed, Fence, FileSink};
use tagstream::stage::sink::lineage::LogLineage;
use tagstream::stage::sink::log_facts::LogFacts;
use tagstream::stage::sink::predictions::{PredictionLayout, PredictionRow};
use tagstream_core::config::{FileFormat, ObjectStoreConfig};
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::store::TableStore;

/// Two processes that do not know of each other: groups of their own, one table.
#[tokio::test(flavor = "multi_thread")]
async fn two_stages_on_one_partition_write_no_row_twice() {
    let world = World::new("zombie", 2);
    let broken = world.produce(0, 400);
    let mut first = world.config.clone();
    // Small files: many starts to meet at.
    first.output.max_file_age_ms = 5;
    let mut second = first.clone();
    second.kafka.group_id = unique("zombie-second");
    let (a, b) = tokio::join!(
        world.drain_with(&first, RunOptions::default()),
        world.drain_with(&second, RunOptions::default())
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    world.assert_exactly_once(&[200, 200], 400 - broken);
    let written = |v: &Arc<tagstream::stage::pipeline::StageStatus>| v.rows.load(Ordering::Relaxed);
    assert_eq!(written(&a) + written(&b), (400 - broken) as u64);
}

struct Owner {
    sink: FileSink<PredictionRow>,
    chain: Chain,
    writer: WriterId,
    fence: Fence,
}

pub(crate) fn layout() -> Arc<PredictionLayout> {
    Arc::new(PredictionLayout {
        categories: vec!["a".into()],
        display: Default::default(),
        embedding: 2,
        region_embeddings: false,
        boxes: Default::default(),
        records: false,
    })
}

pub(crate) fn row(offset: i64, layout: &Arc<PredictionLayout>) -> PredictionRow {
    PredictionRow {
        image_id: format!("image-{offset}"),
        uri: "data:,".into(),
        event_time: chrono::Utc::now(),
        processed_time: chrono::Utc::now(),
        partition: partition(),
        offset: Offset(offset),
        record: 0,
        model: Arc::new(tagstream::stage::sink::predictions::ModelStamp {
            version: "m".into(),
            preprocessing_hash: "p".into(),
        }),
        width: 1,
        height: 1,
        tags: Vec::new(),
        scores: vec![0.5],
        embedding: vec![0.0, 1.0],
        attributes: Default::default(),
        layout: Arc::clone(layout),
        trace: Default::default(),
    }
}

fn partition() -> PartitionId {
    PartitionId::new("images", 0)
}

impl Owner {
    async fn new(store: &TableStore, name: &str) -> Self {
        let sink = FileSink::new(store.clone(), "predictions", FileFormat::Parquet);
        let writer = WriterId(name.into());
        let log = LogFacts {
            low: Offset(0),
            stable: Offset(1000),
            high: Offset(1000),
            leader_epoch: None,
            committed: None,
            identity: TopicIdentity::default(),
        };
        let resumed = sink
            .resume(&partition(), &writer, &log, &FirstOffset::Earliest)
            .await
            .unwrap();
        Owner {
            sink,
            chain: resumed.chain,
            writer,
            fence: Fence::default(),
        }
    }

    async fn put(&mut self, end: i64) -> Committed {
        let layout = layout();
        let rows: Vec<_> = (self.chain.end.0..end).map(|o| row(o, &layout)).collect();
        let range = OffsetRange::new(self.chain.end, Offset(end)).unwrap();
        let file = self
            .sink
            .encode(
                &partition(),
                &self.chain,
                (range, &LogLineage::default()),
                &self.writer,
                &layout,
                &rows,
            )
            .unwrap();
        self.sink
            .commit(&partition(), &mut self.chain, &file, &self.fence)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_zombie_that_wakes_late_is_told_and_goes_on_from_the_winners_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = TableStore::open(
        folder.path().to_str().unwrap(),
        &ObjectStoreConfig::default(),
    )
    .await
    .unwrap();
    let mut zombie = Owner::new(&store, "zombie").await;
    assert_eq!(zombie.put(10).await, Committed::Landed);
    let mut successor = Owner::new(&store, "successor").await;
    assert_eq!(successor.chain.end, Offset(10));
    assert_eq!(successor.put(25).await, Committed::Landed);
    assert_eq!(zombie.put(20).await, Committed::Covered { to: Offset(25) });
    assert_eq!(zombie.put(30).await, Committed::Landed);
    assert_eq!(
        successor.put(40).await,
        Committed::Covered { to: Offset(30) }
    );
    zombie.fence.kill();
    assert_eq!(zombie.put(50).await, Committed::Fenced);
    let third = Owner::new(&store, "third").await;
    assert_eq!(third.chain.end, Offset(30));
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_recognised() {
    let store = TableStore::in_memory();
    let mut owner = Owner::new(&store, "a").await;
    let before = owner.chain.clone();
    assert_eq!(owner.put(10).await, Committed::Landed);
    // As if no answer had come: the same put again.
    owner.chain = before;
    assert_eq!(owner.put(10).await, Committed::Landed);
    assert_eq!(owner.chain.end, Offset(10));
}

#[tokio::test]
async fn two_first_owners_that_see_different_logs_agree_on_the_origin() {
    let store = TableStore::in_memory();
    let sink = FileSink::<PredictionRow>::new(store, "predictions", FileFormat::Parquet);
    let log = |low| LogFacts {
        low: Offset(low),
        stable: Offset(100),
        high: Offset(100),
        leader_epoch: None,
        committed: None,
        identity: TopicIdentity::default(),
    };
    let start = &FirstOffset::Earliest;
    let resume = async |name: &str, low| {
        let writer = WriterId(name.into());
        sink.resume(&partition(), &writer, &log(low), start)
            .await
            .and_then(|resumed| resumed.unbroken(&partition()))
            .map(|resumed| resumed.chain.end)
    };
    assert_eq!(resume("a", 5).await.unwrap(), Offset(5));
    let starts: BTreeSet<_> = [resume("b", 5).await.unwrap(), resume("c", 3).await.unwrap()].into();
    assert_eq!(starts, [Offset(5)].into());
    // Had retention moved the log past the origin meanwhile, nobody would guess.
    assert!(
        resume("d", 9)
            .await
            .unwrap_err()
            .to_string()
            .contains("--accept-gap images/0@5")
    );
}
