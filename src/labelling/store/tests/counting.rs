//! A store that counts what is read from it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tagstream_core::storage::store::TableStore;

/// Passes everything to a store in memory, and counts.
#[derive(Debug, Default)]
pub(super) struct Counting {
    inner: InMemory,
    pub(super) bytes: AtomicU64,
    pub(super) requests: AtomicUsize,
    /// What was read, by name.
    pub(super) read: Mutex<Vec<String>>,
}

impl Counting {
    pub(super) fn new() -> (Arc<Self>, TableStore) {
        let counting = Arc::new(Counting::default());
        let objects: Arc<dyn ObjectStore> = counting.clone();
        (
            counting,
            TableStore::from_parts("counting:", objects, Path::default()),
        )
    }

    /// Files read since it was last asked, without what is kept beside tables.
    pub(super) fn take_read(&self) -> Vec<String> {
        let mut read = std::mem::take(&mut *self.read.lock().unwrap());
        read.retain(|path| !path.contains("/_snapshot/"));
        read.sort();
        read.dedup();
        read
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "counting {}", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.inner.get_opts(location, options).await?;
        let length = result.range.end - result.range.start;
        self.bytes.fetch_add(length, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::SeqCst);
        self.read.lock().unwrap().push(location.to_string());
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
