//! The one mutable object, `current.json`, and its compare-and-set.

use super::error::DELETED;
use super::store::{RegistryStore, parse, to_json};
use super::{Pointer, RegistryError};
use tagstream_core::failpoint;
use tagstream_core::storage::swap::{SwapOutcome, VersionedObject};

/// The pointer as it was read, with what proves that it is still the same.
#[derive(Debug, Clone)]
pub(super) struct PointerRead {
    pub(super) pointer: Pointer,
    read: VersionedObject,
}

const POINTER: &str = "current.json";

impl RegistryStore {
    pub(super) async fn read_pointer(&self) -> Result<Option<PointerRead>, RegistryError> {
        let path = self.path(&[POINTER]);
        let read = self.0.read_to_swap(&path).await;
        let read = read.map_err(RegistryError::store(format!("reading {path}")))?;
        let Some(read) = read else {
            // A decision goes into the history when the next one replaces it in the pointer.
            return match self.last_history().await? {
                None => Ok(None),
                Some(last) => Err(RegistryError::Corrupt {
                    path: path.to_string(),
                    reason: format!(
                        "it is gone, and the history holds {last} decisions that it followed; \
                         {DELETED} in a new registry"
                    ),
                }),
            };
        };
        let pointer: Pointer = parse(&path, &read.bytes)?;
        Ok(Some(PointerRead { pointer, read }))
    }

    /// Replaces the pointer by `next` if it still is `held` (`None`: if there is none yet).
    pub(super) async fn compare_and_set(
        &self,
        held: Option<PointerRead>,
        next: &Pointer,
    ) -> Result<SwapOutcome, RegistryError> {
        let failed = || RegistryError::store("replacing the pointer".to_string());
        failpoint::pass_store("pointer.before")
            .await
            .map_err(failed())?;
        let (path, read) = (self.path(&[POINTER]), held.map(|held| held.read));
        let swap = self.0.compare_and_set(&path, read, to_json(next).into());
        let swap = swap.await?;
        failpoint::pass_store("pointer.after")
            .await
            .map_err(failed())?;
        Ok(swap)
    }
}
