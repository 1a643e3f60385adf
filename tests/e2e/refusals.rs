//! Input that does not fit the files is refused by name, with the command that helps; the command
//! helps, once.

use crate::harness::{World, create_topic, is_real_broker, not_tested, unique};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tagstream::stage::pipeline::RunOptions;
use tagstream::stage::sink::repair::Repair;

impl World {
    /// Gives the stage a group whose offset stands where a person put it. (A mock cluster never
    /// lets go of a group that had members, and refuses commits from outside; so it is a new
    /// group.)
    pub(crate) fn move_group_offset(&mut self, offset: i64) {
        self.config.kafka.group_id = unique("moved-group");
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.config.kafka.brokers)
            .set("group.id", &self.config.kafka.group_id)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let topic = &self.config.source.images_topic;
        list.add_partition_offset(topic, 0, Offset::Offset(offset))
            .unwrap();
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// As retention does, at once.
    pub(crate) async fn delete_records_before(&self, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.config.kafka.brokers)
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        let topic = &self.config.source.images_topic;
        list.add_partition_offset(topic, 0, Offset::Offset(offset))
            .unwrap();
        let deleted = admin.delete_records(&list, &AdminOptions::new()).await;
        deleted.unwrap();
    }

    pub(crate) async fn refusal(&self) -> String {
        self.drain()
            .await
            .expect_err("this must be refused")
            .to_string()
    }

    pub(crate) async fn drain_skipping(&self, skip: Repair) {
        let options = RunOptions {
            repairs: vec![skip],
            ..RunOptions::default()
        };
        self.drain_with(&self.config, options).await.unwrap();
    }

    pub(crate) fn ranges(&self) -> Vec<(String, i64, i64)> {
        let mut ranges: Vec<_> = self
            .files()
            .values()
            .map(|(_, footer)| {
                let range: serde_json::Value =
                    serde_json::from_str(&footer["tagstream.range"]).unwrap();
                let of = |name: &str| range[name].as_i64().unwrap();
                (footer["tagstream.epoch"].clone(), of("start"), of("end"))
            })
            .collect();
        ranges.sort();
        ranges
    }
}

