//! What has expired of a chain, and what must not be taken for a beginning.
//!
//! `tagstream table expire` puts a *floor* before it removes anything: the first offset that has
//! not expired, with a copy of the origin of the chain above it. Whoever walks the chain believes
//! it. Where files or the group's offset tell of a chain and neither origin nor floor does,
//! somebody else deleted something, and a first start would read again what was read before.

use super::broken_table::LostChain;
use super::chain::WriterId;
use super::footer::{FooterError, read_facts};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tagstream_core::config::FileFormat;
use tagstream_core::events::Offset;
use tagstream_core::storage::names;
use tagstream_core::storage::names::{Epoch, Folder, Name};
use tagstream_core::storage::store::{StoreError, TableStore};

/// The version of the floors that this build writes and reads.
pub const FLOOR_VERSION: u32 = 1;

/// What lay before has expired; put once. `O` is a chain's origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor<O> {
    /// Version of this note.
    pub version: u32,
    /// The first offset that has not expired.
    pub offset: Offset,
    /// The origin of its chain.
    pub origin: O,
    /// When it was put.
    pub created: DateTime<Utc>,
    /// Who put it.
    pub writer: WriterId,
}

/// The notes of a partition's folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Notes {
    /// The epochs that have an origin.
    pub origins: BTreeSet<Epoch>,
    /// The highest floor.
    pub floor: Option<(Epoch, Offset)>,
}

impl Notes {
    /// Reads the notes of `folder`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(store: &TableStore, folder: &Folder) -> Result<Notes, StoreError> {
        // They begin with '_' and so sort after every file.
        let after = folder.path().clone().join("_");
        let names = store.list(folder.path(), Some(&after)).await?;
        let mut notes = Notes::default();
        for name in names.iter().filter_map(names::parse) {
            notes.add(name);
        }
        Ok(notes)
    }

    /// Takes a name into account, if it is a note's.
    pub fn add(&mut self, name: Name) {
        match name {
            Name::Origin(epoch) => _ = self.origins.insert(epoch),
            Name::Floor { epoch, offset } => self.floor = self.floor.max(Some((epoch, offset))),
            Name::File { .. } => {}
        }
    }

    /// The newest chain that is known to have begun.
    pub fn newest(&self) -> Option<Epoch> {
        let above = self.floor.map(|(epoch, _)| epoch);
        self.origins.last().copied().max(above)
    }

    /// Where the floor lies in the chain of `epoch`, if it lies there.
    pub fn floor_of(&self, epoch: Epoch) -> Option<Offset> {
        self.floor
            .filter(|(e, _)| *e == epoch)
            .map(|(_, offset)| offset)
    }
}

/// Why a floor cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is none that this build knows.
    #[error("{path} is not a floor that this build reads: {reason}")]
    Bad {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was listed, then gone: a higher one has taken its place.
    #[error("{path} is gone")]
    Gone {
        /// The file.
        path: String,
    },
}

/// Reads the floor at a place where one was listed.
///
/// # Errors
/// [`FloorError`].
pub async fn read_floor<O: DeserializeOwned>(
    store: &TableStore,
    folder: &Folder,
    (epoch, offset): (Epoch, Offset),
) -> Result<Floor<O>, FloorError> {
    let path = folder.floor(epoch, offset);
    let bad = |reason: String| FloorError::Bad {
        path: path.to_string(),
        reason,
    };
    let bytes = store.read(&path).await?;
    let bytes = bytes.ok_or_else(|| FloorError::Gone {
        path: path.to_string(),
    })?;
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
    if version != FLOOR_VERSION {
        return Err(bad(format!(
            "it has version {version}, and {FLOOR_VERSION} is known: use a newer build"
        )));
    }
    serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))
}

/// A chain after `newest` that files, or else the group's offset (`told`: the epoch of the file
/// that it was committed with, and the offset), tell of.
///
/// # Errors
/// [`FooterError`].
pub(super) async fn lost_chain(
    store: &TableStore,
    folder: &Folder,
    format: FileFormat,
    newest: Option<Epoch>,
    told: Option<(Epoch, Offset)>,
) -> Result<Option<LostChain>, FooterError> {
    let after = newest.map(|epoch| folder.after_epoch(epoch));
    let names = store.list(folder.path(), after.as_ref()).await?;
    let files = names.iter().filter_map(|path| match names::parse(path) {
        Some(Name::File { epoch, start, .. }) if Some(epoch) > newest => Some((epoch, start)),
        _ => None,
    });
    let Some((epoch, start)) = files.max() else {
        let told = told.filter(|(epoch, _)| Some(*epoch) > newest);
        return Ok(told.map(|(epoch, offset)| LostChain::by_group(epoch, offset)));
    };
    let path = folder.file(epoch, start, format);
    let facts = read_facts(store, &path, format).await?;
    Ok(facts.map(|facts| LostChain::by_files(epoch, facts.range.end)))
}
