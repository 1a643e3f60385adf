//! Logs that lose their end, as an unclean election loses it, and are written anew: on a real
//! broker of the test's own, which is killed, robbed of the end of a log, and started again.

use crate::child::Launch;
use crate::edges::named;
use crate::harness::{World, is_real_broker, not_tested};
use crate::own_brokers::OwnBrokers;
use crate::refusals::command;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tagstream::stage::pipeline::RunOptions;
use tagstream::stage::sink::begun::FirstOffset;
use tagstream::stage::sink::files::{Committed, Fence, FileSink};
use tagstream::stage::sink::lineage::LogLineage;
use tagstream::stage::sink::log_facts::LogFacts;
use tagstream::stage::sink::predictions::PredictionRow;
use tagstream::stage::sink::repair::Repair;
use tagstream_core::config::FileFormat;
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::store::TableStore;

/// A world on a broker of its own, with 20 messages in batches of one.
async fn world(name: &str) -> (World, OwnBrokers) {
    let broker = OwnBrokers::start(1);
    let mut world = World::new(name, 1);
    world.config.kafka.brokers = broker.bootstrap.clone();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &broker.bootstrap)
        .create()
        .unwrap();
    let output = &world.config.output;
    for topic in [
        &world.config.source.images_topic,
        &output.predictions_topic,
        &output.dead_letter_topic,
    ] {
        let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await;
        made.unwrap()[0].as_ref().unwrap();
    }
    write(&world, "old", 20);
    (world, broker)
}

pub(crate) fn write(world: &World, prefix: &str, count: usize) {
    let producer = world.producer(&[]);
    for name in named(prefix, count) {
        world.send_images(&producer, [name]);
    }
}

