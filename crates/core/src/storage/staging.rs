//! A local folder as a store: what is put lies aside under a name that begins with a dot until it
//! is whole and durable, then gets its own by a hard link. Readers of folders pass over such names
//! (pyarrow, pandas, Spark, Trino, Hive), and those that read a glob (DuckDB, Polars) do not match
//! them, for they do not end like a file of a table.
//!
//! A process can die between writing and linking. What it left is no row for any reader, but takes
//! room for ever. It is removed when the partition is taken over, once it is too old for a put to
//! be still under way: a put takes seconds, and one whose file vanished under it fails without harm
//! and is repeated by the next owner. Older builds wrote aside as `NAME#N`; that is swept, too.

use super::atomic::sync_folder;
use super::names;
use crate::process::blocking;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error as ClientError, GetOptions, GetResult, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result,
};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fmt, fs, io};

/// Younger files may belong to a put that is under way, in whichever process.
const STALE: Duration = Duration::from_secs(3_600);
const ASIDE: &str = ".partial";

/// A [`LocalFileSystem`] that shows nothing unfinished under a name that a reader takes.
#[derive(Debug, Clone)]
pub(super) struct LocalFolder(pub(super) LocalFileSystem);

impl fmt::Display for LocalFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a file was not put.
#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the file system of {} makes no hard links ({source}), and without them a file cannot be \
         created whole and only once; keep tables on one that does (ext4, xfs, btrfs, NFS)",
        .folder.display()
    )]
    NoHardLinks { folder: PathBuf, source: io::Error },
}

impl From<PutError> for ClientError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NoHardLinks { .. } => ClientError::NotSupported {
                source: error.into(),
            },
            PutError::Io { .. } => ClientError::Generic {
                store: "local folder",
                source: error.into(),
            },
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> PutError {
    let path = path.to_owned();
    move |source| PutError::Io { path, source }
}

/// Creates the folder and those above it, each durably.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        create_folder(above)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => folder.parent().map_or(Ok(()), sync_folder),
    }
}

/// Whether the file system has no hard links, or none for us.
fn lacks_links(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
    )
}

/// What becomes of a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Stays,
    IsReplaced,
}

/// Puts `path` with all of `payload`, durably; `false` if it is there and stays.
fn put(path: &Path, payload: &PutPayload, there: There) -> std::result::Result<bool, PutError> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(at(path)(io::ErrorKind::InvalidFilename.into()));
    };
    create_folder(folder).map_err(at(folder))?;
    let aside = folder.join(format!(".{name}.{:016x}{ASIDE}", rand::random::<u64>()));
    let created = write_and_name(&aside, path, payload, there);
    // Best effort: the sweep removes what is left.
    let _ = fs::remove_file(&aside);
    match created? {
        false => Ok(false),
        true => sync_folder(folder).map(|()| true).map_err(at(folder)),
    }
}

fn write_and_name(
    aside: &Path,
    path: &Path,
    payload: &PutPayload,
    there: There,
) -> std::result::Result<bool, PutError> {
    let mut file = File::create_new(aside).map_err(at(aside))?;
    let written = payload.iter().try_for_each(|part| file.write_all(part));
    written.and_then(|()| file.sync_all()).map_err(at(aside))?;
    drop(file);
    if there == There::IsReplaced {
        return fs::rename(aside, path).map(|()| true).map_err(at(path));
    }
    match fs::hard_link(aside, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) if lacks_links(&source) => Err(PutError::NoHardLinks {
            folder: path.parent().unwrap_or(path).to_owned(),
            source,
        }),
        Err(error) => Err(at(path)(error)),
    }
}

