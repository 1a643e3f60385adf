//! A graph of vectors, by the library `usearch`.

use super::SearchIndexError;
use super::manifest::IndexPart;
use rayon::prelude::*;
use std::path::Path;
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

/// Numbers are kept as bf16: half of f32's bytes, and as fast without instructions that not every
/// processor has (f16 is six times slower then). They err by 2^-9 each, which a product over
/// hundreds of them does not show in the order of what is read and compared exactly anyway.
const NUMBERS: ScalarKind = ScalarKind::BF16;
/// The scan compares by products, too.
const METRIC: MetricKind = MetricKind::IP;

/// Vectors by a key each.
pub(super) struct VectorGraph(Index);

impl std::fmt::Debug for VectorGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "VectorGraph of {} vectors", self.rows())
    }
}

fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> SearchIndexError {
    move |error| SearchIndexError::Library {
        doing,
        reason: error.to_string(),
    }
}

/// The library takes paths as text.
fn text(path: &Path) -> Result<&str, SearchIndexError> {
    path.to_str().ok_or_else(|| SearchIndexError::Cache {
        path: path.to_owned(),
        source: std::io::ErrorKind::InvalidFilename.into(),
    })
}

impl VectorGraph {
    /// Who writes the files.
    pub(super) fn library() -> String {
        format!("usearch {}", usearch::version())
    }

    /// Without vectors.
    pub(super) fn empty(dimensions: usize) -> Result<Self, SearchIndexError> {
        let options = IndexOptions {
            dimensions,
            metric: METRIC,
            quantization: NUMBERS,
            ..IndexOptions::default()
        };
        let index = Index::new(&options).map_err(failed("making a graph"))?;
        Ok(VectorGraph(index))
    }

    /// A file, read into memory, to be added to.
    pub(super) fn load(path: &Path, part: &IndexPart) -> Result<Self, SearchIndexError> {
        let graph = Self::fitting(path, part)?;
        let loaded = graph.0.load(text(path)?);
        loaded.map_err(failed("loading a graph"))?;
        Ok(graph)
    }

    /// A file, mapped: its pages come into memory as they are asked for.
    pub(super) fn view(path: &Path, part: &IndexPart) -> Result<Self, SearchIndexError> {
        let graph = Self::fitting(path, part)?;
        let viewed = graph.0.view(text(path)?);
        viewed.map_err(failed("mapping a graph"))?;
        Ok(graph)
    }

    /// An empty graph for a file, if its head says what the manifest does.
    fn fitting(path: &Path, part: &IndexPart) -> Result<Self, SearchIndexError> {
        let head = Index::metadata(text(path)?).map_err(failed("reading a graph's head"))?;
        let same = head.dimensions == part.dimensions as u64
            && head.metric == METRIC
            && head.quantization == NUMBERS
            && !head.multi
            && head.count_present == part.rows;
        if !same {
            return Err(SearchIndexError::Damaged {
                path: part.file.clone(),
                reason: format!("its head is not what the manifest says: {head:?}"),
            });
        }
        Self::empty(part.dimensions)
    }

    /// Adds vectors, one behind the other, under the keys from `first` on, but those that point
    /// nowhere. How many were added.
    pub(super) fn add(&self, first: u64, vectors: &[f32]) -> Result<usize, SearchIndexError> {
        let dimensions = self.0.dimensions();
        let threads = rayon::current_num_threads() + 1;
        let room = self.0.size() + vectors.len() / dimensions;
        // Room grows by halves, for the library copies what it has when it makes room.
        if room > self.0.capacity() {
            let room = room.max(self.0.capacity() * 3 / 2);
            let reserved = self.0.reserve_capacity_and_threads(room, threads);
            reserved.map_err(failed("making room"))?;
        }
        let all = vectors.par_chunks_exact(dimensions).enumerate();
        let added = all.map(|(row, vector)| {
            let squares: f32 = vector.iter().map(|x| x * x).sum();
            if !squares.is_finite() || squares == 0.0 {
                return Ok(0);
            }
            let added = self.0.add(first + row as u64, vector);
            added.map_err(failed("adding a vector")).map(|()| 1)
        });
        added.sum()
    }

    /// Vectors in it.
    pub(super) fn rows(&self) -> u64 {
        self.0.size() as u64
    }

    /// Writes it to a file.
    pub(super) fn save(&self, path: &Path) -> Result<(), SearchIndexError> {
        let saved = self.0.save(text(path)?);
        saved.map_err(failed("writing a graph"))
    }

    /// Keys of the vectors nearest to `near`, the nearest first, of those that `holds` holds for.
    pub(super) fn nearest(
        &self,
        near: &[f32],
        most: usize,
        holds: impl Fn(u64) -> bool,
    ) -> Result<Vec<u64>, SearchIndexError> {
        let found = self.0.filtered_search(near, most, holds);
        let found = found.map_err(failed("searching"))?;
        Ok(found.keys)
    }
}
