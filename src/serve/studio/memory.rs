//! What annotations of Label Studio have said, kept on the disk: a webhook that tells of a change
//! does not tell what was before, and one that tells of a deletion tells a number only.
//!
//! A file for each picture holds what its annotations say; a file for each annotation holds which
//! picture it is about. Names of files are digests: nothing that is sent becomes a path. Files
//! are written whole or not at all, and are as many as pictures and annotations were labelled.

use super::error::StudioError;
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tagstream_core::digest;
use tagstream_core::storage::atomic;

/// The form of the files.
const VERSION: u32 = 1;

/// What one annotation has said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// When it was made or changed last.
    pub time: DateTime<Utc>,
    #[serde(default)]
    pub annotator: String,
    #[serde(default)]
    pub present: Vec<String>,
    #[serde(default)]
    pub absent: Vec<String>,
    /// Categories of which it may have said something that must be taken back: it is not known yet
    /// that the broker has the retraction.
    #[serde(default)]
    pub unsettled: Vec<String>,
    /// Whether it is not known yet that the broker has what it says.
    #[serde(default)]
    pub pending: bool,
    /// Whether it is gone. What comes after that was sent before.
    #[serde(default)]
    pub gone: bool,
}

impl Entry {
    /// What it says of a category.
    pub(super) fn says(&self, category: &str) -> bool {
        let mut all = self.present.iter().chain(&self.absent);
        all.any(|name| name == category)
    }
}

/// What the annotations of one picture have said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PictureMemory {
    version: u32,
    /// The picture's name.
    pub image_id: String,
    /// Where it is, as far as it was told.
    #[serde(default)]
    pub uri: String,
    /// By the annotations' keys.
    pub annotations: BTreeMap<String, Entry>,
}

/// What is remembered of an annotation's key.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Whose {
    version: u32,
    /// The picture; empty of an annotation that was gone before it said anything.
    image_id: String,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Memory {
    root: PathBuf,
}

impl Memory {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Memory { root: root.into() }
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        let digest = digest::sha256(name);
        let folder = self.root.join(kind).join(&digest[..2]);
        folder.join(format!("{digest}.json"))
    }

    /// The picture that an annotation is about; empty if it was gone before.
    pub(super) fn picture_of(&self, key: &str) -> Result<Option<String>, StudioError> {
        let whose: Option<Whose> = read(&self.path("annotations", key))?;
        Ok(whose.map(|whose| whose.image_id))
    }

    /// Remembers which picture an annotation is about.
    pub(super) fn put_picture_of(&self, key: &str, image_id: &str) -> Result<(), StudioError> {
        let whose = Whose {
            version: VERSION,
            image_id: image_id.to_owned(),
        };
        write(&self.path("annotations", key), &whose)
    }

    /// What is remembered of a picture.
    pub(super) fn picture(&self, image_id: &str) -> Result<PictureMemory, StudioError> {
        let found: Option<PictureMemory> = read(&self.path("pictures", image_id))?;
        Ok(found.unwrap_or_else(|| PictureMemory {
            version: VERSION,
            image_id: image_id.to_owned(),
            ..PictureMemory::default()
        }))
    }

    /// Remembers what a picture's annotations say.
    pub(super) fn put(&self, picture: &PictureMemory) -> Result<(), StudioError> {
        write(&self.path("pictures", &picture.image_id), picture)
    }
}

fn failed(path: &Path, reason: impl ToString) -> StudioError {
    StudioError::Memory {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

/// Only as much of a file as says its form.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StudioError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
    };
    let versioned: Versioned = serde_json::from_slice(&bytes).map_err(|e| failed(path, e))?;
    if versioned.version != VERSION {
        let found = versioned.version;
        let reason = format!(
            "it has form {found}, and this build reads {VERSION}: run the build that wrote it, or \
             name another folder"
        );
        return Err(failed(path, reason));
    }
    let read = serde_json::from_slice(&bytes).map_err(|error| failed(path, error))?;
    Ok(Some(read))
}

fn write(path: &Path, content: &impl Serialize) -> Result<(), StudioError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    }
    let bytes = serde_json::to_vec(content).map_err(|error| failed(path, error))?;
    atomic::write_file(path, bytes).map_err(|error| failed(path, error))
}
