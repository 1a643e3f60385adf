//! What every store must do for exactly-once, checked on each: a folder, memory, and a real S3 where one is named.

use object_store::{ObjectStore, PutMode, PutOptions, memory::InMemory, path::Path};
use std::sync::Arc;
use tagstream::{
    config::ObjectStoreConfig,
    stage::sink::store::{Put, StoreError, TableStore},
};

async fn conforms(store: &TableStore) {
    store.prove_conditional_put().await.unwrap();
    let folder = store
        .root()
        .clone()
        .join(crate::harness::unique("conformance"));
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
    let names = |paths: Vec<Path>| {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_conforms_where_one_is_named() {
    let Ok(url) = std::env::var("TAGSTREAM_TEST_S3_URL") else {
        eprintln!(
            "no real S3: TAGSTREAM_TEST_S3_URL names none; the folder and the memory store were checked"
        );
        return;
    };
    conforms(
        &TableStore::open(&url, &ObjectStoreConfig::default())
            .await
            .unwrap(),
    )
    .await;
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
        location: &Path,
        payload: object_store::PutPayload,
        _: PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        self.0
            .put_opts(location, payload, PutMode::Overwrite.into())
            .await
    }
    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }
    async fn get_opts(
        &self,
        location: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        self.0.delete_stream(locations)
    }
    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(
        &self,
        prefix: Option<&Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
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
        Path::default(),
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
