//! The road itself: rows = messages - dead letters, each offset once, in files that a glob can
//! read.

use crate::harness::{STUCK, StandIn, World};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tagstream::stage::pipeline;
use tagstream::stage::pipeline::{Control, RunOptions, StageStatus};
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn every_message_is_a_row_or_a_dead_letter() {
    let world = World::new("basic", 3);
    let broken = world.produce(0, 300);
    let status = world.drain().await.unwrap();
    world.assert_exactly_once(&[100, 100, 100], 300 - broken);
    assert_eq!(status.messages.load(Ordering::Relaxed), 300);
    for row in world.rows() {
        let i: usize = row
            .image_id
            .strip_prefix("image-")
            .unwrap()
            .parse()
            .unwrap();
        // The red of the picture that the message named: rows were not mixed up.
        assert_eq!(row.embedding[0].round() as usize, (i % 8) * 30, "{row:?}");
        assert_eq!(
            (row.partition as usize, row.offset as usize),
            (i % 3, i / 3)
        );
    }
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters.len(), broken);
    for (_, value, headers) in &letters {
        assert_eq!(headers["error.kind"], "bad_message");
        assert_eq!(headers["source.topic"], world.config.source.images_topic);
        assert!(value.contains(&format!(
            "broken-{}",
            headers["source.offset"].parse::<usize>().unwrap() * 3
                + headers["source.partition"].parse::<usize>().unwrap()
        )));
    }
    let predictions = world.read_topic(&world.config.output.predictions_topic);
    assert_eq!(predictions.len(), 300 - broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_goes_on_where_the_first_ended() {
    let world = World::new("resume", 2);
    let first = world.produce(0, 60);
    world.drain().await.unwrap();
    let before = world.files().len();
    let status = world.drain().await.unwrap();
    assert_eq!(status.messages.load(Ordering::Relaxed), 0);
    assert_eq!(world.files().len(), before);
    let second = world.produce(60, 40);
    let status = world.drain().await.unwrap();
    assert_eq!(status.messages.load(Ordering::Relaxed), 40);
    world.assert_exactly_once(&[50, 50], 100 - first - second);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_committed_offset_the_files_alone_tell_where_to_go_on() {
    let world = World::new("hintless", 1);
    let broken = world.produce(0, 30);
    world.drain().await.unwrap();
    let mut config = world.config.clone();
    config.kafka.group_id += "-another";
    let status = world
        .drain_with(&config, RunOptions::default())
        .await
        .unwrap();
    assert_eq!(status.messages.load(Ordering::Relaxed), 0);
    world.assert_exactly_once(&[30], 30 - broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_rows_make_a_file_without_rows() {
    let world = World::new("rowless", 1);
    world.produce_raw([
        (0, Some("nonsense".into())),
        (0, None),
        (0, Some("{}".into())),
    ]);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[3], 0);
    // A tombstone is no failure.
    assert_eq!(
        world
            .read_topic(&world.config.output.dead_letter_topic)
            .len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_tail_is_flushed_and_sigterm_drains() {
    let world = World::new("tail", 1);
    let broken = world.produce(0, 25);
    let status = Arc::new(StageStatus::default());
    let (control, receiver) = watch::channel(Control::Run);
    let (config, seen) = (world.config.clone(), Arc::clone(&status));
    let stage = tokio::spawn(async move {
        pipeline::run(
            &config,
            Arc::new(StandIn::new(0)),
            &RunOptions::default(),
            seen,
            receiver,
        )
        .await
    });
    // Nothing more arrives, and yet everything becomes a file.
    let reached = async |rows: u64| {
        while status.rows.load(Ordering::Relaxed) < rows {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(STUCK, reached(25 - broken as u64))
        .await
        .expect("the tail was never flushed");
    world.produce(25, 20);
    let read = async {
        while status.messages.load(Ordering::Relaxed) < 45 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(STUCK, read)
        .await
        .expect("the messages were never read");
    control.send(Control::Drain).unwrap();
    tokio::time::timeout(STUCK, stage)
        .await
        .expect("the stage did not stop")
        .unwrap()
        .unwrap();
    world.assert_exactly_once(&[45], 45 - 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_longer_vectors_ends_the_file() {
    let world = World::new("layout", 1);
    world.produce(0, 8);
    world.drain().await.unwrap();
    world.produce(10, 8);
    let (_keep, control) = watch::channel(Control::Run);
    let options = RunOptions {
        until_drained: true,
        ..RunOptions::default()
    };
    pipeline::run(
        &world.config,
        Arc::new(StandIn::new(2)),
        &options,
        Arc::default(),
        control,
    )
    .await
    .unwrap();
    world.assert_exactly_once(&[16], 16);
    let categories: Vec<usize> = world
        .files()
        .values()
        .map(|(_, footer)| {
            serde_json::from_str::<Vec<String>>(&footer["tagstream.categories"])
                .unwrap()
                .len()
        })
        .collect();
    assert_eq!(categories, [3, 5]);
}
