//! Why a run fails.

use crate::labelling::store::TableError;
use std::path::PathBuf;
use tagstream_core::config::ConfigError;
use tagstream_core::storage::lease::LeaseError;
use tagstream_image::decode::DecodeError;
use tagstream_model::bundle::BundleError;
use tagstream_model::registry::RegistryError;

/// Why a run failed. Whatever the reason, the registry is as before.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The lease.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The label or predictions table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The champion cannot be retrained.
    #[error("{0}")]
    Unsuitable(String),
    /// Nothing but plain JPEGs could be decoded.
    #[error(transparent)]
    Decoders(#[from] DecodeError),
    /// Training, features, scoring.
    #[error("{doing}: {source}")]
    Work {
        /// What we were doing.
        doing: &'static str,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the work folder.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl JobError {
    /// Whether the next run may succeed without anybody doing anything.
    pub fn is_temporary(&self) -> bool {
        match self {
            JobError::Registry(error) => error.is_temporary(),
            JobError::Lease(error) => !matches!(error, LeaseError::NoConditionalPut { .. }),
            JobError::Table(TableError::Store(error)) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether arguments or configuration are wrong.
    pub fn is_usage(&self) -> bool {
        match self {
            JobError::Config(_) | JobError::Unsuitable(_) => true,
            JobError::Registry(error) => matches!(
                error,
                RegistryError::Open(_)
                    | RegistryError::NotARegistry { .. }
                    | RegistryError::NothingPromoted { .. }
            ),
            JobError::Table(TableError::Store(error)) => error.is_usage(),
            _ => false,
        }
    }

    pub(super) fn work<E: std::error::Error + Send + Sync + 'static>(
        doing: &'static str,
    ) -> impl FnOnce(E) -> JobError {
        move |source| JobError::Work {
            doing,
            source: Box::new(source),
        }
    }

    pub(super) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> JobError {
        let path = path.into();
        move |source| JobError::Io { path, source }
    }
}
