//! What can go wrong with a registry.

use std::path::PathBuf;
use tagstream_core::storage::lease::LeaseError;
use tagstream_core::storage::open::StoreOpenError;
use tagstream_core::storage::swap::SwapError;

/// The end of what is said of objects that must be there.
pub(super) const DELETED: &str = "something deleted it (a lifecycle rule of the bucket?): bring it \
                                  back if the store keeps versions, or register the model anew";

/// Why a registry operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The address, an option or the folder cannot be.
    #[error(transparent)]
    Open(#[from] StoreOpenError),
    /// Nothing was ever registered there.
    #[error(
        "there is no registry at {url} (no registry.json); make one with `tagstream registry add \
         BUNDLE --promote`"
    )]
    NotARegistry {
        /// The address.
        url: String,
    },
    /// A format that this code does not know.
    #[error(
        "{path} has format version {found}; this tagstream reads at most {known}: use a newer one"
    )]
    UnknownFormat {
        /// The object.
        path: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The store ignores or refuses conditional puts.
    #[error(
        "the store at {url} does not do conditional puts ({reason}); two promotions could both \
         succeed there, so it is refused"
    )]
    NoConditionalPut {
        /// The address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The store failed.
    #[error("{doing}: {source}")]
    Store {
        /// What we were doing.
        doing: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// A local file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder for fetched models cannot be written to.
    #[error(
        "fetched models cannot be kept in {folder}: {reason}; set TAGSTREAM_CACHE to a folder that \
         this process may write to"
    )]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Another process holds the pointer's lock for longer than we wait.
    #[error("{path} is locked by another process; try again")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The registry asked for has no version that serves.
    #[error("nothing is promoted in {url}; see `tagstream registry list` and promote a version")]
    NothingPromoted {
        /// The address.
        url: String,
    },
    /// There is no version of that number.
    #[error(
        "there is no version {version} (newest: {})",
        newest.map_or("none".into(), |n| n.to_string())
    )]
    NoSuchVersion {
        /// The number asked for.
        version: u64,
        /// The highest number there is.
        newest: Option<u64>,
    },
    /// Somebody else moved the pointer first.
    #[error(
        "{by} moved the pointer meanwhile (generation {decided_on} is now {now}, serving version \
         {}): nothing was changed; look at `tagstream registry list` and decide again",
        version.map_or("none".into(), |n| n.to_string())
    )]
    Conflict {
        /// The generation the decision was taken on.
        decided_on: u64,
        /// The generation found.
        now: u64,
        /// The version that serves now.
        version: Option<u64>,
        /// Who moved it.
        by: String,
    },
    /// A newer holder of the lease exists.
    #[error(
        "the lease was lost: our token {ours} is older than {newest}; another run has taken over \
         and nothing was changed"
    )]
    Fenced {
        /// Our token.
        ours: u64,
        /// The newest token.
        newest: u64,
    },
    /// Somebody else is changing the registry, or a retraining is running.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// No earlier version served.
    #[error("no other version ever served: name one with --to")]
    NothingToRollBackTo,
    /// An object is not what it must be.
    #[error("{path} is damaged: {reason}")]
    Corrupt {
        /// The object.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A bundle directory is not what its manifest says.
    #[error("{path} is no good bundle: {reason}")]
    BadBundle {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same call may succeed later without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            RegistryError::Store { source, .. } => !matches!(
                source,
                object_store::Error::NotFound { .. }
                    | object_store::Error::InvalidPath { .. }
                    | object_store::Error::NotSupported { .. }
                    | object_store::Error::NotImplemented { .. }
                    | object_store::Error::PermissionDenied { .. }
                    | object_store::Error::Unauthenticated { .. }
                    | object_store::Error::UnknownConfigurationKey { .. }
            ),
            RegistryError::Locked { .. }
            | RegistryError::Conflict { .. }
            | RegistryError::Fenced { .. }
            | RegistryError::Lease(LeaseError::Held { .. } | LeaseError::Lost { .. }) => true,
            _ => false,
        }
    }

    /// The same, said of the cache at `root` if it happened there.
    pub(super) fn in_cache(self, root: &std::path::Path) -> Self {
        match self {
            RegistryError::Io { path, source } if path.starts_with(root) => RegistryError::Cache {
                folder: root.to_path_buf(),
                reason: source,
            },
            other => other,
        }
    }

    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> RegistryError {
        let path = path.into();
        move |source| RegistryError::Io { path, source }
    }

    pub(super) fn store(
        doing: impl Into<String>,
    ) -> impl FnOnce(object_store::Error) -> RegistryError {
        let doing = doing.into();
        move |source| RegistryError::Store { doing, source }
    }
}

impl From<SwapError> for RegistryError {
    fn from(error: SwapError) -> Self {
        match error {
            SwapError::Store { path, source } => RegistryError::Store {
                doing: format!("replacing {path}"),
                source,
            },
            SwapError::Io { path, source } => RegistryError::Io { path, source },
            SwapError::Locked { path } => RegistryError::Locked { path },
        }
    }
}
