//! What stands for a graph in a build that has none.

use super::SearchIndexError;
use super::manifest::IndexPart;
use std::convert::Infallible;
use std::path::Path;

/// There is none.
#[derive(Debug)]
pub(super) struct NoGraph(Infallible);

impl NoGraph {
    pub(super) fn library() -> String {
        "none".into()
    }

    pub(super) fn empty(_dimensions: usize) -> Result<Self, SearchIndexError> {
        Err(SearchIndexError::NotBuilt)
    }

    pub(super) fn load(_path: &Path, _part: &IndexPart) -> Result<Self, SearchIndexError> {
        Err(SearchIndexError::NotBuilt)
    }

    pub(super) fn view(_path: &Path, _part: &IndexPart) -> Result<Self, SearchIndexError> {
        Err(SearchIndexError::NotBuilt)
    }

    pub(super) fn add(&self, _first: u64, _vectors: &[f32]) -> Result<usize, SearchIndexError> {
        match self.0 {}
    }

    pub(super) fn rows(&self) -> u64 {
        match self.0 {}
    }

    pub(super) fn save(&self, _path: &Path) -> Result<(), SearchIndexError> {
        match self.0 {}
    }

    pub(super) fn nearest(
        &self,
        _near: &[f32],
        _most: usize,
        _holds: impl Fn(u64) -> bool,
    ) -> Result<Vec<u64>, SearchIndexError> {
        match self.0 {}
    }
}

#[cfg(test)]
mod tests {
    use crate::serve::search::index::build::bring;
    use crate::serve::search::index::manifest::manifest_path;
    use crate::serve::search::index::{IndexShelf, SearchIndexError};
    use tagstream_core::storage::store::TableStore;

    #[tokio::test]
    async fn a_build_without_it_says_so_if_an_index_stands() {
        let store = TableStore::in_memory();
        let copies = tempfile::tempdir().unwrap();
        let shelf = IndexShelf::at(copies.path().to_owned());
        assert!(shelf.look(&store, "t").await.unwrap().is_none());
        let path = manifest_path(&store, "t");
        store.replace(&path, "{}".into()).await.unwrap();
        let error = shelf.look(&store, "t").await.unwrap_err().to_string();
        assert!(error.contains("--features search-index"), "{error}");
        let refused = bring(&store, "t", copies.path(), |_, _| ()).await;
        assert!(matches!(refused, Err(SearchIndexError::NotBuilt)));
    }
}