/// The part of a refusal's text after `flag`.
pub(crate) fn command(message: &str, flag: &str) -> String {
    let (_, rest) = message
        .split_once(flag)
        .unwrap_or_else(|| panic!("no {flag} in: {message}"));
    let word = rest.split_whitespace().next().unwrap();
    word.trim_end_matches('.').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_moved_by_hand_is_refused_and_a_new_epoch_skips_to_it() {
    let mut world = World::new("moved", 1);
    world.produce(0, 10);
    world.drain().await.unwrap();
    world.produce(10, 10);
    world.move_group_offset(15);
    let message = world.refusal().await;
    assert!(
        message.contains("moved to 15") && message.contains("end at offset 10"),
        "{message}"
    );
    let skip = Repair::new_epoch(&command(&message, "--new-epoch ")).unwrap();
    world.drain_skipping(skip.clone()).await;
    assert_eq!(
        world.ranges(),
        [
            ("0".into(), 0, 10),
            ("0".into(), 10, 10),
            ("1".into(), 15, 20)
        ]
    );
    // The flag may stay on the command line; it does nothing a second time.
    world.produce(20, 5);
    world.drain_skipping(skip).await;
    assert_eq!(world.ranges().last().unwrap(), &("1".to_owned(), 20, 25));
    assert_eq!(world.rows().len(), 9 + 4 + 5);
}

/// What is in files is not read again, whoever asks; and there is a way to go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_offset_moved_back_or_too_far_is_refused_and_put_back() {
    for moved_to in [3, 50] {
        let mut world = World::new("moved-back", 1);
        world.produce(0, 10);
        world.drain().await.unwrap();
        let end = world.files().len();
        world.produce(10, 10);
        world.move_group_offset(moved_to);
        let message = world.refusal().await;
        assert!(!message.contains("--new-epoch"), "{message}");
        let topic = world.config.source.images_topic.clone();
        // Orders that would put messages into the table twice, whoever thought of them.
        for order in [
            Repair::new_epoch(&format!("{topic}/0@10=3")),
            Repair::new_epoch(&format!("{topic}/0@10=earliest")),
            Repair::new_epoch(&format!("{topic}/0@10=9")),
            Repair::accept_gap(&format!("{topic}/0@10")),
            Repair::new_epoch(&format!("{topic}/0@10=21")),
        ] {
            let options = RunOptions {
                repairs: vec![order.unwrap()],
                ..RunOptions::default()
            };
            let refused = world.drain_with(&world.config, options).await;
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("nothing was changed"), "{refused}");
            assert_eq!(world.files().len(), end);
        }
        let printed = command(&message, "--restore-offset ");
        assert_eq!(printed, format!("{topic}/0@10"));
        let repair = Repair::restore_offset(&printed).unwrap();
        world.drain_skipping(repair.clone()).await;
        world.assert_exactly_once(&[20], 18);
        assert_eq!(world.group_offset(), Some(20));
        // The flag may stay; a later move is another case.
        world.produce(20, 5);
        world.drain_skipping(repair).await;
        world.assert_exactly_once(&[25], 23);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_offset_at_the_end_of_a_file_is_only_a_hint() {
    let mut world = World::new("stale", 1);
    world.produce(0, 10);
    world.drain().await.unwrap();
    world.produce(10, 10);
    world.drain().await.unwrap();
    world.move_group_offset(10);
    world.produce(20, 10);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[30], 27);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_ahead_of_the_log_is_refused_and_a_new_epoch_reads_the_log_anew() {
    let mut world = World::new("ahead", 1);
    world.produce(0, 20);
    world.drain().await.unwrap();
    // The topic as it looks after it was deleted and created again: the same name in the table, a
    // shorter log. (A mock cluster cannot delete a topic, so the files are moved to the name of a
    // new one.)
    let again = unique("ahead-again");
    create_topic(&again, 1);
    world.rename_images_topic(again);
    world.produce(0, 5);
    let message = world.refusal().await;
    assert!(
        message.contains("the log ends at 5") || message.contains("another topic"),
        "{message}"
    );
    let skip = Repair::new_epoch(&command(&message, "--new-epoch ")).unwrap();
    world.drain_skipping(skip).await;
    assert_eq!(
        world.ranges(),
        [
            ("0".into(), 0, 20),
            ("0".into(), 20, 20),
            ("1".into(), 0, 5)
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overtook_the_reader_is_refused_and_the_gap_is_recorded_once() {
    let world = World::new("overtaken", 1);
    world.produce(0, 10);
    world.drain().await.unwrap();
    if is_real_broker() {
        world.produce(10, 10);
        world.delete_records_before(15).await;
    } else {
        // An embedded broker keeps 5 MiB of a partition.
        let large = |_| (0, Some("x".repeat(900_000)));
        world.produce_raw((0..10).map(large));
    }
    let message = world.refusal().await;
    let (_, rest) = message.split_once("the log now begins at ").unwrap();
    let low: i64 = rest.split(':').next().unwrap().parse().unwrap();
    assert!(low > 10, "{message}");
    let lost = format!("deleted {} offsets", low - 10);
    assert!(message.contains(&lost), "{message}");
    let gap = Repair::accept_gap(&command(&message, "--accept-gap ")).unwrap();
    world.drain_skipping(gap.clone()).await;
    let ranges = world.ranges();
    assert_eq!(ranges[..2], [("0".into(), 0, 10), ("0".into(), 10, 10)]);
    assert_eq!((&*ranges[2].0, ranges[2].1), ("1", low));
    assert_eq!(ranges.last().unwrap().2, 20);
    // The seal says why, and the flag does nothing a second time.
    let seals = world.files().into_values();
    let seals = seals.filter_map(|(_, footer)| footer.get("tagstream.seal").cloned());
    let seals: Vec<String> = seals.collect();
    assert!(
        seals.len() == 1 && seals[0].contains("accepted_gap"),
        "{seals:?}"
    );
    world.produce(20, 5);
    world.drain_skipping(gap).await;
    assert_eq!(world.ranges().last().unwrap(), &("1".to_owned(), 20, 25));
}

/// Found before anything is read, not when the first dead letter cannot be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_cannot_be_written_to_is_named() {
    if !is_real_broker() {
        return not_tested("a missing output topic: an embedded broker creates topics by itself");
    }
    let mut world = World::new("unwritable", 1);
    world.produce(0, 10);
    world.config.output.dead_letter_topic = unique("nobody-made-this");
    let message = world.refusal().await;
    let said = format!("no topic {:?}", world.config.output.dead_letter_topic);
    assert!(message.contains(&said), "{message}");
    assert!(world.files().is_empty());
}

/// Brokers hear of a new topic one after the other: the stage waits a little before it says that
/// there is none.
#[test]
fn a_topic_that_cannot_be_written_to_yet_is_waited_for() {
    if !is_real_broker() {
        return not_tested(
            "a topic created late, which cannot be written to: an embedded broker creates topics \
             by itself",
        );
    }
    let mut world = World::new("late", 1);
    let broken = world.produce(0, 10);
    world.config.output.dead_letter_topic = unique("made-late");
    let mut stage = world.start("late", "");
    stage.says("the broker does not know the topic yet", 1);
    create_topic(&world.config.output.dead_letter_topic, 1);
    stage.finish();
    world.assert_exactly_once(&[10], 10 - broken);
}

/// Nobody listens: the stage says where it asked, and that trying again may help.
#[test]
fn a_broker_that_is_down_is_named() {
    let mut world = World::new("down", 1);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    world.config.kafka.brokers = address.clone();
    let mut stage = world.start("down", "");
    assert_eq!(stage.wait().code(), Some(75), "{}", stage.log());
    let said = format!("no answer from the brokers at {address}");
    assert!(stage.log().contains(&said), "{}", stage.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_format_in_the_same_table_is_refused() {
    let world = World::new("format", 1);
    world.produce(0, 5);
    world.drain().await.unwrap();
    let mut config = world.config.clone();
    config.output.format = tagstream_core::config::FileFormat::Arrow;
    let error = world
        .drain_with(&config, RunOptions::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("begun as parquet"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_skip_is_named_and_changes_nothing() {
    let world = World::new("wrong-skip", 1);
    let mut config = world.config.clone();
    config.source.images_topic = unique("nobody-made-this");
    let refused = world.drain_with(&config, RunOptions::default()).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains(&config.source.images_topic), "{error}");
    let skipping = async |at: &str| {
        let at = format!("{}/{at}", world.config.source.images_topic);
        let options = RunOptions {
            repairs: vec![Repair::new_epoch(&at).unwrap()],
            ..RunOptions::default()
        };
        let refused = world.drain_with(&world.config, options).await;
        refused.unwrap_err().to_string()
    };
    let error = skipping("7@0=earliest").await;
    assert!(error.contains("no partition"), "{error}");
    world.produce(0, 5);
    world.drain().await.unwrap();
    let error = skipping("0@3=earliest").await;
    assert!(error.contains("end at offset 5, not at 3"), "{error}");
}
