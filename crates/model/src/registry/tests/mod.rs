//! Races, crashes at every write, fencing: what the registry promises holds. Damage and refusals
//! stand in `refusals.rs`.

mod faulty;
mod refusals;
mod years;

use super::*;
use crate::bundle::{Calibration, Category, Dims, FORMAT_VERSION, FileEntry, Lineage, Manifest};
use chrono::Utc;
use faulty::{Fault, Faulty};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use tagstream_core::digest;
use tagstream_image::preprocessing::{Filter, Fit, Preprocessing};
use tempfile::TempDir;

/// A folder that is a bundle as far as the registry looks: a manifest and files with the right
/// hashes.
fn bundle(root: &Path, name: &str, encoder: &[u8]) -> PathBuf {
    let folder = root.join(name);
    std::fs::create_dir_all(folder.join("text")).unwrap();
    let mut files = BTreeMap::new();
    for (path, content) in [
        ("encoder.onnx", encoder),
        ("head.onnx", name.as_bytes()),
        ("text/config.json", b"{}".as_slice()),
    ] {
        std::fs::write(folder.join(path), content).unwrap();
        let sha256 = digest::sha256(content);
        let bytes = content.len() as u64;
        files.insert(path.to_string(), FileEntry { sha256, bytes });
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        id: name.into(),
        parent: None,
        created: Utc::now(),
        categories: vec![Category::named("cat", "cat", 0.5)],
        dims: Dims {
            embedding: 4,
            grid_height: 1,
            grid_width: 1,
        },
        preprocessing: Preprocessing {
            height: 8,
            width: 8,
            fit: Fit::Squash,
            filter: Filter::Bicubic,
        },
        preprocessing_hash: String::new(),
        calibration: Calibration { temperature: 1.0 },
        files,
        metrics: BTreeMap::from([("map".into(), 0.5)]),
        lineage: Lineage::default(),
    };
    let json = serde_json::to_vec(&manifest).unwrap();
    std::fs::write(folder.join("bundle.json"), json).unwrap();
    folder
}

fn registration(bundle: &Path) -> Registration<'_> {
    Registration {
        bundle,
        attachments: &[],
        who: "test",
        why: "because",
        run: None,
    }
}

fn promotion(version: u64, generation: Option<u64>, who: &str) -> Decision {
    Decision {
        verdict: Some(Verdict::Promote),
        generation,
        ..Decision::by_hand(Action::Promoted, version, who, "because")
    }
}

async fn in_memory() -> Registry {
    Registry::on_store(Arc::new(InMemory::new()), ObjectPath::from("models"))
        .await
        .unwrap()
}

async fn in_folder(root: &Path) -> Registry {
    let url = root.join("registry");
    Registry::open_or_create(url.to_str().unwrap(), &ObjectStoreConfig::default())
        .await
        .unwrap()
}

/// All that must hold of a registry whatever happened to it.
async fn assert_whole(registry: &Registry, scratch: &Path) {
    let cache = Cache::at(scratch.join(record::nonce()));
    for version in registry.versions().await.unwrap() {
        let folder = registry.materialise(&version, &cache).await.unwrap();
        assert!(folder.join("bundle.json").is_file());
    }
    let history = registry.history().await.unwrap();
    for (i, entry) in history.iter().enumerate() {
        assert_eq!(entry.sequence, i as u64 + 1, "a gap in the history");
    }
    if let Some(pointer) = registry.pointer().await.unwrap() {
        let moves: Vec<_> = history.iter().filter(|e| e.action.moves()).collect();
        assert_eq!(moves.len() as u64, pointer.generation);
        assert_eq!(moves.last().map(|e| e.version), pointer.version);
        let nonces: HashSet<_> = history.iter().map(|e| &e.nonce).collect();
        assert_eq!(nonces.len(), history.len(), "an entry stands twice");
    }
}

