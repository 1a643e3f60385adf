//! What is damaged, dishonest or not there is named and refused; addresses and records are what
//! they say.

use super::*;

#[tokio::test]
async fn damage_is_found_and_a_damaged_cache_is_repaired() {
    let scratch = TempDir::new().unwrap();
    let registry = in_folder(scratch.path()).await;
    let folder = bundle(scratch.path(), "a", b"encoder");
    let version = registry.register(&registration(&folder)).await.unwrap();
    let cache = Cache::at(scratch.path().join("cache"));
    let out = registry.materialise(&version, &cache).await.unwrap();
    std::fs::write(out.join("encoder.onnx"), b"ENCODER").unwrap();
    let again = registry.materialise(&version, &cache).await.unwrap();
    assert_eq!(again, out);
    assert_eq!(std::fs::read(out.join("encoder.onnx")).unwrap(), b"encoder");

    let blob = registry
        .store
        .blob_path(&version.files["encoder.onnx"].sha256);
    registry
        .store
        .objects()
        .put(&blob, "ENCODER".into())
        .await
        .unwrap();
    let fresh = Cache::at(scratch.path().join("fresh"));
    let error = registry.materialise(&version, &fresh).await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. }), "{error}");
    registry.store.objects().delete(&blob).await.unwrap();
    let error = registry.materialise(&version, &fresh).await.unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(registry.materialise(&version, &cache).await.is_ok());
}

#[tokio::test]
async fn names_and_hashes_that_leave_the_cache_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let registry = in_memory().await;
    let folder = bundle(scratch.path(), "m", b"encoder");
    let good = registry.register(&registration(&folder)).await.unwrap();
    let cache = Cache::at(scratch.path().join("cache"));
    for (name, sha256) in [
        ("../out", None),
        ("/out", None),
        ("a/../../out", None),
        ("a", Some("../../out")),
        ("a", Some("/out")),
        ("a", Some("")),
    ] {
        let mut version = good.clone();
        let mut entry = version.files["encoder.onnx"].clone();
        entry.sha256 = sha256.map_or(entry.sha256, String::from);
        version.files.insert(name.into(), entry);
        let had = registry.materialise(&version, &cache).await;
        assert!(
            matches!(had, Err(RegistryError::Corrupt { .. })),
            "{name} {sha256:?}: {had:?}"
        );
    }
    assert!(!scratch.path().join("out").exists() && !scratch.path().join("cache").exists());
}

