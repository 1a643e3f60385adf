//! Which folder a partition's files lie in, where an older build may have begun another.
//!
//! Readers pass over folders whose names begin with `_` or `.`, so topics that are called like that
//! have an escaped folder ([`Folder::new`]). Older builds did not know that. Which of both counts
//! is decided once, by who is first to put epoch 0's origin into the *unescaped* folder: an older
//! build puts an origin, and the chain stays there for good; we put a note there that no older
//! build takes for an origin, so that one that runs beside us stops instead of beginning a second
//! chain.

use super::walk::ResumeError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tagstream_core::events::PartitionId;
use tagstream_core::storage::names;
use tagstream_core::storage::names::{Epoch, Folder};
use tagstream_core::storage::store::TableStore;

/// Stands in the place of an origin, in the folder that nobody writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MovedNote {
    /// Version of this note.
    version: u32,
    /// The folder that counts, below the store's root.
    moved_to: String,
}

/// Whether the decision may be made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decide {
    /// By a writer, who puts the note.
    Now,
    /// Not by a reader.
    No,
}

/// The folder of `partition` in `table`.
///
/// # Errors
/// [`ResumeError`] if the store fails.
pub(super) async fn folder_of(
    store: &TableStore,
    table: &str,
    partition: &PartitionId,
    decide: Decide,
) -> Result<Folder, ResumeError> {
    let folder = Folder::new(store.root(), table, partition);
    let Some(unescaped) = Folder::unescaped(store.root(), table, partition) else {
        return Ok(folder);
    };
    let note = unescaped.origin(Epoch(0));
    if let Some(bytes) = store.read(&note).await? {
        return Ok(chosen(&bytes, folder, unescaped));
    }
    // Epoch 0 may be gone while later ones are there.
    let names = store.list(unescaped.path(), None).await?;
    if names.iter().any(|path| names::parse(path).is_some()) {
        return Ok(unescaped);
    }
    if decide == Decide::No {
        return Ok(folder);
    }
    let moved = MovedNote {
        version: 1,
        moved_to: folder.path().to_string(),
    };
    let bytes = serde_json::to_vec_pretty(&moved).expect("a note is plain data");
    store.put_if_absent(&note, bytes.into()).await?;
    let bytes = store
        .read(&note)
        .await?
        .ok_or_else(|| ResumeError::Unsettled {
            path: note.to_string(),
        })?;
    Ok(chosen(&bytes, folder, unescaped))
}

/// The folders found so far. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<PartitionId, Folder>>>);

impl Places {
    /// The folder of `partition`, which is decided now if it never was.
    ///
    /// # Errors
    /// As [`folder_of`].
    pub(super) async fn of(
        &self,
        store: &TableStore,
        table: &str,
        partition: &PartitionId,
    ) -> Result<Folder, ResumeError> {
        let known = self.lock().get(partition).cloned();
        if let Some(folder) = known {
            return Ok(folder);
        }
        let folder = folder_of(store, table, partition, Decide::Now).await?;
        self.lock().insert(partition.clone(), folder.clone());
        Ok(folder)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, Folder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn chosen(bytes: &[u8], folder: Folder, unescaped: Folder) -> Folder {
    if serde_json::from_slice::<MovedNote>(bytes).is_ok() {
        return folder;
    }
    tracing::warn!(
        folder = %unescaped.path(),
        "this folder was begun by an older build and is written on, but its name begins like those \
         that readers of Parquet pass over: they see its rows only where a path names the folder. \
         A new `output.table` has folders that all see"
    );
    unescaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::walk::ChainOrigin;
    use bytes::Bytes;
    use object_store::path::Path;

    fn partition() -> PartitionId {
        PartitionId::new("_x", 3)
    }

    async fn folder(store: &TableStore, decide: Decide) -> String {
        let folder = folder_of(store, "t", &partition(), decide).await.unwrap();
        folder.path().to_string()
    }

    #[tokio::test]
    async fn a_new_table_has_a_folder_that_readers_see_and_older_builds_stop_at_the_note() {
        let store = TableStore::in_memory();
        assert_eq!(folder(&store, Decide::No).await, "t/escaped-_x/3");
        assert_eq!(store.list(&Path::from("t"), None).await.unwrap(), []);
        for _ in 0..2 {
            assert_eq!(folder(&store, Decide::Now).await, "t/escaped-_x/3");
        }
        let note = store.read(&Path::from("t/_x/3/_0-origin.json")).await;
        let note = note.unwrap().expect("a note");
        assert!(serde_json::from_slice::<ChainOrigin>(&note).is_err());
        assert_eq!(folder(&store, Decide::No).await, "t/escaped-_x/3");
    }

    #[tokio::test]
    async fn what_an_older_build_began_goes_on_where_it_is() {
        for begun in [
            "_0-origin.json",
            "_1-origin.json",
            "0-00000000000000000000.parquet",
        ] {
            let store = TableStore::in_memory();
            let path = Path::from(format!("t/_x/3/{begun}"));
            store.put_if_absent(&path, Bytes::from("{}")).await.unwrap();
            assert_eq!(folder(&store, Decide::Now).await, "t/_x/3", "{begun}");
        }
    }

    #[tokio::test]
    async fn other_topics_need_no_note() {
        let store = TableStore::in_memory();
        let images = PartitionId::new("images", 0);
        let folder = folder_of(&store, "t", &images, Decide::Now).await.unwrap();
        assert_eq!(folder.path().as_ref(), "t/images/0");
        assert_eq!(store.list(&Path::from("t"), None).await.unwrap(), []);
    }
}
