//! The one way to a store: for tables, registry and lease, and for the images of every bucket.
//!
//! [`Address`] is the grammar. An option counts first as [`options::check`] lets it pass of
//! `[object_store]`, then as the environment's variables with the store's prefix have it (`AWS_`,
//! `GOOGLE_`, `AZURE_`), then as a profile of the AWS tools does, then as the [`Limits`] of the
//! [`Purpose`] do. Configured credentials replace those of the environment: keys of one account
//! are never used with a token of another. Each request is counted in
//! `tagstream_store_requests_total`.

mod aws;

pub use super::purpose::{Limits, Purpose};
pub use aws::{AwsKeys, AwsKeysError, aws_keys, aws_region};

use super::http::Connector;
use super::options;
use super::profile;
use super::staging::LocalFolder;
use crate::address::{Address, AddressError, Store};
use crate::config::{Flaw, ObjectStoreConfig, Secret};
use crate::redact::{cover_options, endpoint_with_user, redact_place};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use url::Url;

/// What to do about a local folder that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Create it.
    Create,
    /// Refuse it.
    Refuse,
}

/// Why a store cannot be opened. Nothing was asked of the network; no text holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreOpenError {
    /// The address is none.
    #[error("the address `{url}` {source}")]
    Address {
        /// The address, redacted.
        url: String,
        /// What is wrong.
        source: AddressError,
    },
    /// An option is wrong.
    #[error("`{}` {}", .0.key, .0.reason)]
    Option(Flaw),
    /// A local folder is not there.
    #[error("there is no folder {}", .folder.display())]
    NoFolder {
        /// The folder.
        folder: PathBuf,
    },
    /// A local folder cannot be had.
    #[error("cannot create the folder {}: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The options make no client.
    #[error(
        "`{url}` cannot be opened with these options of [object_store] and the {variables}* \
             variables (values are shown as ***): {reason}"
    )]
    Client {
        /// The address, redacted.
        url: String,
        /// What the store's variables begin with.
        variables: &'static str,
        /// What the client said.
        reason: String,
    },
}

/// An opened store, and the prefix in it. Clones share it.
#[derive(Debug, Clone)]
pub struct Storage {
    /// The address, for people.
    pub url: String,
    /// The store.
    pub objects: Arc<dyn ObjectStore>,
    /// Where in it our objects lie.
    pub prefix: ObjectPath,
    /// The folder, where it is one of this machine.
    pub disk: Option<Disk>,
}

/// A store that is a folder of this machine.
#[derive(Debug, Clone)]
pub struct Disk {
    /// An absolute path on the local disk.
    pub folder: PathBuf,
    /// The same as a store.
    pub files: LocalFileSystem,
}

impl Storage {
    /// Any store, as it is.
    pub fn from_parts(url: &str, objects: Arc<dyn ObjectStore>, prefix: ObjectPath) -> Self {
        Storage {
            url: redact_place(url),
            objects,
            prefix,
            disk: None,
        }
    }
}

/// Opens the store at `address`. Asks nobody anything yet.
///
/// # Errors
/// [`StoreOpenError`] names the address, the option or the folder that cannot be.
pub fn open(
    address: &str,
    options: &ObjectStoreConfig,
    purpose: Purpose,
    missing: Missing,
) -> Result<Storage, StoreOpenError> {
    open_with(address, options, purpose, missing, std::env::vars_os())
}