#[tokio::test]
async fn a_version_goes_in_and_comes_out_the_same() {
    let scratch = TempDir::new().unwrap();
    let large = vec![7u8; (9 << 20) + 3];
    for registry in [in_memory().await, in_folder(scratch.path()).await] {
        assert!(matches!(
            registry.current().await,
            Err(RegistryError::NothingPromoted { .. })
        ));
        let folder = bundle(scratch.path(), "a", &large);
        let report = folder.join("../report.html");
        std::fs::write(&report, "<p>").unwrap();
        let attachments = [("report.html".to_string(), report)];
        let version = registry
            .register(&Registration {
                attachments: &attachments,
                ..registration(&folder)
            })
            .await
            .unwrap();
        assert_eq!((version.version, version.id.as_str()), (1, "a"));
        assert_eq!(registry.pointer().await.unwrap(), None);
        let pointer = registry.decide(promotion(1, None, "me")).await.unwrap();
        assert_eq!(pointer.version, Some(1));
        assert_eq!(registry.current().await.unwrap(), version);

        let cache = Cache::at(scratch.path().join(record::nonce()));
        let out = registry.materialise(&version, &cache).await.unwrap();
        for file in [
            "encoder.onnx",
            "head.onnx",
            "text/config.json",
            "bundle.json",
        ] {
            let (there, here) = (out.join(file), folder.join(file));
            assert_eq!(std::fs::read(there).unwrap(), std::fs::read(here).unwrap());
        }
        let to = scratch.path().join("fetched.html");
        registry
            .attachment(&version, "report.html", &to)
            .await
            .unwrap();
        assert_eq!(std::fs::read(to).unwrap(), b"<p>");
        assert_whole(&registry, scratch.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_promotions_exactly_one_wins_and_the_others_are_told() {
    let scratch = TempDir::new().unwrap();
    for registry in [in_memory().await, in_folder(scratch.path()).await] {
        let racers = 8;
        let mut registering = Vec::new();
        for i in 0..racers {
            let folder = bundle(scratch.path(), &format!("m{i}"), b"encoder");
            let registry = registry.clone();
            registering.push(tokio::spawn(async move {
                registry
                    .register(&registration(&folder))
                    .await
                    .unwrap()
                    .version
            }));
        }
        let mut numbers = HashSet::new();
        for task in registering {
            numbers.insert(task.await.unwrap());
        }
        assert_eq!(
            numbers,
            (1..=racers).collect(),
            "each got a number of its own"
        );

        registry.decide(promotion(1, None, "first")).await.unwrap();
        let racing: Vec<_> = (1..=racers)
            .map(|i| {
                let registry = registry.clone();
                let decision = promotion(i, Some(1), &format!("racer {i}"));
                tokio::spawn(async move { (i, registry.decide(decision).await) })
            })
            .collect();
        let mut winners = Vec::new();
        let mut told = Vec::new();
        for task in racing {
            match task.await.unwrap() {
                (i, Ok(_)) => winners.push(i),
                (_, Err(RegistryError::Conflict { by, version, .. })) => told.push((by, version)),
                (_, Err(other)) => panic!("{other}"),
            }
        }
        assert_eq!(winners.len(), 1);
        let winner = (format!("racer {}", winners[0]), Some(winners[0]));
        assert!(told.iter().all(|t| *t == winner), "{told:?}");
        assert_eq!(registry.current().await.unwrap().version, winners[0]);
        assert_eq!(registry.history().await.unwrap().len(), 2);
        assert_whole(&registry, scratch.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refusals_are_recorded_and_do_not_hinder_a_promotion() {
    let scratch = TempDir::new().unwrap();
    for registry in [in_memory().await, in_folder(scratch.path()).await] {
        let folder = bundle(scratch.path(), "a", b"encoder");
        registry.register(&registration(&folder)).await.unwrap();
        registry.decide(promotion(1, None, "me")).await.unwrap();
        let tasks: Vec<_> = (0..10)
            .map(|i| {
                let registry = registry.clone();
                let action = [Action::Held, Action::Rejected][i % 2];
                let decision = Decision {
                    action,
                    ..promotion(1, Some(1), &format!("run {i}"))
                };
                tokio::spawn(async move { registry.decide(decision).await.map(drop) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        registry.decide(promotion(1, Some(1), "me")).await.unwrap();
        let history = registry.history().await.unwrap();
        assert_eq!(history.len(), 12);
        let who: HashSet<_> = history.iter().map(|e| e.who.as_str()).collect();
        assert_eq!(who.len(), 11, "no entry was lost");
        assert_whole(&registry, scratch.path()).await;
    }
}

/// Register a second version and promote it: the whole way of a new model.
async fn release(registry: &Registry, folder: &Path) -> Result<Pointer, RegistryError> {
    let registration = Registration {
        run: Some("run-2"),
        ..registration(folder)
    };
    let version = registry.register(&registration).await?;
    let generation = registry.pointer().await?.map(|p| p.generation);
    registry
        .decide(promotion(version.version, generation, "job"))
        .await
}

#[tokio::test]
async fn a_crash_at_any_write_leaves_the_registry_as_before_or_as_after() {
    let scratch = TempDir::new().unwrap();
    let first = bundle(scratch.path(), "a", b"encoder");
    let second = bundle(scratch.path(), "b", b"another encoder");
    for local in [false, true] {
        for fault in [Fault::DiesBefore, Fault::DiesAfter] {
            for at in 0.. {
                let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
                let registry = if local {
                    in_folder(&scratch.path().join(record::nonce())).await
                } else {
                    let prefix = ObjectPath::from("r");
                    Registry::on_store(objects, prefix).await.unwrap()
                };
                registry.register(&registration(&first)).await.unwrap();
                registry.decide(promotion(1, None, "me")).await.unwrap();

                let faulty = Faulty::new(Arc::clone(registry.store.objects()), at, fault);
                let dying = Registry {
                    store: Arc::new(RegistryStore(Storage {
                        objects: faulty.clone(),
                        ..registry.store.0.clone()
                    })),
                };
                let outcome = release(&dying, &second).await;
                let struck = faulty.struck();
                assert_eq!(outcome.is_err(), struck);

                assert_whole(&registry, scratch.path()).await;
                let serving = registry.pointer().await.unwrap().unwrap().version;
                assert!(serving == Some(1) || serving == Some(2));
                // The next run of the same job ends where the first would have.
                if serving == Some(1) {
                    release(&registry, &second).await.unwrap();
                }
                assert_whole(&registry, scratch.path()).await;
                assert_eq!(registry.versions().await.unwrap().len(), 2);
                assert_eq!(registry.history().await.unwrap().len(), 2);
                assert_eq!(registry.current().await.unwrap().id, "b");
                // And nothing of this hinders what comes after.
                registry.roll_back(None, "me", "test").await.unwrap();
                assert_eq!(registry.current().await.unwrap().id, "a");
                assert_whole(&registry, scratch.path()).await;
                if !struck {
                    // Blobs, version, pointer (not through the object store in a folder), history.
                    assert!(at >= 5, "only {at} writes were tried");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_lost_answer_neither_doubles_nor_loses() {
    let scratch = TempDir::new().unwrap();
    let first = bundle(scratch.path(), "a", b"encoder");
    let second = bundle(scratch.path(), "b", b"another encoder");
    for at in 0.. {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let prefix = ObjectPath::from("r");
        let registry = Registry::on_store(objects.clone(), prefix.clone())
            .await
            .unwrap();
        registry.register(&registration(&first)).await.unwrap();
        registry.decide(promotion(1, None, "me")).await.unwrap();
        let faulty = Faulty::new(objects, at, Fault::AnswerLost);
        let shaky = Registry {
            store: Arc::new(RegistryStore(Storage::from_parts(
                "r",
                faulty.clone(),
                prefix,
            ))),
        };
        if release(&shaky, &second).await.is_err()
            && registry.pointer().await.unwrap().unwrap().version == Some(1)
        {
            release(&shaky, &second).await.unwrap();
        }
        assert_eq!(registry.current().await.unwrap().id, "b");
        assert_eq!(registry.history().await.unwrap().len(), 2);
        assert_whole(&registry, scratch.path()).await;
        if !faulty.struck() {
            break;
        }
    }
}

#[tokio::test]
async fn what_a_killed_writer_leaves_in_a_folder_does_no_harm() {
    let scratch = TempDir::new().unwrap();
    let registry = in_folder(scratch.path()).await;
    let folder = bundle(scratch.path(), "a", b"encoder");
    registry.register(&registration(&folder)).await.unwrap();
    let root = scratch.path().join("registry");
    std::fs::write(root.join(".current.json.partial"), b"{\"half\":").unwrap();
    std::fs::write(root.join("current.lock"), b"").unwrap();
    registry.decide(promotion(1, None, "me")).await.unwrap();
    assert_whole(&registry, scratch.path()).await;
}

#[tokio::test]
async fn an_older_token_is_fenced_off_before_the_newer_one_has_decided_anything() {
    let scratch = TempDir::new().unwrap();
    for registry in [in_memory().await, in_folder(scratch.path()).await] {
        let folder = bundle(scratch.path(), "a", b"encoder");
        registry.register(&registration(&folder)).await.unwrap();
        registry.decide(promotion(1, None, "me")).await.unwrap();
        let with_token = |token| Decision {
            token: Some(token),
            ..promotion(1, None, "job")
        };
        registry.raise_fence(4).await.unwrap();
        registry.decide(with_token(4)).await.unwrap();
        registry.raise_fence(5).await.unwrap();
        let late = registry.decide(with_token(4)).await;
        assert!(matches!(
            late,
            Err(RegistryError::Fenced { ours: 4, newest: 5 })
        ));
        assert!(registry.raise_fence(4).await.is_err());
        registry.decide(with_token(5)).await.unwrap();
        // A person is not fenced.
        registry.decide(promotion(1, None, "me")).await.unwrap();
        assert_eq!(registry.pointer().await.unwrap().unwrap().fence, 5);
        assert_whole(&registry, scratch.path()).await;
    }
}

#[tokio::test]
async fn rolling_back_twice_goes_back_two_versions() {
    let scratch = TempDir::new().unwrap();
    let registry = in_memory().await;
    for name in ["a", "b", "c"] {
        let folder = bundle(scratch.path(), name, b"encoder");
        let version = registry.register(&registration(&folder)).await.unwrap();
        let decision = promotion(version.version, None, "me");
        registry.decide(decision).await.unwrap();
    }
    let back = async |to| {
        let pointer = registry.roll_back(to, "me", "bad").await?;
        Ok::<_, RegistryError>(pointer.id.unwrap())
    };
    assert_eq!(back(None).await.unwrap(), "b");
    assert_eq!(back(None).await.unwrap(), "a");
    assert!(matches!(
        back(None).await,
        Err(RegistryError::NothingToRollBackTo)
    ));
    assert_eq!(back(Some(3)).await.unwrap(), "c");
    assert_eq!(back(None).await.unwrap(), "a");
    assert!(matches!(
        back(Some(9)).await,
        Err(RegistryError::NoSuchVersion {
            version: 9,
            newest: Some(3)
        })
    ));
    assert_eq!(registry.history().await.unwrap().len(), 7);
}
