//! What a committed file says about itself: key-value pairs in the footer of its format.

use super::chain::{FileFacts, Seal, WriterId};
use super::lineage::LogLineage;
use super::table::TableRow;
use super::{arrow_ipc, parquet};
use bytes::Bytes;
use object_store::path::Path;
use std::collections::BTreeMap;
use tagstream_core::config::FileFormat;
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::names::Epoch;
use tagstream_core::storage::store::{StoreError, TableStore};

const RANGE: &str = "tagstream.range";
const WRITER: &str = "tagstream.writer";
const SEAL: &str = "tagstream.seal";
/// Absent from files of older versions, and where brokers tell no epochs.
const LINEAGE: &str = "tagstream.leader_epochs";
const ROWS: &str = "tagstream.rows";
/// When the rows of a file went.
const EXPIRED: &str = "tagstream.expired";
/// Most footers fit into the first request.
const FIRST_TAIL: u64 = 64 * 1024;

/// Why a file could not be made or read back.
#[derive(Debug, thiserror::Error)]
pub enum FooterError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is damaged, or not ours.
    #[error(
        "{path} is not a file that tagstream wrote ({reason}): move it out of the table's folder"
    )]
    NotOurs {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Everything a file says about itself beside its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFooter {
    /// Table name.
    pub table: String,
    /// Where the rows came from.
    pub partition: PartitionId,
    /// The chain it belongs to.
    pub epoch: Epoch,
    /// Range, writer and seal.
    pub facts: FileFacts,
}

impl FileFooter {
    /// The key-value pairs of a file with `rows`.
    pub fn entries<R: TableRow>(&self, layout: &R::Layout, rows: &[R]) -> BTreeMap<String, String> {
        let mut entries: BTreeMap<String, String> = R::describe(layout, rows).into_iter().collect();
        let range =
            serde_json::json!({"start": self.facts.range.start, "end": self.facts.range.end});
        entries.extend(
            [
                ("tagstream.table", self.table.clone()),
                ("tagstream.schema_version", R::SCHEMA_VERSION.to_string()),
                ("tagstream.topic", self.partition.topic.to_string()),
                ("tagstream.partition", self.partition.partition.to_string()),
                ("tagstream.epoch", self.epoch.to_string()),
                (ROWS, rows.len().to_string()),
                (RANGE, range.to_string()),
                (WRITER, self.facts.writer.0.clone()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        if let Some(seal) = &self.facts.seal {
            let seal = serde_json::to_string(seal).expect("a seal is plain data");
            entries.insert(SEAL.into(), seal);
        }
        if self.facts.lineage.leader_epoch().is_some() {
            let lineage = serde_json::to_string(&self.facts.lineage);
            entries.insert(LINEAGE.into(), lineage.expect("a lineage is plain data"));
        }
        entries
    }
}

fn facts(entries: &BTreeMap<String, String>) -> Result<FileFacts, String> {
    #[derive(serde::Deserialize)]
    struct Range {
        start: Offset,
        end: Offset,
    }
    let entry = |key: &str| {
        entries
            .get(key)
            .ok_or_else(|| format!("no `{key}` in its footer"))
    };
    let range: Range =
        serde_json::from_str(entry(RANGE)?).map_err(|e| format!("`{RANGE}`: {e}"))?;
    let seal: Option<Seal> = entries
        .get(SEAL)
        .map(|text| serde_json::from_str(text))
        .transpose()
        .map_err(|e| format!("`{SEAL}`: {e}"))?;
    let lineage: Option<LogLineage> = entries
        .get(LINEAGE)
        .map(|text| serde_json::from_str(text))
        .transpose()
        .map_err(|e| format!("`{LINEAGE}`: {e}"))?;
    Ok(FileFacts {
        range: OffsetRange::new(range.start, range.end).map_err(|e| e.to_string())?,
        writer: WriterId(entry(WRITER)?.clone()),
        seal,
        lineage: lineage.unwrap_or_default(),
    })
}

/// Reads the footer's entries of a committed file; `None` if there is no such file.
///
/// # Errors
/// [`FooterError`].
pub async fn read_entries(
    store: &TableStore,
    path: &Path,
    format: FileFormat,
) -> Result<Option<BTreeMap<String, String>>, FooterError> {
    let footer = read_footer(store, path, format).await?;
    footer
        .map(|footer| entries_of(&footer, path, format))
        .transpose()
}

fn entries_of(
    footer: &[u8],
    path: &Path,
    format: FileFormat,
) -> Result<BTreeMap<String, String>, FooterError> {
    match format {
        FileFormat::Parquet => parquet::footer_entries(footer),
        FileFormat::Arrow => arrow_ipc::footer_entries(footer),
    }
    .map_err(not_ours(path))
}

fn not_ours(path: &Path) -> impl Fn(String) -> FooterError {
    let path = path.to_string();
    move |reason| FooterError::NotOurs {
        path: path.clone(),
        reason,
    }
}

/// What takes the place of a file whose rows expire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Husk {
    /// The file without rows; `None` if it has none already.
    pub(super) bytes: Option<Bytes>,
    /// Rows that it has now.
    pub(super) rows: u64,
}

/// The file at `path` without its rows: the same columns, range, writer and seal. `None` if there
/// is no such file.
///
/// # Errors
/// [`FooterError`].
pub(super) async fn expire_file(
    store: &TableStore,
    path: &Path,
    format: FileFormat,
) -> Result<Option<Husk>, FooterError> {
    let Some(footer) = read_footer(store, path, format).await? else {
        return Ok(None);
    };
    let mut entries = entries_of(&footer, path, format)?;
    // What is no file of ours is not touched.
    facts(&entries).map_err(not_ours(path))?;
    if entries.contains_key(EXPIRED) {
        let none = Husk {
            bytes: None,
            rows: 0,
        };
        return Ok(Some(none));
    }
    let rows = entries.insert(ROWS.into(), "0".into());
    let rows = rows.and_then(|rows| rows.parse().ok()).unwrap_or_default();
    entries.insert(EXPIRED.into(), chrono::Utc::now().to_rfc3339());
    let husk = match format {
        FileFormat::Parquet => parquet::without_rows(&footer, &entries),
        FileFormat::Arrow => arrow_ipc::without_rows(&footer, &entries),
    };
    let bytes = Some(Bytes::from(husk.map_err(not_ours(path))?));
    Ok(Some(Husk { bytes, rows }))
}

async fn read_footer(
    store: &TableStore,
    path: &Path,
    format: FileFormat,
) -> Result<Option<Bytes>, FooterError> {
    let not_ours = not_ours(path);
    let length_of = match format {
        FileFormat::Parquet => parquet::footer_length,
        FileFormat::Arrow => arrow_ipc::footer_length,
    };
    let Some((mut tail, size)) = store.read_tail(path, FIRST_TAIL).await? else {
        return Ok(None);
    };
    let needed = length_of(&tail).map_err(&not_ours)?;
    if needed > size {
        return Err(not_ours(format!(
            "its footer of {needed} bytes does not fit into {size}"
        )));
    }
    if needed > tail.len() as u64 {
        let Some((longer, _)) = store.read_tail(path, needed).await? else {
            return Ok(None);
        };
        tail = longer;
    }
    Ok(Some(tail.slice(tail.len() - needed as usize..)))
}

/// Reads what a committed file says about itself; `None` if there is no such file.
///
/// # Errors
/// [`FooterError`].
pub async fn read_facts(
    store: &TableStore,
    path: &Path,
    format: FileFormat,
) -> Result<Option<FileFacts>, FooterError> {
    let Some(entries) = read_entries(store, path, format).await? else {
        return Ok(None);
    };
    facts(&entries)
        .map(Some)
        .map_err(|reason| FooterError::NotOurs {
            path: path.to_string(),
            reason,
        })
}
