//! The index as searches ask for it: followed, copied to this machine, opened, and told of when it
//! cannot be used.

use super::local::{copies, copy, remove_others};
use super::manifest::{CoveredFile, IndexManifest};
use super::{IS_BUILT, SearchIndexError, VectorGraph};
use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream_core::digest;
use tagstream_core::process::blocking;
use tagstream_core::storage::store::TableStore;
use tagstream_model::registry::Cache;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinHandle};

/// A search waits so long for an index to be copied here; then the one before, or the scan, answers
/// it, and a later search has the copy.
const PATIENCE: Duration = Duration::from_secs(5);
/// What could not be opened is tried again after this long, though the manifest be the same.
const AGAIN: Duration = Duration::from_secs(60);

/// A table's index, and what is known of it.
pub(in crate::serve::search) struct IndexShelf {
    copies: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    opened: Option<Arc<OpenedIndex>>,
    opening: Option<(String, JoinHandle<Result<OpenedIndex, SearchIndexError>>)>,
    failed: Option<Failed>,
    /// What was said in the log last.
    said: Option<String>,
}

/// An index that could not be opened.
struct Failed {
    of: String,
    why: Arc<SearchIndexError>,
    at: Instant,
}

impl IndexShelf {
    /// For `table`, with its copies in this user's cache.
    pub(in crate::serve::search) fn new(store: &TableStore, table: &str) -> Self {
        Self::at(copies(&Cache::default_location(), store, table))
    }

    /// With its copies in a folder.
    pub(super) fn at(copies: PathBuf) -> Self {
        IndexShelf {
            copies,
            state: Mutex::default(),
        }
    }

    /// The index that stands beside the table, or the one before as long as that is being copied;
    /// `None` if there is none. What keeps it from being used is said in the log once.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(in crate::serve::search) async fn look(
        &self,
        store: &TableStore,
        table: &str,
    ) -> Result<Option<Arc<OpenedIndex>>, Arc<SearchIndexError>> {
        let mut state = self.state.lock().await;
        let looked = self.standing(&mut state, store, table).await;
        let trouble = match &looked {
            Err(why) if !matches!(**why, SearchIndexError::Fetching) => Some(why.to_string()),
            _ => None,
        };
        if let Some(reason) = &trouble
            && state.said.as_ref() != Some(reason)
        {
            tracing::warn!(
                reason,
                "the search index is not used: searches scan the table"
            );
        }
        state.said = trouble;
        looked
    }

    async fn standing(
        &self,
        state: &mut State,
        store: &TableStore,
        table: &str,
    ) -> Result<Option<Arc<OpenedIndex>>, Arc<SearchIndexError>> {
        let Some((bytes, path)) = IndexManifest::read(store, table).await? else {
            *state = State::default();
            return Ok(None);
        };
        if !IS_BUILT {
            return Err(Arc::new(SearchIndexError::NotBuilt));
        }
        let is = digest::sha256(&bytes);
        if let Some(opened) = state.opened.as_ref().filter(|opened| opened.is == is) {
            return Ok(Some(Arc::clone(opened)));
        }
        let failed = state.failed.as_ref();
        if let Some(failed) = failed.filter(|f| f.of == is && f.at.elapsed() < AGAIN) {
            return Err(Arc::clone(&failed.why));
        }
        let mut opening = match state.opening.take() {
            Some((of, task)) if of == is => task,
            other => {
                if let Some((_, task)) = other {
                    task.abort();
                }
                let manifest = IndexManifest::parse(&path, &bytes)?;
                let (store, table) = (store.clone(), table.to_owned());
                let (is, copies) = (is.clone(), self.copies.clone());
                tokio::spawn(async move {
                    OpenedIndex::open((manifest, is), &store, &table, &copies).await
                })
            }
        };
        match tokio::time::timeout(PATIENCE, &mut opening).await {
            Ok(opened) => state.take(is, opened).map(Some),
            Err(_) => {
                state.opening = Some((is, opening));
                let before = state.opened.clone();
                before.map_or_else(|| Err(SearchIndexError::Fetching.into()), |b| Ok(Some(b)))
            }
        }
    }
}

