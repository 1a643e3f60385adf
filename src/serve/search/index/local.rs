//! Graphs between the store and this machine's cache.

use super::SearchIndexError;
use super::manifest::{IndexPart, folder, part_name};
use futures::StreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, WriteMultipart};
use std::io::Write;
use std::path::{Path, PathBuf};
use tagstream_core::digest;
use tagstream_core::process::blocking;
use tagstream_core::storage::atomic::{self, AtomicFile};
use tagstream_core::storage::store::TableStore;
use tagstream_model::registry::Cache;
use tokio::io::AsyncReadExt;

/// Bytes that go up at a time.
const PIECE: usize = 8 << 20;
/// Pieces that are on their way at once.
const PIECES: usize = 2;

/// The folder below `cache` for copies of a table's graphs.
pub(super) fn copies(cache: &Cache, store: &TableStore, table: &str) -> PathBuf {
    let place = digest::sha256(format!("{}\0{table}", store.place()));
    cache.beside("search").join(&place[..16])
}

pub(super) fn cache_error(path: &Path) -> impl Fn(std::io::Error) -> SearchIndexError {
    let path = path.to_owned();
    move |source| SearchIndexError::Cache {
        path: path.clone(),
        source,
    }
}

/// A copy of a graph in the folder `copies`, which is what the manifest says; fetched if need be.
pub(super) async fn copy(
    store: &TableStore,
    table: &str,
    part: &IndexPart,
    copies: &Path,
) -> Result<PathBuf, SearchIndexError> {
    std::fs::create_dir_all(copies).map_err(cache_error(copies))?;
    let path = copies.join(&part.file);
    if is_whole(&path, part).await? {
        return Ok(path);
    }
    let from = folder(store, table).join(part.file.as_str());
    let failed = |source| SearchIndexError::Object {
        path: from.to_string(),
        source,
    };
    let found = match store.objects().get(&from).await {
        Err(object_store::Error::NotFound { .. }) => {
            return Err(SearchIndexError::Damaged {
                path: from.to_string(),
                reason: "it is not there".into(),
            });
        }
        other => other.map_err(failed)?,
    };
    if found.meta.size != part.bytes {
        return Err(not_the_one(&from, part));
    }
    let mut file = AtomicFile::create(&path).map_err(cache_error(&path))?;
    let mut pieces = found.into_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(failed)?;
        file.write_all(&piece).map_err(cache_error(&path))?;
    }
    let committed = blocking::run(move || file.commit()).await;
    let committed = committed.map_err(std::io::Error::from).flatten();
    committed.map_err(cache_error(&path))?;
    if is_whole(&path, part).await? {
        return Ok(path);
    }
    // Best effort: it is looked at before each use.
    let _ = std::fs::remove_file(&path);
    Err(not_the_one(&from, part))
}

fn not_the_one(path: &ObjectPath, part: &IndexPart) -> SearchIndexError {
    SearchIndexError::Damaged {
        path: path.to_string(),
        reason: format!(
            "it is not the file of {} bytes that the manifest means",
            part.bytes
        ),
    }
}

async fn is_whole(path: &Path, part: &IndexPart) -> Result<bool, SearchIndexError> {
    let length = std::fs::metadata(path).map(|file| file.len());
    if !length.is_ok_and(|length| length == part.bytes) {
        return Ok(false);
    }
    let (sha256, _) = hash(path).await?;
    Ok(sha256 == part.sha256)
}

async fn hash(path: &Path) -> Result<(String, u64), SearchIndexError> {
    let file = path.to_owned();
    let hashed = blocking::run(move || digest::sha256_of_file(&file)).await;
    let hashed = hashed.map_err(std::io::Error::from).flatten();
    hashed.map_err(cache_error(path))
}

/// Puts a graph's file, which stands in the folder `copies`, beside the table, and leaves it there
/// under its name.
pub(super) async fn put(
    store: &TableStore,
    table: &str,
    (file, dimensions, rows): (&Path, usize, u64),
    copies: &Path,
) -> Result<IndexPart, SearchIndexError> {
    let (sha256, bytes) = hash(file).await?;
    let part = IndexPart {
        file: part_name(dimensions, &sha256),
        dimensions,
        rows,
        bytes,
        sha256,
    };
    let path = copies.join(&part.file);
    let synced = std::fs::File::open(file).and_then(|file| file.sync_all());
    let named = synced.and_then(|()| atomic::rename(file, &path));
    named.map_err(cache_error(&path))?;
    let to = folder(store, table).join(part.file.as_str());
    let failed = |source| SearchIndexError::Object {
        path: to.to_string(),
        source,
    };
    let upload = store.objects().put_multipart(&to).await.map_err(failed)?;
    let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE);
    let mut from = tokio::fs::File::open(&path)
        .await
        .map_err(cache_error(&path))?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut piece).await.map_err(cache_error(&path))?;
        if length == 0 {
            break;
        }
        upload.wait_for_capacity(PIECES).await.map_err(failed)?;
        upload.write(&piece[..length]);
    }
    upload.finish().await.map_err(failed)?;
    Ok(part)
}

/// Removes copies that no manifest names any more. Who has one mapped keeps it.
pub(super) fn remove_others(copies: &Path, parts: &[IndexPart]) {
    for entry in std::fs::read_dir(copies).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let named = parts.iter().any(|part| name == part.file.as_str());
        let is_graph = name.to_str().is_some_and(|name| name.ends_with(".usearch"));
        if is_graph && !named {
            // Best effort: it takes room and is never read.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
