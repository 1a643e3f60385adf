//! Deletion: `tagstream table expire` as a command beside the stage, and what other hands delete.

use crate::harness::{STUCK, World};
use std::process::Command;
use std::time::{Duration, Instant};
use tagstream::stage::pipeline::RunOptions;
use tagstream::stage::sink::repair::Repair;
use tagstream_core::events::PartitionId;
use tagstream_core::storage::store::TableStore;

fn store(world: &World) -> TableStore {
    TableStore::open_for_reading(&world.config.output.url, &world.config.object_store).unwrap()
}

/// Runs the command until `rows` have gone: files must first be older than a second.
fn expire(world: &World, rows: u64) {
    let config = world.folder.path().join("stage.toml");
    let url = &world.config.output.url;
    std::fs::write(&config, format!("output.url = {url:?}\n")).unwrap();
    let (begun, mut gone) = (Instant::now(), 0);
    while gone < rows {
        assert!(
            begun.elapsed() < STUCK,
            "{gone} of {rows} rows have expired"
        );
        std::thread::sleep(Duration::from_millis(200));
        let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
            .args([
                "table",
                "expire",
                "--older-than",
                "1s",
                "--json",
                "--config",
            ])
            .arg(&config)
            .envs(world.credentials())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let expired: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        for partition in expired.as_array().unwrap() {
            gone += partition["rows"].as_u64().unwrap();
        }
    }
    assert_eq!(gone, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stage_goes_on_where_its_files_have_expired() {
    let world = World::new("expiry", 2);
    let broken = world.produce(0, 40);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[20, 20], 40 - broken);
    tokio::task::block_in_place(|| expire(&world, (40 - broken) as u64));
    world.assert_exactly_once(&[20, 20], 0);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[20, 20], 0);
    let broken = world.produce(40, 40);
    world.drain().await.unwrap();
    world.assert_exactly_once(&[40, 40], 40 - broken);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_hands_delete_is_refused_with_the_way_on() {
    for what in ["origins", "everything"] {
        let world = World::new("deleted", 1);
        let broken = world.produce(0, 20);
        world.drain().await.unwrap();
        let store = store(&world);
        let table = store
            .root()
            .clone()
            .join(world.config.output.table.as_str());
        for name in store.list(&table, None).await.unwrap() {
            if what == "everything" || name.as_ref().ends_with("-origin.json") {
                store.delete(&name).await.unwrap();
            }
        }
        let error = world.drain().await.unwrap_err();
        assert!(!error.is_temporary(), "{error}");
        let partition = PartitionId::new(world.config.source.images_topic.as_str(), 0);
        let way = format!("tagstream run --new-epoch {partition}@20=20");
        let said = error.to_string();
        assert!(
            said.contains("lifecycle rule") && said.contains(&way),
            "{what}: {said}"
        );

        let order = crate::refusals::command(&said, "--new-epoch ");
        let repair = Repair::new_epoch(&order).unwrap();
        let options = RunOptions {
            repairs: vec![repair],
            ..RunOptions::default()
        };
        let more = world.produce(20, 20);
        world.drain_with(&world.config, options).await.unwrap();
        world.drain().await.unwrap();
        let kept = if what == "everything" { 0 } else { 20 - broken };
        let rows = world.rows();
        assert_eq!(rows.len(), kept + 20 - more, "{what}");
        let mut offsets: Vec<i64> = rows.iter().map(|row| row.offset).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), rows.len(), "{what}");
    }
}
