//! The stage follows the registry: when the pointer moves, the new version is fetched, verified,
//! tried and swapped in between two batches. What cannot serve is refused, logged and counted, and
//! the old model goes on.

use super::infer::{Engine, InferError, Swap};
use std::time::Duration;
use tagstream_core::failpoint;
use tagstream_core::process::blocking;
use tagstream_model::bundle::{Bundle, BundleError};
use tagstream_model::registry::{Action, Cache, Pointer, Registry, RegistryError};

/// A version that this machine cannot take is tried again after at most this long.
const MOST_PAUSE: Duration = Duration::from_secs(60);

/// Why a version was refused.
#[derive(Debug, thiserror::Error)]
pub enum RefusedVersion {
    /// It cannot be fetched whole.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It is not what its manifest says.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It does not load, or its canary batch fails.
    #[error(transparent)]
    Model(#[from] InferError),
}

/// What one look at the registry came to.
#[derive(Debug)]
pub enum Look {
    /// The version that serves is the one that should.
    Same,
    /// A new version serves now.
    Swapped(Swap),
    /// The pointed-at version cannot serve; the old one goes on.
    Refused {
        /// The version.
        version: u64,
        /// Why.
        reason: RefusedVersion,
    },
    /// The registry could not be read; asked again at the next look.
    Unreachable(RegistryError),
    /// This machine cannot take the version now, for want of room or rights; tried again.
    Postponed {
        /// The version.
        version: u64,
        /// What is lacking.
        reason: RefusedVersion,
    },
}

/// What is asked to serve another model.
pub trait Swappable: Send + Sync {
    /// The id of the model that serves.
    fn serving(&self) -> String;
    /// Loads, tries and takes a model; on an error the old one goes on.
    fn swap(&self, bundle: Bundle) -> impl Future<Output = Result<Swap, InferError>> + Send;
}

impl RefusedVersion {
    /// Whether this machine, or the way to the registry, is at fault and not the version: a full
    /// disk, no memory, no descriptors, no rights. Then it is tried again.
    fn is_ours(&self) -> bool {
        match self {
            RefusedVersion::Registry(error) => {
                let missing = |source: &object_store::Error| {
                    matches!(source, object_store::Error::NotFound { .. })
                };
                match error {
                    RegistryError::Io { .. } | RegistryError::Cache { .. } => true,
                    RegistryError::Store { source, .. } => !missing(source),
                    other => other.is_temporary(),
                }
            }
            RefusedVersion::Bundle(error) => matches!(error, BundleError::Io { .. }),
            RefusedVersion::Model(error) => is_shortage(&error.to_string()),
        }
    }
}

/// Whether a library's words are about what this machine lacks now.
fn is_shortage(words: &str) -> bool {
    const SHORTAGES: [&str; 10] = [
        "no space left",
        "disk quota",
        "too many open files",
        "cannot allocate memory",
        "failed to allocate",
        "out of memory",
        "bad_alloc",
        "bad allocation",
        "resource temporarily unavailable",
        "input/output error",
    ];
    let words = words.to_ascii_lowercase();
    SHORTAGES.iter().any(|shortage| words.contains(shortage))
}

impl Swappable for Engine {
    fn serving(&self) -> String {
        self.model().id().to_owned()
    }

    async fn swap(&self, bundle: Bundle) -> Result<Swap, InferError> {
        Engine::swap(self, bundle).await
    }
}

/// Follows the pointer of one registry.
pub struct Watch<E> {
    registry: Registry,
    cache: Cache,
    engine: E,
    /// The generation whose version was refused: not tried again until the pointer moves.
    refused: Option<u64>,
}

impl<E: Swappable> Watch<E> {
    /// Follows `registry` for `engine`.
    pub fn new(registry: Registry, cache: Cache, engine: E) -> Self {
        Watch {
            registry,
            cache,
            engine,
            refused: None,
        }
    }

