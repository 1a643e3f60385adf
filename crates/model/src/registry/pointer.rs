//! The one mutable object, `current.json`, and its compare-and-set.

use super::record::REGISTRY_FORMAT;
use super::store::{RegistryStore, parse, to_json};
use super::{Pointer, RegistryError};
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};
use tagstream_core::failpoint;
use tagstream_core::process::blocking;
use tagstream_core::storage::atomic;

/// How long we wait for another process that is replacing the pointer of a local registry.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The pointer as it was read, with what proves that it is still the same.
#[derive(Debug, Clone)]
pub(super) struct PointerRead {
    pub(super) pointer: Pointer,
    bytes: Vec<u8>,
    version: UpdateVersion,
}

/// How a compare-and-set ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swap {
    /// The new pointer stands.
    Done,
    /// The pointer was no longer the one compared with.
    Lost,
}

const POINTER: &str = "current.json";

impl RegistryStore {
    pub(super) async fn read_pointer(&self) -> Result<Option<PointerRead>, RegistryError> {
        let path = self.path(&[POINTER]);
        let failed = || RegistryError::store(format!("reading {path}"));
        let found = match self.objects.get(&path).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed()(error)),
        };
        let version = UpdateVersion {
            e_tag: found.meta.e_tag.clone(),
            version: found.meta.version.clone(),
        };
        let bytes = found.bytes().await.map_err(failed())?.to_vec();
        let pointer: Pointer = parse(&path, &bytes)?;
        if pointer.format_version != REGISTRY_FORMAT {
            return Err(RegistryError::UnknownFormat {
                path: path.to_string(),
                found: pointer.format_version,
                known: REGISTRY_FORMAT,
            });
        }
        Ok(Some(PointerRead {
            pointer,
            bytes,
            version,
        }))
    }

    /// Replaces the pointer by `next` if it still is `held` (`None`: if there is none yet).
    pub(super) async fn compare_and_set(
        &self,
        held: Option<PointerRead>,
        next: &Pointer,
    ) -> Result<Swap, RegistryError> {
        let failed = || RegistryError::store("replacing the pointer".to_string());
        failpoint::pass_store("pointer.before")
            .await
            .map_err(failed())?;
        let swap = self.swap_pointer(held, next).await?;
        failpoint::pass_store("pointer.after")
            .await
            .map_err(failed())?;
        Ok(swap)
    }

    async fn swap_pointer(
        &self,
        held: Option<PointerRead>,
        next: &Pointer,
    ) -> Result<Swap, RegistryError> {
        let bytes = to_json(next);
        if let Some(folder) = self.folder.clone() {
            let expected = held.map(|h| h.bytes);
            let io = RegistryError::io(&folder);
            let swapped = {
                let folder = folder.clone();
                blocking::run(move || swap_file(&folder, expected.as_deref(), &bytes)).await
            };
            return swapped.map_err(|error| io(error.into()))?;
        }
        let path = self.path(&[POINTER]);
        let mode = match held {
            None => PutMode::Create,
            Some(held) => PutMode::Update(held.version),
        };
        let put = self
            .objects
            .put_opts(&path, PutPayload::from(bytes), PutOptions::from(mode))
            .await;
        let Err(error) = put else {
            return Ok(Swap::Done);
        };
        // The answer may have been lost, and a repeated put then fails its own condition: look what
        // stands there.
        let there = self.read_pointer().await?;
        if there.is_some_and(|h| h.pointer == *next) {
            return Ok(Swap::Done);
        }
        match error {
            StoreError::AlreadyExists { .. }
            | StoreError::Precondition { .. }
            | StoreError::NotFound { .. } => Ok(Swap::Lost),
            source => Err(RegistryError::Store {
                doing: format!("replacing {path}"),
                source,
            }),
        }
    }
}

/// Compare-and-set of a local file: under the lock, compare and write.
fn swap_file(folder: &Path, expected: Option<&[u8]>, next: &[u8]) -> Result<Swap, RegistryError> {
    let lock = lock(&folder.join("current.lock"))?;
    let path = folder.join(POINTER);
    let there = match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(source) => return Err(RegistryError::Io { path, source }),
    };
    if there.as_deref() != expected {
        return Ok(Swap::Lost);
    }
    atomic::write_file(&path, next).map_err(RegistryError::io(&path))?;
    drop(lock);
    Ok(Swap::Done)
}

fn lock(path: &Path) -> Result<File, RegistryError> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    let file = opened.map_err(RegistryError::io(path))?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(RegistryError::Locked { path: path.into() });
            }
            Err(TryLockError::Error(source)) => {
                return Err(RegistryError::Io {
                    path: path.into(),
                    source,
                });
            }
        }
    }
}
