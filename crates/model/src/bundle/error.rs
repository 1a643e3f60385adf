//! Why a bundle cannot be opened or written.

use std::path::PathBuf;

/// Why a bundle cannot be opened or written. Every message names the file and what is wrong with
/// it.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The directory holds no manifest.
    #[error(
        "{} is no model bundle: it has no bundle.json (make one with `tagstream init`)",
        .directory.display()
    )]
    NoBundle {
        /// The directory.
        directory: PathBuf,
    },
    /// The manifest is of another format.
    #[error(
        "{} is of format version {found}; this program reads versions 1 to {}: use a newer one",
        .path.display(), super::FORMAT_VERSION
    )]
    FormatVersion {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The manifest is no valid JSON of the right shape.
    #[error("{} cannot be read: {source}", .path.display())]
    Json {
        /// The manifest.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The manifest contradicts itself.
    #[error("bundle.json contradicts itself: {what}")]
    Manifest {
        /// What does not hold.
        what: String,
    },
    /// A path leaves the bundle, or could.
    #[error("the path `{path}` in {place} is not inside the bundle: {why}")]
    Outside {
        /// The path as written.
        path: String,
        /// Where it is written.
        place: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A listed file is not there.
    #[error("{} is listed in bundle.json but missing", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file's length is not the listed one.
    #[error(
        "{} has {found} bytes, bundle.json says {expected}: it was cut or replaced",
        .path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// Listed length.
        expected: u64,
        /// Actual length.
        found: u64,
    },
    /// A file's content is not the listed one.
    #[error("{} was changed: its SHA-256 is {found}, bundle.json says {expected}", .path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Listed hash.
        expected: String,
        /// Actual hash.
        found: String,
    },
    /// A graph cannot be parsed.
    #[error("{} is no ONNX file: {source}", .path.display())]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: prost::DecodeError,
    },
    /// The head's weights cannot be used.
    #[error("{}: {source}", .path.display())]
    Head {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: crate::head::HeadError,
    },
    /// The place to write to is taken.
    #[error("{} exists already; choose another place or remove it", .path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// A file system call failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl BundleError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
