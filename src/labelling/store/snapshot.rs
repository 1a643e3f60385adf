//! What was read of the label table, kept beside it, so that a run reads that and what came after.
//!
//! ```text
//! <table>/_snapshot/labels-1.bin   magic, length of the header, header (JSON), table (gzip)
//! ```
//!
//! The header names every file that the table was made of, with its size and its mark (ETag). The
//! snapshot counts only while all of them are as they were: a file that expired, was replaced or
//! went makes it worthless, and all files are read again. Files that are not named are read on top
//! of it, in whatever place of the order they stand: stamps decide, not the order of reading. So
//! what is read is at any time what reading all files would give.
//!
//! It is replaced by compare-and-set. Nothing depends on it: it may be removed at any time. Its
//! name is no data file's, so that readers of the table pass it by.

use super::TableError;
use super::data_files;
use super::events::Reading;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tagstream_core::storage::store::TableStore;
use tagstream_core::storage::swap::SwapOutcome;
use tagstream_train::labels::{Gathering, LabelTable};

const FOLDER: &str = "_snapshot";
/// A later format has another name, so that two builds do not overwrite each other's.
const LABELS: &str = "labels-1.bin";
const MAGIC: &[u8; 8] = b"tssnap01";
/// A run keeps what it read if it had to read at least so many files, or bytes, that no earlier run
/// has kept: less is as quickly read as a snapshot.
const WORTH_FILES: usize = 16;
const WORTH_BYTES: u64 = 8 << 20;

/// A file as what is kept beside a table knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFile {
    path: String,
    size: u64,
    mark: String,
}

impl KnownFile {
    /// The file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A file as it was listed.
    pub fn of(file: &ObjectMeta) -> Self {
        KnownFile {
            path: file.location.to_string(),
            size: file.size,
            mark: match &file.e_tag {
                Some(mark) => mark.clone(),
                None => file.last_modified.to_rfc3339(),
            },
        }
    }
}

/// What is kept: the files that were read, and what came of them.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) files: Vec<KnownFile>,
    pub(super) table: LabelTable,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    files: Vec<KnownFile>,
    /// Until when the table counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
}

/// The labels of a table, and what it took to read them.
pub(super) struct ReadLabels {
    pub(super) table: LabelTable,
    until: Option<DateTime<Utc>>,
    /// Whether it was so much that a later run should be spared it.
    worth_keeping: bool,
}

/// The state of all labels in the label table `table`, by what an earlier run has kept of it and
/// the files that came after.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn read_labels(store: &TableStore, table: &str) -> Result<LabelTable, TableError> {
    let files = data_files(store, table).await?;
    Ok(read(store, table, &files).await?.table)
}

/// As [`read_labels`], and keeps for the next run what was read where that spares it work.
/// What cannot be kept is told in the log.
///
/// # Errors
/// [`TableError`] names the file that cannot be read.
pub async fn read_labels_and_keep(
    store: &TableStore,
    table: &str,
) -> Result<LabelTable, TableError> {
    let files = data_files(store, table).await?;
    let read = read(store, table, &files).await?;
    if read.worth_keeping {
        keep(
            store,
            &path(store, table, LABELS),
            &files,
            &read.table,
            read.until,
        )
        .await;
    }
    Ok(read.table)
}

/// The labels of `files`, which are all files of the table.
pub(super) async fn read(
    store: &TableStore,
    table: &str,
    files: &[ObjectMeta],
) -> Result<ReadLabels, TableError> {
    let path = path(store, table, LABELS);
    let mut reading = Reading::default();
    let mut fresh: Vec<&ObjectMeta> = files.iter().collect();
    if let Some((kept, until)) = load(store, &path).await {
        let known: HashMap<&str, &KnownFile> = kept
            .files
            .iter()
            .map(|file| (file.path.as_str(), file))
            .collect();
        let (same, new): (Vec<_>, Vec<_>) = files
            .iter()
            .partition(|file| known.get(file.location.as_ref()) == Some(&&KnownFile::of(file)));
        let counts = until.is_none_or(|until| Utc::now() < until);
        if counts && same.len() == kept.files.len() {
            if new.is_empty() {
                return Ok(ReadLabels {
                    table: kept.table,
                    until,
                    worth_keeping: false,
                });
            }
            reading.gathering = Gathering::from(kept.table);
            reading.until = until;
            fresh = new;
        } else {
            tracing::info!(
                snapshot = %path,
                "files that it knows have changed or gone: the whole table is read again"
            );
        }
    }
    reading.read(store, &fresh).await?;
    let bytes: u64 = fresh.iter().map(|file| file.size).sum();
    Ok(ReadLabels {
        table: reading.gathering.finish(),
        until: reading.until,
        worth_keeping: fresh.len() >= WORTH_FILES || bytes >= WORTH_BYTES,
    })
}

/// Where something is kept beside a table.
pub(super) fn path(store: &TableStore, table: &str, name: &str) -> ObjectPath {
    store.root().clone().join(table).join(FOLDER).join(name)
}

/// What is kept at `path`, and until when it counts; `None` if nothing is that can be read.
pub(super) async fn load(
    store: &TableStore,
    path: &ObjectPath,
) -> Option<(Kept, Option<DateTime<Utc>>)> {
    let bytes = match store.read(path).await {
        Ok(bytes) => bytes?,
        Err(error) => {
            tracing::warn!(%error, "what an earlier run kept cannot be read");
            return None;
        }
    };
    match parse(&bytes) {
        Ok((Header { files, until }, table)) => Some((Kept { files, table }, until)),
        Err(reason) => {
            tracing::warn!(%path, reason, "what an earlier run kept is damaged: it is not used");
            None
        }
    }
}

fn parse(bytes: &[u8]) -> Result<(Header, LabelTable), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it begins otherwise")?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let header = rest.split_at_checked(u32::from_le_bytes(*length) as usize);
    let (header, table) = header.ok_or("it is too short")?;
    let header = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    let table = LabelTable::read_from(GzDecoder::new(table)).map_err(|e| e.to_string())?;
    Ok((header, table))
}

fn to_bytes(header: &Header, table: &LabelTable) -> std::io::Result<Bytes> {
    let header = serde_json::to_vec(header)?;
    let length = u32::try_from(header.len()).map_err(std::io::Error::other)?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&header);
    let mut zip = GzEncoder::new(bytes, Compression::fast());
    table.write_to(&mut zip)?;
    Ok(zip.finish()?.into())
}

/// Keeps `table`, made of `files`, unless another run keeps something at the same time. Failing to
/// is told and does no harm.
pub(super) async fn keep(
    store: &TableStore,
    path: &ObjectPath,
    files: &[ObjectMeta],
    table: &LabelTable,
    until: Option<DateTime<Utc>>,
) {
    let header = Header {
        files: files.iter().map(KnownFile::of).collect(),
        until,
    };
    let kept = async {
        let held = store.read_to_swap(path).await.map_err(|e| e.to_string())?;
        let bytes = to_bytes(&header, table).map_err(|e| e.to_string())?;
        let swapped = store.compare_and_set(path, held, bytes).await;
        swapped.map_err(|e| e.to_string())
    };
    let kept: Result<SwapOutcome, String> = kept.await;
    match kept {
        Ok(SwapOutcome::Done) => tracing::info!(%path, files = files.len(), "kept for later runs"),
        // Another run has kept what it read.
        Ok(SwapOutcome::Lost) => {}
        Err(reason) => tracing::warn!(%path, reason, "what was read cannot be kept"),
    }
}
