//! What every store must do for exactly-once, for the registry and for the lease, checked on each:
//! a folder, memory, a real S3 server.

use crate::harness::{bucket, not_tested, unique};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, PutMode, PutOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::storage::lease::{Lease, LeaseError};
use tagstream_core::storage::store::{Put, StoreError, TableStore};
use tagstream_model::registry::{Action, Decision, Registration, Registry, RegistryError};

async fn conforms(store: &TableStore) {
    store.prove_conditional_put().await.unwrap();
    let folder = store.root().clone().join(unique("conformance"));
    let path = |name: &str| folder.clone().join(name);
    // One of many concurrent creators wins, and its bytes stay.
    let tasks = (0..8u8).map(|i| {
        let (store, path) = (store.clone(), path("contested"));
        tokio::spawn(async move {
            (
                i,
                store
                    .put_if_absent(&path, vec![i; 1000].into())
                    .await
                    .unwrap(),
            )
        })
    });
    let mut winners = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        let (i, put) = task.await.unwrap();
        if put == Put::Created {
            winners.push(i);
        }
    }
    assert_eq!(winners.len(), 1, "exactly one creator wins");
    assert_eq!(
        store.read(&path("contested")).await.unwrap().unwrap(),
        vec![winners[0]; 1000]
    );
    assert_eq!(
        store
            .put_if_absent(&path("contested"), "late".into())
            .await
            .unwrap(),
        Put::Exists
    );
    // What was put is listed and read at once.
    for name in [
        "0-00000000000000000009.parquet",
        "0-00000000000000000010.parquet",
        "_0-origin.json",
    ] {
        assert_eq!(
            store
                .put_if_absent(&path(name), name.to_owned().into())
                .await
                .unwrap(),
            Put::Created
        );
    }
    let names = |paths: Vec<ObjectPath>| {
        paths
            .iter()
            .map(|p| p.filename().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let after = store
        .list(&folder, Some(&path("0-00000000000000000010")))
        .await
        .unwrap();
    assert_eq!(
        names(after),
        [
            "0-00000000000000000010.parquet",
            "_0-origin.json",
            "contested"
        ]
    );
    assert_eq!(store.list(&folder, None).await.unwrap().len(), 4);
    let tail = store
        .read_tail(&path("_0-origin.json"), 5)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((tail.0.as_ref(), tail.1), (b".json".as_slice(), 14));
    assert!(
        store
            .read_tail(&path("nothing"), 5)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .list(&folder.clone().join("nothing"), None)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let store = TableStore::open(
        folder.path().to_str().unwrap(),
        &ObjectStoreConfig::default(),
    )
    .await
    .unwrap();
    conforms(&store).await;
    let url = format!("file://{}", folder.path().display());
    conforms(
        &TableStore::open(&url, &ObjectStoreConfig::default())
            .await
            .unwrap(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(&TableStore::in_memory()).await;
}

/// A store of its own on the real S3 server; `None`, aloud, where there is none.
async fn on_real_s3(test: &str) -> Option<(TableStore, String, ObjectStoreConfig)> {
    let Some((bucket, options)) = bucket() else {
        not_tested(&format!(
            "{test}: no real S3 server (TAGSTREAM_TEST_S3_*, see scripts/s3.sh)"
        ));
        return None;
    };
    let url = format!("{bucket}/{}", unique("real-s3"));
    let store = TableStore::open(&url, &options).await.unwrap();
    Some((store, url, options))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_conforms() {
    if let Some((store, ..)) = on_real_s3("conditional put").await {
        conforms(&store).await;
    }
}

/// Of decisions taken on one generation exactly one moves the pointer, whoever comes first.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_real_s3_one_of_many_promotions_wins() {
    let Some((_, url, options)) = on_real_s3("the registry").await else {
        return;
    };
    let registry = Registry::open_or_create(&format!("{url}/models"), &options)
        .await
        .unwrap();
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model");
    let registration = |run| Registration {
        bundle: &bundle,
        attachments: &[],
        who: "test",
        why: "because",
        run,
    };
    let first = registry.register(&registration(None)).await.unwrap();
    let decision = |generation, who: &str| Decision {
        generation,
        ..Decision::by_hand(Action::Promoted, first.version, who, "because")
    };
    let begun = registry.decide(decision(None, "a")).await.unwrap();
    let mut generation = begun.generation;
    for round in 0..5 {
        let tasks = (0..8).map(|i| {
            let (registry, decision) = (
                registry.clone(),
                decision(Some(generation), &format!("{round}-{i}")),
            );
            tokio::spawn(async move { registry.decide(decision).await })
        });
        let mut winners = 0;
        for task in tasks.collect::<Vec<_>>() {
            match task.await.unwrap() {
                Ok(pointer) => {
                    winners += 1;
                    generation = pointer.generation;
                }
                Err(RegistryError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners, 1, "round {round}");
    }
    let history = registry.history().await.unwrap();
    assert_eq!(history.len(), 6, "{history:?}");
}

/// One of many takes a free lease; the next holder's token is higher, and the old one notices.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_real_s3_one_of_many_takes_the_lease() {
    let Some((store, ..)) = on_real_s3("the lease").await else {
        return;
    };
    let (objects, prefix) = (store.objects().clone(), store.root().clone());
    let take = |holder: String, time: Duration| {
        let (objects, prefix) = (Arc::clone(&objects), prefix.clone());
        async move { Lease::acquire(objects, &prefix, "retrain", &holder, time).await }
    };
    let hour = Duration::from_secs(3_600);
    let tasks = (0..8).map(|i| tokio::spawn(take(format!("holder-{i}"), hour)));
    let (mut won, mut refused) = (Vec::new(), 0);
    for task in tasks.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(lease) => won.push(lease),
            Err(LeaseError::Held { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((won.len(), refused), (1, 7));
    let first = won.pop().unwrap();
    let token = first.token();
    first.release().await.unwrap();
    // Held for no time at all: whoever comes next may take it over.
    let mut second = take("second".into(), Duration::ZERO).await.unwrap();
    assert!(second.token() > token);
    let third = take("third".into(), hour).await.unwrap();
    assert!(third.token() > second.token());
    assert!(matches!(
        second.renew().await.unwrap_err(),
        LeaseError::Lost { .. }
    ));
}

/// A store that ignores the condition, as some S3-compatible servers do.
#[derive(Debug)]
struct Careless(InMemory);

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("careless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: object_store::PutPayload,
        _: PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.0
            .put_opts(location, payload, PutMode::Overwrite.into())
            .await
    }
    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        opts: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }
    async fn get_opts(
        &self,
        location: &ObjectPath,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<ObjectPath>> {
        self.0.delete_stream(locations)
    }
    fn list(
        &self,
        prefix: Option<&ObjectPath>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(
        &self,
        prefix: Option<&ObjectPath>,
    ) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_store_that_overwrites_is_refused_with_the_reason() {
    let store = TableStore::from_parts(
        "careless://",
        Arc::new(Careless(InMemory::new())),
        ObjectPath::default(),
    );
    let error = store.prove_conditional_put().await.unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalPut { .. }));
    assert!(
        error
            .to_string()
            .contains("a second put overwrote the first"),
        "{error}"
    );
}
