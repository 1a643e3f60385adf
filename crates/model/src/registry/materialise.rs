//! Versions as bundle directories on the local disk.

use super::blobs::{hash_file, is_inside};
use super::record::nonce;
use super::{Registry, RegistryError, VersionRecord};
use crate::bundle::FileEntry;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tagstream_core::digest;
use tagstream_core::storage::atomic;

/// A folder in which versions are kept as bundle directories.
///
/// ```text
/// blobs/<sha256>           every file once: two versions with the same encoder share it
/// bundles/<hash>/...       hard links to them; the name is the hash of the list of files
/// ```
///
/// Everything is verified before it is used, and may be deleted at any time when no process is
/// using it.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache below `root`, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Cache { root: root.into() }
    }

    /// `$TAGSTREAM_CACHE`, else `$XDG_CACHE_HOME/tagstream`, else `~/.cache/tagstream`, else below
    /// the temporary folder.
    pub fn default_location() -> Self {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let root = if let Some(root) = variable("TAGSTREAM_CACHE") {
            PathBuf::from(root)
        } else if let Some(cache) = variable("XDG_CACHE_HOME") {
            PathBuf::from(cache).join("tagstream")
        } else if let Some(home) = variable("HOME") {
            PathBuf::from(home).join(".cache/tagstream")
        } else {
            std::env::temp_dir().join("tagstream")
        };
        Cache::at(root.join("models"))
    }

    /// The folder in which something else of this name is kept, beside the models.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.root.with_file_name(name)
    }

    /// The cached blob of `entry`, verified; fetched if it is missing or damaged.
    async fn blob(&self, registry: &Registry, entry: &FileEntry) -> Result<PathBuf, RegistryError> {
        let folder = self.root.join("blobs");
        std::fs::create_dir_all(&folder).map_err(RegistryError::io(&folder))?;
        let path = folder.join(&entry.sha256);
        if holds(&path, entry).await {
            return Ok(path);
        }
        registry.store.download(entry, &path).await?;
        Ok(path)
    }
}

/// Whether the file exists and is what `entry` says.
async fn holds(path: &Path, entry: &FileEntry) -> bool {
    let length = std::fs::metadata(path).map(|m| m.len());
    length.is_ok_and(|l| l == entry.bytes)
        && hash_file(path).await.is_ok_and(|found| found == *entry)
}

impl Registry {
    /// `version` as a bundle directory on the local disk, every file verified against its hash.
    ///
    /// Safe to call from several processes at once.
    ///
    /// # Errors
    /// [`RegistryError::Corrupt`] if a blob is missing or is not what its name says.
    pub async fn materialise(
        &self,
        version: &VersionRecord,
        cache: &Cache,
    ) -> Result<PathBuf, RegistryError> {
        if let Some(name) = version.files.keys().find(|name| !is_inside(name)) {
            return Err(RegistryError::Corrupt {
                path: format!("version {}", version.version),
                reason: format!("the file name {name:?} leaves the folder"),
            });
        }
        // The hash becomes a file name too.
        let is_hash = |hash: &str| {
            hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if let Some((name, entry)) = version.files.iter().find(|(_, e)| !is_hash(&e.sha256)) {
            return Err(RegistryError::Corrupt {
                path: format!("version {}", version.version),
                reason: format!("{name:?} has {:?} for its SHA-256", entry.sha256),
            });
        }
        let mut names = Sha256::new();
        for (name, entry) in &version.files {
            names.update(format!("{name}\0{}\n", entry.sha256));
        }
        let bundles = cache.root.join("bundles");
        let target = bundles.join(digest::hex(names.finalize()));
        if is_whole(&target, version).await {
            return Ok(target);
        }
        let aside = bundles.join(format!(".{}", nonce()));
        let built = self.build(version, cache, &aside).await;
        let renamed = built.and_then(|()| replace(&aside, &target));
        if let Err(error) = renamed {
            // Best effort: a leftover has a random name and is never read.
            let _ = std::fs::remove_dir_all(&aside);
            return Err(error.in_cache(&cache.root));
        }
        Ok(target)
    }

    async fn build(
        &self,
        version: &VersionRecord,
        cache: &Cache,
        aside: &Path,
    ) -> Result<(), RegistryError> {
        for (name, entry) in &version.files {
            let blob = cache.blob(self, entry).await?;
            let path = aside.join(name);
            let folder = path.parent().expect("the path has at least one part");
            std::fs::create_dir_all(folder).map_err(RegistryError::io(folder))?;
            // File systems without hard links get a copy.
            if std::fs::hard_link(&blob, &path).is_err() {
                std::fs::copy(&blob, &path).map_err(RegistryError::io(&path))?;
            }
        }
        Ok(())
    }

    /// Fetches an attachment (`report.html`) of a version into the file `to`.
    ///
    /// # Errors
    /// [`RegistryError::Corrupt`] if the version has none of that name.
    pub async fn attachment(
        &self,
        version: &VersionRecord,
        name: &str,
        to: &Path,
    ) -> Result<(), RegistryError> {
        let entry = version.attachments.get(name);
        let entry = entry.ok_or_else(|| RegistryError::Corrupt {
            path: format!("version {}", version.version),
            reason: format!("it has no attachment {name:?}"),
        })?;
        self.store.download(entry, to).await
    }
}

async fn is_whole(folder: &Path, version: &VersionRecord) -> bool {
    for (name, entry) in &version.files {
        if !holds(&folder.join(name), entry).await {
            return false;
        }
    }
    true
}

/// Renames `aside` to `target`. What stands at `target` is either damaged, and is moved out of the
/// way, or was put there by another process just now, which is as good as ours.
fn replace(aside: &Path, target: &Path) -> Result<(), RegistryError> {
    if target.exists() {
        let old = target.with_file_name(format!(".{}", nonce()));
        atomic::rename(target, &old).map_err(RegistryError::io(target))?;
        // Best effort: it has a random name and is never read.
        let _ = std::fs::remove_dir_all(&old);
    }
    match atomic::rename(aside, target) {
        Err(_) if target.join("bundle.json").is_file() => {
            let _ = std::fs::remove_dir_all(aside);
            Ok(())
        }
        other => other.map_err(RegistryError::io(target)),
    }
}
