//! `source.start = "latest"` is the moment when a table begins: what comes afterwards is read,
//! whatever partition it comes to and however late a stage hears of that.

use crate::child::Launch;
use crate::edges::{named, until};
use crate::harness::{World, create_topic, is_real_broker, not_tested, unique};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, Producer};
use std::time::Duration;
use tagstream::stage::sink::begun::TableBegun;
use tagstream::stage::sink::chain::{TopicIdentity, WriterId};
use tagstream_core::config::StartAt;
use tagstream_core::storage::store::TableStore;

impl World {
    fn latest(name: &str) -> World {
        let mut world = World::new(name, 1);
        world.config.source.start = StartAt::Latest;
        world
    }

    async fn grow_to(&mut self, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.config.kafka.brokers)
            .create()
            .unwrap();
        let topic = &self.config.source.images_topic;
        let more = NewPartitions::new(topic, partitions as usize);
        let grown = admin.create_partitions([&more], &AdminOptions::new()).await;
        grown.unwrap()[0].as_ref().unwrap();
        self.partitions = partitions;
    }

    fn send_to(&self, partition: i32, prefix: &str, count: usize) {
        let producer = self.producer(&[("topic.metadata.refresh.interval.ms", "100")]);
        for name in named(prefix, count) {
            let value = self.good_reference(&name);
            loop {
                let record = BaseRecord::<str, str>::to(&self.config.source.images_topic)
                    .partition(partition)
                    .payload(&value);
                // A new partition is not known at once.
                match producer.send(record) {
                    Ok(()) => break,
                    Err(_) => producer.poll(Duration::from_millis(100)),
                }
            }
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_added_later_is_read_from_its_beginning() {
    if !is_real_broker() {
        return not_tested("added partitions: an embedded broker adds none");
    }
    let mut world = World::latest("latest");
    // The group hears of a partition long after it was written to.
    let refresh = ("topic.metadata.refresh.interval.ms", "3000");
    let properties = &mut world.config.kafka.properties;
    properties.insert(refresh.0.into(), refresh.1.to_owned().into());
    world.send_to(0, "before", 3);
    let launch = Launch {
        for_ever: true,
        ..Launch::default()
    };
    let mut stage = world.launch("stage", &launch);
    stage.says("partition assigned", 1);
    world.grow_to(2).await;
    world.send_to(1, "new", 5);
    world.send_to(0, "one", 1);
    until("everything new is in files", || {
        assert!(stage.is_running(), "{}", stage.log());
        world.rows().len() >= 6
    })
    .await;
    stage.signal("TERM");
    stage.finish();
    let mut all: Vec<_> = named("new", 5).chain(named("one", 1)).collect();
    assert_eq!(world.image_names(), all);
    // While nobody looks.
    world.grow_to(3).await;
    world.send_to(2, "alone", 2);
    world.drain().await.unwrap();
    all.extend(named("alone", 2));
    all.sort();
    assert_eq!(world.image_names(), all);
    // A table of an older version has no record of its beginning: what has no file there is new.
    let output = &world.config.output;
    let store = TableStore::open(&output.url, &world.config.object_store).await;
    let store = store.unwrap();
    let folders = [
        &*output.table,
        &*world.config.source.images_topic,
        "_begun.json",
    ];
    let root = store.root().clone();
    let begun = folders.into_iter().fold(root, |path, name| path.join(name));
    assert!(store.read(&begun).await.unwrap().is_some());
    store.delete(&begun).await.unwrap();
    world.grow_to(4).await;
    world.send_to(3, "older", 2);
    world.drain().await.unwrap();
    all.extend(named("older", 2));
    all.sort();
    assert_eq!(world.image_names(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_is_when_the_table_began_and_not_when_a_partition_is_taken() {
    let mut world = World::latest("begun");
    world.send_to(0, "before", 3);
    // As a stage leaves it that put down how the table begins, and died before it took its
    // partition.
    let begun = TableBegun {
        identity: TopicIdentity::default(),
        ends: [(0, tagstream_core::events::Offset(3))].into(),
        created: chrono::Utc::now(),
        writer: WriterId("died".into()),
    };
    let output = &world.config.output;
    let store = TableStore::open(&output.url, &world.config.object_store).await;
    let topic = &world.config.source.images_topic;
    let put = begun.put(&store.unwrap(), &output.table, topic).await;
    assert_eq!(put.unwrap().ends.len(), 1);
    world.send_to(0, "after", 4);
    world.drain().await.unwrap();
    let mut all: Vec<_> = named("after", 4).collect();
    assert_eq!(world.image_names(), all);
    // Another topic in the same table begins when it begins.
    let first = world.image_names();
    world.config.source.images_topic = unique("begun-second");
    world.config.kafka.group_id = unique("begun-second-group");
    create_topic(&world.config.source.images_topic, 1);
    world.send_to(0, "skipped", 2);
    world.drain().await.unwrap();
    world.send_to(0, "second", 2);
    world.drain().await.unwrap();
    all = named("second", 2).collect();
    assert_eq!(world.image_names(), all);
    assert_eq!(first.len(), 4);
}