/// As [`open`], with these variables for the environment's.
fn open_with(
    address: &str,
    options: &ObjectStoreConfig,
    purpose: Purpose,
    missing: Missing,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Storage, StoreOpenError> {
    let parsed = Address::parse(address).map_err(|source| StoreOpenError::Address {
        url: redact_place(address),
        source,
    })?;
    let (store, url) = match parsed {
        Address::Folder(folder) => return open_folder(address, folder, missing),
        Address::Bucket { store, url } => (store, url),
    };
    options::check(options).map_err(StoreOpenError::Option)?;
    let failed = |reason: String| {
        let values = store.configured(options).values().map(Secret::expose);
        StoreOpenError::Client {
            url: redact_place(address),
            variables: store.variables(),
            reason: cover_options(reason, values),
        }
    };
    let mut client = Client {
        url: &url,
        environment: Vec::new(),
        configured: store
            .configured(options)
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.expose().to_owned()))
            .collect(),
        purpose,
    };
    let variables: Vec<_> = variables.into_iter().collect();
    client.environment = environment(store, variables.iter().cloned());
    if store == Store::S3 {
        client
            .take_profile(&variables)
            .map_err(StoreOpenError::Option)?;
    }
    client.check_environment(store)?;
    let objects = client.build(store).map_err(|e| failed(e.to_string()))?;
    let prefix = ObjectPath::from_url_path(url.path()).map_err(|e| failed(e.to_string()))?;
    Ok(Storage::from_parts(address, objects, prefix))
}

fn open_folder(
    address: &str,
    folder: PathBuf,
    missing: Missing,
) -> Result<Storage, StoreOpenError> {
    let cannot = |source| StoreOpenError::Folder {
        folder: folder.clone(),
        source,
    };
    let absolute = std::path::absolute(&folder).map_err(cannot)?;
    if missing == Missing::Create {
        std::fs::create_dir_all(&absolute).map_err(cannot)?;
    } else if !absolute.is_dir() {
        return Err(StoreOpenError::NoFolder { folder });
    }
    let files = local(&absolute).map_err(|e| cannot(std::io::Error::other(e.to_string())))?;
    Ok(Storage {
        disk: Some(Disk {
            folder: absolute,
            files: files.clone(),
        }),
        ..Storage::from_parts(address, Arc::new(LocalFolder(files)), ObjectPath::default())
    })
}

fn local(folder: &Path) -> object_store::Result<LocalFileSystem> {
    Ok(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true))
}

impl Store {
    /// What the names of the environment variables begin with that the store's own tools read.
    pub fn variables(self) -> &'static str {
        match self {
            Store::S3 => "AWS_",
            Store::Gs => "GOOGLE_",
            Store::Az => "AZURE_",
        }
    }
}

/// The options that the environment names. Variables that are empty say nothing, and those that
/// are no options are other programs'.
fn environment(
    store: Store,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(String, String)> {
    let named = |(name, value): (OsString, OsString)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        let name = match (store, name.as_str()) {
            // The two without a prefix that the clouds' own machines set.
            (Store::Gs, "SERVICE_ACCOUNT") => "service_account".to_owned(),
            (Store::Az, "IDENTITY_ENDPOINT") => "msi_endpoint".to_owned(),
            (_, name) if name.starts_with(store.variables()) => name.to_ascii_lowercase(),
            _ => return None,
        };
        (!value.is_empty() && store.options().knows(&name)).then_some((name, value))
    };
    variables.into_iter().filter_map(named).collect()
}

/// What a client is made of.
struct Client<'a> {
    url: &'a Url,
    environment: Vec<(String, String)>,
    configured: Vec<(String, String)>,
    purpose: Purpose,
}

