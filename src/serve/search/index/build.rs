//! Building an index, and bringing one up to date.

use super::local::{cache_error, copies, copy, put, remove_others};
use super::manifest::{CoveredFile, IndexManifest, IndexPart, folder, manifest_path};
use super::{IS_BUILT, SearchIndexError, VectorGraph};
use crate::labelling::store::{Footer, KnownFile, data_files, read_files};
use crate::serve::rows::vectors;
use arrow_array::RecordBatch;
use chrono::{TimeDelta, Utc};
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tagstream_core::storage::store::TableStore;
use tagstream_core::storage::swap::{SwapOutcome, VersionedObject};
use tagstream_model::registry::Cache;

/// An index is built anew when more than one of so many rows is of files that have changed or gone:
/// they are passed over in searches, and take room until then.
const DEAD_SHARE: u64 = 4;
/// A graph that no manifest names may be one that another run is putting, for this long.
const STRAY_HOURS: i64 = 24;

/// What became of an index.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct IndexReport {
    /// Files of the table that it covers now.
    pub files: usize,
    /// Rows that it covers now, all files that it knows taken together.
    pub rows: u64,
    /// Bytes of its graphs.
    pub bytes: u64,
    /// Files that were read for it.
    pub files_read: usize,
    /// Rows that were added.
    pub rows_added: u64,
    /// Rows in the graphs whose files have changed or gone.
    pub rows_gone: u64,
    /// Whether all of it was built, and nothing of the one before is in it.
    pub anew: bool,
}

/// Builds the index of the table `table`, or adds the files that have come since to the one that
/// stands, and tells `step` after each file how many of how many were read.
///
/// Memory: the graphs, and the files that are read ahead.
///
/// # Errors
/// [`SearchIndexError`]; what stood before stands.
pub async fn bring_up_to_date(
    store: &TableStore,
    table: &str,
    step: impl FnMut(usize, usize) + Send,
) -> Result<IndexReport, SearchIndexError> {
    let cache = Cache::default_location();
    bring(store, table, &copies(&cache, store, table), step).await
}

/// As [`bring_up_to_date`], with copies in the folder `copies`.
pub(super) async fn bring(
    store: &TableStore,
    table: &str,
    copies: &Path,
    mut step: impl FnMut(usize, usize) + Send,
) -> Result<IndexReport, SearchIndexError> {
    if !IS_BUILT {
        return Err(SearchIndexError::NotBuilt);
    }
    let path = manifest_path(store, table);
    let held = store.read_to_swap(&path).await;
    let held = held.map_err(|source| SearchIndexError::Object {
        path: path.to_string(),
        source,
    })?;
    let today = data_files(store, table).await?;
    let standing = standing(&path, held.as_ref())?;
    let worth_adding = standing.as_ref().filter(|standing| {
        let rows: u64 = standing.files.iter().map(|f| u64::from(f.rows)).sum();
        dead(standing, &today) * DEAD_SHARE <= rows
    });
    let grown = match worth_adding {
        None => None,
        Some(standing) => match Growing::of(standing, store, table, copies).await {
            Err(error @ (SearchIndexError::Damaged { .. } | SearchIndexError::Library { .. })) => {
                tracing::warn!(%error, "the index is built anew");
                None
            }
            growing => Some(growing?),
        },
    };
    let anew = grown.is_none();
    let mut growing = grown.unwrap_or_default();
    let fresh = growing.fresh(&today);
    let mut report = IndexReport {
        files: today.len(),
        files_read: fresh.len(),
        anew,
        ..IndexReport::default()
    };
    if !fresh.is_empty() {
        report.rows_added = growing.read(store, fresh, &mut step).await?;
        growing.put(store, table, copies).await?;
        let manifest = growing.manifest();
        let swapped = store
            .compare_and_set(&path, held, manifest.to_json()?)
            .await?;
        if swapped == SwapOutcome::Lost {
            let path = path.to_string();
            return Err(SearchIndexError::Lost { path });
        }
        remove_stray(store, table, (standing.as_ref(), &manifest)).await?;
        remove_others(copies, &manifest.parts);
    }
    let manifest = growing.manifest();
    report.rows = manifest.parts.iter().map(|part| part.rows).sum();
    report.bytes = manifest.parts.iter().map(|part| part.bytes).sum();
    report.rows_gone = dead(&manifest, &today);
    Ok(report)
}

