//! An index of the embeddings beside the predictions table, for more rows than a scan gets through.
//!
//! ```text
//! <table>/_search_index/manifest-1.json              what the index covers; put last
//! <table>/_search_index/<length>-<sha256>.usearch    a graph (HNSW) of the embeddings of a length
//! ```
//!
//! [`bring_up_to_date`] writes it (`tagstream search-index`); the search page asks it for the rows
//! nearest to a vector, reads those from the table and orders them by what stands there. The index
//! is never believed about more than which rows are worth reading: files that have changed or gone
//! are passed over, files that it does not cover are scanned, and where it cannot be used the scan
//! answers alone. So it may be old, be removed, or be missing.
//!
//! The library follows what a file says without looking twice, so a file is opened only if its
//! SHA-256 is the manifest's. Whoever can write the manifest can write the table.
//!
//! In a build without the feature `search-index` nothing is asked, and the page says so.

#[cfg(not(feature = "search-index"))]
mod absent;
mod build;
#[cfg(feature = "search-index")]
mod graph;
mod local;
mod manifest;
mod shelf;
#[cfg(all(test, feature = "search-index"))]
mod tests;

pub use build::{IndexReport, bring_up_to_date};
pub(super) use shelf::{IndexShelf, OpenedIndex};

use crate::labelling::store::TableError;
#[cfg(not(feature = "search-index"))]
use absent::NoGraph as VectorGraph;
#[cfg(feature = "search-index")]
use graph::VectorGraph;
use std::path::PathBuf;
use tagstream_core::storage::store::StoreError;
use tagstream_core::storage::swap::SwapError;

/// Whether this build can write and ask an index.
const IS_BUILT: bool = cfg!(feature = "search-index");

/// Why an index cannot be written or asked.
#[derive(Debug, thiserror::Error)]
pub enum SearchIndexError {
    /// The build has no part for it.
    #[error(
        "this build has no search index: build it with `cargo build --release --features \
         search-index`"
    )]
    NotBuilt,
    /// A newer tagstream wrote it.
    #[error(
        "{path} has version {found}; this tagstream knows {known}: use a newer one, or remove the \
         folder and run `tagstream search-index`"
    )]
    Newer {
        /// The manifest.
        path: String,
        /// Its version.
        found: u64,
        /// The version that this build writes.
        known: u64,
    },
    /// The manifest or a graph is not what it should be.
    #[error("{path}: {reason}; `tagstream search-index` writes it anew")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The index is being copied to this machine.
    #[error("the index is being fetched to this machine")]
    Fetching,
    /// Another run wrote the manifest meanwhile.
    #[error("another run wrote {path} meanwhile: nothing was changed; run this again")]
    Lost {
        /// The manifest.
        path: String,
    },
    /// The folder for copies.
    #[error("the index cannot be kept in {}: {source}; set TAGSTREAM_CACHE to a folder that can be \
             written", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The library of the index.
    #[error("the index's library, {doing}: {reason}")]
    Library {
        /// What it was asked.
        doing: &'static str,
        /// What it said.
        reason: String,
    },
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store, about a file of the index.
    #[error("{path}: {source}")]
    Object {
        /// The file.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// Putting the manifest.
    #[error(transparent)]
    Swap(#[from] SwapError),
}

impl SearchIndexError {
    /// Whether another time may go better, with nothing changed.
    pub fn is_transient(&self) -> bool {
        match self {
            SearchIndexError::Table(TableError::Store(error)) | SearchIndexError::Store(error) => {
                error.is_transient()
            }
            SearchIndexError::Fetching
            | SearchIndexError::Lost { .. }
            | SearchIndexError::Object { .. }
            | SearchIndexError::Swap(_) => true,
            _ => false,
        }
    }
}
