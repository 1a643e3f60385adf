//! Where a registry lives: addresses, the object store behind them, and the objects' names.

use super::RegistryError;
use super::record::REGISTRY_FORMAT;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tagstream_core::address::Address;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::storage::conformance::{Nonconformance, proves_create, proves_update};
use tagstream_core::storage::open::{Missing, Purpose, Storage, StoreOpenError, open};

/// Which version of a registry is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// The one that serves.
    Current,
    /// The one of this number.
    Number(u64),
}

/// `registry-url[@version]`, taken apart.
///
/// ```
/// use tagstream_model::registry::{Location, VersionChoice};
///
/// let location = Location::parse("s3://media/models@7");
/// assert_eq!(location.url, "s3://media/models");
/// assert_eq!(location.version, VersionChoice::Number(7));
/// // Without a version, the one that serves.
/// assert_eq!(Location::parse("s3://media/models").version, VersionChoice::Current);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The registry's address.
    pub url: String,
    /// The version asked for.
    pub version: VersionChoice,
}

impl Location {
    /// Takes `registry-url[@version]` apart. What follows the last `@` counts as a version only if
    /// it is a number or `current`, so addresses may hold an `@` themselves.
    pub fn parse(spec: &str) -> Self {
        if let Some((url, suffix)) = spec.rsplit_once('@')
            && !url.is_empty()
        {
            let version = match suffix {
                "current" => Some(VersionChoice::Current),
                number => number.parse().ok().map(VersionChoice::Number),
            };
            if let Some(version) = version {
                return Location {
                    url: url.into(),
                    version,
                };
            }
        }
        Location {
            url: spec.into(),
            version: VersionChoice::Current,
        }
    }

    /// Whether `spec` means a registry: an object store address, or a folder with a
    /// `registry.json`.
    pub fn is_registry(spec: &str) -> bool {
        let location = Location::parse(spec);
        match local_folder(&location.url) {
            Some(folder) => folder.join(MARKER).is_file(),
            None => true,
        }
    }
}

/// The folder that a path or a `file://` address means; `None` for other schemes.
fn local_folder(url: &str) -> Option<PathBuf> {
    match Address::parse(url) {
        Ok(Address::Folder(folder)) => Some(folder),
        _ => None,
    }
}

const MARKER: &str = "registry.json";

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    format_version: u32,
}

/// The objects of one registry.
#[derive(Debug)]
pub(super) struct RegistryStore(pub(super) Storage);

