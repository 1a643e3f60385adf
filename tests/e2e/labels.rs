//! Label events from the topic into the label table, and back out as the state of all labels.

use crate::harness::{World, bootstrap, create_topic, unique};
use std::process::Command;
use std::sync::Arc;
use tagstream::labelling::publish;
use tagstream::labelling::store::{data_files, read_labels};
use tagstream::stage::pipeline::{Control, RunOptions, StageStatus, run_labels};
use tagstream::stage::source::ClientSettings;
use tagstream_core::config::StageConfig;
use tagstream_core::events::{LabelEvent, LabelQuestion};
use tagstream_core::storage::store::TableStore;
use tagstream_train::labels::LabelTable;
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

pub(crate) async fn drain(config: &StageConfig) {
    let (_keep, control) = watch::channel(Control::Run);
    let options = RunOptions {
        until_drained: true,
        ..RunOptions::default()
    };
    run_labels(config, &options, Arc::new(StageStatus::default()), control)
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
    publish(
        &ClientSettings::new(&bootstrap()),
        &config.labels.topic,
        &events,
    )
    .await
    .unwrap();
    drain(&config).await;

    // A second run of the line goes on: corrections, retractions, and one that comes too late to
    // count.
    let later = [
        event(3, &[], &["cat"], &[], 2),
        event(4, &[], &[], &["dog"], 2),
        event(5, &[], &["dog"], &[], 0),
    ];
    publish(
        &ClientSettings::new(&bootstrap()),
        &config.labels.topic,
        &later,
    )
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
    let mut names = files.iter().map(|file| file.location.as_ref());
    assert!(names.all(|name| name.ends_with(".parquet")));
}

/// The topic says what the CSV says, column by column, in messages that an annotator only has to
/// fill in.
#[tokio::test(flavor = "multi_thread")]
async fn suggestions_say_the_same_on_the_topic_and_in_the_csv() {
    let world = World::new("suggest", 1);
    world.produce(0, 12);
    world.drain().await.unwrap();
    let topic = unique("questions");
    create_topic(&topic, 1);
    let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(["labels", "suggest", "--count", "3", "--store"])
        .args([&world.config.output.url, "--brokers", &bootstrap()])
        .args(["--topic", &topic])
        .envs(world.credentials())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let mut csv = csv::Reader::from_reader(&output.stdout[..]);
    let columns = csv.headers().unwrap().clone();
    let rows: Vec<_> = csv.records().map(Result::unwrap).collect();
    let messages = world.read_topic(&topic);
    assert_eq!((rows.len(), messages.len()), (3, 3));
    for (row, (key, value, _)) in rows.iter().zip(&messages) {
        let object: serde_json::Value = serde_json::from_str(value).unwrap();
        for column in &columns {
            assert!(object.get(column).is_some(), "{column} is not in {value}");
        }
        let question: LabelQuestion = serde_json::from_value(object).unwrap();
        let ask = question.ask.iter();
        let ask: Vec<String> = ask
            .map(|a| format!("{}={:.2}", a.category, a.score))
            .collect();
        assert!(!ask.is_empty());
        let told = [
            question.rank.to_string(),
            question.event.image_id.clone(),
            question.event.uri.clone(),
            format!("{:.4}", question.value),
            serde_json::to_value(question.purpose)
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned(),
            ask.join(" "),
        ];
        assert!(row.iter().eq(&told), "{row:?}: {told:?}");
        assert_eq!(key.as_ref(), Some(&question.event.image_id));
        let event = LabelEvent::from_json(value.as_bytes()).unwrap();
        assert!(LabelTable::of_events(&[event]).known().next().is_none());
    }
}
