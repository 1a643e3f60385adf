//! Deletion that the chain knows: `tagstream table expire`.
//!
//! Rows that are older than asked for go; what keeps others from being written twice stays. For
//! each partition:
//!
//! 1. The *floor* is put, once: the first offset that has not expired, with the origin of its
//!    chain. A writer or reader of the chain that finds it believes it.
//! 2. Each file below is replaced by one of the same name, range and footer without rows. The name
//!    stays taken, so that a put which is still under way, or held by a process that was frozen,
//!    finds the range written, as before.
//! 3. A day later the name is freed, too, except for the last of the chain, which says where the
//!    chain ends. Whoever has not looked at the chain for ten minutes looks before he puts
//!    (`sink::fence`), and finds the floor above his range.
//!
//! Run twice, at once, or killed at any point, it does no harm: every step finds what is done.

use super::broken_table::LostChain;
use super::chain::WriterId;
use super::floor::{FLOOR_VERSION, Floor, Notes, read_floor};
use super::footer::{FooterError, expire_file, read_facts};
use super::walk::{ChainOrigin, ResumeError};
use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;
use tagstream_core::config::FileFormat;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::names;
use tagstream_core::storage::names::{Epoch, Folder, Name};
use tagstream_core::storage::store::{StoreError, TableStore};

/// How long the name of an expired file stays taken.
pub const HOLD: Duration = Duration::from_secs(24 * 3_600);

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    /// Files that were put before this expire.
    pub before: DateTime<Utc>,
    /// Names of files that expired before this are freed.
    pub free_before: DateTime<Utc>,
    /// Change nothing, only tell.
    pub dry_run: bool,
    /// Who asks.
    pub writer: WriterId,
}

/// What expired of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Expired {
    /// Its folder, below the table.
    pub folder: String,
    /// The first offset that has not expired, and its chain.
    pub floor: Option<(Epoch, Offset)>,
    /// Files whose rows went.
    pub files: u64,
    /// Rows that went.
    pub rows: u64,
    /// Bytes that went.
    pub bytes: u64,
    /// Names of files that had expired before, and were freed.
    pub freed: u64,
}

/// Why nothing more expires.
#[derive(Debug, thiserror::Error)]
pub enum ExpireError {
    /// Nothing lies where the table would.
    #[error("there is no table `{table}` at {url}: name another by --table")]
    NoTable {
        /// The table.
        table: String,
        /// Where it would be.
        url: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// An origin or floor cannot be read, or a part of the table is gone.
    #[error(transparent)]
    Resume(#[from] ResumeError),
}

impl ExpireError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            ExpireError::Store(error) | ExpireError::Footer(FooterError::Store(error)) => {
                error.is_transient()
            }
            ExpireError::Footer(_) | ExpireError::NoTable { .. } => false,
            ExpireError::Resume(error) => error.is_transient(),
        }
    }
}

/// A file of a chain, as it is listed.
#[derive(Debug, Clone)]
struct ListedFile {
    epoch: Epoch,
    start: Offset,
    format: FileFormat,
    object: ObjectMeta,
}

/// Lets the files of `table` expire, partition by partition.
///
/// # Errors
/// [`ExpireError`]; what was done before it stays done and does no harm.
pub async fn expire(
    store: &TableStore,
    table: &str,
    expiry: &Expiry,
) -> Result<Vec<Expired>, ExpireError> {
    let root = store.root().clone();
    let root = table.split('/').fold(root, |path, step| path.join(step));
    let mut folders: BTreeMap<String, Vec<ObjectMeta>> = BTreeMap::new();
    for object in store.list_objects(&root).await? {
        if let Some((folder, _)) = object.location.as_ref().rsplit_once('/') {
            folders.entry(folder.to_owned()).or_default().push(object);
        }
    }
    if folders.is_empty() {
        return Err(ExpireError::NoTable {
            table: table.into(),
            url: store.url().into(),
        });
    }
    let mut expired = Vec::new();
    for (folder, objects) in folders {
        let mut parts = folder[root.as_ref().len()..]
            .trim_start_matches('/')
            .split('/');
        let (Some(topic), Some(Ok(number)), None) = (
            parts.next(),
            parts.next().map(str::parse::<i32>),
            parts.next(),
        ) else {
            continue;
        };
        let partition = PartitionId::new(topic, number);
        let work = PartitionExpiry {
            store,
            folder: Folder::at(folder.as_str().into()),
            partition,
            expiry,
        };
        expired.extend(work.run(objects).await?);
    }
    Ok(expired)
}

struct PartitionExpiry<'a> {
    store: &'a TableStore,
    folder: Folder,
    /// As the folder calls it.
    partition: PartitionId,
    expiry: &'a Expiry,
}