/// Each name once, and all of them.
pub(crate) fn assert_rows(world: &World, of: &[(&str, usize)]) {
    let mut wanted: Vec<_> = of.iter().flat_map(|(p, count)| named(p, *count)).collect();
    wanted.sort();
    assert_eq!(world.image_names(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_refused_and_read_on_where_it_was_cut() {
    if !is_real_broker() {
        return not_tested("truncation: an embedded broker loses nothing");
    }
    let (world, broker) = world("truncated").await;
    let topic = world.config.source.images_topic.clone();
    world.drain().await.unwrap();
    // Twenty messages are in files; ten are lost, and fifteen written anew over them.
    broker.cut(&topic, 10);
    write(&world, "new", 15);
    let message = world.refusal().await;
    assert!(
        message.contains("from offset 10 on") && message.contains("ends at 25"),
        "{message}"
    );
    let printed = command(&message, "--new-epoch ");
    assert_eq!(printed, format!("{topic}/0@20=10"));
    // What would read messages again is refused; what skips some is a person's to decide.
    for again in ["earliest", "9"] {
        let repairs = vec![Repair::new_epoch(&format!("{topic}/0@20={again}")).unwrap()];
        let options = RunOptions {
            repairs,
            ..RunOptions::default()
        };
        let refused = world.drain_with(&world.config, options).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("before offset 10 are in files"),
            "{refused}"
        );
    }
    let repair = Repair::new_epoch(&printed).unwrap();
    world.drain_skipping(repair.clone()).await;
    assert_rows(&world, &[("old", 20), ("new", 15)]);
    // The printed command may stay where it is.
    write(&world, "later", 3);
    world.drain_skipping(repair).await;
    assert_rows(&world, &[("old", 20), ("new", 15), ("later", 3)]);
    assert_eq!(world.group_offset(), Some(28));

    // Cut again, and not written anew: shorter than the files.
    broker.cut(&topic, 26);
    let message = world.refusal().await;
    let printed = command(&message, "--new-epoch ");
    assert_eq!(printed, format!("{topic}/0@28=26"), "{message}");
    write(&world, "last", 1);
    world
        .drain_skipping(Repair::new_epoch(&printed).unwrap())
        .await;
    assert_rows(
        &world,
        &[("old", 20), ("new", 15), ("later", 3), ("last", 1)],
    );
}

/// A stage that has read everything and waits notices by itself: librdkafka asks the new leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_cut_under_a_running_stage_ends_it() {
    if !is_real_broker() {
        return not_tested("truncation: an embedded broker loses nothing");
    }
    let (world, broker) = world("cut-under").await;
    let topic = world.config.source.images_topic.clone();
    let launch = Launch {
        for_ever: true,
        ..Launch::default()
    };
    let mut stage = world.launch("stage", &launch);
    crate::edges::until("all is in files", || world.group_offset() == Some(20)).await;
    broker.cut(&topic, 10);
    write(&world, "new", 15);
    let status = stage.wait();
    assert!(!status.success(), "{status}: {}", stage.log());
    let message = world.refusal().await;
    let repair = Repair::new_epoch(&command(&message, "--new-epoch ")).unwrap();
    world.drain_skipping(repair).await;
    assert_rows(&world, &[("old", 20), ("new", 15)]);
}

/// Files of older versions tell no leader epochs. They are read, and what cannot be known is said.
#[tokio::test(flavor = "multi_thread")]
async fn files_without_leader_epochs_are_read_and_guess_nothing() {
    if !is_real_broker() {
        return not_tested("truncation: an embedded broker loses nothing");
    }
    let (world, broker) = world("epochless").await;
    let topic = world.config.source.images_topic.clone();
    let identity = {
        let group = &world.config.kafka.group_id;
        let broker = tagstream::stage::source::Broker::new(
            &world.config.kafka,
            group,
            topic.as_str().into(),
        );
        tokio::task::spawn_blocking(move || broker.unwrap().identity().unwrap())
    };
    let log = LogFacts {
        low: Offset(0),
        stable: Offset(20),
        high: Offset(20),
        leader_epoch: None,
        committed: None,
        identity: identity.await.unwrap(),
    };
    let store = TableStore::open(&world.config.output.url, &world.config.object_store).await;
    let table = &world.config.output.table;
    let sink = FileSink::<PredictionRow>::new(store.unwrap(), table, FileFormat::Parquet);
    let partition = PartitionId::new(topic.as_str(), 0);
    let writer = tagstream::stage::sink::chain::WriterId("older".into());
    let start = &FirstOffset::Earliest;
    let resumed = sink.resume(&partition, &writer, &log, start).await.unwrap();
    let mut chain = resumed.chain;
    let layout = crate::zombie::layout();
    let rows: Vec<_> = (0..20).map(|o| crate::zombie::row(o, &layout)).collect();
    let range = (
        OffsetRange::new(Offset(0), Offset(20)).unwrap(),
        &LogLineage::default(),
    );
    let file = sink.encode(&partition, &chain, range, &writer, &layout, &rows);
    let file = file.unwrap();
    let put = sink
        .commit(&partition, &mut chain, &file, &Fence::default())
        .await;
    assert_eq!(put.unwrap(), Committed::Landed);
    world.drain().await.unwrap();
    let (_, footer) = world.files().into_values().next().unwrap();
    assert!(!footer.contains_key("tagstream.leader_epochs"));

    broker.cut(&topic, 10);
    let message = world.refusal().await;
    assert!(
        message.contains("the files tell no leader epochs"),
        "{message}"
    );
    let printed = command(&message, "--new-epoch ");
    assert_eq!(printed, format!("{topic}/0@20=latest"));
    world
        .drain_skipping(Repair::new_epoch(&printed).unwrap())
        .await;
    write(&world, "new", 3);
    world.drain().await.unwrap();
    let new = world
        .image_names()
        .iter()
        .filter(|n| n.starts_with("new"))
        .count();
    assert_eq!(new, 3);
    // From here on, it would be noticed.
    let footers: Vec<_> = world
        .files()
        .into_values()
        .map(|(_, footer)| footer)
        .collect();
    let told = footers
        .iter()
        .filter(|f| f.contains_key("tagstream.leader_epochs"));
    assert_eq!(told.count(), 1);
}
