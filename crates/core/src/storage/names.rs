//! Where a partition's files lie, and how their names are read back.
//!
//! ```text
//! <table>/<topic>/<partition>/_<epoch>-origin.json
//!     the first start, put once
//! <table>/<topic>/_begun.json
//!     the ends of partitions when the table began, put once (only for `latest`)
//! <table>/<topic>/<partition>/_<epoch>-<offset, 20 digits>-floor.json
//!     what lay before this offset has expired; put once
//! <table>/<topic>/<partition>/_<epoch>-lives.json
//!     what is remembered of the processes that wrote the chain
//! <table>/<topic>/<partition>/<epoch>-<start, 20 digits>.<extension>
//!     one committed file; the name depends on the start only
//! ```
//!
//! A topic whose name begins with `_` or `.` has a folder that begins with [`ESCAPE`], for readers
//! pass over folders that begin like that.

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
    /// What lay before has expired.
    Floor {
        /// The chain that goes on above it.
        epoch: Epoch,
        /// The first offset that has not expired.
        offset: Offset,
    },
}

/// Stands before names of topics that readers of folders would pass over.
pub const ESCAPE: &str = "escaped-";

/// Whether readers of folders pass over this name.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with(['_', '.'])
}

/// The folder of a topic. Two topics never share one: what looks escaped is escaped again.
fn topic_folder(topic: &str) -> String {
    let mut bare = topic;
    while let Some(rest) = bare.strip_prefix(ESCAPE) {
        bare = rest;
    }
    match is_hidden(bare) {
        true => format!("{ESCAPE}{topic}"),
        false => topic.to_owned(),
    }
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
        Self::below(root, table, &topic_folder(&partition.topic), partition)
    }

    /// The folder that older builds gave the partition, if it was another: one that readers
    /// pass over.
    pub fn unescaped(root: &Path, table: &str, partition: &PartitionId) -> Option<Self> {
        let topic = &*partition.topic;
        (topic_folder(topic) != topic).then(|| Self::below(root, table, topic, partition))
    }

    fn below(root: &Path, table: &str, topic: &str, partition: &PartitionId) -> Self {
        Folder {
            path: root
                .clone()
                .join(table)
                .join(topic)
                .join(partition.partition.to_string()),
        }
    }

    /// The folder at `path`.
    pub fn at(path: Path) -> Self {
        Folder { path }
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

    /// The floor of `epoch` at `offset`.
    pub fn floor(&self, epoch: Epoch, offset: Offset) -> Path {
        self.path
            .clone()
            .join(format!("_{}{FLOOR}", stem(epoch, offset)))
    }

    /// A name that sorts before everything of the epochs after `epoch` and before all notes.
    pub fn after_epoch(&self, epoch: Epoch) -> Path {
        self.path.clone().join(format!("{}-", epoch.next()))
    }
}

/// What a topic was when its table began, beside the partitions' folders.
pub fn begun(root: &Path, table: &str, topic: &str) -> Path {
    let folder = topic_folder(topic);
    root.clone().join(table).join(folder).join("_begun.json")
}

const FLOOR: &str = "-floor.json";

fn stem(epoch: Epoch, start: Offset) -> String {
    format!("{epoch}-{:020}", start.0)
}

/// Reads a name back; `None` for what we did not write.
pub fn parse(path: &Path) -> Option<Name> {
    let name = path.filename()?;
    if let Some(rest) = name.strip_prefix('_') {
        if let Some((epoch, offset)) = rest.strip_suffix(FLOOR).and_then(parse_stem) {
            return Some(Name::Floor { epoch, offset });
        }
        let epoch = rest.strip_suffix("-origin.json")?;
        return Some(Name::Origin(Epoch(epoch.parse().ok()?)));
    }
    let (stem, extension) = name.rsplit_once('.')?;
    let format = [FileFormat::Parquet, FileFormat::Arrow]
        .into_iter()
        .find(|f| f.extension() == extension)?;
    let (epoch, start) = parse_stem(stem)?;
    Some(Name::File {
        epoch,
        start,
        format,
    })
}

fn parse_stem(stem: &str) -> Option<(Epoch, Offset)> {
    let (epoch, start) = stem.split_once('-')?;
    if start.len() != 20 || !start.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((Epoch(epoch.parse().ok()?), Offset(start.parse().ok()?)))
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
        let (epoch, offset) = (Epoch(2), Offset(41));
        let floor = folder().floor(epoch, offset);
        assert!(is_hidden(floor.filename().unwrap()));
        assert_eq!(parse(&floor), Some(Name::Floor { epoch, offset }));
    }

    #[test]
    fn no_folder_of_a_topic_is_one_that_readers_pass_over_and_no_two_share_one() {
        let topics = [
            "images",
            "_x",
            ".x",
            "__x",
            "x_",
            "escaped-x",
            "escaped-_x",
            "escaped-.x",
            "escaped-escaped-_x",
            "escaped-",
            "escaped",
            "_escaped-x",
        ];
        let path = |topic: &str| {
            let partition = PartitionId::new(topic, 0);
            Folder::new(&Path::from("r"), "t", &partition)
                .path()
                .clone()
        };
        let folders: Vec<Path> = topics.map(path).into();
        for (topic, folder) in topics.iter().zip(&folders) {
            assert_eq!(
                folders.iter().filter(|other| *other == folder).count(),
                1,
                "{folder}"
            );
            assert!(
                !folder.parts().any(|part| is_hidden(part.as_ref())),
                "{folder}"
            );
            let partition = PartitionId::new(*topic, 0);
            let older = Folder::unescaped(&Path::from("r"), "t", &partition);
            let moved = !folder.as_ref().ends_with(&format!("/{topic}/0"));
            assert_eq!(older.is_some(), moved, "{topic}");
        }
        assert_eq!(path("_x").as_ref(), "r/t/escaped-_x/0");
        assert_eq!(path("images").as_ref(), "r/t/images/0");
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
            "_0-41-floor.json",
            "0-00000000000000000041-floor.json",
            "0-00000000000000000041.parquet.tmp",
        ] {
            assert_eq!(parse(&Path::from(name)), None, "{name}");
        }
    }
}
