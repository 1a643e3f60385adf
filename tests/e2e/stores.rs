//! What a store must do for exactly-once, for the registry and for the lease, checked on a real S3
//! server; and that one which does not is refused.

use crate::harness::{bucket, not_tested, unique};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, PutMode, PutOptions};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::storage::conformance;
use tagstream_core::storage::lease::{Lease, LeaseError};
use tagstream_core::storage::open::{Missing, Purpose, open};
use tagstream_core::storage::store::{StoreError, TableStore};
use tagstream_model::registry::{Action, Decision, Registration, Registry, RegistryError};

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

/// The suite of `storage::conformance`, which runs on memory and on folders beside its code.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_conforms_as_it_is_opened_for_tables_and_for_registries() {
    let Some((_, url, options)) = on_real_s3("the conformance of stores").await else {
        return;
    };
    for purpose in [Purpose::Tables, Purpose::Registry] {
        let storage = open(&url, &options, purpose, Missing::Refuse).unwrap();
        let folder = storage.prefix.clone().join(purpose.name());
        conformance::check(&storage, &folder).await.unwrap();
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
async fn a_store_that_overwrites_is_refused_with_the_reason_by_tables_registry_and_lease() {
    let careless = || -> Arc<dyn ObjectStore> { Arc::new(Careless(InMemory::new())) };
    let root = ObjectPath::default();
    let tables = TableStore::from_parts("careless://", careless(), root.clone());
    let tables = tables.prove_conditional_put().await.unwrap_err();
    assert!(matches!(tables, StoreError::NoConditionalPut { .. }));
    let registry = Registry::on_store(careless(), root.clone())
        .await
        .unwrap_err();
    assert!(matches!(registry, RegistryError::NoConditionalPut { .. }));
    let hour = Duration::from_secs(3_600);
    let lease = Lease::acquire(careless(), &root, "retrain", "holder", hour).await;
    let lease = lease.unwrap_err();
    assert!(matches!(lease, LeaseError::NoConditionalPut { .. }));
    for told in [tables.to_string(), registry.to_string(), lease.to_string()] {
        assert!(told.contains("a second put overwrote the first"), "{told}");
    }
}
