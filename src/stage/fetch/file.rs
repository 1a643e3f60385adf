//! Local files inside the allowed folders.

use super::Fetched;
use super::body::CachedFile;
use super::buffers::Buffers;
use super::collect::Collector;
use super::error::Failure;
use super::fault::Symptom;
use super::policy::UriPolicy;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tagstream_core::process::blocking;

/// Bytes between the places that are looked at to tell whether a file lies in memory.
const STRIDE: u64 = 128 << 10;

/// Opens `path` if the file behind it is a regular one inside an allowed folder. What has to come
/// from a disk is read here, so that whoever wants the bytes does not wait; what lies in memory is
/// left there until they are wanted.
pub(super) async fn fetch(
    path: &Path,
    policy: &Arc<UriPolicy>,
    buffers: &Arc<Buffers>,
    mut collector: Collector<'_>,
) -> Result<Fetched, Failure> {
    let (path, policy) = (path.to_owned(), Arc::clone(policy));
    // A hung network mount holds one thread of the blocking pool; the deadline does not wait for
    // it.
    let opened = blocking::run(move || {
        open(&path, &policy)
            .map(|(file, size)| (in_memory(&file, size), file, size))
            .map_err(|failure| missing(failure, &path, &policy))
    });
    let (in_memory, file, size) = opened.await.map_err(stopped)??;
    collector.announce(size)?;
    let cached = CachedFile {
        file,
        size,
        buffers: Arc::clone(buffers),
    };
    if in_memory {
        return Ok(collector.leave(cached));
    }
    let read = blocking::run(move || cached.load());
    let buffer = read.await.map_err(stopped)?.map_err(failure)?;
    collector.take_buffer(buffer)
}

/// Whether reading `file` probably waits for nothing. Pages in between may be missing, and pages
/// may go: then the read waits after all. File systems that cannot tell, such as those on a
/// network, say no.
#[cfg(target_os = "linux")]
fn in_memory(file: &File, size: u64) -> bool {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    let last = size.saturating_sub(1);
    let mut byte = [0];
    (0..size).step_by(STRIDE as usize).chain([last]).all(|at| {
        loop {
            let mut into = [io::IoSliceMut::new(&mut byte)];
            match preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                answer => return answer.is_ok(),
            }
        }
    })
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_: &File, _: u64) -> bool {
    false
}

fn stopped(error: blocking::NoResult) -> Failure {
    Failure::of(Symptom::Other, error.to_string())
}

/// Opens `path`, then asks the system where the opened file really lies. Links, `..` and files
/// exchanged between check and use cannot help, because the answer is about what was opened.
#[cfg(target_os = "linux")]
fn open(path: &Path, policy: &UriPolicy) -> Result<(File, u64), Failure> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;

    // O_PATH touches nothing: no pipe is waited for, no device is started.
    let place = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
        .map_err(failure)?;
    let handle = format!("/proc/self/fd/{}", place.as_raw_fd());
    let real = std::fs::read_link(&handle).map_err(failure)?;
    check(&real, &place.metadata().map_err(failure)?, policy)?;
    // Opens the same inode again, this time to read it.
    let file = File::open(&handle).map_err(failure)?;
    let size = file.metadata().map_err(failure)?.len();
    Ok((file, size))
}

/// Where the system cannot tell the path of an opened file: the path is resolved before and after
/// opening, and the file must be the same one.
#[cfg(not(target_os = "linux"))]
fn open(path: &Path, policy: &UriPolicy) -> Result<(File, u64), Failure> {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    let real = path.canonicalize().map_err(failure)?;
    check(&real, &real.symlink_metadata().map_err(failure)?, policy)?;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&real)
        .map_err(failure)?;
    let opened = file.metadata().map_err(failure)?;
    let again = path.canonicalize().map_err(failure)?;
    check(&again, &opened, policy)?;
    let now = again.symlink_metadata().map_err(failure)?;
    if (now.dev(), now.ino()) != (opened.dev(), opened.ino()) {
        return Err(Failure::Forbidden(
            "the file was exchanged while it was opened".into(),
        ));
    }
    Ok((file, opened.len()))
}

fn check(real: &Path, metadata: &std::fs::Metadata, policy: &UriPolicy) -> Result<(), Failure> {
    if !policy.allows_real_path(real) {
        return Err(Failure::Forbidden(
            "the path leads out of `fetch.allow_path_prefixes`".into(),
        ));
    }
    if !metadata.is_file() {
        return Err(Failure::Forbidden("it is not a regular file".into()));
    }
    Ok(())
}

fn failure(error: io::Error) -> Failure {
    let symptom = match (error.raw_os_error(), error.kind()) {
        (Some(errno), _) => Symptom::File(errno),
        (None, io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename) => {
            Symptom::File(libc::EINVAL)
        }
        (None, io::ErrorKind::OutOfMemory) => Symptom::File(libc::ENOMEM),
        _ => Symptom::Other,
    };
    Failure::of(symptom, error.to_string())
}

/// A file that is not there may be missing because its whole folder is: unmounted, or moved.
fn missing(failure: Failure, path: &Path, policy: &UriPolicy) -> Failure {
    match failure {
        Failure::Source {
            symptom: Symptom::File(libc::ENOENT | libc::ENOTDIR | libc::EACCES),
            ..
        } => match policy.changed_folder(path) {
            Some(reason) => Failure::of(Symptom::FolderGone, reason),
            None => failure,
        },
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_tell_is_not_in_memory() {
        let (read, _write) = io::pipe().unwrap();
        assert!(!in_memory(
            &File::from(std::os::fd::OwnedFd::from(read)),
            10
        ));
    }
}
