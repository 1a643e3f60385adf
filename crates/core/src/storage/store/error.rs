//! Why a store cannot be used, and whether repeating helps.

use crate::address::AddressError;
use crate::storage::open::StoreOpenError;
use object_store::path::Path;

/// Why a store could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The configuration names no place.
    #[error("`output.url` is empty: name a folder or an object store (s3://bucket/prefix)")]
    NoUrl,
    /// The address, an option or the folder cannot be.
    #[error(transparent)]
    Open(StoreOpenError),
    /// A reader's folder is not there; only a writer creates one.
    #[error(
        "there is no folder {folder}: name the one that the stage keeps its tables in (its \
         `output.url`); it is there once the stage has run"
    )]
    NoFolder {
        /// The folder asked for.
        folder: String,
    },
    /// The store takes a second put where a first one lies, or has no conditional put.
    #[error(
        "the store at {url} cannot create a file only if it is absent ({reason}); exactly-once \
         output needs that. Use a local folder, Amazon S3, Google Cloud Storage, Azure, or an \
         S3-compatible server that honours `If-None-Match: *`"
    )]
    NoConditionalPut {
        /// The store.
        url: String,
        /// What happened.
        reason: String,
    },
    /// A request failed in a way that repeating may cure.
    #[error("{action} {path}: {source}")]
    Transient {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// A request failed in a way that repeating cannot cure.
    #[error("{action} {path}: {source}")]
    Permanent {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
}

impl StoreError {
    /// Whether repeating may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, StoreError::Transient { .. })
    }

    /// Whether the place that was named is wrong: also one that cannot do what is asked of it, such
    /// as a file system without hard links.
    pub fn is_usage(&self) -> bool {
        use object_store::Error::{NotImplemented, NotSupported};
        match self {
            StoreError::NoUrl | StoreError::Open(_) | StoreError::NoFolder { .. } => true,
            StoreError::Permanent { source, .. } => {
                matches!(source, NotSupported { .. } | NotImplemented { .. })
            }
            StoreError::NoConditionalPut { .. } | StoreError::Transient { .. } => false,
        }
    }
}

impl From<StoreOpenError> for StoreError {
    fn from(error: StoreOpenError) -> Self {
        match error {
            StoreOpenError::Address {
                source: AddressError::Empty,
                ..
            } => StoreError::NoUrl,
            StoreOpenError::NoFolder { folder } => StoreError::NoFolder {
                folder: folder.display().to_string(),
            },
            error => StoreError::Open(error),
        }
    }
}

/// What a request's failure is to us: cured by repeating or not.
pub(super) fn classified(
    action: &'static str,
    path: &Path,
    source: object_store::Error,
) -> StoreError {
    use object_store::Error as E;
    let path = path.to_string();
    let permanent = match &source {
        E::NotFound { .. }
        | E::InvalidPath { .. }
        | E::NotSupported { .. }
        | E::NotImplemented { .. }
        | E::PermissionDenied { .. }
        | E::Unauthenticated { .. }
        | E::UnknownConfigurationKey { .. } => true,
        // A full or read-only disk cures itself only by a person; the process manager starts us
        // again.
        E::Generic { source, .. } => io_kind(source.as_ref()).is_some_and(|kind| {
            use std::io::ErrorKind::*;
            matches!(
                kind,
                PermissionDenied | StorageFull | ReadOnlyFilesystem | NotADirectory
            )
        }),
        _ => false,
    };
    if permanent {
        StoreError::Permanent {
            action,
            path,
            source,
        }
    } else {
        StoreError::Transient {
            action,
            path,
            source,
        }
    }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_cannot_do_what_is_asked_is_the_wrong_one_and_a_full_disk_is_not() {
        let unfit = object_store::Error::NotSupported {
            source: "no hard links".into(),
        };
        let error = classified("put", &Path::from("a"), unfit);
        assert!(error.is_usage() && !error.is_transient(), "{error}");
        assert!(error.to_string().contains("no hard links"), "{error}");
        let full = object_store::Error::Generic {
            store: "local folder",
            source: std::io::Error::from(std::io::ErrorKind::StorageFull).into(),
        };
        let error = classified("put", &Path::from("a"), full);
        assert!(!error.is_usage() && !error.is_transient(), "{error}");
    }
}