#[async_trait]
impl ObjectStore for LocalFolder {
    async fn put_opts(
        &self,
        location: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let there = match &options.mode {
            PutMode::Create if options.attributes.is_empty() => There::Stays,
            PutMode::Overwrite if options.attributes.is_empty() => There::IsReplaced,
            _ => return self.0.put_opts(location, payload, options).await,
        };
        let path = self.0.path_to_filesystem(location)?;
        let named = path.clone();
        let put = blocking::run(move || put(&path, &payload, there)).await;
        let created = put.map_err(|error| ClientError::from(at(&named)(error.into())))??;
        if !created {
            return Err(ClientError::AlreadyExists {
                path: location.to_string(),
                source: io::Error::from(io::ErrorKind::AlreadyExists).into(),
            });
        }
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&ObjectPath>,
        offset: &ObjectPath,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: RenameOptions,
    ) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

/// Whether `name` is that of a file written aside: ours, or in the way of older builds.
fn is_staged(name: &str) -> bool {
    let ours = || {
        let (_, mark) = name
            .strip_prefix('.')?
            .strip_suffix(ASIDE)?
            .rsplit_once('.')?;
        Some(mark.len() == 16 && mark.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    let older = || {
        let (name, number) = name.rsplit_once('#')?;
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        Some(is_number && names::parse(&ObjectPath::from(name)).is_some())
    };
    ours().or_else(older).unwrap_or(false)
}

/// Removes the stale files aside in `folder` and says how many there were; a folder that is not
/// there holds none.
///
/// # Errors
/// What the file system said.
pub(super) fn sweep(folder: &Path, now: SystemTime) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(is_staged) {
            continue;
        }
        let removal = entry.metadata().and_then(|metadata| {
            let age = now.duration_since(metadata.modified()?).unwrap_or_default();
            if !metadata.is_file() || age < STALE {
                return Ok(0);
            }
            fs::remove_file(entry.path()).map(|()| 1)
        });
        match removal {
            Ok(count) => removed += count,
            // Another process swept it, or its put has just ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FileFormat;
    use crate::events::{Offset, PartitionId};
    use crate::storage::names::{Epoch, Folder};
    use object_store::ObjectStoreExt;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn only_old_files_of_ours_that_were_written_aside_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let put = |name: &str, age: Duration| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(now - age).unwrap();
        };
        let old = STALE * 2;
        let kept = [
            ("0-00000000000000000007.parquet", old),
            ("0-00000000000000000009.parquet#1", STALE / 2),
            (
                ".0-00000000000000000009.parquet.0123456789abcdef.partial",
                STALE / 2,
            ),
            ("_0-origin.json", old),
            (".notes.partial", old),
            (".notes.0123456789abcdeg.partial", old),
            ("notes.txt#1", old),
            ("0-00000000000000000007.parquet#draft", old),
            ("0-7.parquet#1", old),
        ];
        for (name, age) in kept {
            put(name, age);
        }
        for name in [
            ".0-00000000000000000007.parquet.0123456789abcdef.partial",
            "._3-origin.json.00000000000000ff.partial",
            "0-00000000000000000007.parquet#1",
            "0-00000000000000000007.arrow#23",
            "_3-origin.json#2",
        ] {
            put(name, old);
        }
        assert_eq!(sweep(folder.path(), now).unwrap(), 5);
        for (name, _) in kept {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        assert_eq!(sweep(folder.path(), now).unwrap(), 0);
        assert_eq!(sweep(&folder.path().join("nowhere"), now).unwrap(), 0);
    }

    /// Every name that another thread sees while files are put begins with a dot or is whole.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_unfinished_has_a_name_that_no_reader_takes() {
        let above = tempfile::tempdir().unwrap();
        let files = LocalFileSystem::new_with_prefix(above.path()).unwrap();
        let store = LocalFolder(files.with_fsync(true));
        let partition = PartitionId::new("images", 0);
        let folder = Folder::new(&ObjectPath::default(), "t", &partition);
        let disk = above.path().join("t/images/0");
        let payload = PutPayload::from(vec![7; 3 << 20]);
        let (ended, whole) = (Arc::new(AtomicBool::new(false)), payload.content_length());
        let watcher = {
            let (ended, disk) = (Arc::clone(&ended), disk.clone());
            std::thread::spawn(move || {
                let mut seen = BTreeSet::new();
                while !ended.load(Ordering::SeqCst) {
                    for entry in fs::read_dir(&disk).into_iter().flatten().flatten() {
                        let name = entry.file_name().into_string().unwrap();
                        if name.starts_with('.') {
                            assert!(is_staged(&name) && !name.ends_with("parquet"), "{name}");
                        } else {
                            assert_eq!(entry.metadata().unwrap().len(), whole as u64, "{name}");
                        }
                        seen.insert(name.starts_with('.'));
                    }
                }
                seen
            })
        };
        for start in 0..12 {
            let path = folder.file(Epoch(0), Offset(start), FileFormat::Parquet);
            let create = || PutOptions::from(PutMode::Create);
            store
                .put_opts(&path, payload.clone(), create())
                .await
                .unwrap();
            let again = store.put_opts(&path, "x".into(), create()).await;
            assert!(
                matches!(again, Err(ClientError::AlreadyExists { .. })),
                "{again:?}"
            );
            assert_eq!(store.head(&path).await.unwrap().size, whole as u64);
            store.put(&path, payload.clone()).await.unwrap();
        }
        ended.store(true, Ordering::SeqCst);
        assert_eq!(watcher.join().unwrap(), BTreeSet::from([false, true]));
        assert_eq!(fs::read_dir(&disk).unwrap().count(), 12);
    }

    #[tokio::test]
    async fn a_file_system_without_hard_links_is_said_to_be_one() {
        let error = PutError::NoHardLinks {
            folder: "tables/images".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let error = ClientError::from(error);
        assert!(matches!(error, ClientError::NotSupported { .. }));
        let said = error.to_string();
        assert!(said.contains("tables/images makes no hard links"), "{said}");
    }
}