    /// Looks every `interval`, for ever. Dropping the future ends it; a swap that has begun ends by
    /// itself.
    pub async fn run(self, interval: Duration) {
        self.run_and_tell(interval, |_| ()).await;
    }

    /// The same; every look is shown to `told`, which must not wait.
    pub async fn run_and_tell(mut self, interval: Duration, told: impl Fn(&Look)) {
        let (mut reachable, mut pause, mut said) = (true, interval, String::new());
        loop {
            tokio::time::sleep(pause).await;
            let look = self.look().await;
            told(&look);
            pause = match &look {
                Look::Postponed { version, reason } => {
                    let reason = reason.to_string();
                    if said != reason {
                        tracing::warn!(
                            version,
                            reason,
                            "the registry's version cannot be taken now, and that is not its \
                             fault; tried again, the model in use goes on"
                        );
                        said = reason;
                    }
                    // Loading a model is work.
                    (2 * pause).min(MOST_PAUSE).max(interval)
                }
                _ => interval,
            };
            match look {
                // Said once, not at every look.
                Look::Unreachable(error) if reachable => {
                    tracing::warn!(%error, "the registry cannot be read; the model in use goes on");
                    reachable = false;
                }
                Look::Unreachable(_) => {}
                Look::Postponed { .. } => reachable = true,
                _ => {
                    said.clear();
                    reachable = true;
                }
            }
        }
    }

    /// Looks once.
    pub async fn look(&mut self) -> Look {
        let pointer = match self.registry.pointer().await {
            Ok(Some(pointer)) => pointer,
            Ok(None) => return Look::Same,
            Err(error) => return Look::Unreachable(error),
        };
        publish_decision(&pointer);
        let Some(version) = pointer.version else {
            return Look::Same;
        };
        let same = pointer.id.as_deref() == Some(self.engine.serving().as_str());
        if same || self.refused == Some(pointer.generation) {
            return Look::Same;
        }
        match self.take(version).await {
            Ok(swap) => {
                self.refused = None;
                Look::Swapped(swap)
            }
            Err(RefusedVersion::Registry(error)) if error.is_temporary() => {
                Look::Unreachable(error)
            }
            Err(reason) if reason.is_ours() => Look::Postponed { version, reason },
            Err(reason) => {
                self.refuse(&pointer, version, &reason);
                Look::Refused { version, reason }
            }
        }
    }

    async fn take(&self, version: u64) -> Result<Swap, RefusedVersion> {
        let record = self.registry.version(version).await?;
        let folder = self.registry.materialise(&record, &self.cache).await?;
        let bundle = blocking::run(move || Bundle::open(folder))
            .await
            .map_err(|_| InferError::Stopped)??;
        failpoint::pass_store("swap.before")
            .await
            .map_err(injected)?;
        let swap = self.engine.swap(bundle).await?;
        failpoint::pass_store("swap.after")
            .await
            .map_err(injected)?;
        Ok(swap)
    }

    fn refuse(&mut self, pointer: &Pointer, version: u64, reason: &RefusedVersion) {
        self.refused = Some(pointer.generation);
        metrics::counter!("tagstream_model_versions_refused_total").increment(1);
        tracing::error!(
            version,
            %reason,
            "the registry's version cannot serve and is refused; the model in use goes on. \
             Roll back with `tagstream registry rollback`"
        );
    }
}

/// Who waits for a retraining sees here when one came to a decision last.
fn publish_decision(pointer: &Pointer) {
    let action = match pointer.entry.action {
        Action::Promoted => "promoted",
        Action::RolledBack => "rolled_back",
        Action::Held => "held",
        Action::Rejected => "rejected",
    };
    metrics::gauge!("tagstream_registry_decision_timestamp_seconds", "action" => action)
        .set(pointer.entry.time.timestamp() as f64);
}

fn injected(source: object_store::Error) -> RegistryError {
    RegistryError::Store {
        doing: "swapping the model".into(),
        source,
    }
}

#[cfg(test)]
mod tests;
