//! Memory is bounded by the configuration, whatever the input or the sink does.

use crate::harness::{STUCK, World};
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tagstream::stage::pipeline::RunOptions;

/// A file is due only when it has 128 MiB or after an hour; the budget holds a fraction of the
/// rows. Were rows not cut early under pressure, nothing would ever be freed and the stage would
/// stand still.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_cuts_files_early_instead_of_standing_still() {
    let world = World::new("pressure", 2);
    let broken = world.produce(0, 2_400);
    let mut config = world.config.clone();
    config.output.max_file_age_ms = 3_600_000;
    config.fetch.max_mib = 1;
    config.fetch.concurrency = 8;
    config.model.max_batch = 2;
    config.memory.budget_mib = 2;
    let status = world
        .drain_with(&config, RunOptions::default())
        .await
        .unwrap();
    world.assert_exactly_once(&[1_200, 1_200], 2_400 - broken);
    assert!(
        status.files.load(Ordering::Relaxed) > 2,
        "files were cut early"
    );
}

const MIB: u64 = 1 << 20;
/// Bytes of attributes in each message.
const ATTRIBUTE: usize = 24 << 10;
const PARTITIONS: i32 = 32;
/// What the stage may hold beside what it holds when idle and its budget: "Memory" in
/// docs/runbook.md.
const CONSTANT: u64 = 96 * MIB;

/// The most memory that a stage held which read everything, or for `at_most`; then it is killed.
/// Every put of a file takes `delay_ms` longer.
fn peak(world: &World, name: &str, delay_ms: u64, at_most: Duration) -> u64 {
    let failpoints = format!("put.before=delay{delay_ms}");
    let started = Instant::now();
    let mut stage = world.start(name, &failpoints);
    let mut peak = 0;
    while stage.is_running() && started.elapsed() < at_most {
        peak = stage.peak_memory().unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(10));
    }
    if at_most == STUCK {
        stage.finish();
    }
    peak
}

fn with_large_messages(name: &str, count: usize) -> World {
    let mut world = World::new(name, PARTITIONS);
    world.config.output.max_file_age_ms = 3_600_000;
    let random = StdRng::seed_from_u64(1).sample_iter(Alphanumeric);
    // Each message takes another piece of it.
    let pool: String = random.take(count + ATTRIBUTE).map(char::from).collect();
    let uri = format!("file://{}", world.picture(1).display());
    let values = (0..count).map(|i| {
        let attributes = serde_json::json!({ "note": pool[i..i + ATTRIBUTE] });
        let value =
            serde_json::json!({"image_id": i.to_string(), "uri": uri, "attributes": attributes});
        (i as i32 % PARTITIONS, Some(value.to_string()))
    });
    world.produce_raw(values);
    world
}

/// At two files of at most a megabyte in two seconds the sink takes a hundred times as long as the
/// source: memory stays within the budget and the stated constant, and also when the sink recovers.
/// With a budget for everything the same input takes more: the test can fail.
#[test]
fn a_sink_far_slower_than_the_source_does_not_fill_memory() {
    const MESSAGES: usize = 4_160;
    let idle = peak(&World::new("idle", PARTITIONS), "idle", 0, STUCK);
    let mut roomy = with_large_messages("roomy", MESSAGES);
    roomy.config.memory.budget_mib = 1_024;
    let unbounded = peak(&roomy, "roomy", 0, STUCK);
    let mut tight = with_large_messages("tight", MESSAGES);
    tight.config.memory.budget_mib = 16;
    tight.config.fetch.max_mib = 1;
    let slow = peak(&tight, "slow", 2_000, Duration::from_secs(15));
    let recovered = peak(&tight, "recovered", 20, STUCK);
    let limit = idle + tight.config.memory.budget_mib * MIB + CONSTANT;
    println!(
        "MiB: idle {}, slow sink {}, recovered {}, limit {}, budget for everything {}",
        idle / MIB,
        slow / MIB,
        recovered / MIB,
        limit / MIB,
        unbounded / MIB
    );
    assert!(slow <= limit && recovered <= limit);
    assert!(unbounded > limit, "the test could not fail");
    let end = (MESSAGES / PARTITIONS as usize) as i64;
    tight.assert_exactly_once(&[end; PARTITIONS as usize], MESSAGES);
}