impl PartitionExpiry<'_> {
    async fn run(&self, objects: Vec<ObjectMeta>) -> Result<Option<Expired>, ExpireError> {
        let (mut notes, mut files, mut floors) = (Notes::default(), Vec::new(), Vec::new());
        for object in objects {
            let Some(name) = names::parse(&object.location) else {
                continue;
            };
            notes.add(name);
            match name {
                Name::File {
                    epoch,
                    start,
                    format,
                } => files.push(ListedFile {
                    epoch,
                    start,
                    format,
                    object,
                }),
                Name::Floor { epoch, offset } => floors.push(((epoch, offset), object)),
                Name::Origin(_) => {}
            }
        }
        files.sort_by_key(|file| (file.epoch, file.start));
        let Some(last) = files.last() else {
            return Ok(None);
        };
        if Some(last.epoch) > notes.newest() {
            return Err(self.lost(last).await?.into());
        }
        let Some(floor) = self.floor(&files, &notes).await? else {
            return Ok(None);
        };
        let mut expired = Expired {
            folder: format!("{}/{}", self.partition.topic, self.partition.partition),
            floor: Some(floor),
            ..Expired::default()
        };
        if notes.floor < Some(floor) && !self.expiry.dry_run {
            self.put_floor(floor, &notes).await?;
        }
        for file in files.iter().filter(|file| (file.epoch, file.start) < floor) {
            let is_last = (file.epoch, file.start) == (last.epoch, last.start);
            self.take(file, is_last, &mut expired).await?;
        }
        for (place, object) in floors {
            if place < floor && self.is_free(&object) && !self.expiry.dry_run {
                self.store.delete(&object.location).await?;
            }
        }
        Ok(Some(expired))
    }

    fn is_free(&self, object: &ObjectMeta) -> bool {
        object.last_modified < self.expiry.free_before
    }

    async fn lost(&self, last: &ListedFile) -> Result<ResumeError, ExpireError> {
        let facts = read_facts(self.store, &last.object.location, last.format).await?;
        let end = facts.map_or(last.start, |facts| facts.range.end);
        Ok(ResumeError::Lost {
            partition: self.partition.clone(),
            folder: self.folder.path().to_string(),
            lost: LostChain::by_files(last.epoch, end),
        })
    }

    /// Where the first file begins that stays, or where the last ends if none does; `None` if
    /// nothing has ever expired and nothing does now.
    async fn floor(
        &self,
        files: &[ListedFile],
        notes: &Notes,
    ) -> Result<Option<(Epoch, Offset)>, ExpireError> {
        let below = |file: &&ListedFile| {
            Some((file.epoch, file.start)) < notes.floor
                || file.object.last_modified < self.expiry.before
        };
        let gone = files.iter().take_while(below).count();
        let floor = match (files.get(gone), files.last()) {
            (Some(_), _) if gone == 0 => None,
            (Some(kept), _) => Some((kept.epoch, kept.start)),
            (None, Some(last)) => {
                let facts = read_facts(self.store, &last.object.location, last.format).await?;
                // A seal ends a chain where it lies; the next epoch's files lie above it.
                facts.map(|facts| (last.epoch, facts.range.end))
            }
            (None, None) => None,
        };
        Ok(floor.max(notes.floor))
    }

    async fn put_floor(
        &self,
        (epoch, offset): (Epoch, Offset),
        notes: &Notes,
    ) -> Result<(), ExpireError> {
        let floor = Floor {
            version: FLOOR_VERSION,
            offset,
            origin: self.origin(epoch, notes).await?,
            created: Utc::now(),
            writer: self.expiry.writer.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&floor).expect("a floor is plain data");
        let path = self.folder.floor(epoch, offset);
        self.store.put_if_absent(&path, bytes.into()).await?;
        Ok(())
    }

    /// The origin of `epoch`; where it is gone, as the last floor remembers it.
    async fn origin(&self, epoch: Epoch, notes: &Notes) -> Result<ChainOrigin, ResumeError> {
        let path = self.folder.origin(epoch);
        if let Some(bytes) = self.store.read(&path).await? {
            return serde_json::from_slice(&bytes).map_err(|e| ResumeError::BadOrigin {
                path: path.to_string(),
                reason: e.to_string(),
            });
        }
        match notes.floor {
            Some(place) if place.0 == epoch => {
                let floor: Floor<ChainOrigin> = read_floor(self.store, &self.folder, place).await?;
                Ok(floor.origin)
            }
            _ => Err(ResumeError::BadOrigin {
                path: path.to_string(),
                reason: "it is gone".into(),
            }),
        }
    }

    /// Takes the rows of a file, or its name if the rows went long ago.
    async fn take(
        &self,
        file: &ListedFile,
        is_last: bool,
        expired: &mut Expired,
    ) -> Result<(), ExpireError> {
        let path = &file.object.location;
        let Some(husk) = expire_file(self.store, path, file.format).await? else {
            return Ok(());
        };
        match husk.bytes {
            Some(bytes) => {
                expired.files += 1;
                expired.rows += husk.rows;
                expired.bytes += file.object.size.saturating_sub(bytes.len() as u64);
                if !self.expiry.dry_run {
                    self.store.replace(path, bytes).await?;
                }
            }
            None if !is_last && self.is_free(&file.object) => {
                expired.freed += 1;
                if !self.expiry.dry_run {
                    self.store.delete(path).await?;
                }
            }
            None => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
