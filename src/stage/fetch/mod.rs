//! A URI to the bytes behind it, within bounds: allowed places only, a deadline, a size, a share of
//! the memory budget.
//!
//! | scheme | by |
//! |---|---|
//! | `file` | the opened file's real path is checked, so that links and races cannot leave the allowed folders |
//! | `s3`, `gs`, `az` and their other names | `object_store`, one client per bucket |
//! | `http`, `https` | `reqwest`, connecting to checked addresses only, redirects followed and checked here |
//! | `data` | the URI itself |
//!
//! The deadline covers all attempts of one image; time spent waiting for a place or for memory does
//! not count, because it says nothing about the image.

mod address;
mod body;
mod buffers;
mod collect;
mod data;
mod error;
mod fault;
mod file;
mod http;
mod object;
mod outage;
mod patient;
mod policy;
mod seats;
mod shortage;

pub use address::{Lookup, LookupFuture, SystemLookup, is_public};
pub use body::Body;
pub use error::FetchError;
pub use fault::Resource;
pub use outage::{OpenOutage, Outages};
pub use patient::Waiter;
pub use policy::{UriPolicy, check};
pub use seats::{Seat, Seats};

use crate::stage::budget::{Budget, Reservation};
use address::Names;
use buffers::Buffers;
use collect::Collector;
use error::Failure;
use fault::{Fault, Symptom, judge};
use policy::CheckedUri;
use rand::RngExt;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::{ConfigError, FetchConfig, ObjectStoreConfig};
use tagstream_core::events::DeadLetterKind;
use tagstream_core::redact::{cover, redact, trimmed};
use tokio::sync::Semaphore;

/// Memory taken before anything is known of the image's size; most images fit.
const FIRST_RESERVATION_BYTES: u64 = 256 << 10;

/// Longest delay between attempts that is our own choice.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(5);

/// An image's bytes and the share of the memory budget that they take.
#[derive(Debug)]
pub struct Fetched {
    /// The bytes.
    pub body: Body,
    /// To be held as long as the bytes are.
    pub reservation: Reservation,
}

/// Whether an image is had without waiting for anybody.
pub fn is_local(uri: &str) -> bool {
    let scheme = trimmed(uri).split(':').next().unwrap_or("");
    ["file", "data"]
        .iter()
        .any(|s| scheme.eq_ignore_ascii_case(s))
}

/// What this process lacks, if that is why a body could not be loaded.
pub fn lacking(error: &std::io::Error) -> Option<Resource> {
    fault::of_reading(error)
}

/// Fetches images. Clones share clients, limits and rules.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<FetcherInner>,
}

struct FetcherInner {
    policy: Arc<UriPolicy>,
    /// For local files.
    buffers: Arc<Buffers>,
    places: Semaphore,
    timeout: Duration,
    max_bytes: u64,
    retries: u32,
    retry_delay: Duration,
    web: http::WebClient,
    objects: object::Buckets,
    names: Arc<Names>,
    outages: Arc<Outages>,
}

impl Fetcher {
    /// Sets up clients; connects to nothing.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] names the key that cannot be right.
    pub fn new(config: &FetchConfig, stores: &ObjectStoreConfig) -> Result<Self, ConfigError> {
        Self::with_lookup(config, stores, Arc::new(SystemLookup))
    }