impl Client<'_> {
    fn build(&self, store: Store) -> object_store::Result<Arc<dyn ObjectStore>> {
        macro_rules! build {
            ($builder:ident, $key:ident, $superseded:ident) => {{
                let mut builder = $builder::new()
                    .with_url(self.url.as_str())
                    .with_retry(self.retry())
                    .with_http_connector(Connector {
                        store,
                        purpose: self.purpose,
                    });
                for (key, value) in self.settings::<$key>($superseded)? {
                    builder = builder.with_config(key, value);
                }
                Arc::new(builder.build()?)
            }};
        }
        Ok(match store {
            Store::S3 => build!(AmazonS3Builder, AmazonS3ConfigKey, superseded_s3),
            Store::Gs => build!(GoogleCloudStorageBuilder, GoogleConfigKey, superseded_gs),
            Store::Az => build!(MicrosoftAzureBuilder, AzureConfigKey, superseded_az),
        })
    }

    /// Adds what a profile of the AWS tools says.
    fn take_profile(&mut self, variables: &[(OsString, OsString)]) -> Result<(), Flaw> {
        let variable = |wanted: &str| {
            let mut found = variables.iter().filter(|(name, _)| name == wanted);
            let (_, value) = found.next()?;
            value.to_str().filter(|v| !v.is_empty()).map(Into::into)
        };
        let given = self.environment.iter().chain(&self.configured);
        let given: Vec<&str> = given.map(|(name, _)| name.as_str()).collect();
        let added = profile::options(&given, variable)?;
        self.environment.extend(added);
        Ok(())
    }

    /// Refuses a server with user info that the environment names, which every error of a request
    /// would repeat. Where the configuration names one, the environment's is not used.
    fn check_environment(&self, store: Store) -> Result<(), StoreOpenError> {
        if self
            .configured
            .iter()
            .any(|(name, _)| name.contains("endpoint"))
        {
            return Ok(());
        }
        let used = self.environment.iter();
        let pairs = used.map(|(name, value)| (name.as_str(), value.as_str()));
        match endpoint_with_user(pairs) {
            None => Ok(()),
            Some(name) => Err(StoreOpenError::Option(Flaw::new(
                name.to_ascii_uppercase(),
                format!(
                    "(a variable) holds a user name or a password; credentials belong into other \
                     {}* variables",
                    store.variables()
                ),
            ))),
        }
    }

    fn retry(&self) -> RetryConfig {
        let limits = self.purpose.limits();
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: limits.first_pause,
                max_backoff: limits.longest_pause,
                base: 2.0,
            },
            max_retries: limits.retries,
            retry_timeout: limits.within,
        }
    }

    /// All settings; of one key the last counts. `superseded` tells what of the environment does
    /// not count beside what is configured.
    fn settings<K>(
        &self,
        superseded: fn(&K, &[K]) -> bool,
    ) -> object_store::Result<Vec<(K, String)>>
    where
        K: std::str::FromStr<Err = object_store::Error>,
    {
        let limits = self.purpose.limits();
        let own = [
            ("timeout", limits.request),
            ("connect_timeout", limits.connect),
        ];
        let mut all = Vec::new();
        for (name, time) in own {
            all.push((name.parse()?, format!("{}ms", time.as_millis())));
        }
        let configured: Vec<K> = parsed(&self.configured)?;
        for (key, (_, value)) in parsed(&self.environment)?
            .into_iter()
            .zip(&self.environment)
        {
            if !superseded(&key, &configured) {
                all.push((key, value.clone()));
            }
        }
        let values = self.configured.iter().map(|(_, value)| value.clone());
        all.extend(configured.into_iter().zip(values));
        Ok(all)
    }
}

fn parsed<K>(options: &[(String, String)]) -> object_store::Result<Vec<K>>
where
    K: std::str::FromStr<Err = object_store::Error>,
{
    options.iter().map(|(name, _)| name.parse()).collect()
}

/// A token belongs to its keys; and a server that is named for all services is meant for this one,
/// too.
fn superseded_s3(key: &AmazonS3ConfigKey, configured: &[AmazonS3ConfigKey]) -> bool {
    use AmazonS3ConfigKey as Key;
    let has = |key| configured.contains(&key);
    match key {
        Key::Token => has(Key::AccessKeyId) && has(Key::SecretAccessKey),
        Key::S3Endpoint => has(Key::Endpoint),
        _ => false,
    }
}

fn superseded_gs(key: &GoogleConfigKey, configured: &[GoogleConfigKey]) -> bool {
    use GoogleConfigKey as Key;
    let proves = |key: &Key| {
        matches!(
            key,
            Key::ServiceAccount
                | Key::ServiceAccountKey
                | Key::ApplicationCredentials
                | Key::BearerToken
        )
    };
    proves(key) && configured.iter().any(proves)
}

fn superseded_az(key: &AzureConfigKey, configured: &[AzureConfigKey]) -> bool {
    use AzureConfigKey as Key;
    let proves = |key: &Key| {
        matches!(
            key,
            Key::AccessKey | Key::ClientSecret | Key::SasKey | Key::Token | Key::FederatedTokenFile
        )
    };
    proves(key) && configured.iter().any(proves)
}

#[cfg(test)]
mod tests;
