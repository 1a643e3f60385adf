//! Messages that a real cluster of three brokers acknowledged and lost: their leader died while no
//! other replica had them, and one without them was elected.

use crate::child::Launch;
use crate::edges::until;
use crate::harness::{World, is_real_broker, not_tested};
use crate::own_brokers::OwnBrokers;
use crate::refusals::command;
use crate::truncation::{assert_rows, write};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use std::time::Duration;
use tagstream::stage::sink::repair::Repair;

/// The replicas of every images topic; the third broker keeps a majority of the controllers.
const REPLICAS: [i32; 2] = [1, 2];

/// A world on `brokers` whose images topic elects a replica that lacks messages rather than none.
async fn world(name: &str, brokers: &OwnBrokers) -> World {
    let mut world = World::new(name, 1);
    world.config.kafka.brokers = brokers.bootstrap.clone();
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &brokers.bootstrap)
        .create()
        .unwrap();
    let output = &world.config.output;
    for (topic, replicas) in [
        (&world.config.source.images_topic, &REPLICAS[..]),
        (&output.predictions_topic, &[3]),
        (&output.dead_letter_topic, &[3]),
    ] {
        let of_one_partition = [replicas];
        let topic = NewTopic::new(topic, 1, TopicReplication::Variable(&of_one_partition))
            .set("min.insync.replicas", "1")
            .set("unclean.leader.election.enable", "true");
        let made = admin.create_topics([&topic], &AdminOptions::new()).await;
        made.unwrap()[0].as_ref().unwrap();
    }
    world
}

impl World {
    /// Who leads the images topic, and who is in sync with it.
    fn leader_and_replicas_in_sync(&self) -> Option<(i32, Vec<i32>)> {
        let topic = &self.config.source.images_topic;
        let consumer = self.consumer("who-leads");
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(20));
        let metadata = metadata.ok()?;
        let partition = metadata.topics().first()?.partitions().first()?;
        let mut in_sync = partition.isr().to_vec();
        in_sync.sort_unstable();
        Some((partition.leader(), in_sync))
    }

    async fn is_led_by(&self, leader: i32, in_sync: &[i32]) {
        let wanted = Some((leader, in_sync.to_vec()));
        let what = format!("{leader} leads, {in_sync:?} are in sync");
        until(&what, || self.leader_and_replicas_in_sync() == wanted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_unclean_election_lost_is_refused_if_it_was_read_and_nothing_is_read_twice() {
    if !is_real_broker() {
        return not_tested("unclean elections: an embedded broker has one replica");
    }
    let brokers = OwnBrokers::start(3);
    // Of three tables one has what will be lost and is not being written, one has it and is, and
    // one was left before.
    let read = world("unclean-read", &brokers).await;
    let running = world("unclean-running", &brokers).await;
    let unread = world("unclean-unread", &brokers).await;
    let worlds = [&read, &running, &unread];
    for world in worlds {
        world.is_led_by(1, &REPLICAS).await;
        write(world, "kept", 20);
    }
    unread.drain().await.unwrap();
    brokers.kill(2);
    for world in worlds {
        world.is_led_by(1, &[1]).await;
        // All replicas in sync have acknowledged them: the leader.
        write(world, "lost", 10);
    }
    read.drain().await.unwrap();
    let for_ever = Launch {
        for_ever: true,
        ..Launch::default()
    };
    let mut stage = running.launch("stage", &for_ever);
    stage.until("all is in files", || running.group_offset() == Some(30));

    brokers.kill(1);
    brokers.restart(2);
    for world in worlds {
        world.is_led_by(2, &[2]).await;
        // More than was lost: no file ends behind the log's end.
        write(world, "new", 15);
    }
    // The former leader comes back, and cuts its own log.
    brokers.restart(1);

    let status = stage.wait();
    assert!(!status.success(), "{status}: {}", stage.log());
    for world in [&read, &running] {
        let topic = &world.config.source.images_topic;
        let message = world.refusal().await;
        assert!(
            message.contains("from offset 20 on") && message.contains("ends at 35"),
            "{message}"
        );
        let printed = command(&message, "--new-epoch ");
        assert_eq!(printed, format!("{topic}/0@30=20"));
        let repair = Repair::new_epoch(&printed).unwrap();
        world.drain_skipping(repair).await;
        assert_rows(world, &[("kept", 20), ("lost", 10), ("new", 15)]);
    }
    // Nobody can know of messages that were lost before they were read; the others are rows.
    unread.drain().await.unwrap();
    assert_rows(&unread, &[("kept", 20), ("new", 15)]);
}