/// The index that stands, if it can be read.
fn standing(
    path: &ObjectPath,
    held: Option<&VersionedObject>,
) -> Result<Option<IndexManifest>, SearchIndexError> {
    let Some(held) = held else { return Ok(None) };
    match IndexManifest::parse(path, &held.bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(error @ SearchIndexError::Newer { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the index is built anew");
            Ok(None)
        }
    }
}

/// Rows of files that have changed or gone.
fn dead(manifest: &IndexManifest, today: &[ObjectMeta]) -> u64 {
    let files = manifest.files.iter().zip(manifest.live(today));
    let dead = files.filter(|(_, live)| live.is_none());
    dead.map(|(file, _)| u64::from(file.rows)).sum()
}

/// An index that is being added to.
#[derive(Debug, Default)]
struct Growing {
    files: Vec<CoveredFile>,
    /// By the length of vectors.
    graphs: BTreeMap<usize, VectorGraph>,
    parts: Vec<IndexPart>,
}

impl Growing {
    async fn of(
        before: &IndexManifest,
        store: &TableStore,
        table: &str,
        copies: &Path,
    ) -> Result<Self, SearchIndexError> {
        let mut graphs = BTreeMap::new();
        for part in &before.parts {
            let path = copy(store, table, part, copies).await?;
            graphs.insert(part.dimensions, VectorGraph::load(&path, part)?);
        }
        Ok(Growing {
            files: before.files.clone(),
            graphs,
            parts: before.parts.clone(),
        })
    }

    /// Files that it does not know, or not as they are.
    fn fresh(&self, today: &[ObjectMeta]) -> Vec<ObjectMeta> {
        // Of two that have one path the later counts, and no two are alike.
        let known: BTreeMap<&str, &KnownFile> = self
            .files
            .iter()
            .map(|covered| (covered.file.path(), &covered.file))
            .collect();
        let is_new =
            |file: &&ObjectMeta| known.get(file.location.as_ref()) != Some(&&KnownFile::of(file));
        today.iter().filter(is_new).cloned().collect()
    }

    /// Adds the rows of `fresh`; how many.
    async fn read(
        &mut self,
        store: &TableStore,
        fresh: Vec<ObjectMeta>,
        step: &mut (impl FnMut(usize, usize) + Send),
    ) -> Result<u64, SearchIndexError> {
        let (first, all) = (self.files.len(), fresh.len());
        let empty = fresh.iter().map(|file| CoveredFile {
            file: KnownFile::of(file),
            rows: 0,
            dimensions: 0,
        });
        self.files.extend(empty);
        let (mut added, mut failed, mut told) = (0, None, 0);
        let take = |place: usize, batch: &RecordBatch, _: &Footer| {
            if place > told {
                told = place;
                step(place, all);
            }
            let (vectors, length) = vectors(batch, "embedding")?;
            match self.add(first + place, vectors, length) {
                Ok(rows) => {
                    added += rows;
                    Ok(ControlFlow::Continue(()))
                }
                Err(error) => {
                    failed = Some(error);
                    Ok(ControlFlow::Break(()))
                }
            }
        };
        let files = fresh.into_iter().enumerate();
        read_files(store, files, &["embedding"], take).await?;
        step(all, all);
        failed.map_or(Ok(added), Err)
    }

    /// Adds rows to the file of a place.
    fn add(
        &mut self,
        place: usize,
        vectors: &[f32],
        length: usize,
    ) -> Result<u64, SearchIndexError> {
        let file = &mut self.files[place];
        let rows = vectors.len().checked_div(length).unwrap_or(0);
        let after = u32::try_from(rows)
            .ok()
            .and_then(|rows| file.rows.checked_add(rows));
        let (Some(after), Ok(place)) = (after, u32::try_from(place)) else {
            return Err(SearchIndexError::Library {
                doing: "numbering rows",
                reason: format!("{} has more than 2^32 rows", file.file.path()),
            });
        };
        if rows == 0 {
            return Ok(0);
        }
        let key = u64::from(place) << 32 | u64::from(file.rows);
        file.rows = after;
        file.dimensions = length;
        let graph = match self.graphs.entry(length) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(VectorGraph::empty(length)?),
        };
        graph.add(key, vectors).map(|added| added as u64)
    }

    /// Puts the graphs that have grown.
    async fn put(
        &mut self,
        store: &TableStore,
        table: &str,
        copies: &Path,
    ) -> Result<(), SearchIndexError> {
        std::fs::create_dir_all(copies).map_err(cache_error(copies))?;
        for (dimensions, graph) in &self.graphs {
            let (place, rows) = (self.parts.iter(), graph.rows());
            let place = { place }.position(|part| part.dimensions == *dimensions);
            if rows == 0 || place.is_some_and(|place| self.parts[place].rows == rows) {
                continue;
            }
            let scratch = scratch_name(copies, *dimensions);
            let saved = graph.save(&scratch);
            let put = match saved {
                Ok(()) => put(store, table, (&scratch, *dimensions, rows), copies).await,
                Err(error) => Err(error),
            };
            if put.is_err() {
                // Best effort: the error is told.
                let _ = std::fs::remove_file(&scratch);
            }
            let part = put?;
            match place {
                Some(place) => self.parts[place] = part,
                None => self.parts.push(part),
            }
        }
        Ok(())
    }

    fn manifest(&self) -> IndexManifest {
        IndexManifest::new(
            VectorGraph::library(),
            self.parts.clone(),
            self.files.clone(),
        )
    }
}

/// A name in a folder that no other process takes.
fn scratch_name(folder: &Path, dimensions: usize) -> PathBuf {
    folder.join(format!(
        ".{dimensions}-{:016x}.partial",
        rand::random::<u64>()
    ))
}

/// Removes the graphs of the manifest before that are in the new one no more, and others that
/// nobody can be putting any more.
async fn remove_stray(
    store: &TableStore,
    table: &str,
    (before, now): (Option<&IndexManifest>, &IndexManifest),
) -> Result<(), SearchIndexError> {
    let old = Utc::now() - TimeDelta::hours(STRAY_HOURS);
    for file in store.list_objects(&folder(store, table)).await? {
        let name = file.location.filename().unwrap_or("");
        let named = |manifest: &IndexManifest| manifest.parts.iter().any(|part| part.file == name);
        let is_old = before.is_some_and(named) || file.last_modified < old;
        if name.ends_with(".usearch") && is_old && !named(now) {
            store.delete(&file.location).await?;
        }
    }
    Ok(())
}
