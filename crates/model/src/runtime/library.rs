//! Where ONNX Runtime's library is found.

use super::{ONNXRUNTIME_VERSION, RuntimeError};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the library may be.
pub(super) struct Places {
    /// `ORT_DYLIB_PATH`, if it is set to something: then nothing else counts.
    explicit: Option<PathBuf>,
    /// Folders searched in order.
    folders: Vec<PathBuf>,
}

impl Places {
    pub(super) fn of_this_process() -> Self {
        let var = |name: &str| {
            env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let beside = env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_path_buf));
        // Where `make install` puts it.
        let prefix = beside.as_ref().and_then(|bin| bin.parent());
        let installed = prefix.map(|prefix| prefix.join("lib/tagstream"));
        let cache = cache_folder();
        let cached = |kind: &str| {
            cache
                .as_ref()
                .map(|c| c.join(format!("{kind}-{ONNXRUNTIME_VERSION}")))
        };
        Places {
            explicit: var("ORT_DYLIB_PATH"),
            folders: beside
                .into_iter()
                .chain(installed)
                .chain(cached("onnxruntime-gpu"))
                .chain(cached("onnxruntime"))
                .collect(),
        }
    }
}

/// The folder that set-up scripts keep what they fetched in: `TAGSTREAM_CACHE`, else
/// `~/.cache/tagstream`.
pub fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    var("TAGSTREAM_CACHE").or_else(|| Some(var("HOME")?.join(".cache").join("tagstream")))
}

pub(super) fn find_library(places: &Places) -> Result<PathBuf, RuntimeError> {
    if let Some(path) = &places.explicit {
        return if path.is_file() {
            Ok(path.clone())
        } else {
            Err(RuntimeError::LibraryNotFound {
                tried: vec![path.clone()],
            })
        };
    }
    let stem = format!("{}onnxruntime", env::consts::DLL_PREFIX);
    places
        .folders
        .iter()
        .find_map(|folder| {
            let mut found: Vec<PathBuf> = fs::read_dir(folder)
                .ok()?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .filter(|path| {
                    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                    name.strip_prefix(&stem)
                        .is_some_and(|rest| rest.starts_with(env::consts::DLL_SUFFIX))
                })
                .collect();
            found.sort();
            found.pop()
        })
        .ok_or_else(|| RuntimeError::LibraryNotFound {
            tried: places
                .folders
                .iter()
                .map(|f| f.join(format!("{stem}{}*", env::consts::DLL_SUFFIX)))
                .collect(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_path_counts_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("libonnxruntime.so.9"), b"").unwrap();
        let missing = folder.path().join("nowhere.so");
        let error = find_library(&Places {
            explicit: Some(missing.clone()),
            folders: vec![folder.path().into()],
        })
        .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(missing.to_str().unwrap()), "{text}");
        assert!(text.contains("scripts/onnxruntime.sh"), "{text}");
    }

    #[test]
    fn folders_are_searched_in_order_and_provider_libraries_are_not_taken() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(empty.path().join("libonnxruntime_providers_shared.so"), b"").unwrap();
        let library = full.path().join(format!(
            "{}onnxruntime{}",
            env::consts::DLL_PREFIX,
            env::consts::DLL_SUFFIX
        ));
        fs::write(&library, b"").unwrap();
        let found = find_library(&Places {
            explicit: None,
            folders: vec![empty.path().into(), full.path().into()],
        });
        assert_eq!(found.unwrap(), library);
        let none = find_library(&Places {
            explicit: None,
            folders: vec![empty.path().into()],
        });
        assert!(matches!(none, Err(RuntimeError::LibraryNotFound { tried }) if tried.len() == 1));
    }
}
