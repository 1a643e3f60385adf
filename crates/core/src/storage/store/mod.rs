//! Where tables are kept: a local folder or an object store, of which one thing is asked above all:
//! a put that creates or refuses, atomically and durably.
//!
//! On a local disk: write aside, fsync, hard-link, fsync the folder. On S3, Google Cloud Storage
//! and Azure: a conditional put. A store that cannot do this is refused when it is opened.

mod error;

pub use error::StoreError;

use super::staging;
use crate::config::{ObjectStoreConfig, Secret};
use crate::process::blocking;
use crate::redact::{cover_options, redact_place, refuse_endpoint_users};
use crate::storage::address::{Address, Store};
use bytes::Bytes;
use error::classified;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::sync::Arc;
use std::time::SystemTime;

/// One request may take this long; a whole file is one request.
const REQUEST_TIMEOUT: &str = "300 seconds";
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
pub struct TableStore {
    url: String,
    root: Path,
    inner: Arc<dyn ObjectStore>,
    /// The same, where it is a local disk.
    disk: Option<LocalFileSystem>,
}

impl TableStore {
    /// Opens `url`: a folder (created if missing), `file://`, `s3://`, `gs://` or `az://`; and
    /// proves that it can create only if absent.
    ///
    /// # Errors
    /// [`StoreError`] says why the place cannot be used.
    pub async fn open(url: &str, options: &ObjectStoreConfig) -> Result<Self, StoreError> {
        let store = Self::resolved(url, options, true)?;
        store.prove_conditional_put().await?;
        Ok(store)
    }

    /// Opens `url` for readers, who need no conditional put and create nothing.
    ///
    /// # Errors
    /// [`StoreError::NoFolder`] if `url` names a folder that is not there; otherwise [`StoreError`]
    /// says why the place cannot be used.
    pub fn open_for_reading(url: &str, options: &ObjectStoreConfig) -> Result<Self, StoreError> {
        Self::resolved(url, options, false)
    }

    fn resolved(url: &str, options: &ObjectStoreConfig, create: bool) -> Result<Self, StoreError> {
        let (inner, root, disk) = resolve(url, options, create)?;
        let store = Self::from_parts(url, inner, root);
        Ok(TableStore { disk, ..store })
    }

    /// A store that lives in this process's memory.
    pub fn in_memory() -> Self {
        Self::from_parts("memory:", Arc::new(InMemory::new()), Path::default())
    }

    /// Any object store, as it is.
    pub fn from_parts(url: &str, inner: Arc<dyn ObjectStore>, root: Path) -> Self {
        TableStore {
            url: redact_place(url),
            root,
            inner,
            disk: None,
        }
    }

    /// The place, for people: without what of it is a secret.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The prefix below which tables lie.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store itself, for readers.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.inner
    }

    /// Puts one name twice; the second put must be refused. Leaves the (empty) file there.
    ///
    /// # Errors
    /// [`StoreError::NoConditionalPut`], or what kept the store from answering.
    pub async fn prove_conditional_put(&self) -> Result<(), StoreError> {
        let path = self.root.clone().join(PROBE);
        let refused = |reason: String| StoreError::NoConditionalPut {
            url: self.url.clone(),
            reason,
        };
        for _ in 0..2 {
            match self.put_if_absent(&path, Bytes::new()).await {
                Ok(Put::Created) => {}
                Ok(Put::Exists) => return Ok(()),
                Err(StoreError::Permanent {
                    source:
                        source @ (object_store::Error::NotImplemented { .. }
                        | object_store::Error::NotSupported { .. }),
                    ..
                }) => return Err(refused(source.to_string())),
                Err(error) => return Err(error),
            }
        }
        Err(refused("a second put overwrote the first".into()))
    }

    /// Removes what killed processes left aside in `folder` of a local disk; does nothing
    /// elsewhere.
    pub async fn sweep(&self, folder: &Path) {
        let Some(folder) = self
            .disk
            .as_ref()
            .and_then(|disk| disk.path_to_filesystem(folder).ok())
        else {
            return;
        };
        let work = move || match staging::sweep(&folder, SystemTime::now()) {
            Ok(0) => {}
            Ok(files) => {
                tracing::info!(
                    folder = %folder.display(), files,
                    "files aside that a killed process had left were removed"
                );
            }
            Err(error) => {
                tracing::warn!(
                    folder = %folder.display(), %error,
                    "cannot remove what killed processes left aside"
                );
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
        match self.inner.put_opts(path, bytes.into(), options).await {
            Ok(_) => Ok(Put::Created),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(classified("put", path, error)),
        }
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
        let size = match self.inner.head(path).await {
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

    async fn get(
        &self,
        path: &Path,
        options: GetOptions,
    ) -> Result<Option<(Bytes, u64)>, StoreError> {
        let result = match self.inner.get_opts(path, options).await {
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
        let stream = match after {
            Some(after) => self.inner.list_with_offset(Some(folder), after),
            None => self.inner.list(Some(folder)),
        };
        let mut names: Vec<Path> = stream
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(|error| classified("list", folder, error))?;
        names.sort_unstable();
        Ok(names)
    }
}

type Place = (Arc<dyn ObjectStore>, Path, Option<LocalFileSystem>);

fn resolve(url: &str, options: &ObjectStoreConfig, create: bool) -> Result<Place, StoreError> {
    if url.is_empty() {
        return Err(StoreError::NoUrl);
    }
    let bad = |reason: String| StoreError::BadUrl {
        url: redact_place(url),
        reason,
    };
    let (store, parsed) = match Address::parse(url) {
        Ok(Address::Folder(folder)) => return local(&folder, create, bad),
        Ok(Address::Bucket { store, url }) => (store, url),
        Err(error) => return Err(bad(format!("it {error}"))),
    };
    let (variables, keys) = match store {
        Store::S3 => ("AWS_", &options.s3),
        Store::Gs => ("GOOGLE_", &options.gs),
        Store::Az => ("AZURE_", &options.az),
    };
    refuse_endpoint_users(keys.iter().map(|(k, v)| (k.as_str(), v.expose()))).map_err(bad)?;
    // The environment first, then what the configuration says.
    let environment = std::env::vars()
        .filter(|(name, _)| name.starts_with(variables))
        .map(|(name, value)| (name.to_ascii_lowercase(), value));
    let configured = keys
        .iter()
        .map(|(key, value)| (key.clone(), value.expose().to_owned()));
    let all = std::iter::once(("timeout".to_owned(), REQUEST_TIMEOUT.to_owned()))
        .chain(environment)
        .chain(configured);
    let (inner, root) = object_store::parse_url_opts(&parsed, all).map_err(|e| {
        let values = keys.values().map(Secret::expose);
        bad(cover_options(e.to_string(), values))
    })?;
    Ok((Arc::from(inner), root, None))
}

fn local(
    folder: &std::path::Path,
    create: bool,
    bad: impl Fn(String) -> StoreError,
) -> Result<Place, StoreError> {
    if create {
        std::fs::create_dir_all(folder)
            .map_err(|e| bad(format!("cannot create the folder: {e}")))?;
    } else if !folder.is_dir() {
        return Err(StoreError::NoFolder {
            folder: folder.display().to_string(),
        });
    }
    let files = LocalFileSystem::new_with_prefix(folder)
        .map_err(|e| bad(e.to_string()))?
        .with_fsync(true);
    Ok((Arc::new(files.clone()), Path::default(), Some(files)))
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
