//! Label events from the topic into the label table, and back out as the state of all labels.

use crate::harness::{World, bootstrap, create_topic, unique};
use std::sync::Arc;
use tagstream::{
    config::StageConfig,
    events::LabelEvent,
    retrain::{
        label_store::{data_files, read_labels},
        labels::{LabelTable, publish},
    },
    stage::{
        pipeline::{Control, RunOptions, Vitals, run_labels},
        sink::store::TableStore,
    },
};
use tokio::sync::watch;

fn event(
    image: usize,
    present: &[&str],
    absent: &[&str],
    retract: &[&str],
    minute: usize,
) -> LabelEvent {
    let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    LabelEvent {
        image_id: format!("image-{image}"),
        uri: String::new(),
        present: owned(present),
        absent: owned(absent),
        retract: owned(retract),
        annotator: "tester".into(),
        event_time: Some(format!("2026-01-01T00:{minute:02}:00Z").parse().unwrap()),
    }
}

async fn drain(config: &StageConfig) {
    let (_keep, control) = watch::channel(Control::Run);
    let options = RunOptions {
        until_drained: true,
        ..RunOptions::default()
    };
    run_labels(config, &options, Arc::new(Vitals::default()), control)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn label_events_become_the_state_of_all_labels() {
    let world = World::new("labels", 1);
    let mut config = world.config.clone();
    config.labels.topic = unique("labels-topic");
    create_topic(&config.labels.topic, 3);
    let mut events: Vec<LabelEvent> = (0..200)
        .map(|i| event(i, &["cat", "dog"], &["owl"], &[], 1))
        .collect();
    publish(&bootstrap(), &config.labels.topic, &events)
        .await
        .unwrap();
    drain(&config).await;

    // A second run of the line goes on: corrections, retractions, and one that comes too late to count.
    let later = [
        event(3, &[], &["cat"], &[], 2),
        event(4, &[], &[], &["dog"], 2),
        event(5, &[], &["dog"], &[], 0),
    ];
    publish(&bootstrap(), &config.labels.topic, &later)
        .await
        .unwrap();
    drain(&config).await;
    drain(&config).await;

    events.extend(later);
    let expected = LabelTable::of_events(&events);
    let store = TableStore::open_for_reading(&config.output.url, &config.object_store).unwrap();
    let read = read_labels(&store, &config.labels.table).await.unwrap();
    assert!(read.known().eq(expected.known()));
    assert_eq!(read.hash(), expected.hash());
    let counts = read.counts();
    assert_eq!((counts["cat"].present, counts["cat"].absent), (199, 1));
    assert_eq!((counts["dog"].present, counts["dog"].absent), (199, 0));
    let files = data_files(&store, &config.labels.table).await.unwrap();
    assert!(files.iter().all(|f| f.as_ref().ends_with(".parquet")));
}
