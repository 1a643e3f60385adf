//! What an index covers: a small file, put when everything that it names is there.

use super::SearchIndexError;
use crate::labelling::store::KnownFile;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use object_store::ObjectMeta;
use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tagstream_core::storage::store::TableStore;

/// Beside the table's folders; readers pass over names that begin so.
const FOLDER: &str = "_search_index";
/// The name says the version, so that a later form does not overwrite this one's. What is within
/// is checked all the same: the number is raised for changes that older builds would misread.
const MANIFEST: &str = "manifest-1.json";
const VERSION: u64 = 1;

/// What an index covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct IndexManifest {
    version: u64,
    /// Who wrote the graphs.
    pub library: String,
    /// What nearness is.
    pub metric: String,
    /// What a graph's numbers are.
    pub numbers: String,
    /// When it was made.
    pub made: DateTime<Utc>,
    /// Graphs, one for each length of vectors.
    pub parts: Vec<IndexPart>,
    /// Files whose rows are in the graphs. A row's key is the file's place here, shifted by 32
    /// bits, and its place in the file.
    pub files: Vec<CoveredFile>,
}

/// A graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct IndexPart {
    /// Length of its vectors.
    pub dimensions: usize,
    /// Its file, beside the manifest.
    pub file: String,
    /// Vectors in it.
    pub rows: u64,
    /// The file's bytes.
    pub bytes: u64,
    /// The file's SHA-256.
    pub sha256: String,
}

/// A file of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct CoveredFile {
    /// As it was.
    #[serde(flatten)]
    pub file: KnownFile,
    /// Its rows.
    pub rows: u32,
    /// Length of its vectors; 0 without rows.
    pub dimensions: usize,
}

/// The name of a graph's file.
pub(super) fn part_name(dimensions: usize, sha256: &str) -> String {
    format!("{dimensions}-{sha256}.usearch")
}

/// The folder of a table's index.
pub(super) fn folder(store: &TableStore, table: &str) -> ObjectPath {
    store.root().clone().join(table).join(FOLDER)
}

/// The manifest of a table's index.
pub(super) fn manifest_path(store: &TableStore, table: &str) -> ObjectPath {
    folder(store, table).join(MANIFEST)
}

impl IndexManifest {
    pub(super) fn new(library: String, parts: Vec<IndexPart>, files: Vec<CoveredFile>) -> Self {
        IndexManifest {
            version: VERSION,
            library,
            metric: "inner product".into(),
            numbers: "bf16".into(),
            made: Utc::now(),
            parts,
            files,
        }
    }

    /// What stands at `path`.
    pub(super) fn parse(path: &ObjectPath, bytes: &[u8]) -> Result<Self, SearchIndexError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        let damaged = |reason: String| SearchIndexError::Damaged {
            path: path.to_string(),
            reason,
        };
        let wrong = |error: serde_json::Error| damaged(error.to_string());
        let Versioned { version } = serde_json::from_slice(bytes).map_err(wrong)?;
        if version > VERSION {
            return Err(SearchIndexError::Newer {
                path: path.to_string(),
                found: version,
                known: VERSION,
            });
        }
        let manifest: IndexManifest = serde_json::from_slice(bytes).map_err(wrong)?;
        for part in &manifest.parts {
            let is_hash = part.sha256.len() == 64
                && part
                    .sha256
                    .bytes()
                    .all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
            // The name becomes a file's on this machine.
            if !is_hash || part.file != part_name(part.dimensions, &part.sha256) {
                return Err(damaged(format!("`{}` is no name of a graph", part.file)));
            }
            if part.dimensions == 0 {
                return Err(damaged("a graph's vectors have no length".into()));
            }
        }
        Ok(manifest)
    }

    /// The table's manifest and what its content is known by; `None` if there is none.
    pub(super) async fn read(
        store: &TableStore,
        table: &str,
    ) -> Result<Option<(Bytes, ObjectPath)>, SearchIndexError> {
        let path = manifest_path(store, table);
        Ok(store.read(&path).await?.map(|bytes| (bytes, path)))
    }

    pub(super) fn to_json(&self) -> Result<Bytes, SearchIndexError> {
        let json = serde_json::to_vec(self);
        let json = json.map_err(|error| SearchIndexError::Damaged {
            path: MANIFEST.into(),
            reason: error.to_string(),
        });
        json.map(Bytes::from)
    }

    /// Of each file that is covered whether it is as it was: what it is listed as today.
    pub(super) fn live<'a>(&self, today: &'a [ObjectMeta]) -> Vec<Option<&'a ObjectMeta>> {
        let today: HashMap<&str, &ObjectMeta> = today
            .iter()
            .map(|file| (file.location.as_ref(), file))
            .collect();
        let now = |covered: &CoveredFile| {
            let file = today.get(covered.file.path()).copied()?;
            (KnownFile::of(file) == covered.file).then_some(file)
        };
        self.files.iter().map(now).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut serde_json::Value)) -> Result<IndexManifest, String> {
        let sha256 = "0123456789abcdef".repeat(4);
        let mut manifest = serde_json::json!({
            "version": 1,
            "library": "usearch 2.26.6",
            "metric": "inner product",
            "numbers": "bf16",
            "made": "2026-11-29T00:00:00Z",
            "parts": [{
                "dimensions": 4, "file": part_name(4, &sha256), "rows": 9, "bytes": 99,
                "sha256": sha256,
            }],
            "files": [{
                "path": "t/a.parquet", "size": 9, "mark": "m", "rows": 9, "dimensions": 4,
            }],
        });
        change(&mut manifest);
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let parsed = IndexManifest::parse(&"t/manifest-1.json".into(), &bytes);
        parsed.map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_version_is_read_whatever_is_added_to_it() {
        let manifest = parse(|manifest| manifest["later"] = 1.into()).unwrap();
        assert_eq!(manifest.files[0].file.path(), "t/a.parquet");
        let json = manifest.to_json().unwrap();
        let again = IndexManifest::parse(&"m".into(), &json).unwrap();
        assert_eq!(again, manifest);
    }

    #[test]
    fn what_is_newer_or_foreign_is_named() {
        let newer = parse(|manifest| *manifest = serde_json::json!({"version": 2})).unwrap_err();
        assert!(newer.contains("manifest-1.json has version 2"), "{newer}");
        for change in [
            (|manifest| manifest["parts"][0]["file"] = "../../x".into())
                as fn(&mut serde_json::Value),
            |manifest| manifest["parts"][0]["sha256"] = "x".into(),
            |manifest| manifest["files"] = 3.into(),
            |manifest| *manifest = serde_json::json!({"version": 1}),
            |manifest| *manifest = "text".into(),
        ] {
            let damaged = parse(change).unwrap_err();
            assert!(damaged.contains("writes it anew"), "{damaged}");
        }
    }
}
