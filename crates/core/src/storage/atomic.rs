//! Files on a local disk that are whole or not there: written aside, synced, renamed, and the
//! folder synced, so that a name never stands for half of a content, nor vanishes with the power.
//!
//! What is aside begins with a dot, which readers of folders skip. The name is the same each time,
//! so what a killed process left is taken over by the next writer; a second writer at the same time
//! takes a name of its own, and the last to rename wins. Tables are another matter: their files are
//! created only if absent ([`super::store`]).

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that appears at its path when it is [committed](AtomicFile::commit). Dropped before that,
/// it leaves nothing behind and what stood there stands.
#[derive(Debug)]
pub struct AtomicFile {
    path: PathBuf,
    aside: PathBuf,
    file: File,
    committed: bool,
}

impl AtomicFile {
    /// Begins a file that is to stand at `path`, in a folder that exists.
    ///
    /// # Errors
    /// What the file system said.
    pub fn create(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let Some(name) = path.file_name() else {
            return Err(io::Error::from(io::ErrorKind::InvalidFilename));
        };
        let shared = aside(&path, name, "");
        let (aside, file) = match take(&shared)? {
            Some(file) => (shared, file),
            None => {
                let own = aside(&path, name, &format!(".{:016x}", rand::random::<u64>()));
                let file = File::create_new(&own)?;
                (own, file)
            }
        };
        Ok(AtomicFile {
            path,
            aside,
            file,
            committed: false,
        })
    }

    /// Where the file is to stand.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file aside, for writers that need a handle of their own.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes everything durable and gives the file its name.
    ///
    /// # Errors
    /// What the file system said; then the file is not there, unless the error is the folder's.
    pub fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.aside, &self.path)?;
        self.committed = true;
        sync_folder(folder_of(&self.path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.file.write(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: the caller has an error to report already, and the next writer takes it
            // over.
            let _ = fs::remove_file(&self.aside);
        }
    }
}

/// Writes `content` to `path`, whole and durable or not at all.
///
/// # Errors
/// What the file system said.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(content.as_ref())?;
    file.commit()
}

/// Gives `from`, a file or a folder that is durable already, the name `to`, durably.
///
/// # Errors
/// What the file system said.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(folder_of(to))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What the file system said.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn aside(path: &Path, name: &std::ffi::OsStr, mark: &str) -> PathBuf {
    let mut aside = OsString::from(".");
    aside.push(name);
    aside.push(mark);
    aside.push(".partial");
    path.with_file_name(aside)
}

/// Opens the file aside that writers of one path share, for the only one of them that has it.
fn take(aside: &Path) -> io::Result<Option<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(aside)?;
    // Whoever cannot lock, here or on a file system without locks, takes a name of its own.
    if file.try_lock().is_err() {
        return Ok(None);
    }
    // Its owner may have renamed it between our opening and our locking: then it is no longer
    // aside, and not ours to write.
    let (opened, named) = (file.metadata()?, fs::symlink_metadata(aside));
    if named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
        file.set_len(0)?;
        return Ok(Some(file));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let name = |e: io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        entries.map(name).collect()
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_file(&path, "old").unwrap();
        let failed = |path: &Path| {
            let mut file = AtomicFile::create(path)?;
            file.write_all(b"half of the new")?;
            Err::<(), _>(io::Error::other("no more"))
        };
        failed(&path).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        // A folder cannot be replaced by a file: the commit itself fails.
        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        write_file(&taken, "new").unwrap_err();
        let mut left = names(folder.path());
        left.sort();
        assert_eq!(left, ["state", "taken"]);
        assert!(write_file(&folder.path().join("none/file"), "x").is_err());
        assert!(write_file(Path::new("/"), "x").is_err());
    }

    #[test]
    fn what_a_killed_writer_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(
            folder.path().join(".state.partial"),
            "longer than what follows",
        )
        .unwrap();
        write_file(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn what_is_aside_is_hidden_and_a_second_writer_has_a_name_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut first = AtomicFile::create(&path).unwrap();
        let mut second = AtomicFile::create(&path).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        let aside = names(folder.path());
        assert_eq!(aside.len(), 2);
        assert!(aside.iter().all(|name| name.starts_with('.')), "{aside:?}");
        second.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        first.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn concurrent_writers_never_leave_a_torn_file() {
        const WRITERS: u8 = 6;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let content = |writer: u8| vec![writer; 10_000 + usize::from(writer)];
        write_file(&path, content(0)).unwrap();
        let begin = Barrier::new(usize::from(WRITERS));
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (path, begin) = (&path, &begin);
                scope.spawn(move || {
                    begin.wait();
                    for _ in 0..20 {
                        write_file(path, content(writer)).unwrap();
                        let there = fs::read(path).unwrap();
                        let writer = there[0];
                        assert!(there == content(writer), "a torn file of {writer}");
                    }
                });
            }
        });
        assert_eq!(names(folder.path()), ["state"]);
    }
}
