//! The data files of one cache, of which only so many are open at once.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

/// Data files that are open at once. A process may have 1,024 files open by default, in places 256,
/// and a cache may have thousands of segments.
pub(super) const OPEN: usize = 48;

/// What a file is, whatever its name: another process may have removed a segment, and a new file
/// may have taken its name.
type FileId = (u64, u64);

#[derive(Debug)]
struct Segment {
    data: PathBuf,
    file: FileId,
}

/// The segments that slots point to.
#[derive(Debug, Default)]
pub(super) struct Segments {
    all: Vec<Segment>,
    /// The open ones, those used last at the end.
    open: Mutex<VecDeque<(u32, Arc<File>)>>,
    /// Held while there are segments that are not open, so that nobody removes them.
    in_use: Option<File>,
}

impl Segments {
    /// The number of the segment whose keys are in `keys_file` and whose data file `data` is.
    pub(super) fn add(&mut self, folder: &Path, keys_file: &Path, data: File) -> io::Result<u32> {
        let file = identity(&data)?;
        let known = self.all.iter().rposition(|segment| segment.file == file);
        let number = match known {
            Some(number) => number,
            None => {
                let data = keys_file.with_extension("data");
                self.all.push(Segment { data, file });
                self.all.len() - 1
            }
        };
        if self.all.len() > OPEN && self.in_use.is_none() {
            let lock = marker(folder)?;
            lock.lock_shared()?;
            self.in_use = Some(lock);
        }
        let number = u32::try_from(number).map_err(io::Error::other)?;
        self.keep_open(number, Arc::new(data));
        Ok(number)
    }

    /// A segment's data.
    pub(super) fn data(&self, number: u32) -> io::Result<Arc<File>> {
        if let Some(data) = self.opened(number) {
            return Ok(data);
        }
        let segment = &self.all[number as usize];
        let data = File::open(&segment.data)?;
        if identity(&data)? != segment.file {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{} was replaced by another process", segment.data.display()),
            ));
        }
        let data = Arc::new(data);
        self.keep_open(number, Arc::clone(&data));
        Ok(data)
    }

    fn opened(&self, number: u32) -> Option<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let place = open.iter().position(|(n, _)| *n == number)?;
        let entry = open.remove(place)?;
        let data = Arc::clone(&entry.1);
        open.push_back(entry);
        Some(data)
    }

    /// Keeps a file open, and closes the one that was used longest ago where they are too many.
    fn keep_open(&self, number: u32, data: Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.iter().all(|(n, _)| *n != number) {
            open.push_back((number, data));
        }
        if open.len() > OPEN {
            open.pop_front();
        }
    }
}

fn identity(file: &File) -> io::Result<FileId> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn marker(folder: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("in-use"))
}

/// Whether a process reads segments of `folder` that it does not hold open.
pub(super) fn in_use(folder: &Path) -> bool {
    match File::open(folder.join("in-use")) {
        Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// The key files of a folder, oldest number first, that have a data file.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let keys = path.extension().is_some_and(|name| name == "keys");
        if keys && path.with_extension("data").is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
