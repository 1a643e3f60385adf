//! Names of a local folder, without asking for more than names.

use object_store::path::Path as ObjectPath;
use std::path::Path;
use std::{fs, io};

/// The objects below `folder`, which is `prefix` in the store, that sort after `after`; `None`
/// where there is a name that only the file system's client knows to read. A listing by the client
/// asks for the state of each file, which takes longer than all else where a folder has a hundred
/// thousand.
///
/// # Errors
/// What the file system said.
pub(super) fn names(
    folder: &Path,
    prefix: &ObjectPath,
    after: Option<&ObjectPath>,
) -> io::Result<Option<Vec<ObjectPath>>> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), prefix.to_string())];
    while let Some((folder, prefix)) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // In a folder that holds `after` the names alone tell.
        let rest = after.and_then(|after| match prefix.as_str() {
            "" => Some(after.as_ref()),
            prefix => after.as_ref().strip_prefix(prefix)?.strip_prefix('/'),
        });
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                return Ok(None);
            };
            let kind = entry.file_type()?;
            if kind.is_file() && rest.is_some_and(|rest| name <= rest) {
                continue;
            }
            let path = match prefix.as_str() {
                "" => name.to_owned(),
                prefix => format!("{prefix}/{name}"),
            };
            if kind.is_dir() {
                open.push((entry.path(), path));
                continue;
            }
            // A link, or what the client writes aside.
            if !kind.is_file() || name.contains('#') {
                return Ok(None);
            }
            if after.is_some_and(|after| path.as_str() <= after.as_ref()) {
                continue;
            }
            match ObjectPath::parse(&path) {
                Ok(path) => found.push(path),
                Err(_) => return Ok(None),
            }
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use object_store::ObjectStore;
    use object_store::local::LocalFileSystem;

    /// The client's listing is the reference.
    #[tokio::test]
    async fn names_are_those_that_the_client_lists() {
        let above = tempfile::tempdir().unwrap();
        let files = LocalFileSystem::new_with_prefix(above.path()).unwrap();
        for name in ["a", "b/1", "b/2/x", "b/3", "b.c", "b-/1", ".hidden", "b/_x"] {
            let path = above.path().join("t").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let listed = async |prefix: &str, after: Option<&str>| {
            let (prefix, after) = (ObjectPath::from(prefix), after.map(ObjectPath::from));
            let stream = match &after {
                Some(after) => files.list_with_offset(Some(&prefix), after),
                None => files.list(Some(&prefix)),
            };
            let mut all: Vec<_> = stream
                .try_collect::<Vec<_>>()
                .await
                .unwrap()
                .into_iter()
                .map(|meta| meta.location)
                .collect();
            all.sort();
            let folder = files.path_to_filesystem(&prefix).unwrap();
            let names = names(&folder, &prefix, after.as_ref()).unwrap();
            (
                all,
                names.map(|mut names| {
                    names.sort();
                    names
                }),
            )
        };
        let afters = [
            "t", "t/b", "t/b/2", "t/b/2/x", "t/b/3", "t/b.", "t/b_", "t/zz", "a",
        ];
        for prefix in ["t", "t/b", "t/none", "t/b/2"] {
            for after in [None].into_iter().chain(afters.map(Some)) {
                let (all, names) = listed(prefix, after).await;
                assert_eq!(names.as_ref(), Some(&all), "{prefix} after {after:?}");
            }
        }
        // What only the client knows to read is left to it.
        std::os::unix::fs::symlink("a", above.path().join("t/link")).unwrap();
        assert_eq!(listed("t", None).await.1, None);
        fs::remove_file(above.path().join("t/link")).unwrap();
        fs::write(above.path().join("t/b/4#1"), "x").unwrap();
        assert_eq!(listed("t/b", None).await.1, None);
    }
}
