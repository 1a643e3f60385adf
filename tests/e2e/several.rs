//! Images of several topics in one process, by their names and by a pattern.

use crate::harness::{World, create_topic, unique};
use crate::topics::{Sent, run, send, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tagstream::stage::pipeline;
use tagstream::stage::pipeline::{Control, RunOptions, StageStatus};
use tokio::sync::watch;

const STUCK: Duration = Duration::from_secs(90);

/// Sends images of these shades to a topic, and one that is broken.
fn fill(world: &World, topic: &str, shades: &[u8]) {
    let headers = BTreeMap::new();
    let values = shades.iter().map(|shade| {
        let uri = format!("file://{}", world.picture(*shade).display());
        let image = serde_json::json!({"image_id": format!("{topic}-{shade}"), "uri": uri});
        image.to_string().into_bytes()
    });
    let values: Vec<Vec<u8>> = values.chain([b"broken".to_vec()]).collect();
    let messages = values.iter().map(|value| Sent {
        key: None,
        value,
        headers: &headers,
    });
    send(topic, &messages.collect::<Vec<_>>());
}

/// The names of images of the predictions topic, and the topics that they were read from.
fn predicted(world: &World) -> BTreeSet<(String, String)> {
    let messages = world.read_topic(&world.config.output.predictions_topic);
    let told = messages.iter().map(|(_, value, _)| {
        let prediction: Value = serde_json::from_str(value).unwrap();
        let of = |value: &Value| value.as_str().unwrap().to_owned();
        (
            of(&prediction["source"]["topic"]),
            of(&prediction["image_id"]),
        )
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_by_name_and_by_pattern_are_read_by_one_process_into_one_table() {
    let mut world = World::new("several", 1);
    let prefix = unique("cameras");
    let [north, south, other] = ["north", "south", "other"].map(|n| format!("{prefix}-{n}"));
    for topic in [&north, &south, &other] {
        create_topic(topic, 1);
    }
    fill(&world, &north, &[1, 2]);
    fill(&world, &south, &[3]);
    fill(&world, &other, &[4]);
    world.config.source.topics = vec![other.clone(), format!("^{prefix}-[ns].*th$")];
    world.drain().await.unwrap();
    let row = |topic: &String, shade: u8| (topic.clone(), format!("{topic}-{shade}"));
    let all = [
        row(&north, 1),
        row(&north, 2),
        row(&south, 3),
        row(&other, 4),
    ];
    assert_eq!(predicted(&world), BTreeSet::from(all));
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    let from: BTreeSet<&str> = letters
        .iter()
        .map(|(_, _, h)| &*h["source.topic"])
        .collect();
    assert_eq!((letters.len(), from.len()), (3, 3));
    for topic in [&north, &south, &other] {
        world.config.source.images_topic.clone_from(topic);
        assert!(!world.rows().is_empty(), "{topic}");
    }

    // What is asked about the topics asks about all of them.
    let checked = run(&world, &["source", "check"]);
    let (out, err) = (text(&checked.stdout), text(&checked.stderr));
    assert_eq!(checked.status.code(), Some(1), "{out}{err}");
    assert!(err.contains("7 messages of"), "{err}");
    assert!(
        [&north, &south, &other]
            .iter()
            .all(|topic| err.contains(&**topic)),
        "{err}"
    );
    let listed = run(&world, &["dead-letters", "list", "--json"]);
    let out = text(&listed.stdout);
    assert!(!out.contains("not one of this configuration"), "{out}");

    world.config.source.topics = vec![format!("^{prefix}-none")];
    let refused = world.drain().await.unwrap_err().to_string();
    assert!(refused.contains("no topic like"), "{refused}");
}

/// A topic that comes later is read, and the process ends in order with all of its lines.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_comes_later_is_read_if_a_pattern_takes_it() {
    let mut world = World::new("later", 1);
    let prefix = unique("later-cameras");
    let [first, second] = ["a", "b"].map(|n| format!("{prefix}-{n}"));
    create_topic(&first, 1);
    fill(&world, &first, &[1]);
    world.config.source.topics = vec![format!("^{prefix}-")];
    let status = Arc::<StageStatus>::default();
    let (tell, control) = watch::channel(Control::Run);
    let (config, shown) = (world.config.clone(), Arc::clone(&status));
    let stage = tokio::spawn(async move {
        let model = Arc::new(crate::harness::StandIn::new(0));
        pipeline::run(&config, model, &RunOptions::default(), shown, control).await
    });
    let seen = async |topic: &str| {
        while !status.partitions().keys().any(|p| *p.topic == *topic) {
            assert!(!stage.is_finished());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(STUCK, seen(&first)).await.unwrap();
    create_topic(&second, 1);
    fill(&world, &second, &[2]);
    tokio::time::timeout(STUCK, seen(&second)).await.unwrap();
    let rows = async {
        while status.rows.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(STUCK, rows).await.unwrap();
    tell.send(Control::Drain).unwrap();
    let ended = tokio::time::timeout(STUCK, stage).await.unwrap();
    ended.unwrap().unwrap();
    let names: BTreeSet<String> = predicted(&world).into_iter().map(|(_, id)| id).collect();
    let expected = [format!("{first}-1"), format!("{second}-2")];
    assert_eq!(names, BTreeSet::from(expected));
}
