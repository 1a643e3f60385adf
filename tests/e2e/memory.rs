//! Memory is bounded by the configuration, whatever the input or the sink does.

use crate::harness::World;
use std::sync::atomic::Ordering;
use tagstream::stage::pipeline::RunOptions;

/// A file is due only when it has 128 MiB or after an hour; the budget holds a fraction of the rows. Were rows not cut early under
/// pressure, nothing would ever be freed and the stage would stand still.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_cuts_files_early_instead_of_standing_still() {
    let world = World::new("pressure", 2);
    let broken = world.produce(0, 600);
    let mut config = world.config.clone();
    config.output.max_file_age_ms = 3_600_000;
    config.fetch.max_mib = 1;
    config.fetch.concurrency = 8;
    config.model.max_batch = 2;
    config.memory.budget_mib = 2;
    let vitals = world
        .drain_with(&config, RunOptions::default())
        .await
        .unwrap();
    world.assert_exactly_once(&[300, 300], 600 - broken);
    assert!(
        vitals.files.load(Ordering::Relaxed) > 2,
        "files were cut early"
    );
}
