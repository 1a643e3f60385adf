//! Where tables are kept: a local folder or an object store, of which one thing is asked above all:
//! a put that creates or refuses, atomically and durably.
//!
//! On a local disk: write aside under a hidden name, fsync, hard-link, fsync the folder. On S3,
//! Google Cloud Storage and Azure: a conditional put. A store that cannot do this is refused when
//! it is opened.

mod error;

pub use error::StoreError;

use super::conformance::{Nonconformance, proves_create};
use super::open::{Missing, Purpose, Storage, open};
use super::swap::{SwapError, SwapOutcome, VersionedObject};
use super::{listing, staging};
use crate::config::ObjectStoreConfig;
use crate::process::blocking;
use bytes::Bytes;
use error::classified;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

/// Put twice when a store is opened; the second must be refused.
const PROBE: &str = "_tagstream-conditional-put-probe";

/// What a create-if-absent put came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The file was absent and is now there.
    Created,
    /// A file of that name was there; nothing changed.
    Exists,
}

/// An opened store and the prefix below which tables lie. Clones share it.
#[derive(Debug, Clone)]
pub struct TableStore(Storage);

impl TableStore {
    /// Opens `url`: a folder (created if missing), `file://`, `s3://`, `gs://` or `az://`; and
    /// proves that it can create only if absent.
    ///
    /// # Errors
    /// [`StoreError`] says why the place cannot be used.
    pub async fn open(url: &str, options: &ObjectStoreConfig) -> Result<Self, StoreError> {
        let store = TableStore(open(url, options, Purpose::Tables, Missing::Create)?);
        store.sweep(store.root()).await;
        store.prove_conditional_put().await?;
        Ok(store)
    }

    /// Opens `url` for readers, who need no conditional put and create nothing.
    ///
    /// # Errors
    /// [`StoreError::NoFolder`] if `url` names a folder that is not there; otherwise [`StoreError`]
    /// says why the place cannot be used.
    pub fn open_for_reading(url: &str, options: &ObjectStoreConfig) -> Result<Self, StoreError> {
        let opened = open(url, options, Purpose::Tables, Missing::Refuse)?;
        Ok(TableStore(opened))
    }

    /// A store that lives in this process's memory.
    pub fn in_memory() -> Self {
        Self::from_parts("memory:", Arc::new(InMemory::new()), Path::default())
    }

    /// Any object store, as it is.
    pub fn from_parts(url: &str, inner: Arc<dyn ObjectStore>, root: Path) -> Self {
        TableStore(Storage::from_parts(url, inner, root))
    }

    /// The place, for people: without what of it is a secret.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The place, in the one way in which it can be written, whoever asks.
    pub fn place(&self) -> String {
        match &self.0.disk {
            Some(disk) => disk.folder.display().to_string(),
            None => self.0.url.clone(),
        }
    }

    /// The prefix below which tables lie.
    pub fn root(&self) -> &Path {
        &self.0.prefix
    }

