//! What a killed process leaves on a local disk: files written aside and never linked to their
//! names.
//!
//! A put on a local disk writes `NAME#N`, then links it to `NAME`. Between the two a process can
//! die; the file aside is no row for any reader, but it takes room for ever. It is removed when the
//! partition is taken over, once it is too old for a put to be still under way: a put takes
//! seconds, and one whose file vanished under it fails without harm and is repeated by the next
//! owner.

use super::names;
use object_store::path::Path as ObjectPath;
use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

/// Younger files may belong to a put that is under way, in whichever process.
const STALE: Duration = Duration::from_secs(3_600);

/// Whether `name` is that of one of our files, written aside.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(name, number)| {
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && names::parse(&ObjectPath::from(name)).is_some()
    })
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
            ("_0-origin.json", old),
            ("notes.txt#1", old),
            ("0-00000000000000000007.parquet#draft", old),
            ("0-7.parquet#1", old),
        ];
        for (name, age) in kept {
            put(name, age);
        }
        for name in [
            "0-00000000000000000007.parquet#1",
            "0-00000000000000000007.arrow#23",
            "_3-origin.json#2",
        ] {
            put(name, old);
        }
        assert_eq!(sweep(folder.path(), now).unwrap(), 3);
        for (name, _) in kept {
            assert!(folder.path().join(name).exists(), "{name}");
        }
        assert_eq!(sweep(folder.path(), now).unwrap(), 0);
        assert_eq!(sweep(&folder.path().join("nowhere"), now).unwrap(), 0);
    }
}
