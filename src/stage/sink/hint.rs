//! What is committed to Kafka beside an offset.

use sha2::{Digest, Sha256};
use std::fmt;
use tagstream_core::events::Offset;
use tagstream_core::storage::names::Epoch;
use tagstream_core::storage::store::TableStore;

/// The metadata that we commit beside an offset: the file that ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHint {
    /// The file's chain.
    pub epoch: Epoch,
    /// The file's start.
    pub start: Offset,
}

/// Tells tables apart: a group may have committed for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableTag(u64);

impl TableTag {
    /// The tag of `table` in `store`.
    pub fn of(store: &TableStore, table: &str) -> Self {
        let digest = Sha256::digest(format!("{}\0{table}", store.place()));
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        TableTag(u64::from_be_bytes(first))
    }
}

impl fmt::Display for TableTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl CommitHint {
    /// As Kafka keeps it: `tagstream/<epoch>/<start>/<table>`. Older builds, which wrote no table,
    /// take it for somebody else's and list the folder instead.
    pub fn to_metadata(self, table: TableTag) -> String {
        format!("tagstream/{}/{}/{table}", self.epoch, self.start)
    }

    /// Reads it back, with the table unless an older build wrote it; `None` for what we did not
    /// write.
    pub fn from_metadata(metadata: &str) -> Option<(Self, Option<TableTag>)> {
        let mut parts = metadata.strip_prefix("tagstream/")?.split('/');
        let hint = CommitHint {
            epoch: Epoch(parts.next()?.parse().ok()?),
            start: Offset(parts.next()?.parse().ok()?),
        };
        let table = match parts.next() {
            Some(tag) => Some(TableTag(u64::from_str_radix(tag, 16).ok()?)),
            None => None,
        };
        parts.next().is_none().then_some((hint, table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_comes_back_and_so_does_an_older_build_s() {
        let hint = CommitHint {
            epoch: Epoch(2),
            start: Offset(41),
        };
        let store = TableStore::in_memory();
        let table = TableTag::of(&store, "predictions");
        assert_ne!(table, TableTag::of(&store, "labels"));
        let metadata = hint.to_metadata(table);
        assert_eq!(
            CommitHint::from_metadata(&metadata),
            Some((hint, Some(table)))
        );
        assert_eq!(
            CommitHint::from_metadata("tagstream/2/41"),
            Some((hint, None))
        );
        for other in [
            "",
            "x",
            "tagstream/",
            "tagstream/2",
            "tagstream/2/x",
            "tagstream/2/41/x/y",
        ] {
            assert_eq!(CommitHint::from_metadata(other), None, "{other}");
        }
    }
}
