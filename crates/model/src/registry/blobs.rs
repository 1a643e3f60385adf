//! Files into content-addressed blobs, and back.

use super::error::DELETED;
use super::record::{REGISTRY_FORMAT, nonce};
use super::store::RegistryStore;
use super::{Registration, RegistryError, VersionRecord};
use crate::bundle::{FORMAT_VERSION, FileEntry, Manifest, is_read_format};
use chrono::Utc;
use futures::StreamExt;
use object_store::{Error as StoreError, ObjectStoreExt, PutPayload, WriteMultipart};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Component, Path};
use tagstream_core::digest;
use tagstream_core::process::blocking;
use tagstream_core::storage::atomic::AtomicFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Files up to this size go up in one put; larger ones in parts, so that memory stays bounded.
const ONE_PUT: u64 = 8 << 20;

/// Whether `path` stays inside the folder it is joined to.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|c| matches!(c, Component::Normal(_)))
}

/// Hash and length of a file, read in pieces.
pub(super) async fn hash_file(path: &Path) -> std::io::Result<FileEntry> {
    let path = path.to_owned();
    let (sha256, bytes) = blocking::run(move || digest::sha256_of_file(&path)).await??;
    Ok(FileEntry { sha256, bytes })
}

impl RegistryStore {
    /// Puts every file of a bundle, and makes the record of the version that they are. The record
    /// has no number yet.
    pub(super) async fn upload(
        &self,
        registration: &Registration<'_>,
    ) -> Result<VersionRecord, RegistryError> {
        let folder = registration.bundle;
        let bad = |reason: String| RegistryError::BadBundle {
            path: folder.into(),
            reason,
        };
        let manifest_path = folder.join("bundle.json");
        let text = tokio::fs::read(&manifest_path)
            .await
            .map_err(RegistryError::io(&manifest_path))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|e| bad(format!("bundle.json: {e}")))?;
        if !is_read_format(u64::from(manifest.format_version)) {
            return Err(RegistryError::UnknownFormat {
                path: manifest_path.display().to_string(),
                found: manifest.format_version,
                known: FORMAT_VERSION,
            });
        }
        let mut files = BTreeMap::new();
        for (name, entry) in &manifest.files {
            if !is_inside(name) {
                return Err(bad(format!("the file name {name:?} leaves the folder")));
            }
            if self.upload_file(&folder.join(name), entry).await? != *entry {
                return Err(bad(format!(
                    "{name} is not the file that bundle.json describes (length or SHA-256 differ)"
                )));
            }
            files.insert(name.clone(), entry.clone());
        }
        let entry = FileEntry {
            sha256: digest::sha256(&text),
            bytes: text.len() as u64,
        };
        self.put_blob(&entry.sha256, text).await?;
        files.insert("bundle.json".into(), entry);
        let mut attachments = BTreeMap::new();
        for (name, path) in registration.attachments {
            let entry = hash_file(path).await.map_err(RegistryError::io(path))?;
            self.upload_file(path, &entry).await?;
            attachments.insert(name.clone(), entry);
        }
        Ok(VersionRecord {
            format_version: REGISTRY_FORMAT,
            version: 0,
            id: manifest.id,
            parent: manifest.parent,
            created: Utc::now(),
            who: registration.who.into(),
            why: registration.why.into(),
            run: registration.run.map(Into::into),
            categories: manifest.categories.len(),
            metrics: manifest.metrics,
            files,
            attachments,
            nonce: nonce(),
        })
    }

    /// Puts one file as the blob that `expected` names, unless it is there or the file turns out to
    /// be another. Gives what the file is.
    async fn upload_file(
        &self,
        path: &Path,
        expected: &FileEntry,
    ) -> Result<FileEntry, RegistryError> {
        let io = || RegistryError::io(path);
        let blob = self.blob_path(&expected.sha256);
        match self.objects().head(&blob).await {
            Ok(meta) if meta.size == expected.bytes => return hash_file(path).await.map_err(io()),
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(source) => {
                return Err(RegistryError::Store {
                    doing: format!("looking for {blob}"),
                    source,
                });
            }
        }
        let length = tokio::fs::metadata(path).await.map_err(io())?.len();
        if length <= ONE_PUT {
            let bytes = tokio::fs::read(path).await.map_err(io())?;
            let found = FileEntry {
                sha256: digest::sha256(&bytes),
                bytes: bytes.len() as u64,
            };
            if found == *expected {
                self.put_blob(&found.sha256, bytes).await?;
            }
            return Ok(found);
        }
        let failed = || RegistryError::store(format!("writing {blob}"));
        let upload = self
            .objects()
            .put_multipart(&blob)
            .await
            .map_err(failed())?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, ONE_PUT as usize);
        let mut hasher = Sha256::new();
        let mut bytes = 0;
        let mut file = tokio::fs::File::open(path).await.map_err(io())?;
        let mut piece = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut piece).await.map_err(io())?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
            bytes += n as u64;
            upload.wait_for_capacity(2).await.map_err(failed())?;
            upload.write(&piece[..n]);
        }
        let found = FileEntry {
            sha256: digest::hex(hasher.finalize()),
            bytes,
        };
        if found == *expected {
            upload.finish().await.map_err(failed())?;
        } else {
            upload.abort().await.map_err(failed())?;
        }
        Ok(found)
    }

    /// A blob's name is its content, so writing it twice changes nothing.
    async fn put_blob(&self, sha256: &str, bytes: Vec<u8>) -> Result<(), RegistryError> {
        let path = self.blob_path(sha256);
        let put = self.objects().put(&path, PutPayload::from(bytes)).await;
        put.map(drop)
            .map_err(RegistryError::store(format!("writing {path}")))
    }

    /// Fetches the blob `entry` into the file `to`, which is complete and has the right content or
    /// does not exist.
    pub(super) async fn download(&self, entry: &FileEntry, to: &Path) -> Result<(), RegistryError> {
        let path = self.blob_path(&entry.sha256);
        let failed = || RegistryError::store(format!("reading {path}"));
        let found = self.objects().get(&path).await.map_err(|e| match e {
            StoreError::NotFound { .. } => RegistryError::Corrupt {
                path: path.to_string(),
                reason: format!("the blob is missing; {DELETED}"),
            },
            source => failed()(source),
        })?;
        let io = || RegistryError::io(to);
        let target = AtomicFile::create(to).map_err(io())?;
        let mut file = tokio::fs::File::from_std(target.file().try_clone().map_err(io())?);
        let mut hasher = Sha256::new();
        let mut length = 0;
        let mut pieces = found.into_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(failed())?;
            hasher.update(&piece);
            length += piece.len() as u64;
            if length > entry.bytes {
                // Not one byte more than announced reaches the disk.
                break;
            }
            file.write_all(&piece).await.map_err(io())?;
        }
        file.flush().await.map_err(io())?;
        let sha256 = digest::hex(hasher.finalize());
        if sha256 == entry.sha256 && length == entry.bytes {
            let durable = blocking::run(move || target.commit()).await;
            return durable.map_err(Into::into).flatten().map_err(io());
        }
        Err(RegistryError::Corrupt {
            path: path.to_string(),
            reason: format!(
                "its content has SHA-256 {sha256} and {length} bytes, not {} bytes",
                entry.bytes
            ),
        })
    }
}
