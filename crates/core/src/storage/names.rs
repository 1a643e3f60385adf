//! Where a partition's files lie, and how their names are read back.
//!
//! ```text
//! <table>/<topic>/<partition>/_<epoch>-origin.json
//!     the first start, put once
//! <table>/<topic>/_begun.json
//!     the ends of partitions when the table began, put once (only for `latest`)
//! <table>/<topic>/<partition>/_<epoch>-lives.json
//!     what is remembered of the processes that wrote the chain
//! <table>/<topic>/<partition>/<epoch>-<start, 20 digits>.<extension>
//!     one committed file; the name depends on the start only
//! ```

use crate::config::FileFormat;
use crate::events::{Offset, PartitionId};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One unbroken chain of files of a partition. A break in the input (a skip, a re-created topic,
/// retention) starts the next.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FileFormat {
    /// File name extension, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            FileFormat::Parquet => "parquet",
            FileFormat::Arrow => "arrow",
        }
    }
}

/// What a name in a partition's folder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// A committed file.
    File {
        /// Its chain.
        epoch: Epoch,
        /// The first offset of its range.
        start: Offset,
        /// Its format.
        format: FileFormat,
    },
    /// The origin of a chain.
    Origin(Epoch),
}

/// The folder of one partition of one table.
///
/// ```
/// use object_store::path::Path;
/// use tagstream_core::config::FileFormat;
/// use tagstream_core::events::{Offset, PartitionId};
/// use tagstream_core::storage::names::{Epoch, Folder, Name, parse};
///
/// let partition = PartitionId::new("images", 3);
/// let folder = Folder::new(&Path::from("tables"), "predictions", &partition);
/// let file = folder.file(Epoch(0), Offset(160), FileFormat::Parquet);
/// assert_eq!(file.as_ref(), "tables/predictions/images/3/0-00000000000000000160.parquet");
/// assert!(matches!(parse(&file), Some(Name::File { start: Offset(160), .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    path: Path,
}

impl Folder {
    /// The folder of `partition` in `table`, below `root`.
    pub fn new(root: &Path, table: &str, partition: &PartitionId) -> Self {
        Folder {
            path: root
                .clone()
                .join(table)
                .join(&*partition.topic)
                .join(partition.partition.to_string()),
        }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that starts at `start`.
    pub fn file(&self, epoch: Epoch, start: Offset, format: FileFormat) -> Path {
        self.path
            .clone()
            .join(format!("{}.{}", stem(epoch, start), format.extension()))
    }

    /// A name that sorts just before every file of `epoch` that starts at `start` or later.
    pub fn before(&self, epoch: Epoch, start: Offset) -> Path {
        self.path.clone().join(stem(epoch, start))
    }

    /// What is remembered of the lives of `epoch`'s chain.
    pub fn lives(&self, epoch: Epoch) -> Path {
        self.path.clone().join(format!("_{epoch}-lives.json"))
    }

    /// The origin of `epoch`.
    pub fn origin(&self, epoch: Epoch) -> Path {
        self.path.clone().join(format!("_{epoch}-origin.json"))
    }
}

/// What a topic was when its table began, beside the partitions' folders.
pub fn begun(root: &Path, table: &str, topic: &str) -> Path {
    root.clone().join(table).join(topic).join("_begun.json")
}

fn stem(epoch: Epoch, start: Offset) -> String {
    format!("{epoch}-{:020}", start.0)
}

/// Reads a name back; `None` for what we did not write.
pub fn parse(path: &Path) -> Option<Name> {
    let name = path.filename()?;
    if let Some(rest) = name.strip_prefix('_') {
        let epoch = rest.strip_suffix("-origin.json")?;
        return Some(Name::Origin(Epoch(epoch.parse().ok()?)));
    }
    let (stem, extension) = name.rsplit_once('.')?;
    let format = [FileFormat::Parquet, FileFormat::Arrow]
        .into_iter()
        .find(|f| f.extension() == extension)?;
    let (epoch, start) = stem.split_once('-')?;
    if start.len() != 20 || !start.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Name::File {
        epoch: Epoch(epoch.parse().ok()?),
        start: Offset(start.parse().ok()?),
        format,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> Folder {
        Folder::new(
            &Path::from("root"),
            "predictions",
            &PartitionId::new("images", 3),
        )
    }

    #[test]
    fn names_are_read_back() {
        let file = folder().file(Epoch(2), Offset(41), FileFormat::Parquet);
        assert_eq!(
            file.as_ref(),
            "root/predictions/images/3/2-00000000000000000041.parquet"
        );
        assert_eq!(
            parse(&file),
            Some(Name::File {
                epoch: Epoch(2),
                start: Offset(41),
                format: FileFormat::Parquet
            })
        );
        let origin = folder().origin(Epoch(2));
        assert_eq!(parse(&origin), Some(Name::Origin(Epoch(2))));
    }

    #[test]
    fn names_sort_by_start_and_before_sorts_before() {
        let at = |o| folder().file(Epoch(0), Offset(o), FileFormat::Parquet);
        assert!(at(9) < at(10) && at(999_999) < at(1_000_000));
        assert!(folder().before(Epoch(0), Offset(10)) < at(10));
        assert!(folder().before(Epoch(0), Offset(10)) > at(9));
    }

    #[test]
    fn strange_names_are_not_ours() {
        for name in [
            "x.parquet",
            "0-41.parquet",
            "0-0000000000000000004x.parquet",
            "0-00000000000000000041.csv",
            "_x-origin.json",
            "0-00000000000000000041.parquet.tmp",
        ] {
            assert_eq!(parse(&Path::from(name)), None, "{name}");
        }
    }
}
