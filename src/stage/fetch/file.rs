//! Local files inside the allowed folders.

use super::{Fetched, buffers::Buffers, collect::Collector, error::Failure, policy::UriPolicy};
use std::{fs::File, io, path::Path, sync::Arc};

/// Reads `path` if the file it opens is a regular one inside an allowed folder.
pub(super) async fn fetch(
    path: &Path,
    policy: &Arc<UriPolicy>,
    buffers: &Arc<Buffers>,
    mut collector: Collector<'_>,
) -> Result<Fetched, Failure> {
    let (path, policy) = (path.to_owned(), Arc::clone(policy));
    // A hung network mount holds one thread of the blocking pool; the deadline does not wait for it.
    let opened = tokio::task::spawn_blocking(move || open(&path, &policy));
    let (file, size) = opened.await.map_err(stopped)??;
    collector.announce(size)?;
    let buffers = Arc::clone(buffers);
    let read = tokio::task::spawn_blocking(move || {
        // A file that grows meanwhile is read up to the size that was checked.
        let mut buffer = buffers.take(size as usize);
        buffer.fill(file, size as usize).map(|()| buffer)
    });
    let buffer = read.await.map_err(stopped)?.map_err(failure)?;
    collector.take_buffer(buffer)
}

fn stopped(error: tokio::task::JoinError) -> Failure {
    Failure::transient(error.to_string())
}

/// Opens `path`, then asks the system where the opened file really lies. Links, `..` and files exchanged between check
/// and use cannot help, because the answer is about what was opened.
#[cfg(target_os = "linux")]
fn open(path: &Path, policy: &UriPolicy) -> Result<(File, u64), Failure> {
    use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};

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

/// Where the system cannot tell the path of an opened file: the path is resolved before and after opening, and the file
/// must be the same one.
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
    if error.raw_os_error() == Some(libc::ELOOP) {
        return Failure::Permanent(error.to_string());
    }
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::NotFound,
        io::ErrorKind::PermissionDenied => Failure::AccessDenied(error.to_string()),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
            Failure::Permanent(error.to_string())
        }
        _ => Failure::transient(error.to_string()),
    }
}
