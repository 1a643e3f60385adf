//! Objects in S3, Google Cloud Storage and Azure Blob Storage.

use super::Fetched;
use super::collect::Collector;
use super::error::Failure;
use futures::StreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tagstream_core::config::{ConfigError, FetchConfig, ObjectStoreConfig, Secret};
use tagstream_core::redact::{cover_options, refuse_endpoint_users, scrub};

/// Whether an option's name says that its value is a secret.
fn is_secret(key: &str) -> bool {
    ["key", "secret", "token", "password", "credential", "sas"]
        .iter()
        .any(|part| key.contains(part))
}

/// Clients kept; messages decide which buckets are asked for, so there must be a bound.
const MAX_CLIENTS: usize = 64;

/// A client and the bucket it is for (scheme, name).
type Client = ((&'static str, String), Arc<dyn ObjectStore>);

/// One client per bucket, the most recently used last.
pub(super) struct Buckets {
    options: ObjectStoreConfig,
    retry: RetryConfig,
    timeout: Duration,
    connect_timeout: Duration,
    clients: Mutex<Vec<Client>>,
}

impl Buckets {
    /// Checks the options' names.
    pub(super) fn new(
        config: &FetchConfig,
        stores: &ObjectStoreConfig,
    ) -> Result<Self, ConfigError> {
        fn known<K: FromStr>(
            scheme: &str,
            options: &BTreeMap<String, Secret>,
        ) -> Result<(), ConfigError> {
            match options.keys().find(|key| K::from_str(key).is_err()) {
                None => Ok(()),
                Some(key) => Err(ConfigError::BadValue {
                    key: format!("object_store.{scheme}.{key}"),
                    reason: "is not an option of this store".into(),
                }),
            }
        }
        known::<AmazonS3ConfigKey>("s3", &stores.s3)?;
        known::<GoogleConfigKey>("gs", &stores.gs)?;
        known::<AzureConfigKey>("az", &stores.az)?;
        for (scheme, options) in [("s3", &stores.s3), ("gs", &stores.gs), ("az", &stores.az)] {
            let options = options.iter().map(|(k, v)| (k.as_str(), v.expose()));
            refuse_endpoint_users(options).map_err(|reason| ConfigError::BadValue {
                key: format!("object_store.{scheme}"),
                reason,
            })?;
        }
        let timeout = Duration::from_millis(config.timeout_ms);
        Ok(Buckets {
            options: stores.clone(),
            // The library knows which answers of which store are transient, so it repeats; the
            // deadline is kept outside.
            retry: RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: Duration::from_millis(config.retry_delay_ms.max(1)),
                    max_backoff: super::MAX_RETRY_DELAY,
                    base: 2.0,
                },
                max_retries: config.retries as usize,
                retry_timeout: timeout,
            },
            timeout,
            connect_timeout: Duration::from_millis(config.connect_timeout_ms),
            clients: Mutex::default(),
        })
    }

    /// Gets one object.
    pub(super) async fn fetch(
        &self,
        scheme: &'static str,
        bucket: &str,
        key: &str,
        mut collector: Collector<'_>,
    ) -> Result<Fetched, Failure> {
        // What is wrong with it would be told by showing it.
        let improper = |_| Failure::BadUri("the key has an empty or an improper part".into());
        let path = Path::parse(key).map_err(improper)?;
        let store = self.client(scheme, bucket)?;
        let object = store.get(&path).await.map_err(|e| self.failure(e))?;
        collector.announce(object.meta.size)?;
        let mut parts = object.into_stream();
        while let Some(part) = parts.next().await {
            collector.push(&part.map_err(|e| self.failure(e))?)?;
        }
        Ok(collector.finish())
    }

    fn client(&self, scheme: &'static str, bucket: &str) -> Result<Arc<dyn ObjectStore>, Failure> {
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        let found = clients
            .iter()
            .position(|((s, b), _)| *s == scheme && b == bucket);
        let client = match found {
            Some(at) => clients.remove(at),
            None => {
                if clients.len() >= MAX_CLIENTS {
                    clients.remove(0);
                }
                let store = self.open(scheme, bucket).map_err(|e| self.not_opened(e))?;
                ((scheme, bucket.to_string()), store)
            }
        };
        let store = Arc::clone(&client.1);
        clients.push(client);
        Ok(store)
    }

    /// What a request's error means. Servers repeat keys in their answers.
    fn failure(&self, error: object_store::Error) -> Failure {
        use object_store::Error;
        let stores = [&self.options.s3, &self.options.gs, &self.options.az];
        let secrets = stores
            .into_iter()
            .flatten()
            .filter(|(key, _)| is_secret(key));
        let reason = secrets.fold(scrub(&error.to_string()), |reason, (_, value)| match value
            .expose()
        {
            "" => reason,
            value => reason.replace(value, "***"),
        });
        match error {
            Error::NotFound { .. } => Failure::NotFound,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Failure::AccessDenied(reason)
            }
            Error::InvalidPath { .. } => Failure::BadUri(reason),
            // Repeated inside already.
            _ => Failure::Permanent(reason),
        }
    }

    /// Says why no client could be made, without the options' values.
    fn not_opened(&self, error: object_store::Error) -> Failure {
        let stores = [&self.options.s3, &self.options.gs, &self.options.az];
        let values = stores.into_iter().flat_map(BTreeMap::values);
        let reason = cover_options(error.to_string(), values.map(Secret::expose));
        Failure::Permanent(reason)
    }

    fn open(&self, scheme: &str, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        /// Sets every option whose name is known; [`Buckets::new`] has refused others.
        fn set<B, K: FromStr>(
            builder: B,
            options: &BTreeMap<String, Secret>,
            with: impl Fn(B, K, String) -> B,
        ) -> B {
            options
                .iter()
                .filter_map(|(key, value)| Some((K::from_str(key).ok()?, value)))
                .fold(builder, |b, (key, value)| {
                    with(b, key, value.expose().to_string())
                })
        }
        let client = ClientOptions::new()
            .with_timeout(self.timeout)
            .with_connect_timeout(self.connect_timeout);
        let retry = self.retry.clone();
        // Options come after the client's, because some of them (`allow_http`) are kept in there.
        Ok(match scheme {
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_client_options(client);
                let builder = set(builder, &self.options.gs, |b, k, v| b.with_config(k, v));
                Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?)
            }
            "az" => {
                let builder = MicrosoftAzureBuilder::from_env().with_client_options(client);
                let builder = set(builder, &self.options.az, |b, k, v| b.with_config(k, v));
                Arc::new(
                    builder
                        .with_container_name(bucket)
                        .with_retry(retry)
                        .build()?,
                )
            }
            _ => {
                let builder = AmazonS3Builder::from_env().with_client_options(client);
                let builder = set(builder, &self.options.s3, |b, k, v| b.with_config(k, v));
                Arc::new(builder.with_bucket_name(bucket).with_retry(retry).build()?)
            }
        })
    }
}
