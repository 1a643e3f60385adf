//! A registry in memory, bundles that open, and an engine that only remembers what it was given.

use super::*;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};
use tagstream_model::bundle::{
    BundleWriter, Calibration, Category, Dims, Draft, ENCODER_FILE, HEAD_FILE, HEAD_WEIGHTS_FILE,
    Lineage,
};
use tagstream_model::head::{ExportedHead, ZeroShot};
use tagstream_model::onnx::{Dim, Element, GraphBuilder};
use tagstream_model::registry::{Action, Decision, Registration};
use tempfile::TempDir;

fn bundle(root: &Path, name: &str) -> PathBuf {
    let mut graph = GraphBuilder::new(name);
    let x = graph.input("x", Element::F32, &[Dim::Fixed(1)]);
    let w = graph.weight("w", &[1], Element::F32, &[1.0]);
    let y = graph.mul(&x, &w);
    graph.output(&y, "y", Element::F32, &[Dim::Fixed(1)]);
    let head = ExportedHead::zero_shot(&[1.0, 0.0], 2, ZeroShot::default());
    let files = head.to_files(Some(1), &[]).unwrap();
    let out = root.join(name);
    let mut writer = BundleWriter::new(&out).unwrap();
    writer.add(ENCODER_FILE, &graph.finish().unwrap()).unwrap();
    writer.add(HEAD_FILE, &files.onnx).unwrap();
    writer.add(HEAD_WEIGHTS_FILE, &files.safetensors).unwrap();
    let draft = Draft {
        name: name.into(),
        parent: None,
        created: chrono::DateTime::UNIX_EPOCH,
        categories: vec![Category::named("cat", "cat", 0.5)],
        dims: Dims {
            embedding: 2,
            grid_height: 1,
            grid_width: 1,
        },
        preprocessing: Preprocessing {
            height: 8,
            width: 8,
            fit: Fit::Squash,
            filter: Filter::Bicubic,
        },
        calibration: Calibration { temperature: 1.0 },
        metrics: BTreeMap::new(),
        lineage: Lineage::default(),
    };
    writer.finish(draft).unwrap();
    out
}

/// Serves what it is given, unless its name says that it is incompatible.
#[derive(Clone)]
struct Pretender(Arc<Mutex<(String, usize)>>);

impl Swappable for Pretender {
    fn serving(&self) -> String {
        self.0.lock().unwrap().0.clone()
    }

    async fn swap(&self, bundle: Bundle) -> Result<Swap, InferError> {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        if bundle.id().starts_with("greedy") && state.1 == 1 {
            return Err(InferError::Model {
                model: bundle.id().into(),
                reason: "Failed to allocate memory for requested buffer of size 1".into(),
            });
        }
        if bundle.id().starts_with("incompatible") {
            return Err(InferError::Model {
                model: bundle.id().into(),
                reason: "another input size".into(),
            });
        }
        let from = std::mem::replace(&mut state.0, bundle.id().to_owned());
        Ok(Swap {
            from,
            to: bundle.id().to_owned(),
            encoder_kept: true,
        })
    }
}

struct World {
    scratch: TempDir,
    objects: Arc<dyn ObjectStore>,
    registry: Registry,
    engine: Pretender,
    watch: Watch<Pretender>,
}

impl World {
    async fn new() -> Self {
        let scratch = TempDir::new().unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let registry = Registry::on_store(Arc::clone(&objects), ObjectPath::from("r"))
            .await
            .unwrap();
        let engine = Pretender(Arc::new(Mutex::new(("first".into(), 0))));
        let cache = Cache::at(scratch.path().join("cache"));
        let watch = Watch::new(registry.clone(), cache, engine.clone());
        World {
            scratch,
            objects,
            registry,
            engine,
            watch,
        }
    }

    async fn add(&self, name: &str) -> u64 {
        let folder = bundle(self.scratch.path(), name);
        let registration = Registration {
            bundle: &folder,
            attachments: &[],
            who: "test",
            why: "test",
            run: None,
        };
        self.registry.register(&registration).await.unwrap().version
    }

    async fn point_at(&self, version: u64) {
        let decision = Decision::by_hand(Action::Promoted, version, "test", "test");
        self.registry.decide(decision).await.unwrap();
    }
}

#[tokio::test]
async fn a_moved_pointer_is_followed_once() {
    let mut w = World::new().await;
    assert!(matches!(w.watch.look().await, Look::Same));
    let version = w.add("second").await;
    assert!(
        matches!(w.watch.look().await, Look::Same),
        "registered is not promoted"
    );
    w.point_at(version).await;
    let Look::Swapped(swap) = w.watch.look().await else {
        panic!("the new version was not taken");
    };
    assert_eq!(swap.from, "first");
    assert!(w.engine.serving().starts_with("second"));
    assert!(matches!(w.watch.look().await, Look::Same));
    assert_eq!(w.engine.0.lock().unwrap().1, 1);
}

