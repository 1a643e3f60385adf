//! What tables, registry and lease ask of a store, as checks that can be run on any.
//!
//! [`proves_create`] and [`proves_update`] are short and made at every start: some servers that
//! speak S3 ignore conditions, and exactly-once rests on them. [`check`] is the whole suite, which
//! tests run on memory, on a folder and on a real S3 server.

use super::open::Storage;
use super::swap::{SwapError, SwapOutcome, VersionedObject};
use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error as ClientError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    UpdateVersion, WriteMultipart,
};

/// Why a store is not fit.
#[derive(Debug, thiserror::Error)]
pub enum Nonconformance {
    /// It does not do what is asked of it.
    #[error("{0}")]
    Broken(String),
    /// It failed, which says nothing.
    #[error(transparent)]
    Failed(#[from] ClientError),
    /// A compare-and-set failed, which says nothing.
    #[error(transparent)]
    SwapFailed(#[from] SwapError),
}

fn broken(what: impl Into<String>) -> Nonconformance {
    Nonconformance::Broken(what.into())
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Nonconformance> {
    if holds {
        Ok(())
    } else {
        Err(broken(otherwise()))
    }
}

/// Creates an object only if it is absent; `false` if it is there.
async fn create(
    objects: &dyn ObjectStore,
    path: &Path,
    bytes: Bytes,
) -> Result<bool, Nonconformance> {
    let options = PutOptions::from(PutMode::Create);
    match objects.put_opts(path, bytes.into(), options).await {
        Ok(_) => Ok(true),
        Err(ClientError::AlreadyExists { .. } | ClientError::Precondition { .. }) => Ok(false),
        Err(error @ (ClientError::NotImplemented { .. } | ClientError::NotSupported { .. })) => {
            Err(broken(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Proves that a put creates or refuses: puts `probe` twice (once if it is there already), and
/// leaves it, empty, for the next proof.
///
/// # Errors
/// [`Nonconformance`].
pub async fn proves_create(objects: &dyn ObjectStore, probe: &Path) -> Result<(), Nonconformance> {
    for _ in 0..2 {
        if !create(objects, probe, Bytes::new()).await? {
            return Ok(());
        }
    }
    Err(broken("a second put overwrote the first"))
}

/// Proves that a put conditional on another content is refused by the object `probe`, which is
/// there.
///
/// # Errors
/// [`Nonconformance`].
pub async fn proves_update(objects: &dyn ObjectStore, probe: &Path) -> Result<(), Nonconformance> {
    let stale = UpdateVersion {
        e_tag: Some("\"00000000000000000000000000000000\"".into()),
        version: None,
    };
    let options = PutOptions::from(PutMode::Update(stale));
    match objects.put_opts(probe, Bytes::new().into(), options).await {
        Ok(_) => Err(broken(
            "a put conditional on another content replaced an object",
        )),
        Err(ClientError::AlreadyExists { .. } | ClientError::Precondition { .. }) => Ok(()),
        Err(error @ (ClientError::NotImplemented { .. } | ClientError::NotSupported { .. })) => {
            Err(broken(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs every check below `folder`, which is new, and leaves objects there.
///
/// # Errors
/// [`Nonconformance`] says what the store does not do.
pub async fn check(storage: &Storage, folder: &Path) -> Result<(), Nonconformance> {
    let objects = &*storage.objects;
    proves_create(objects, &folder.clone().join("probe")).await?;
    one_creator_wins(objects, &folder.clone().join("created")).await?;
    one_swap_wins(storage, &folder.clone().join("swapped.json")).await?;
    lists_in_order(objects, &folder.clone().join("listed")).await?;
    reads_ranges(objects, folder).await?;
    deletes(objects, &folder.clone().join("deleted")).await?;
    takes_large_objects(objects, &folder.clone().join("large")).await
}

/// Tries that are made at once.
const AT_ONCE: u8 = 8;

async fn read(objects: &dyn ObjectStore, path: &Path) -> Result<Bytes, Nonconformance> {
    Ok(objects.get(path).await?.bytes().await?)
}

async fn one_creator_wins(objects: &dyn ObjectStore, path: &Path) -> Result<(), Nonconformance> {
    let content = |i: u8| Bytes::from(vec![i; 1000]);
    let tries = (0..AT_ONCE).map(async |i| Ok((i, create(objects, path, content(i)).await?)));
    let tries: Vec<Result<(u8, bool), Nonconformance>> = join_all(tries).await;
    let tries: Vec<(u8, bool)> = tries.into_iter().collect::<Result<_, _>>()?;
    let winners: Vec<u8> = tries
        .iter()
        .filter(|(_, won)| *won)
        .map(|(i, _)| *i)
        .collect();
    let [winner] = winners[..] else {
        let count = winners.len();
        return Err(broken(format!(
            "{count} of {AT_ONCE} created one object at once"
        )));
    };
    let late = create(objects, path, "late".into()).await?;
    ensure(!late, || "an object was created twice".into())?;
    let there = read(objects, path).await?;
    ensure(there == content(winner), || {
        "an object is not what its creator put".into()
    })
}

/// What the registry's pointer rests on.
async fn one_swap_wins(storage: &Storage, path: &Path) -> Result<(), Nonconformance> {
    let swap = async |read: Option<VersionedObject>, next: &str| {
        let next = Bytes::copy_from_slice(next.as_bytes());
        storage.compare_and_set(path, read, next).await
    };
    let first = swap(None, "first").await?;
    ensure(first == SwapOutcome::Done, || {
        "a first swap was refused".into()
    })?;
    let again = swap(None, "again").await?;
    ensure(again == SwapOutcome::Lost, || {
        "a swap from nothing replaced an object".into()
    })?;
    let held = storage.read_to_swap(path).await?;
    let tries: Vec<String> = (0..AT_ONCE).map(|i| format!("second by {i}")).collect();
    let swaps = tries.iter().map(|next| swap(held.clone(), next));
    let swaps: Vec<SwapOutcome> = join_all(swaps)
        .await
        .into_iter()
        .collect::<Result<_, _>>()?;
    let won: Vec<&String> = tries
        .iter()
        .zip(&swaps)
        .filter(|(_, swap)| **swap == SwapOutcome::Done)
        .map(|(next, _)| next)
        .collect();
    let [won] = won[..] else {
        let count = won.len();
        return Err(broken(format!(
            "{count} of {AT_ONCE} swaps of one object were done"
        )));
    };
    let late = swap(held, "late").await?;
    ensure(late == SwapOutcome::Lost, || {
        "a swap from an old content replaced a newer one".into()
    })?;
    let there = read(&*storage.objects, path).await?;
    ensure(there == *won.as_bytes(), || {
        "an object is not what the swap that was done put".into()
    })
}

/// What was put is listed at once; an offset leaves out what sorts before it and itself.
async fn lists_in_order(objects: &dyn ObjectStore, folder: &Path) -> Result<(), Nonconformance> {
    let names = [
        "0-00000000000000000009.parquet",
        "0-00000000000000000010.parquet",
        "0-00000000000000000011.parquet",
        "_0-origin.json",
    ];
    for name in names.iter().rev() {
        create(objects, &folder.clone().join(*name), Bytes::from(*name)).await?;
    }
    for (after, wanted) in [
        (None, &names[..]),
        (Some("0-00000000000000000009"), &names[..]),
        (Some(names[1]), &names[2..]),
        (Some("a"), &names[4..]),
    ] {
        let offset = after.map(|after| folder.clone().join(after));
        let stream = match &offset {
            Some(offset) => objects.list_with_offset(Some(folder), offset),
            None => objects.list(Some(folder)),
        };
        let mut found: Vec<String> = stream
            .map_ok(|meta| meta.location.filename().unwrap_or_default().to_owned())
            .try_collect()
            .await?;
        // A local folder has no order; whoever needs one sorts.
        found.sort_unstable();
        ensure(found == *wanted, || {
            format!("after {after:?} it lists {found:?}, not {wanted:?}")
        })?;
    }
    let nothing = folder.clone().join("nothing");
    let count = objects.list(Some(&nothing)).count().await;
    ensure(count == 0, || "it lists what is not there".into())
}

async fn reads_ranges(objects: &dyn ObjectStore, folder: &Path) -> Result<(), Nonconformance> {
    let path = &folder.clone().join("ranges");
    let content = Bytes::from_static(b"0123456789");
    create(objects, path, content.clone()).await?;
    for (range, wanted) in [
        (GetRange::Bounded(0..3), &content[..3]),
        (GetRange::Bounded(4..10), &content[4..]),
        (GetRange::Bounded(8..100), &content[8..]),
        (GetRange::Offset(7), &content[7..]),
    ] {
        let options = GetOptions {
            range: Some(range.clone()),
            ..GetOptions::default()
        };
        let found = objects.get_opts(path, options).await?;
        let size = found.meta.size;
        let bytes = found.bytes().await?;
        ensure(bytes == *wanted && size == 10, || {
            format!("of 10 bytes {range} gave {bytes:?}, and {size} as the size of all")
        })?;
    }
    let absent = objects.head(&folder.clone().join("absent")).await;
    ensure(matches!(absent, Err(ClientError::NotFound { .. })), || {
        "it does not say that an object is not there".into()
    })
}

async fn deletes(objects: &dyn ObjectStore, path: &Path) -> Result<(), Nonconformance> {
    create(objects, path, "x".into()).await?;
    objects.delete(path).await?;
    let gone = objects.get(path).await;
    ensure(matches!(gone, Err(ClientError::NotFound { .. })), || {
        "a deleted object is still there".into()
    })?;
    // Some say that there is nothing to delete, some do not.
    match objects.delete(path).await {
        Ok(()) | Err(ClientError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let again = create(objects, path, "y".into()).await?;
    ensure(again, || "a deleted object cannot be created again".into())
}

/// More than one part of what is sent in parts.
const LARGE: usize = 12 << 20;
const PART: usize = 5 << 20;

async fn takes_large_objects(
    objects: &dyn ObjectStore,
    folder: &Path,
) -> Result<(), Nonconformance> {
    let content: Vec<u8> = (0..LARGE).map(|i| (i / 7 + i / 4096) as u8).collect();
    let content = Bytes::from(content);
    let whole = folder.clone().join("whole");
    let put = create(objects, &whole, content.clone()).await?;
    ensure(put, || "a new object is said to be there".into())?;
    let parts = folder.clone().join("parts");
    let upload = objects.put_multipart(&parts).await?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
    upload.write(&content);
    upload.finish().await?;
    for path in [whole, parts] {
        let there = read(objects, &path).await?;
        ensure(there == content, || {
            format!(
                "{path} has {} bytes, not the {LARGE} that were put",
                there.len()
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ObjectStoreConfig;
    use crate::storage::open::{Missing, Purpose, open};
    use object_store::memory::InMemory;
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread")]
    async fn memory_conforms() {
        let memory = Arc::new(InMemory::new());
        let storage = Storage::from_parts("memory:", memory, Path::default());
        check(&storage, &Path::from("suite")).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_conforms_as_path_and_as_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        for (address, suite) in [
            (path.clone(), "path"),
            (format!("file://{path}"), "address"),
        ] {
            let options = ObjectStoreConfig::default();
            let storage = open(&address, &options, Purpose::Tables, Missing::Create).unwrap();
            check(&storage, &Path::from(suite)).await.unwrap();
        }
    }
}