    /// As [`Fetcher::new`], with another resolver of host names for `http` and `https`.
    ///
    /// # Errors
    /// As [`Fetcher::new`].
    pub fn with_lookup(
        config: &FetchConfig,
        stores: &ObjectStoreConfig,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, ConfigError> {
        for (key, value) in [
            ("fetch.concurrency", config.concurrency as u64),
            ("fetch.timeout_ms", config.timeout_ms),
            ("fetch.connect_timeout_ms", config.connect_timeout_ms),
            ("fetch.max_mib", config.max_mib),
        ] {
            if value == 0 {
                return Err(ConfigError::BadValue {
                    key: key.into(),
                    reason: "must be at least 1".into(),
                });
            }
        }
        let policy = Arc::new(UriPolicy::new(config)?);
        let names = Arc::new(Names::new(lookup));
        let wait = Duration::from_millis(config.outage_wait_ms);
        Ok(Fetcher {
            shared: Arc::new(FetcherInner {
                web: http::WebClient::new(config, Arc::clone(&policy), Arc::clone(&names))?,
                objects: object::Buckets::new(config, stores)?,
                names,
                outages: Arc::new(Outages::new(wait)),
                policy,
                buffers: Arc::default(),
                places: Semaphore::new(config.concurrency.min(Semaphore::MAX_PERMITS)),
                timeout: Duration::from_millis(config.timeout_ms),
                max_bytes: config.max_mib << 20,
                retries: config.retries,
                retry_delay: Duration::from_millis(config.retry_delay_ms.max(1)),
            }),
        })
    }

    /// Fetches `uri`, without patience for hosts that are down. Waits for a place among the fetches
    /// in flight and for room in `budget`; then the deadline runs.
    ///
    /// # Errors
    /// [`FetchError`]; its [`FetchError::kind`] is the dead letter it makes.
    pub async fn fetch(&self, uri: &str, budget: &Budget) -> Result<Fetched, FetchError> {
        let shared = &self.shared;
        let source = shared
            .policy
            .source(uri)
            .map_err(|e| shared.named(uri, 1, e))?;
        let _place = shared
            .places
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let round = shared.round(&source, budget, shared.retries, true).await;
        round.map_err(|failed| shared.named(uri, failed.attempts, failed.failure))
    }

    /// Places that are down, and what this process lacks, as fetches have met it.
    pub fn outages(&self) -> &Arc<Outages> {
        &self.shared.outages
    }
}

/// A round of attempts that came to nothing.
struct FailedRound {
    failure: Failure,
    attempts: u32,
    /// When the last attempt began.
    last_began: tokio::time::Instant,
}

impl FetcherInner {
    /// Attempts within one deadline. `obliging`: a server that asks to be left alone for a while is
    /// waited for here, if there is time.
    async fn round(
        &self,
        source: &CheckedUri,
        budget: &Budget,
        retries: u32,
        obliging: bool,
    ) -> Result<Fetched, FailedRound> {
        let mut remaining = self.timeout;
        let mut attempts = 0;
        let mut room = FIRST_RESERVATION_BYTES.min(self.max_bytes);
        loop {
            // Nothing is held while this waits, so that it cannot be part of a circle.
            let reservation = budget.reserve(room).await;
            let last_began = tokio::time::Instant::now();
            let collector = Collector::new(reservation, budget, self.max_bytes);
            let attempt = tokio::time::timeout(remaining, self.attempt(source, collector));
            let outcome = attempt.await;
            remaining = remaining.saturating_sub(last_began.elapsed());
            attempts += 1;
            let failed = |failure| FailedRound {
                failure,
                attempts,
                last_began,
            };
            let failure = match outcome {
                Ok(Ok(fetched)) => return Ok(fetched),
                Ok(Err(Failure::NeedsRoom(bytes))) => {
                    room = bytes;
                    attempts -= 1;
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(_) => return Err(failed(Failure::of(Symptom::Timeout, "no answer in time"))),
            };
            let Failure::Source { symptom, after, .. } = &failure else {
                return Err(failed(failure));
            };
            let asked = after.unwrap_or_default();
            let delay = self.delay(attempts).max(asked);
            let repeat = judge(symptom).repeat && (obliging || asked.is_zero());
            if !repeat || attempts > retries || delay >= remaining {
                return Err(failed(failure));
            }
            tokio::time::sleep(delay).await;
            remaining -= delay;
        }
    }

    async fn attempt(
        &self,
        source: &CheckedUri,
        collector: Collector<'_>,
    ) -> Result<Fetched, Failure> {
        match source {
            CheckedUri::Data(body) => data::fetch(body, collector),
            CheckedUri::File(path) => {
                file::fetch(path, &self.policy, &self.buffers, collector).await
            }
            CheckedUri::Object { store, bucket, key } => {
                self.objects.fetch(*store, bucket, key, collector).await
            }
            CheckedUri::Web(url) => self.web.fetch(url, collector).await,
        }
    }

    /// Exponential backoff with full jitter above half of it.
    fn delay(&self, attempts: u32) -> Duration {
        let longest = self
            .retry_delay
            .saturating_mul(1 << (attempts - 1).min(16))
            .min(MAX_RETRY_DELAY);
        longest.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    fn named(&self, uri: &str, attempts: u32, failure: Failure) -> FetchError {
        let shown = redact(uri);
        match failure {
            Failure::BadUri(reason) => FetchError::BadUri { uri: shown, reason },
            Failure::Forbidden(reason) => FetchError::Forbidden { uri: shown, reason },
            Failure::TooLarge | Failure::NeedsRoom(_) => FetchError::TooLarge {
                uri: shown,
                max_bytes: self.max_bytes,
            },
            Failure::Source {
                symptom, reason, ..
            } => self.of_source(uri, attempts, &symptom, cover(reason, uri)),
        }
    }

    fn of_source(&self, uri: &str, attempts: u32, symptom: &Symptom, reason: String) -> FetchError {
        let verdict = judge(symptom);
        let uri = redact(uri);
        match (verdict.fault, verdict.kind) {
            (Fault::Own(resource), _) => FetchError::Own {
                uri,
                resource,
                reason,
            },
            (_, DeadLetterKind::NotFound) => FetchError::NotFound { uri, reason },
            (_, DeadLetterKind::AccessDenied) => FetchError::AccessDenied { uri, reason },
            (_, DeadLetterKind::FetchTimeout) => FetchError::Timeout {
                uri,
                timeout: self.timeout,
            },
            _ => FetchError::Failed {
                uri,
                attempts,
                reason,
            },
        }
    }
}
