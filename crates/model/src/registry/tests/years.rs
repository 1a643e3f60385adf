//! A registry with years behind it: requests side by side, and what goes when it is pruned.

use super::*;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A store that lets requests wait until so many are there, and counts.
#[derive(Debug)]
struct Waiting {
    inner: InMemory,
    /// Requests that are being answered, and the most that ever were.
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "waiting {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Waiting {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> StoreResult<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> StoreResult<GetResult> {
        self.all.fetch_add(1, Ordering::SeqCst);
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        // Everybody who can come has come before anybody is answered.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, StoreResult<ObjectPath>>,
    ) -> BoxStream<'static, StoreResult<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Registers a version made from `parent`, with labels if `labels` names some.
async fn add(
    registry: &Registry,
    scratch: &Path,
    (id, parent): (&str, Option<&str>),
    labels: Option<&str>,
) -> VersionRecord {
    let folder = bundle(scratch, id, b"encoder");
    let manifest_path = folder.join("bundle.json");
    let text = std::fs::read(&manifest_path).unwrap();
    let mut manifest: Manifest = serde_json::from_slice(&text).unwrap();
    manifest.parent = parent.map(Into::into);
    std::fs::write(&manifest_path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let mut attachments = Vec::new();
    if let Some(labels) = labels {
        let path = scratch.join(format!("labels of {id}"));
        std::fs::write(&path, format!("labels of {labels}")).unwrap();
        attachments.push(("labels.csv.gz".to_owned(), path));
    }
    let registration = Registration {
        attachments: &attachments,
        ..registration(&folder)
    };
    registry.register(&registration).await.unwrap()
}

/// 3,000 versions, each a request, took a minute at 20 ms an answer.
#[tokio::test]
async fn versions_and_decisions_are_read_side_by_side_and_bounded() {
    let store = Arc::new(Waiting {
        inner: InMemory::new(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        all: AtomicUsize::new(0),
    });
    let scratch = TempDir::new().unwrap();
    let registry = Registry::on_store(store.clone(), ObjectPath::from("models"))
        .await
        .unwrap();
    let first = add(&registry, scratch.path(), ("a", None), None).await;
    for number in 2..=400 {
        let record = VersionRecord {
            version: number,
            ..first.clone()
        };
        let path = registry.store.version_path(number);
        registry
            .store
            .put_json(&path, &record, PutMode::Create)
            .await
            .unwrap();
        let held = Decision::by_hand(Action::Held, number, "me", "");
        if number % 2 == 0 {
            registry.decide(held).await.unwrap();
        }
    }
    for counter in [&store.all, &store.most] {
        counter.store(0, Ordering::SeqCst);
    }
    let versions = registry.versions().await.unwrap();
    assert!(versions.iter().map(|v| v.version).eq(1..=400));
    let most = store.most.load(Ordering::SeqCst);
    assert!((32..=128).contains(&most), "{most} at once");
    assert_eq!(store.all.load(Ordering::SeqCst), 400);
    store.most.store(0, Ordering::SeqCst);
    let history = registry.history().await.unwrap();
    assert!(history.iter().map(|e| e.sequence).eq(1..=200));
    let most = store.most.load(Ordering::SeqCst);
    assert!((32..=128).contains(&most), "{most} at once");
}

/// Twelve versions: 1 is the root, 2 to 4 its line, of which 3 served and 4 serves; 6 keeps labels
/// and was decided on; the others were held.
async fn history(registry: &Registry, scratch: &Path) {
    for (number, parent) in (1..=12).zip([0, 1, 2, 3, 4, 4, 5, 4, 4, 4, 8, 4]) {
        let id = format!("v{number}");
        let parent = (parent > 0).then(|| format!("v{parent}"));
        let labels = (number == 6 || number == 5).then_some(id.as_str());
        add(registry, scratch, (&id, parent.as_deref()), labels).await;
        let action = match number {
            3 | 4 => Action::Promoted,
            _ => Action::Held,
        };
        let decision = Decision::by_hand(action, number, "me", "");
        registry.decide(decision).await.unwrap();
    }
}

#[tokio::test]
async fn what_serves_or_served_or_is_an_ancestor_never_goes() {
    let scratch = TempDir::new().unwrap();
    for registry in [in_memory().await, in_folder(scratch.path()).await] {
        history(&registry, scratch.path()).await;
        let before = registry.versions().await.unwrap();
        let would = registry.would_prune(2, &[9]).await.unwrap();
        assert_eq!(
            registry.versions().await.unwrap(),
            before,
            "a dry run changes nothing"
        );
        let expected = BTreeMap::from([
            (1, Spared::Ancestor),
            (2, Spared::Ancestor),
            (3, Spared::Served),
            (4, Spared::Serves),
            (6, Spared::Keeps),
            (8, Spared::Ancestor),
            (9, Spared::Asked),
            (11, Spared::Newest),
            (12, Spared::Newest),
        ]);
        assert_eq!(would.kept, expected);
        assert_eq!(would.removed, [5, 7, 10]);

        let pruned = registry.prune(2, &[9], "me").await.unwrap();
        assert_eq!(pruned, would);
        let left: Vec<u64> = before
            .iter()
            .map(|v| v.version)
            .filter(|v| expected.contains_key(v))
            .collect();
        let versions = registry.versions().await.unwrap();
        assert!(versions.iter().map(|v| v.version).eq(left));
        assert_whole(&registry, scratch.path()).await;
        assert_eq!(
            registry.history().await.unwrap().len(),
            12,
            "the history stays"
        );
        // The head, the manifest and the labels of 5, heads and manifests of 7 and 10.
        assert_eq!(pruned.blobs, 7);
        let again = registry.prune(2, &[9], "me").await.unwrap();
        assert_eq!((again.removed.len(), again.blobs), (0, 0));
        // Numbers are not given twice, and a rollback leads to what served.
        let next = add(&registry, scratch.path(), ("v13", None), None).await;
        assert_eq!(next.version, 13);
        assert_eq!(
            registry.roll_back(None, "me", "").await.unwrap().version,
            Some(3)
        );
    }
}

#[tokio::test]
async fn a_pruning_does_not_meet_a_change() {
    let scratch = TempDir::new().unwrap();
    let registry = in_memory().await;
    history(&registry, scratch.path()).await;
    let (objects, prefix) = registry.object_store();
    let minute = std::time::Duration::from_secs(60);
    let lease = tagstream_core::storage::lease::Lease::acquire(
        objects, &prefix, "retrain", "a job", minute,
    );
    let lease = lease.await.unwrap();
    let refused = registry.prune(1, &[], "me").await.unwrap_err();
    assert!(refused.to_string().contains("a job"), "{refused}");
    assert!(refused.is_temporary());
    lease.release().await.unwrap();
    let none = registry.prune(1, &[99], "me").await.unwrap_err();
    assert!(matches!(
        none,
        RegistryError::NoSuchVersion { version: 99, .. }
    ));
    assert_eq!(registry.versions().await.unwrap().len(), 12);
    registry.changing("me").await.unwrap().done().await;
    registry.prune(1, &[], "me").await.unwrap();
    assert_whole(&registry, scratch.path()).await;
}

/// Blobs that a killed pruning or registration left behind go later; young ones may belong to a
/// version that is being registered.
#[tokio::test]
async fn a_young_blob_without_a_version_stays() {
    let scratch = TempDir::new().unwrap();
    let registry = in_memory().await;
    history(&registry, scratch.path()).await;
    let stray = registry.store.blob_path(&digest::sha256(b"stray"));
    registry
        .store
        .objects()
        .put(&stray, PutPayload::from_static(b"stray"))
        .await
        .unwrap();
    registry.prune(1, &[], "me").await.unwrap();
    assert!(registry.store.objects().head(&stray).await.is_ok());
}