#[tokio::test]
async fn a_bundle_that_is_not_what_it_says_is_refused() {
    let scratch = TempDir::new().unwrap();
    let registry = in_memory().await;
    let folder = bundle(scratch.path(), "a", b"encoder");
    std::fs::write(folder.join("encoder.onnx"), b"ENCODER").unwrap();
    let error = registry.register(&registration(&folder)).await.unwrap_err();
    assert!(error.to_string().contains("encoder.onnx"), "{error}");
    let folder = bundle(scratch.path(), "b", b"encoder");
    let text = std::fs::read_to_string(folder.join("bundle.json")).unwrap();
    let escaping = text.replace("text/config.json", "../a/text/config.json");
    std::fs::write(folder.join("bundle.json"), escaping).unwrap();
    let error = registry.register(&registration(&folder)).await.unwrap_err();
    assert!(error.to_string().contains("leaves the folder"), "{error}");
    assert!(registry.versions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let faulty = Faulty::new(
        Arc::new(InMemory::new()),
        usize::MAX,
        Fault::IgnoresConditions,
    );
    let error = Registry::on_store(faulty, ObjectPath::from("r"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistryError::NoConditionalPut { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_without_a_registry_is_named_and_left_alone() {
    let scratch = TempDir::new().unwrap();
    let missing = scratch.path().join("nowhere");
    for folder in [&missing, &scratch.path().to_path_buf()] {
        let opened = Registry::open(folder.to_str().unwrap(), &ObjectStoreConfig::default()).await;
        assert!(matches!(opened, Err(RegistryError::NotARegistry { .. })));
    }
    assert!(!missing.exists());
}

#[test]
fn addresses_are_taken_apart() {
    let parse = |spec| {
        let l = Location::parse(spec);
        (l.url, l.version)
    };
    let current = VersionChoice::Current;
    assert_eq!(parse("s3://b/p"), ("s3://b/p".into(), current));
    assert_eq!(
        parse("s3://b/p@7"),
        ("s3://b/p".into(), VersionChoice::Number(7))
    );
    assert_eq!(parse("/x@y/reg"), ("/x@y/reg".into(), current));
    assert_eq!(parse("/x@y/reg@current"), ("/x@y/reg".into(), current));
    assert!(Location::is_registry("s3://b/p@7"));
    assert!(!Location::is_registry("/nowhere/at/all"));
}

#[tokio::test]
async fn the_schema_and_the_records_agree() {
    let scratch = TempDir::new().unwrap();
    let registry = in_memory().await;
    let folder = bundle(scratch.path(), "a", b"encoder");
    let report = scratch.path().join("report.html");
    std::fs::write(&report, "<p>").unwrap();
    let version = registry
        .register(&Registration {
            attachments: &[("report.html".to_string(), report)],
            run: Some("run"),
            ..registration(&folder)
        })
        .await
        .unwrap();
    let version = VersionRecord {
        parent: Some("parent".into()),
        ..version
    };
    let decision = Decision {
        run: Some("run".into()),
        ..promotion(1, None, "me")
    };
    let pointer = registry.decide(decision).await.unwrap();
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../../../schemas/registry.schema.json")).unwrap();
    let records = [
        ("version", serde_json::to_value(&version).unwrap()),
        ("pointer", serde_json::to_value(&pointer).unwrap()),
        ("entry", serde_json::to_value(&pointer.entry).unwrap()),
    ];
    for (name, record) in records {
        let definition = &schema["$defs"][name];
        let stated = definition["properties"].as_object().unwrap();
        let written: HashSet<_> = record.as_object().unwrap().keys().collect();
        assert_eq!(written, stated.keys().collect(), "{name}");
        for required in definition["required"].as_array().unwrap() {
            assert!(
                written.contains(&required.as_str().unwrap().to_owned()),
                "{name}"
            );
        }
    }
    for action in [
        Action::Promoted,
        Action::RolledBack,
        Action::Held,
        Action::Rejected,
    ] {
        let known = schema["$defs"]["entry"]["properties"]["action"]["enum"].as_array();
        assert!(
            known
                .unwrap()
                .contains(&serde_json::to_value(action).unwrap())
        );
    }
    for verdict in [Verdict::Promote, Verdict::Hold, Verdict::Reject] {
        let known = schema["$defs"]["entry"]["properties"]["verdict"]["enum"].as_array();
        assert!(
            known
                .unwrap()
                .contains(&serde_json::to_value(verdict).unwrap())
        );
    }
}

/// What a lifecycle rule of a bucket takes.
#[tokio::test]
async fn what_other_hands_delete_is_named() {
    let scratch = TempDir::new().unwrap();
    let registry = in_folder(scratch.path()).await;
    for name in ["a", "b"] {
        let folder = bundle(scratch.path(), name, name.as_bytes());
        let version = registry.register(&registration(&folder)).await.unwrap();
        let promoted = Decision::by_hand(Action::Promoted, version.version, "who", "why");
        registry.decide(promoted).await.unwrap();
    }
    let named = |error: RegistryError, path: &ObjectPath| {
        let said = error.to_string();
        assert!(
            said.contains(path.as_ref()) && said.contains("lifecycle rule"),
            "{said}"
        );
        assert!(!error.is_temporary());
    };
    let delete = async |path: &ObjectPath| {
        registry.store.objects().delete(path).await.unwrap();
    };
    let entry = registry.store.history_path(1);
    let version = registry.store.version_path(2);
    delete(&version).await;
    named(registry.current().await.unwrap_err(), &version);
    let pointer = registry.store.path(&["current.json"]);
    let bytes = std::fs::read(scratch.path().join("registry/current.json")).ok();
    delete(&pointer).await;
    named(registry.pointer().await.unwrap_err(), &pointer);
    let again = Decision::by_hand(Action::Promoted, 1, "who", "why");
    named(registry.decide(again).await.unwrap_err(), &pointer);
    if let Some(bytes) = bytes {
        registry
            .store
            .objects()
            .put(&pointer, bytes.into())
            .await
            .unwrap();
        delete(&entry).await;
        named(registry.history().await.unwrap_err(), &entry);
    }
}

/// A read-only home, or none.
#[tokio::test]
async fn a_cache_that_cannot_be_written_to_is_named_with_what_moves_it() {
    let scratch = TempDir::new().unwrap();
    let registry = in_folder(scratch.path()).await;
    let folder = bundle(scratch.path(), "a", b"encoder");
    let version = registry.register(&registration(&folder)).await.unwrap();
    let file = scratch.path().join("home");
    std::fs::write(&file, "no folder").unwrap();
    let cache = Cache::at(file.join(".cache/tagstream/models"));
    let error = registry.materialise(&version, &cache).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("set TAGSTREAM_CACHE to a folder"),
        "{error}"
    );
}
