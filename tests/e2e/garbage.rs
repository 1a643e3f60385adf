//! Garbage through the whole stage: every flaw ends in the dead-letter topic under its own kind,
//! what is good between them is tagged.

use crate::common::garbage::Yard;
use crate::harness::World;
use std::collections::{BTreeMap, BTreeSet};

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_is_a_dead_letter_of_its_kind_and_the_stage_goes_on() {
    let yard = Yard::start().await;
    let mut world = World::new("garbage", 3);
    world.config.fetch = yard.fetch_config();
    world.config.decode = yard.decode_config();
    let (items, good) = (yard.items(), yard.good());
    // The good ones once each, then the good file again after every flaw.
    let (_, again) = &good[0];
    let mut expected = BTreeMap::new();
    let mut values: Vec<Vec<u8>> = good.iter().map(|(_, message)| message.clone()).collect();
    for item in &items {
        expected.insert(values.len() as i64, item);
        values.push(item.message.clone());
        values.push(again.clone());
    }
    let count = values.len() as i64;
    let of = |i: i64| (i % 3, i / 3);
    world.produce_bytes(
        (0..)
            .zip(&values)
            .map(|(i, value)| (of(i).0 as i32, Some(value.clone()))),
    );
    world.drain().await.unwrap();

    let ends: Vec<i64> = (0..3).map(|p| (count - p + 2) / 3).collect();
    world.assert_exactly_once(&ends, values.len() - items.len());
    let tagged: BTreeSet<(i64, i64)> = world
        .rows()
        .iter()
        .map(|r| (r.partition.into(), r.offset))
        .collect();
    let letters = world.read_topic(&world.config.output.dead_letter_topic);
    assert_eq!(letters.len(), items.len());
    let mut failures = Vec::new();
    let mut seen = BTreeSet::new();
    for (_, value, headers) in letters {
        let number = |name: &str| headers[name].parse::<i64>().unwrap();
        let i = 3 * number("source.offset") + number("source.partition");
        let item = expected[&i];
        assert!(seen.insert(i), "{} has two dead letters", item.name);
        assert!(!tagged.contains(&of(i)), "{} has a row, too", item.name);
        let kind = &headers["error.kind"];
        if *kind != item.kind.as_str() {
            let message = &headers["error.message"];
            failures.push(format!(
                "{}: {kind} ({message}), not {}",
                item.name, item.kind
            ));
        }
        let original = String::from_utf8_lossy(&item.message);
        // A value that fills a message by itself is left where it is; its length is told.
        let omitted = headers.get("error.value_omitted_bytes");
        assert!(
            value == original || omitted == Some(&item.message.len().to_string()),
            "{}: the original is not kept",
            item.name
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A producer with another serialiser: everything is garbage. Whoever reads the log must learn of
/// it, and not in as many lines.
#[test]
fn a_topic_of_garbage_is_told_in_few_lines_and_counted() {
    let world = World::new("all-garbage", 1);
    let framed = b"\x00\x00\x00\x00\x07avroavro".to_vec();
    world.produce_bytes((0..300).map(|_| (0, Some(framed.clone()))));
    let mut stage = world.start("stage", "");
    let status = stage.wait();
    assert!(status.success(), "{status}: {}", stage.log());
    let log = stage.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.contains("dead letters"))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.iter().all(|l| l["level"] == "WARN"), "{log}");
    let counts = lines.iter().map(|l| l["count"].as_u64().unwrap());
    assert_eq!(counts.sum::<u64>(), 300, "{log}");
    assert!(lines.len() <= 4, "{log}");
}
