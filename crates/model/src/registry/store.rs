//! Where a registry lives: addresses, the object store behind them, and the objects' names.

use super::RegistryError;
use super::record::REGISTRY_FORMAT;
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
    UpdateVersion,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::{ObjectStoreConfig, Secret};
use tagstream_core::redact::{cover_options, redact_place, refuse_endpoint_users};
use tagstream_core::storage::address::{Address, Store};

/// Which version of a registry is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionChoice {
    /// The one that serves.
    Current,
    /// The one of this number.
    Number(u64),
}

/// `registry-url[@version]`, taken apart.
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
pub(super) struct RegistryStore {
    /// The address, for people.
    pub(super) url: String,
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) prefix: ObjectPath,
    /// The folder, if the store is a local one: there the pointer needs a lock.
    pub(super) folder: Option<PathBuf>,
}

impl RegistryStore {
    pub(super) fn remote(
        objects: Arc<dyn ObjectStore>,
        prefix: ObjectPath,
        url: String,
    ) -> RegistryStore {
        RegistryStore {
            url,
            objects,
            prefix,
            folder: None,
        }
    }

    /// Builds the client; talks to nobody yet.
    pub(super) fn connect(
        url: &str,
        options: &ObjectStoreConfig,
        create: bool,
    ) -> Result<RegistryStore, RegistryError> {
        if let Some(folder) = local_folder(url) {
            let folder = std::path::absolute(&folder).map_err(RegistryError::io(&folder))?;
            if create {
                std::fs::create_dir_all(&folder).map_err(RegistryError::io(&folder))?;
            } else if !folder.is_dir() {
                return Err(RegistryError::NotARegistry { url: url.into() });
            }
            return Ok(RegistryStore {
                url: url.into(),
                objects: Arc::new(local_store(&folder)?),
                prefix: ObjectPath::default(),
                folder: Some(folder),
            });
        }
        let (objects, prefix) = remote_store(url, options)?;
        Ok(RegistryStore::remote(objects, prefix, redact_place(url)))
    }

    pub(super) async fn check_marker(&self) -> Result<(), RegistryError> {
        match self.get_json::<Marker>(&self.path(&[MARKER])).await? {
            None => Err(RegistryError::NotARegistry {
                url: self.url.clone(),
            }),
            Some(marker) if marker.format_version != REGISTRY_FORMAT => {
                Err(RegistryError::UnknownFormat {
                    path: MARKER.into(),
                    found: marker.format_version,
                    known: REGISTRY_FORMAT,
                })
            }
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
        let refuse = |reason: &str| {
            Err(RegistryError::NoConditionalPut {
                url: self.url.clone(),
                reason: reason.into(),
            })
        };
        let probe = self.path(&["probe", &super::record::nonce()]);
        if !self.put_json(&probe, &"probe", PutMode::Create).await? {
            return refuse("a put of a new object was told that it exists");
        }
        let second = self.put_json(&probe, &"probe", PutMode::Create).await;
        if !matches!(second, Ok(false)) {
            return refuse("a create-if-absent put replaced an object");
        }
        if self.folder.is_none() {
            let stale = UpdateVersion {
                e_tag: Some("\"00000000000000000000000000000000\"".into()),
                version: None,
            };
            let update = self
                .put_json(&probe, &"probe", PutMode::Update(stale))
                .await;
            if !matches!(update, Ok(false)) {
                return refuse("a put conditional on another content replaced an object");
            }
        }
        let deleted = self.objects.delete(&probe).await;
        deleted.map_err(RegistryError::store(format!("deleting {probe}")))?;
        let marker = Marker {
            format_version: REGISTRY_FORMAT,
        };
        self.put_json(&path, &marker, PutMode::Create).await?;
        Ok(())
    }

    pub(super) fn path(&self, parts: &[&str]) -> ObjectPath {
        parts
            .iter()
            .fold(self.prefix.clone(), |path, part| path.join(*part))
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
        let folder = self.path(&["versions"]);
        let listed: Vec<_> = self
            .objects
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
        let bytes = match self.objects.get(path).await {
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
            .objects
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

pub(super) fn parse<T: DeserializeOwned>(
    path: &ObjectPath,
    bytes: &[u8],
) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes).map_err(|e| RegistryError::Corrupt {
        path: path.to_string(),
        reason: e.to_string(),
    })
}

fn local_store(folder: &std::path::Path) -> Result<LocalFileSystem, RegistryError> {
    let opened = LocalFileSystem::new_with_prefix(folder);
    let opened = opened.map_err(RegistryError::store(format!(
        "opening {}",
        folder.display()
    )))?;
    Ok(opened.with_fsync(true))
}

fn remote_store(
    url: &str,
    options: &ObjectStoreConfig,
) -> Result<(Arc<dyn ObjectStore>, ObjectPath), RegistryError> {
    let bad = |reason: String| RegistryError::BadUrl {
        url: redact_place(url),
        reason,
    };
    let (store, address) = match Address::parse(url) {
        Ok(Address::Bucket { store, url }) => (store, url),
        Ok(Address::Folder(_)) => return Err(bad("it is a folder".into())),
        Err(error) => return Err(bad(format!("it {error}"))),
    };
    let prefix = ObjectPath::from_url_path(address.path()).map_err(|e| bad(e.to_string()))?;
    let all = [&options.s3, &options.gs, &options.az];
    refuse_endpoint_users(all.into_iter().flat_map(keys)).map_err(bad)?;
    let retry = RetryConfig {
        max_retries: 5,
        retry_timeout: Duration::from_secs(30),
        ..RetryConfig::default()
    };
    let failed = |e: StoreError| {
        let values = all.into_iter().flat_map(keys).map(|(_, value)| value);
        bad(cover_options(e.to_string(), values))
    };
    macro_rules! build {
        ($builder:ident, $options:expr) => {{
            let mut builder = $builder::from_env()
                .with_url(address.as_str())
                .with_retry(retry);
            for (key, value) in keys($options) {
                let key = key.parse().map_err(failed)?;
                builder = builder.with_config(key, value);
            }
            Arc::new(builder.build().map_err(failed)?)
        }};
    }
    let objects: Arc<dyn ObjectStore> = match store {
        Store::S3 => build!(AmazonS3Builder, &options.s3),
        Store::Gs => build!(GoogleCloudStorageBuilder, &options.gs),
        Store::Az => build!(MicrosoftAzureBuilder, &options.az),
    };
    Ok((objects, prefix))
}

fn keys(options: &BTreeMap<String, Secret>) -> impl Iterator<Item = (&str, &str)> {
    options.iter().map(|(k, v)| (k.as_str(), v.expose()))
}