impl State {
    /// Keeps what opening the index of a manifest came to.
    fn take(
        &mut self,
        is: String,
        opened: Result<Result<OpenedIndex, SearchIndexError>, JoinError>,
    ) -> Result<Arc<OpenedIndex>, Arc<SearchIndexError>> {
        let opened = opened.unwrap_or_else(|error| {
            Err(SearchIndexError::Library {
                doing: "opening the index",
                reason: error.to_string(),
            })
        });
        match opened {
            Ok(opened) => {
                let opened = Arc::new(opened);
                self.opened = Some(Arc::clone(&opened));
                self.failed = None;
                Ok(opened)
            }
            Err(why) => {
                let why = Arc::new(why);
                self.failed = Some(Failed {
                    of: is,
                    why: Arc::clone(&why),
                    at: Instant::now(),
                });
                Err(why)
            }
        }
    }
}

/// An index that can be asked.
#[derive(Debug)]
pub(in crate::serve::search) struct OpenedIndex {
    /// What its manifest is known by.
    is: String,
    manifest: IndexManifest,
    /// By the length of vectors.
    graphs: HashMap<usize, VectorGraph>,
}

impl OpenedIndex {
    async fn open(
        (manifest, is): (IndexManifest, String),
        store: &TableStore,
        table: &str,
        copies: &Path,
    ) -> Result<Self, SearchIndexError> {
        let mut graphs = HashMap::new();
        for part in &manifest.parts {
            let path = copy(store, table, part, copies).await?;
            let own = part.clone();
            let graph = blocking::run(move || VectorGraph::view(&path, &own)).await;
            let graph = graph.map_err(|error| SearchIndexError::Library {
                doing: "mapping a graph",
                reason: error.to_string(),
            })?;
            graphs.insert(part.dimensions, graph?);
        }
        remove_others(copies, &manifest.parts);
        Ok(OpenedIndex {
            is,
            manifest,
            graphs,
        })
    }

    /// When it was made.
    pub(in crate::serve::search) fn made(&self) -> DateTime<Utc> {
        self.manifest.made
    }

    /// Of each file that it covers what it is listed as today; `None` for those that have changed
    /// or gone.
    pub(in crate::serve::search) fn live<'a>(
        &self,
        today: &'a [ObjectMeta],
    ) -> Vec<Option<&'a ObjectMeta>> {
        self.manifest.live(today)
    }

    /// Rows with vectors of a length, in files that are `live`.
    pub(in crate::serve::search) fn rows(
        &self,
        dimensions: usize,
        live: &[Option<&ObjectMeta>],
    ) -> usize {
        let files = self.manifest.files.iter().zip(live);
        let own = files.filter(|(file, live)| live.is_some() && file.dimensions == dimensions);
        own.map(|(file, _): (&CoveredFile, _)| file.rows as usize)
            .sum()
    }

    /// The rows nearest to `near` in files that are `live`, the nearest first: the file's place and
    /// the row's.
    ///
    /// # Errors
    /// [`SearchIndexError::Library`].
    pub(in crate::serve::search) fn nearest(
        &self,
        near: &[f32],
        most: usize,
        live: &[Option<&ObjectMeta>],
    ) -> Result<Vec<(usize, u32)>, SearchIndexError> {
        let Some(graph) = self.graphs.get(&near.len()) else {
            return Ok(Vec::new());
        };
        let place = |key: u64| ((key >> 32) as usize, key as u32);
        let holds = |key: u64| live.get(place(key).0).is_some_and(Option::is_some);
        let keys = graph.nearest(near, most, holds)?;
        Ok(keys.into_iter().map(place).collect())
    }
}
