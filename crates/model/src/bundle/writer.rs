//! [`BundleWriter`]: a bundle is written aside and renamed whole.

use super::manifest::{format_of, preprocessing_hash};
use super::reader::check_relative;
use super::{
    Bundle, BundleError, Calibration, Category, Dims, FileEntry, Lineage, MANIFEST_FILE, Manifest,
};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use tagstream_core::digest;
use tagstream_core::storage::atomic;
use tagstream_image::preprocessing::Preprocessing;

/// What a manifest says beyond files, hashes and versions.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// First part of the id.
    pub name: String,
    /// The bundle this one was trained from.
    pub parent: Option<String>,
    /// When the bundle was made.
    pub created: DateTime<Utc>,
    /// Categories in the order of the score vector.
    pub categories: Vec<Category>,
    /// Sizes of the tensors.
    pub dims: Dims,
    /// How pixels are prepared.
    pub preprocessing: Preprocessing,
    /// What turns logits into probabilities.
    pub calibration: Calibration,
    /// Quality figures.
    pub metrics: BTreeMap<String, f64>,
    /// Where the bundle comes from.
    pub lineage: Lineage,
}

/// Collects the files of one bundle beside its final place; [`BundleWriter::finish`] renames it.
/// Dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct BundleWriter {
    out: PathBuf,
    aside: PathBuf,
    files: BTreeMap<String, FileEntry>,
    finished: bool,
}

impl BundleWriter {
    /// Begins a bundle that is to stand at `out`, which must not exist (an empty directory is taken
    /// as free).
    pub fn new(out: impl AsRef<Path>) -> Result<Self, BundleError> {
        let out = std::path::absolute(out.as_ref()).map_err(BundleError::io(out.as_ref()))?;
        refuse_taken(&out)?;
        let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else {
            return Err(BundleError::Exists { path: out });
        };
        fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
        let aside = parent.join(format!(
            ".{}.partial-{}-{:08x}",
            name.to_string_lossy(),
            std::process::id(),
            rand::random::<u32>()
        ));
        fs::create_dir(&aside).map_err(BundleError::io(&aside))?;
        Ok(Self {
            out,
            aside,
            files: BTreeMap::new(),
            finished: false,
        })
    }

    /// Adds a file of this content. `name` is relative, with `/` between its parts.
    pub fn add(&mut self, name: &str, content: &[u8]) -> Result<(), BundleError> {
        let path = self.place(name)?;
        let mut file = File::create_new(&path).map_err(BundleError::io(&path))?;
        file.write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(BundleError::io(&path))?;
        let entry = FileEntry {
            sha256: digest::sha256(content),
            bytes: content.len() as u64,
        };
        self.files.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Adds a copy of the file at `source`.
    pub fn add_copy(&mut self, name: &str, source: &Path) -> Result<(), BundleError> {
        let path = self.place(name)?;
        fs::copy(source, &path).map_err(BundleError::io(source))?;
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(BundleError::io(&path))?;
        // Of the copy, so that what is listed is what is there.
        let (sha256, bytes) = digest::sha256_of_file(&path).map_err(BundleError::io(&path))?;
        self.files
            .insert(name.to_owned(), FileEntry { sha256, bytes });
        Ok(())
    }

    fn place(&self, name: &str) -> Result<PathBuf, BundleError> {
        check_relative(name, "the bundle that is written")?;
        let path = self.aside.join(name);
        if name == MANIFEST_FILE || self.files.contains_key(name) {
            return Err(BundleError::Exists { path });
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(BundleError::io(parent))?;
        }
        Ok(path)
    }

    /// Writes the manifest, makes everything durable, verifies it as [`Bundle::open`] does
    /// and renames it to its place.
    pub fn finish(mut self, draft: Draft) -> Result<Bundle, BundleError> {
        let mut manifest = Manifest {
            format_version: format_of(&draft.categories),
            id: String::new(),
            parent: draft.parent,
            created: draft.created,
            categories: draft.categories,
            dims: draft.dims,
            preprocessing_hash: preprocessing_hash(&draft.preprocessing),
            preprocessing: draft.preprocessing,
            calibration: draft.calibration,
            files: std::mem::take(&mut self.files),
            metrics: draft.metrics,
            lineage: draft.lineage,
        };
        manifest.id = manifest.id_for(&draft.name);
        manifest.check()?;
        let mut json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        json.push(b'\n');
        let path = self.aside.join(MANIFEST_FILE);
        let mut file = File::create_new(&path).map_err(BundleError::io(&path))?;
        file.write_all(&json)
            .and_then(|()| file.sync_all())
            .map_err(BundleError::io(&path))?;
        // Whole before it has its name: what is wrong with it shows here, not at the place where
        // others look.
        let bundle = Bundle::open(&self.aside)?;
        let folders = manifest
            .files
            .keys()
            .filter_map(|name| Path::new(name).parent());
        for folder in folders.chain([Path::new("")]) {
            let folder = self.aside.join(folder);
            atomic::sync_folder(&folder).map_err(BundleError::io(&folder))?;
        }
        refuse_taken(&self.out)?;
        atomic::rename(&self.aside, &self.out).map_err(BundleError::io(&self.out))?;
        self.finished = true;
        Ok(bundle.moved_to(&self.out))
    }
}

impl Drop for BundleWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the caller has an error to report already.
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

fn refuse_taken(out: &Path) -> Result<(), BundleError> {
    let taken = match fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => fs::symlink_metadata(out).is_ok(),
    };
    if taken {
        return Err(BundleError::Exists {
            path: out.to_path_buf(),
        });
    }
    Ok(())
}
