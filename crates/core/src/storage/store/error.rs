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
    #[error("{action} {path}: {}", with_cause(source))]
    Transient {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// A request failed in a way that repeating cannot cure.
    #[error("{action} {path}: {}", with_cause(source))]
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
        // A full disk is often emptied by others, and a mount comes back; a read-only one needs a
        // person.
        E::Generic { source, .. } => io_kind(source.as_ref()).is_some_and(|kind| {
            use std::io::ErrorKind::*;
            matches!(kind, PermissionDenied | ReadOnlyFilesystem | NotADirectory)
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

/// What a store says of a request that did not get through ends before the cause (the name is not
/// known, nobody listens), which stands at the end of its sources.
fn with_cause(error: &object_store::Error) -> String {
    let text = error.to_string();
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let cause = last.to_string();
    match text.contains(&cause) {
        true => text,
        false => format!("{text}: {cause}"),
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

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_is_told_with_the_cause() {
        use object_store::ObjectStoreExt;
        crate::tls::use_ring();
        let port = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let store = object_store::aws::AmazonS3Builder::new()
            .with_bucket_name("b")
            .with_endpoint(format!("http://127.0.0.1:{port}"))
            .with_allow_http(true)
            .with_access_key_id("a")
            .with_secret_access_key("s")
            .with_retry(object_store::RetryConfig {
                max_retries: 0,
                ..Default::default()
            })
            .build()
            .unwrap();
        let source = store.head(&Path::from("a")).await.unwrap_err();
        let told = classified("ask for", &Path::from("a"), source).to_string();
        assert!(told.contains("Connection refused"), "{told}");
    }

    #[test]
    fn a_place_that_cannot_do_what_is_asked_is_the_wrong_one_and_a_full_disk_is_waited_for() {
        let unfit = object_store::Error::NotSupported {
            source: "no hard links".into(),
        };
        let error = classified("put", &Path::from("a"), unfit);
        assert!(error.is_usage() && !error.is_transient(), "{error}");
        assert!(error.to_string().contains("no hard links"), "{error}");
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        for (kind, passes) in [
            (StorageFull, true),
            (QuotaExceeded, true),
            (ReadOnlyFilesystem, false),
        ] {
            let failed = object_store::Error::Generic {
                store: "local folder",
                source: std::io::Error::from(kind).into(),
            };
            let error = classified("put", &Path::from("a"), failed);
            assert!(!error.is_usage(), "{error}");
            assert_eq!(error.is_transient(), passes, "{error}");
        }
    }
}