    /// The store itself, for readers.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.0.objects
    }

    /// Puts one name twice; the second put must be refused. Leaves the (empty) file there.
    ///
    /// # Errors
    /// [`StoreError::NoConditionalPut`], or what kept the store from answering.
    pub async fn prove_conditional_put(&self) -> Result<(), StoreError> {
        let path = self.root().clone().join(PROBE);
        match proves_create(&**self.objects(), &path).await {
            Ok(()) => Ok(()),
            Err(Nonconformance::Failed(source)) => Err(classified("put", &path, source)),
            Err(unfit) => Err(StoreError::NoConditionalPut {
                url: self.url().into(),
                reason: unfit.to_string(),
            }),
        }
    }

    /// Removes what killed processes left aside in `folder` of a local disk; does nothing
    /// elsewhere.
    pub async fn sweep(&self, folder: &Path) {
        let disk = self.0.disk.as_ref();
        let Some(folder) = disk.and_then(|disk| disk.files.path_to_filesystem(folder).ok()) else {
            return;
        };
        let work = move || match staging::sweep(&folder, SystemTime::now()) {
            Ok(0) => {}
            Ok(files) => {
                let folder = folder.display();
                tracing::info!(%folder, files, "files aside of a killed process were removed");
            }
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%folder, %error, "cannot remove what killed processes left aside");
            }
        };
        // Nothing depends on it.
        let _ = blocking::run(work).await;
    }

    /// Creates `path` with `bytes`, whole and durable, or leaves what is there.
    ///
    /// # Errors
    /// [`StoreError`]; after a transient one the file may or may not be there.
    pub async fn put_if_absent(&self, path: &Path, bytes: Bytes) -> Result<Put, StoreError> {
        let options = PutOptions::from(PutMode::Create);
        match self.0.objects.put_opts(path, bytes.into(), options).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(classified("put", path, error)),
        }
    }

    /// A file that is replaced now and then, with what proves that it is still the same; `None` if
    /// it is not there.
    ///
    /// # Errors
    /// What the store said.
    pub async fn read_to_swap(
        &self,
        path: &Path,
    ) -> Result<Option<VersionedObject>, object_store::Error> {
        self.0.read_to_swap(path).await
    }

    /// Replaces such a file if it still is as it was read.
    ///
    /// # Errors
    /// [`SwapError`].
    pub async fn compare_and_set(
        &self,
        path: &Path,
        read: Option<VersionedObject>,
        next: Bytes,
    ) -> Result<SwapOutcome, SwapError> {
        self.0.compare_and_set(path, read, next).await
    }

    /// The whole of `path`; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        self.get(path, GetOptions::default())
            .await
            .map(|found| found.map(|(bytes, _)| bytes))
    }

    /// The last `length` bytes of `path` (all of it if it is shorter) and its whole size; `None` if
    /// it is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_tail(
        &self,
        path: &Path,
        length: u64,
    ) -> Result<Option<(Bytes, u64)>, StoreError> {
        // Azure has no suffix ranges: ask for the size first, everywhere alike.
        let size = match self.0.objects.head(path).await {
            Ok(meta) => meta.size,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(classified("read", path, error)),
        };
        let options = GetOptions {
            range: Some(GetRange::Bounded(size.saturating_sub(length)..size)),
            ..GetOptions::default()
        };
        self.get(path, options).await
    }

    /// Some bytes of `path`, with the mark of the content they are of; `None` if it is not there,
    /// or no longer the content of the mark given.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read_range(
        &self,
        path: &Path,
        range: Range<u64>,
        mark: Option<String>,
    ) -> Result<Option<(Bytes, Option<String>)>, StoreError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: mark,
            ..GetOptions::default()
        };
        let result = match self.0.objects.get_opts(path, options).await {
            Ok(result) => result,
            Err(
                object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. },
            ) => return Ok(None),
            Err(error) => return Err(classified("read", path, error)),
        };
        let mark = result.meta.e_tag.clone();
        let bytes = result.bytes().await;
        let bytes = bytes.map_err(|error| classified("read", path, error))?;
        Ok(Some((bytes, mark)))
    }

    async fn get(
        &self,
        path: &Path,
        options: GetOptions,
    ) -> Result<Option<(Bytes, u64)>, StoreError> {
        let result = match self.0.objects.get_opts(path, options).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(classified("read", path, error)),
        };
        let size = result.meta.size;
        let bytes = result
            .bytes()
            .await
            .map_err(|error| classified("read", path, error))?;
        Ok(Some((bytes, size)))
    }

    /// Names below `folder` that sort after `after` (all without one), in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, folder: &Path, after: Option<&Path>) -> Result<Vec<Path>, StoreError> {
        if let Some(mut names) = self.names_on_disk(folder, after).await {
            names.sort_unstable();
            return Ok(names);
        }
        let stream = match after {
            Some(after) => self.0.objects.list_with_offset(Some(folder), after),
            None => self.0.objects.list(Some(folder)),
        };
        let mut names: Vec<Path> = stream
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(|error| classified("list", folder, error))?;
        names.sort_unstable();
        Ok(names)
    }

    /// What [`TableStore::list`] lists, if it is on a local disk and can be had from there at once.
    async fn names_on_disk(&self, folder: &Path, after: Option<&Path>) -> Option<Vec<Path>> {
        let disk = self.0.disk.as_ref()?;
        let place = disk.files.path_to_filesystem(folder).ok()?;
        let (prefix, after) = (folder.clone(), after.cloned());
        let names = move || listing::names(&place, &prefix, after.as_ref());
        // What fails here fails there, too, and is told there.
        blocking::run(names).await.ok()?.ok()?
    }

    /// Everything below `folder`, with sizes and times, in no order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list_objects(&self, folder: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        let listed = self.0.objects.list(Some(folder)).try_collect().await;
        listed.map_err(|error| classified("list", folder, error))
    }

    /// Puts `bytes` in the place of what is at `path`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replace(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        let put = self.0.objects.put(path, bytes.into()).await;
        put.map(|_| ())
            .map_err(|error| classified("replace", path, error))
    }

    /// Removes `path`, if it is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        match self.0.objects.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(classified("delete", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_creates_only_if_absent_and_lists_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let store = TableStore::open(url, &ObjectStoreConfig::default())
            .await
            .unwrap();
        let path = |name: &str| Path::from(format!("t/{name}"));
        assert_eq!(
            store.put_if_absent(&path("b"), "1".into()).await.unwrap(),
            Put::Created
        );
        assert_eq!(
            store.put_if_absent(&path("b"), "2".into()).await.unwrap(),
            Put::Exists
        );
        assert_eq!(store.read(&path("b")).await.unwrap().unwrap(), "1");
        store.put_if_absent(&path("c"), "345".into()).await.unwrap();
        assert_eq!(
            store.read_tail(&path("c"), 2).await.unwrap().unwrap(),
            ("45".into(), 3)
        );
        assert_eq!(
            store.read_tail(&path("c"), 9).await.unwrap().unwrap(),
            ("345".into(), 3)
        );
        assert_eq!(store.read(&path("d")).await.unwrap(), None);
        assert_eq!(
            store.list(&Path::from("t"), None).await.unwrap(),
            [path("b"), path("c")]
        );
        assert_eq!(
            store
                .list(&Path::from("t"), Some(&path("b")))
                .await
                .unwrap(),
            [path("c")]
        );
        assert_eq!(store.list(&Path::from("none"), None).await.unwrap(), []);
    }

    #[tokio::test]
    async fn neither_a_place_s_credentials_nor_an_option_s_value_is_told() {
        const MARK: &str = "hunter2-MARK";
        let option = |key: &str| ObjectStoreConfig {
            s3: [(key.to_owned(), MARK.to_owned().into())].into(),
            ..ObjectStoreConfig::default()
        };
        let none = ObjectStoreConfig::default();
        let endpoint = ObjectStoreConfig {
            s3: [("endpoint".into(), format!("http://u:{MARK}@h:9").into())].into(),
            ..none.clone()
        };
        assert!(TableStore::open_for_reading("s3://bucket/p", &endpoint).is_err());
        for (url, options) in [
            ("s3://AKIA:hunter2-MARK@bucket/p".to_owned(), none.clone()),
            ("s3://hunter2-MARK@bucket/p".to_owned(), none.clone()),
            ("gs://AKIA:1/hunter2-MARK@bucket/p".to_owned(), none.clone()),
            ("ftp://u:hunter2-MARK@h/p?sig=MARK".to_owned(), none),
            ("s3://bucket/p".to_owned(), option("allow_http")),
            ("s3://bucket/p".to_owned(), option("conditional_put")),
            ("s3://bucket/p".to_owned(), endpoint),
            ("s3://bucket/p".to_owned(), option("metadata_endpoint")),
            ("s3://bucket/p".to_owned(), option("checksum_algorithm")),
        ] {
            if let Err(error) = TableStore::open_for_reading(&url, &options) {
                let (said, debug) = (error.to_string(), format!("{error:?}"));
                let leaks = said.contains("MARK") || debug.contains("MARK");
                assert!(!leaks && error.is_usage(), "{url}: {said}");
            } else {
                assert!(!url.contains("MARK"), "{url} was opened");
            }
        }
    }

    #[tokio::test]
    async fn places_that_cannot_be_are_named() {
        let open = async |url: &str| {
            TableStore::open(url, &ObjectStoreConfig::default())
                .await
                .unwrap_err()
                .to_string()
        };
        assert!(open("").await.contains("output.url"));
        assert!(open("ftp://host/x").await.contains("ftp://"));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(
            open(file.path().to_str().unwrap())
                .await
                .contains("cannot create the folder")
        );
    }

    #[test]
    fn a_reader_creates_nothing() {
        let above = tempfile::tempdir().unwrap();
        let missing = above.path().join("lables/deep");
        let file = above.path().join("file");
        std::fs::write(&file, "").unwrap();
        let folder = |path: &std::path::Path| path.display().to_string();
        for (url, named) in [
            (folder(&missing), &missing),
            (format!("file://{}", missing.display()), &missing),
            (folder(&file), &file),
        ] {
            let error = TableStore::open_for_reading(&url, &ObjectStoreConfig::default());
            let error = error.unwrap_err();
            assert!(
                matches!(&error, StoreError::NoFolder { folder: f } if *f == folder(named)),
                "{error}"
            );
            assert!(error.is_usage());
        }
        assert!(!above.path().join("lables").exists());
        let here = folder(above.path());
        TableStore::open_for_reading(&here, &ObjectStoreConfig::default()).unwrap();
        assert_eq!(std::fs::read_dir(above.path()).unwrap().count(), 1);
    }
}