impl RegistryStore {
    /// Opens the store; talks to nobody yet.
    pub(super) fn connect(
        url: &str,
        options: &ObjectStoreConfig,
        missing: Missing,
    ) -> Result<RegistryStore, RegistryError> {
        match open(url, options, Purpose::Registry, missing) {
            Ok(storage) => Ok(RegistryStore(storage)),
            Err(StoreOpenError::NoFolder { .. }) => {
                Err(RegistryError::NotARegistry { url: url.into() })
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.0.objects
    }

    pub(super) async fn check_marker(&self) -> Result<(), RegistryError> {
        match self.get_json::<Marker>(&self.path(&[MARKER])).await? {
            None => Err(RegistryError::NotARegistry {
                url: self.0.url.clone(),
            }),
            Some(_) => Ok(()),
        }
    }

    /// Writes the marker unless it is there. On the way it proves that the store honours both kinds
    /// of conditional put; some that speak S3 ignore the headers.
    pub(super) async fn create_marker(&self) -> Result<(), RegistryError> {
        let path = self.path(&[MARKER]);
        match self.check_marker().await {
            Err(RegistryError::NotARegistry { .. }) => {}
            other => return other,
        }
        let probe = self.path(&["probe", &super::record::nonce()]);
        self.prove(&probe).await?;
        let deleted = self.objects().delete(&probe).await;
        deleted.map_err(RegistryError::store(format!("deleting {probe}")))?;
        let marker = Marker {
            format_version: REGISTRY_FORMAT,
        };
        self.put_json(&path, &marker, PutMode::Create).await?;
        Ok(())
    }

    async fn prove(&self, probe: &ObjectPath) -> Result<(), RegistryError> {
        let objects = &**self.objects();
        let mut proven = proves_create(objects, probe).await;
        // A folder's pointer is replaced under a lock.
        if proven.is_ok() && self.0.disk.is_none() {
            proven = proves_update(objects, probe).await;
        }
        proven.map_err(|unfit| match unfit {
            Nonconformance::Failed(source) => RegistryError::Store {
                doing: format!("writing {probe}"),
                source,
            },
            unfit => RegistryError::NoConditionalPut {
                url: self.0.url.clone(),
                reason: unfit.to_string(),
            },
        })
    }

    pub(super) fn path(&self, parts: &[&str]) -> ObjectPath {
        parts
            .iter()
            .fold(self.0.prefix.clone(), |path, part| path.join(*part))
    }

    pub(super) fn version_path(&self, number: u64) -> ObjectPath {
        self.path(&["versions", &format!("{number}.json")])
    }

    pub(super) fn history_path(&self, sequence: u64) -> ObjectPath {
        self.path(&["history", &format!("{sequence:010}.json")])
    }

    pub(super) fn blob_path(&self, sha256: &str) -> ObjectPath {
        self.path(&["blobs", sha256.get(..2).unwrap_or("xx"), sha256])
    }

    /// Numbers of all versions, ascending.
    pub(super) async fn version_numbers(&self) -> Result<Vec<u64>, RegistryError> {
        self.numbers("versions").await
    }

    /// The number of the last decision that was followed by another; `None` if none was.
    pub(super) async fn last_history(&self) -> Result<Option<u64>, RegistryError> {
        Ok(self.numbers("history").await?.last().copied())
    }

    async fn numbers(&self, folder: &str) -> Result<Vec<u64>, RegistryError> {
        let folder = self.path(&[folder]);
        let listed: Vec<_> = self
            .objects()
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(RegistryError::store(format!("listing {folder}")))?;
        let mut numbers: Vec<u64> = listed
            .iter()
            .filter_map(|meta| {
                meta.location
                    .filename()?
                    .strip_suffix(".json")?
                    .parse()
                    .ok()
            })
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// An object's JSON; `None` if there is no such object.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        path: &ObjectPath,
    ) -> Result<Option<T>, RegistryError> {
        let bytes = match self.objects().get(path).await {
            Ok(found) => found.bytes().await,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(RegistryError::store(format!("reading {path}")))?;
        parse(path, &bytes).map(Some)
    }

    /// Puts JSON; `false` if the condition of `mode` did not hold.
    pub(super) async fn put_json<T: Serialize>(
        &self,
        path: &ObjectPath,
        value: &T,
        mode: PutMode,
    ) -> Result<bool, RegistryError> {
        let put = self
            .objects()
            .put_opts(
                path,
                PutPayload::from(to_json(value)),
                PutOptions::from(mode),
            )
            .await;
        match put {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(source) => Err(RegistryError::Store {
                doing: format!("writing {path}"),
                source,
            }),
        }
    }
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes =
        serde_json::to_vec_pretty(value).expect("our records have string keys and finite figures");
    bytes.push(b'\n');
    bytes
}

/// What an object is asked first: one of a newer format may hold anything beside it.
#[derive(Deserialize)]
struct Versioned {
    format_version: Option<u32>,
}

pub(super) fn parse<T: DeserializeOwned>(
    path: &ObjectPath,
    bytes: &[u8],
) -> Result<T, RegistryError> {
    let corrupt = |e: serde_json::Error| RegistryError::Corrupt {
        path: path.to_string(),
        reason: e.to_string(),
    };
    let Versioned { format_version } = serde_json::from_slice(bytes).map_err(corrupt)?;
    match format_version.filter(|found| *found != REGISTRY_FORMAT) {
        Some(found) => Err(RegistryError::UnknownFormat {
            path: path.to_string(),
            found,
            known: REGISTRY_FORMAT,
        }),
        None => serde_json::from_slice(bytes).map_err(corrupt),
    }
}