/// Who waits for a retraining must not take one that held for one that did not come.
#[tokio::test]
async fn the_newest_decision_is_told_also_where_it_moves_nothing() {
    let recorder = crate::ops::metrics::recorder();
    let _local = metrics::set_default_local_recorder(&recorder);
    let mut w = World::new().await;
    let (serves, held) = (w.add("second").await, w.add("third").await);
    w.point_at(serves).await;
    w.watch.look().await;
    let hold = Decision::by_hand(Action::Held, held, "test", "test");
    w.registry.decide(hold).await.unwrap();
    w.watch.look().await;
    let pointer = w.registry.pointer().await.unwrap().unwrap();
    let text = recorder.handle().render();
    let name = "tagstream_registry_decision_timestamp_seconds";
    let told = format!(
        "{name}{{action=\"held\"}} {}",
        pointer.entry.time.timestamp()
    );
    assert!(text.lines().any(|line| line == told), "{told}\n{text}");
    assert!(
        text.contains(&format!("{name}{{action=\"promoted\"}} ")),
        "{text}"
    );
}

#[tokio::test]
async fn an_incompatible_version_is_refused_once_and_a_rollback_is_followed() {
    let mut w = World::new().await;
    let good = w.add("good").await;
    w.point_at(good).await;
    assert!(matches!(w.watch.look().await, Look::Swapped(_)));
    let serving = w.engine.serving();
    let bad = w.add("incompatible").await;
    w.point_at(bad).await;
    match w.watch.look().await {
        Look::Refused { version, reason } => {
            assert_eq!(version, bad);
            assert!(reason.to_string().contains("input size"));
        }
        other => panic!("{other:?}"),
    }
    assert!(
        matches!(w.watch.look().await, Look::Same),
        "not tried again"
    );
    assert_eq!(w.engine.serving(), serving);
    w.registry.roll_back(None, "me", "bad").await.unwrap();
    assert!(
        matches!(w.watch.look().await, Look::Same),
        "it never stopped serving"
    );
    let better = w.add("better").await;
    w.point_at(better).await;
    assert!(matches!(w.watch.look().await, Look::Swapped(_)));
}

#[tokio::test]
async fn a_damaged_version_is_refused_before_anything_is_loaded() {
    let mut w = World::new().await;
    let version = w.add("damaged").await;
    let record = w.registry.version(version).await.unwrap();
    let hash = &record.files[ENCODER_FILE].sha256;
    let blob = ObjectPath::from(format!("r/blobs/{}/{hash}", &hash[..2]));
    w.objects.put(&blob, "damage".into()).await.unwrap();
    w.point_at(version).await;
    assert!(matches!(w.watch.look().await, Look::Refused { .. }));
    assert_eq!(w.engine.0.lock().unwrap().clone(), ("first".into(), 0));
}

/// A full disk, no rights, no memory: the version is as good as before, and taken as soon as there
/// is room.
#[tokio::test]
async fn what_this_machine_lacks_refuses_no_version_for_good() {
    let mut w = World::new().await;
    // The cache cannot be written to: a file stands where its folder would be.
    let in_the_way = w.scratch.path().join("cache");
    std::fs::write(&in_the_way, "").unwrap();
    let version = w.add("second").await;
    w.point_at(version).await;
    for _ in 0..2 {
        let look = w.watch.look().await;
        assert!(
            matches!(look, Look::Postponed { version: v, .. } if v == version),
            "{look:?}"
        );
    }
    std::fs::remove_file(&in_the_way).unwrap();
    assert!(matches!(w.watch.look().await, Look::Swapped(_)));

    w.engine.0.lock().unwrap().1 = 0;
    let greedy = w.add("greedy").await;
    w.point_at(greedy).await;
    assert!(matches!(w.watch.look().await, Look::Postponed { .. }));
    assert!(matches!(w.watch.look().await, Look::Swapped(_)));
}

/// Who is to be told of a refusal hears of it once, and of what goes well, too.
#[tokio::test]
async fn every_look_is_told() {
    let w = World::new().await;
    let version = w.add("incompatible").await;
    w.point_at(version).await;
    let told = Mutex::new(Vec::new());
    let (heard, hear) = tokio::sync::watch::channel(0);
    let keep = |look: &Look| {
        let refused = matches!(look, Look::Refused { version: of, .. } if *of == version);
        told.lock().unwrap().push(refused);
        heard.send_modify(|looks| *looks += 1);
    };
    let mut hear = hear.clone();
    tokio::select! {
        () = w.watch.run_and_tell(Duration::from_millis(1), keep) => {}
        enough = hear.wait_for(|looks| *looks >= 3) => assert!(enough.is_ok()),
    }
    assert_eq!(told.into_inner().unwrap()[..3], [true, false, false]);
}
