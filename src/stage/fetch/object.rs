//! Objects in S3, Google Cloud Storage and Azure Blob Storage.

use super::Fetched;
use super::collect::Collector;
use super::error::Failure;
use super::fault::{Symptom, of_chain};
use futures::StreamExt;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tagstream_core::address::Store;
use tagstream_core::config::{ConfigError, FetchConfig, ObjectStoreConfig};
use tagstream_core::redact::scrub;
use tagstream_core::storage::open::{Limits, Missing, Purpose, StoreOpenError, open};
use tagstream_core::storage::options;

/// Whether an option's name says that its value is a secret.
fn is_secret(key: &str) -> bool {
    ["key", "secret", "token", "password", "credential", "sas"]
        .iter()
        .any(|part| key.contains(part))
}

/// Clients kept; messages decide which buckets are asked for, so there must be a bound.
const MAX_CLIENTS: usize = 64;

/// A client and the bucket it is for.
type Client = ((Store, String), Arc<dyn ObjectStore>);

/// One client per bucket, the most recently used last.
pub(super) struct Buckets {
    options: ObjectStoreConfig,
    limits: Limits,
    clients: Mutex<Vec<Client>>,
}

/// What a store's answer, or its silence, is. The client tells status and body in its text only.
fn symptom(error: &object_store::Error) -> Symptom {
    use object_store::Error;
    let text = error.to_string();
    if text.contains("no credentials for ") {
        return Symptom::NoCredentials;
    }
    let code = between(&text, "<Code>", "</Code>").unwrap_or_default();
    let status = between(&text, "status code: ", " ").and_then(|s| s.parse().ok());
    match (status, error) {
        (Some(status), _) => Symptom::Store(status, code.into()),
        (_, Error::NotFound { .. }) => Symptom::Store(404, code.into()),
        (_, Error::PermissionDenied { .. }) => Symptom::Store(403, code.into()),
        (_, Error::Unauthenticated { .. }) => Symptom::Store(401, code.into()),
        _ if text.contains("redirect without LOCATION") => {
            Symptom::Store(301, "PermanentRedirect".into())
        }
        _ if !code.is_empty() => Symptom::Store(500, code.into()),
        _ => silence(error),
    }
}

fn silence(error: &object_store::Error) -> Symptom {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let http = cause.downcast_ref::<HttpError>();
        if http.is_some_and(|e| e.kind() == HttpErrorKind::Timeout) {
            return Symptom::Timeout;
        }
        next = cause.source();
    }
    match of_chain(error) {
        // The endpoint's name is the configuration's.
        Some(Symptom::NoSuchName) => Symptom::NameFailed,
        Some(symptom) => symptom,
        None => Symptom::Broken,
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0)
}

impl Buckets {
    /// Checks the options.
    pub(super) fn new(
        config: &FetchConfig,
        stores: &ObjectStoreConfig,
    ) -> Result<Self, ConfigError> {
        options::check(stores)?;
        let timeout = Duration::from_millis(config.timeout_ms);
        Ok(Buckets {
            options: stores.clone(),
            // The library knows which answers of which store are transient, so it repeats; the
            // deadline is kept outside.
            limits: Limits {
                request: timeout,
                connect: Duration::from_millis(config.connect_timeout_ms),
                retries: config.retries as usize,
                within: timeout,
                first_pause: Duration::from_millis(config.retry_delay_ms.max(1)),
                longest_pause: super::MAX_RETRY_DELAY,
            },
            clients: Mutex::default(),
        })
    }

    /// Whether the bucket answers, whatever it says of the object.
    pub(super) async fn answers(&self, store: Store, bucket: &str, key: &str) -> bool {
        let (Ok(path), Ok(client)) = (Path::parse(key), self.client(store, bucket)) else {
            return false;
        };
        match client.head(&path).await {
            Ok(_) => true,
            Err(error) => matches!(symptom(&error), Symptom::Store(404, code) if code.is_empty()),
        }
    }

    /// Gets one object.
    pub(super) async fn fetch(
        &self,
        store: Store,
        bucket: &str,
        key: &str,
        mut collector: Collector<'_>,
    ) -> Result<Fetched, Failure> {
        // What is wrong with it would be told by showing it.
        let improper = |_| Failure::BadUri("the key has an empty or an improper part".into());
        let path = Path::parse(key).map_err(improper)?;
        let client = self.client(store, bucket)?;
        let object = client.get(&path).await.map_err(|e| self.failure(e))?;
        collector.announce(object.meta.size)?;
        let mut parts = object.into_stream();
        while let Some(part) = parts.next().await {
            collector.push(&part.map_err(|e| self.failure(e))?)?;
        }
        Ok(collector.finish())
    }

    fn client(&self, store: Store, bucket: &str) -> Result<Arc<dyn ObjectStore>, Failure> {
        let mut clients = self.clients.lock().unwrap_or_else(|e| e.into_inner());
        let found = clients
            .iter()
            .position(|((s, b), _)| *s == store && b == bucket);
        let client = match found {
            Some(at) => clients.remove(at),
            None => {
                if clients.len() >= MAX_CLIENTS {
                    clients.remove(0);
                }
                let opened = self.open(store, bucket);
                let opened = opened.map_err(|e| Failure::of(Symptom::NoClient, e.to_string()))?;
                ((store, bucket.to_string()), opened)
            }
        };
        let opened = Arc::clone(&client.1);
        clients.push(client);
        Ok(opened)
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
        if let Error::InvalidPath { .. } = error {
            return Failure::BadUri(reason);
        }
        Failure::of(symptom(&error), reason)
    }

    fn open(&self, store: Store, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreOpenError> {
        let address = format!("{}://{bucket}", store.scheme());
        let purpose = Purpose::Images(self.limits);
        Ok(open(&address, &self.options, purpose, Missing::Refuse)?.objects)
    }
}
