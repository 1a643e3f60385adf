//! The programs of `examples/`, in this process, on the tests' broker.

#[path = "../../examples/consume_predictions.rs"]
#[allow(dead_code)]
mod consume_predictions;
#[path = "../../examples/produce_references.rs"]
#[allow(dead_code)]
mod produce_references;

use crate::harness::{World, bootstrap, unique};
use consume_predictions::{Counts, consume};
use produce_references::produce;
use std::collections::BTreeSet;
use tagstream_core::events::ImageReference;

fn references(world: &World, count: usize) -> Vec<ImageReference> {
    let reference = |i: usize| ImageReference {
        image_id: format!("image-{i}"),
        uri: format!("file://{}", world.picture((i % 8) as u8).display()),
        event_time: None,
        attributes: Default::default(),
    };
    (0..count).map(reference).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_producer_sends_is_tagged_and_the_consumer_takes_each_tag_once() {
    let mut world = World::new("examples", 2);
    let images = &world.config.source.images_topic;
    let sent = produce(
        &bootstrap(),
        images,
        references(&world, 40).into_iter().map(Ok),
    )
    .unwrap();
    assert_eq!((sent.delivered.len(), sent.failed.len()), (40, 0));
    world.drain().await.unwrap();
    assert_eq!(world.rows().len(), 40);

    // Another table and group: the stage reads everything again, the topic holds it all twice.
    world.config.kafka.group_id = unique("examples-again");
    world.config.output.table = "again".into();
    world.drain().await.unwrap();
    let predictions = world.config.output.predictions_topic.clone();
    let (mut printed, group) = (Vec::new(), unique("consumer"));
    let counts = consume(&bootstrap(), &predictions, &group, true, &mut printed).unwrap();
    let expected = Counts {
        new: 40,
        again: 40,
        unreadable: 0,
    };
    assert_eq!(counts, expected);
    let printed = String::from_utf8(printed).unwrap();
    let lines: BTreeSet<&str> = printed.lines().collect();
    assert_eq!((lines.len(), printed.lines().count()), (40, 40));
    assert!(lines.contains("image-7\tcategory-0 0.90"), "{printed}");

    // What was read is committed: the group goes on behind it.
    let counts = consume(&bootstrap(), &predictions, &group, true, &mut Vec::new()).unwrap();
    assert_eq!(counts, Counts::default());
}

#[test]
fn a_message_that_is_not_delivered_is_named() {
    let world = World::new("examples-refused", 1);
    let mut references = references(&world, 2);
    // Larger than librdkafka's message.max.bytes.
    references[1].uri = format!("data:,{}", "x".repeat(2_000_000));
    let images = &world.config.source.images_topic;
    let error = produce(&bootstrap(), images, references.into_iter().map(Ok)).unwrap_err();
    assert!(error.to_string().contains("image-1"), "{error:#}");
    // The one before it was.
    assert_eq!(world.read_topic(images).len(), 1);
}
