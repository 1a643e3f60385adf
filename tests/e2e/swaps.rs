//! Models swapped while messages flow: the real engine, a registry that is followed, and no message
//! that notices.

use crate::harness::{STUCK, World, read_rows};
use arrow_array::cast::AsArray;
use arrow_array::{Array, FixedSizeListArray, Int64Array, StringArray};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tagstream::stage::infer::Engine;
use tagstream::stage::pipeline;
use tagstream::stage::pipeline::{Control, EngineModel, RunOptions, StageStatus};
use tagstream::stage::watch::Watch;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_model::add_category::add_category;
use tagstream_model::bundle::Bundle;
use tagstream_model::init::{CategoryList, ClipFolder, Init};
use tagstream_model::registry::{Action, Cache, Decision, Registration, Registry};
use tokio::sync::watch;

/// Swaps, each made while pictures of the round before are still on their way.
const SWAPS: usize = 8;
/// References sent for each model.
const A_ROUND: usize = 60;

/// A registry with two versions: the demo model with two categories, and with three.
async fn registry(folder: &Path) -> Registry {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-clip");
    let list = folder.join("categories.txt");
    std::fs::write(&list, "cat\ndog\n").unwrap();
    let two = folder.join("two");
    let init = Init {
        clip: &ClipFolder::open(&clip).unwrap(),
        name: "demo-clip",
        source: "test",
        categories: &CategoryList::read(&list).unwrap(),
        tower: Default::default(),
        views: Default::default(),
        fit: Default::default(),
    };
    let bundle = init.run(&two, |_| ()).unwrap();
    let three = folder.join("three");
    add_category(&bundle, "fish", None, &three).unwrap();
    let url = folder.join("registry");
    let options = ObjectStoreConfig::default();
    let opened = Registry::open_or_create(url.to_str().unwrap(), &options).await;
    let registry = opened.unwrap();
    for bundle in [&two, &three] {
        let registration = Registration {
            bundle,
            attachments: &[],
            who: "test",
            why: "test",
            run: None,
        };
        registry.register(&registration).await.unwrap();
    }
    promote(&registry, 1).await;
    registry
}

async fn promote(registry: &Registry, version: u64) {
    let decision = Decision::by_hand(Action::Promoted, version, "test", "test");
    registry.decide(decision).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_lose_double_and_reorder_nothing() {
    let mut world = World::new("swaps", 2);
    world.config.model.workers = 2;
    world.config.model.max_batch = 4;
    let registry = registry(world.folder.path()).await;
    let cache = Cache::at(world.folder.path().join("cache"));
    let current = registry.current().await.unwrap();
    let folder = registry.materialise(&current, &cache).await.unwrap();
    let settings = world.config.model.clone();
    let engine = tokio::task::spawn_blocking(move || {
        Engine::start(&settings, &Bundle::open(folder).unwrap()).unwrap()
    });
    let engine = engine.await.unwrap();
    let following = Watch::new(registry.clone(), cache, engine.clone());
    let following = tokio::spawn(following.run(Duration::from_millis(5)));

    let (control, controlled) = watch::channel(Control::Run);
    let status = Arc::new(StageStatus::default());
    let model = Arc::new(EngineModel::new(engine.clone(), Default::default()));
    let config = world.config.clone();
    let line = tokio::spawn(async move {
        let options = RunOptions::default();
        pipeline::run(&config, model, &options, status, controlled).await
    });

    let mut sent = 0;
    let mut broken = 0;
    for swap in 0..=SWAPS {
        broken += world.produce(sent, A_ROUND);
        sent += A_ROUND;
        if swap == SWAPS {
            break;
        }
        let version = 2 - (swap as u64 % 2);
        promote(&registry, version).await;
        let id = registry.version(version).await.unwrap().id;
        let swapped = async {
            while engine.model().id() != id {
                assert!(!line.is_finished(), "the stage ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(STUCK, swapped)
            .await
            .expect("the engine takes the version that was promoted");
    }
    let rows = async {
        while world.rows().len() < sent - broken {
            assert!(!line.is_finished(), "the stage ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(STUCK, rows).await.expect("all rows");
    control.send(Control::Drain).unwrap();
    tokio::time::timeout(STUCK, line)
        .await
        .expect("the stage ends")
        .unwrap()
        .unwrap();
    following.abort();

    // Nothing lost, doubled or out of order.
    let half = (sent / 2) as i64;
    world.assert_exactly_once(&[half, half], sent - broken);
    let mut lengths: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for (path, (batches, footer)) in world.files() {
        let names: Vec<String> = serde_json::from_str(&footer["tagstream.categories"]).unwrap();
        let offsets: Vec<i64> = batches
            .iter()
            .flat_map(|b| {
                let offsets: &Int64Array = b["offset"].as_primitive();
                offsets.values().to_vec()
            })
            .collect();
        assert!(offsets.is_sorted(), "{path}");
        for batch in &batches {
            assert_eq!(read_rows(batch).len(), batch.num_rows());
            // A file's vectors have one length: the other model's rows are in another file.
            let scores: &FixedSizeListArray = batch["scores"].as_fixed_size_list();
            assert_eq!(scores.value_length() as usize, names.len(), "{path}");
            let versions: &StringArray = batch["model_version"].as_string();
            for row in 0..versions.len() {
                let length = lengths.entry(versions.value(row).into()).or_default();
                length.insert(scores.value_length());
            }
        }
    }
    // Both models worked, and each row has its own model's vector.
    let lengths: Vec<Vec<i32>> = lengths
        .into_values()
        .map(|l| l.into_iter().collect())
        .collect();
    assert!(
        lengths == [[2], [3]] || lengths == [[3], [2]],
        "{lengths:?}"
    );
}
