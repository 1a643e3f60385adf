//! [`Bundle`]: a bundle that was verified.

use super::manifest::is_read_format;
use super::{
    BundleError, ENCODER_FILE, FileEntry, HEAD_FILE, HEAD_WEIGHTS_FILE, MANIFEST_FILE, Manifest,
    TEXT_CONFIG_FILE, TEXT_WEIGHTS_FILE, TOKENIZER_FILE, external_data,
};
use crate::head::{ExportedHead, NamedTensor};
use crate::text::TextFiles;
use serde::Deserialize;
use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};
use tagstream_core::digest;

/// A bundle whose manifest, files and hashes were verified when it was opened.
///
/// ```
/// use tagstream_model::bundle::Bundle;
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/tiny-model");
/// let bundle = Bundle::open(folder)?;
/// let manifest = bundle.manifest();
/// assert_eq!(manifest.id, "tiny-745adaabd607");
/// assert_eq!(manifest.categories[0].name, "red");
/// assert_eq!((manifest.preprocessing.width, manifest.preprocessing.height), (32, 32));
/// // Only what the manifest lists is part of the bundle, and all of that has been verified.
/// assert!(bundle.path("encoder.onnx").is_some_and(|path| path.is_file()));
/// assert!(bundle.path("notes.txt").is_none());
/// # Ok::<(), tagstream_model::bundle::BundleError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bundle {
    root: PathBuf,
    manifest: Manifest,
}

impl Bundle {
    /// Opens and verifies the bundle in `directory`: format version, the manifest's own
    /// consistency, and of every listed file that it lies inside (no `..`, no symbolic link), its
    /// length and its SHA-256. Graphs may refer to external data only in listed files.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, BundleError> {
        let root = directory.as_ref().to_path_buf();
        let manifest = read_manifest(&root)?;
        manifest.check()?;
        for (name, entry) in &manifest.files {
            verify_file(&root, name, entry)?;
        }
        let bundle = Self { root, manifest };
        for name in bundle.manifest.files.keys() {
            if Path::new(name).extension().is_some_and(|e| e == "onnx") {
                bundle.check_external_data(name)?;
            }
        }
        Ok(bundle)
    }

    /// The same bundle after its directory was renamed.
    pub(super) fn moved_to(self, root: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            ..self
        }
    }

    /// Whether `directory` looks like a bundle.
    pub fn is_at(directory: impl AsRef<Path>) -> bool {
        directory.as_ref().join(MANIFEST_FILE).is_file()
    }

    /// What `manifest.json` says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The model version that rows carry.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// The bundle's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a listed file; `None` if the bundle has it not.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.manifest
            .files
            .contains_key(name)
            .then(|| self.root.join(name))
    }

    /// Path of `encoder.onnx`.
    pub fn encoder(&self) -> PathBuf {
        self.root.join(ENCODER_FILE)
    }

    /// SHA-256 of `encoder.onnx`: equal hashes are the same encoder, whose session can be kept.
    pub fn encoder_hash(&self) -> &str {
        // Listed, or the manifest would have been refused.
        &self.manifest.files[ENCODER_FILE].sha256
    }

    /// Path of `head.onnx`.
    pub fn head_graph(&self) -> PathBuf {
        self.root.join(HEAD_FILE)
    }

    /// The head with its weights, and the trainable tensors that lie beside them.
    pub fn head(&self) -> Result<(ExportedHead, Vec<NamedTensor>), BundleError> {
        let path = self.root.join(HEAD_WEIGHTS_FILE);
        let content = fs::read(&path).map_err(BundleError::io(&path))?;
        let (head, trainable) = ExportedHead::from_safetensors(&content).map_err(|source| {
            let path = path.clone();
            BundleError::Head { path, source }
        })?;
        let (c, d) = (self.manifest.categories.len(), self.manifest.dims.embedding);
        if head.categories != c || head.dim != d {
            return Err(BundleError::Manifest {
                what: format!(
                    "it names {c} categories and dimension {d}, head.safetensors has {} and {}",
                    head.categories, head.dim
                ),
            });
        }
        Ok((head, trainable))
    }

    /// The text tower's files, if the bundle has them.
    pub fn text_files(&self) -> Option<TextFiles> {
        Some(TextFiles {
            weights: self.path(TEXT_WEIGHTS_FILE)?,
            config: self.path(TEXT_CONFIG_FILE)?,
            tokenizer: self.path(TOKENIZER_FILE)?,
        })
    }

    fn check_external_data(&self, name: &str) -> Result<(), BundleError> {
        let path = self.root.join(name);
        let content = fs::read(&path).map_err(BundleError::io(&path))?;
        let locations = external_data::locations(content.into())
            .map_err(|source| BundleError::Onnx { path, source })?;
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        for location in locations {
            check_relative(&location, name)?;
            // Joined with `/` whatever the platform, as the manifest writes its paths.
            let listed = folder.join(&location).to_string_lossy().replace('\\', "/");
            if !self.manifest.files.contains_key(&listed) {
                return Err(BundleError::Outside {
                    path: location,
                    place: name.to_owned(),
                    why: "external data must be a file that bundle.json lists",
                });
            }
        }
        Ok(())
    }
}

