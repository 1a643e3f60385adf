//! Compare-and-set of one object, the only write that replaces anything.
//!
//! An object store does it by itself (`If-None-Match`, `If-Match`). A local folder has no such
//! thing: there the object is compared, written aside, synced and renamed under an exclusive lock
//! on a file beside it, which the kernel releases when its holder dies. The folder must therefore
//! lie on a file system with working locks.

use super::open::Storage;
use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as ClientError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion,
};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long we wait for another process that is replacing the same local object.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// An object as it was read, with what proves that it is still the same.
#[derive(Debug, Clone)]
pub struct VersionedObject {
    /// Its content.
    pub bytes: Bytes,
    version: UpdateVersion,
}

/// How a compare-and-set ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapOutcome {
    /// The new content stands.
    Done,
    /// What stood there was no longer the one compared with.
    Lost,
}

/// Why a compare-and-set has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The store failed; the new content may stand or not.
    #[error("replacing {path}: {source}")]
    Store {
        /// The object.
        path: String,
        /// What the store said.
        source: ClientError,
    },
    /// A local file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process holds the lock for longer than we wait.
    #[error("{path} is locked by another process; try again")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> SwapError {
    let path = path.to_owned();
    move |source| SwapError::Io { path, source }
}

impl Storage {
    /// An object, to be replaced later; `None` if there is none.
    ///
    /// # Errors
    /// What the store said.
    pub async fn read_to_swap(
        &self,
        path: &ObjectPath,
    ) -> Result<Option<VersionedObject>, ClientError> {
        let found = match self.objects.get(path).await {
            Ok(found) => found,
            Err(ClientError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let version = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let bytes = found.bytes().await?;
        Ok(Some(VersionedObject { bytes, version }))
    }

    /// Replaces an object by `next` if it still is `read` (`None`: if there is none yet). Of two
    /// that try at once with the same `read` at most one succeeds, provided that no content comes
    /// twice.
    ///
    /// # Errors
    /// [`SwapError`].
    pub async fn compare_and_set(
        &self,
        path: &ObjectPath,
        read: Option<VersionedObject>,
        next: Bytes,
    ) -> Result<SwapOutcome, SwapError> {
        let failed = |source| SwapError::Store {
            path: path.to_string(),
            source,
        };
        if let Some(disk) = &self.disk {
            let file = disk.files.path_to_filesystem(path).map_err(failed)?;
            let named = file.clone();
            let work = move || swap_file(&file, read.as_ref().map(|r| &r.bytes[..]), &next);
            let swapped = crate::process::blocking::run(work).await;
            return swapped.map_err(|error| io(&named)(error.into()))?;
        }
        let mode = match read {
            None => PutMode::Create,
            Some(read) => PutMode::Update(read.version),
        };
        let put = self
            .objects
            .put_opts(path, next.clone().into(), PutOptions::from(mode))
            .await;
        let Err(error) = put else {
            return Ok(SwapOutcome::Done);
        };
        // The answer may have been lost, and a repeated put then fails its own condition: look what
        // stands there.
        let there = self.read_to_swap(path).await.map_err(failed)?;
        if there.is_some_and(|there| there.bytes == next) {
            return Ok(SwapOutcome::Done);
        }
        match error {
            ClientError::AlreadyExists { .. }
            | ClientError::Precondition { .. }
            | ClientError::NotFound { .. } => Ok(SwapOutcome::Lost),
            source => Err(failed(source)),
        }
    }
}

/// `current.json` is locked by `current.lock`.
fn swap_file(path: &Path, expected: Option<&[u8]>, next: &[u8]) -> Result<SwapOutcome, SwapError> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let lock = lock(&path.with_extension("lock"))?;
    let there = match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(io(path)(source)),
    };
    if there.as_deref() != expected {
        return Ok(SwapOutcome::Lost);
    }
    super::atomic::write_file(path, next).map_err(io(path))?;
    drop(lock);
    Ok(SwapOutcome::Done)
}

fn lock(path: &Path) -> Result<File, SwapError> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = opened.map_err(io(path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(SwapError::Locked { path: path.into() });
            }
            Err(TryLockError::Error(source)) => return Err(io(path)(source)),
        }
    }
}