fn read_manifest(root: &Path) -> Result<Manifest, BundleError> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u64,
    }
    let path = root.join(MANIFEST_FILE);
    let content = fs::read(&path).map_err(|source| match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => BundleError::NoBundle {
            directory: root.to_path_buf(),
        },
        _ => BundleError::Io {
            path: path.clone(),
            source,
        },
    })?;
    let json = |source| BundleError::Json {
        path: path.clone(),
        source,
    };
    // The version first: a later format may have fields that this one would refuse for another
    // reason.
    let version: Version = serde_json::from_slice(&content).map_err(json)?;
    if !is_read_format(version.format_version) {
        return Err(BundleError::FormatVersion {
            path,
            found: version.format_version,
        });
    }
    serde_json::from_slice(&content).map_err(json)
}

/// Refuses a graph outside a bundle whose external data could lie outside its folder: a location
/// must be a plain relative path and no symbolic link.
///
/// # Errors
/// [`BundleError::Onnx`] if it is no graph, [`BundleError::Outside`] names the location that is not
/// allowed.
pub fn check_graph_files(graph: &Path, content: bytes::Bytes) -> Result<(), BundleError> {
    let locations = external_data::locations(content).map_err(|source| BundleError::Onnx {
        path: graph.to_path_buf(),
        source,
    })?;
    let place = graph.display().to_string();
    for location in locations {
        check_relative(&location, &place)?;
        let mut path = graph.parent().unwrap_or(Path::new("")).to_path_buf();
        for part in Path::new(&location).components() {
            path.push(part);
            if fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_symlink()) {
                return Err(BundleError::Outside {
                    path: location,
                    place,
                    why: "it is or passes a symbolic link",
                });
            }
        }
    }
    Ok(())
}

/// Refuses paths that are not plain relative ones. `place` is where the path is written.
pub(super) fn check_relative(path: &str, place: &str) -> Result<(), BundleError> {
    let refuse = |why| {
        Err(BundleError::Outside {
            path: path.to_owned(),
            place: place.to_owned(),
            why,
        })
    };
    if path.is_empty() {
        return refuse("it is empty");
    }
    if path.contains('\\') || path.contains('\0') {
        return refuse("it contains a backslash or a zero byte");
    }
    let plain = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !plain
        || path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return refuse("only names and `/` between them are allowed");
    }
    Ok(())
}

fn verify_file(root: &Path, name: &str, entry: &FileEntry) -> Result<(), BundleError> {
    check_relative(name, MANIFEST_FILE)?;
    // Every step of the way, since a symbolic link to a directory leaves the bundle as well as one
    // to a file.
    let mut path = root.to_path_buf();
    for part in Path::new(name).components() {
        path.push(part);
        let metadata = fs::symlink_metadata(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => BundleError::Missing {
                path: root.join(name),
            },
            _ => BundleError::Io {
                path: path.clone(),
                source,
            },
        })?;
        if metadata.file_type().is_symlink() {
            return Err(BundleError::Outside {
                path: name.to_owned(),
                place: MANIFEST_FILE.to_owned(),
                why: "it is or passes a symbolic link",
            });
        }
    }
    let metadata = fs::metadata(&path).map_err(BundleError::io(&path))?;
    if !metadata.is_file() {
        return Err(BundleError::Missing { path });
    }
    if metadata.len() != entry.bytes {
        return Err(BundleError::Size {
            path,
            expected: entry.bytes,
            found: metadata.len(),
        });
    }
    let (found, _) = digest::sha256_of_file(&path).map_err(BundleError::io(&path))?;
    if !found.eq_ignore_ascii_case(&entry.sha256) {
        return Err(BundleError::Hash {
            path,
            expected: entry.sha256.clone(),
            found,
        });
    }
    Ok(())
}
