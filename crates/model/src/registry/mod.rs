//! The registry: content-addressed blobs, immutable versions, one pointer moved by compare-and-set,
//! append-only history.
//!
//! ```text
//! registry.json                  the marker: format, and that the store was proven to do
//!                                conditional puts
//! blobs/<2 hex>/<sha256>         every file of every version, once
//! versions/<n>.json              immutable; numbered from 1 by create-if-absent
//! current.json                   the pointer: which version serves, and the newest history entry
//! history/<sequence>.json        who, when, why, verdict; one object an entry, create-if-absent
//! ```
//!
//! **One decision, one put.** Whatever happens to the registry (a promotion, a rollback, a refusal)
//! is one compare-and-set of `current.json`, which holds the new state *and* the history entry that
//! tells of it. The entry is then copied to `history/`; before anybody replaces the pointer they
//! make sure that the copy exists. So the order of writes is blobs, version, pointer, history copy,
//! and a crash between any two leaves a registry that reads as before or as after: an orphan blob
//! or an unused version number at worst, never a version without its files, never a pointer without
//! its entry. [`Registry::history`] is the copies plus the pointer's own entry.
//!
//! **Racing promotions.** A [`Decision`] names the generation it was taken on (the count of moves
//! so far). If somebody else moved the pointer since, the decision is refused as a
//! [`RegistryError::Conflict`] that says who and where to.
//!
//! **Fencing.** A job holds a lease with a token; the newest holder writes its token into the
//! pointer ([`Registry::raise_fence`]) and every later decision of an older holder fails with
//! [`RegistryError::Fenced`], in the same compare-and-set.
//!
//! The compare-and-set itself is [`storage::swap`](tagstream_core::storage::swap): conditional puts
//! on object stores, an exclusive lock (`current.lock`) in a local folder.

mod blobs;
mod error;
mod materialise;
mod pointer;
mod prune;
mod record;
mod store;
#[cfg(test)]
mod tests;

pub use error::RegistryError;
pub use materialise::Cache;
pub use prune::{Changing, Pruning, Spared};
pub use record::{
    Action, Decision, HistoryEntry, Pointer, REGISTRY_FORMAT, Registration, Verdict, VersionRecord,
};
pub use store::{Location, VersionChoice};

use error::DELETED;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, PutMode};
use pointer::PointerRead;
use std::sync::Arc;
use store::RegistryStore;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::storage::open::{Missing, Storage};
use tagstream_core::storage::swap::SwapOutcome;

/// Requests that are on their way to the store at once: a registry of some years has thousands of
/// small objects, and a store answers each in its own time.
const REQUESTS: usize = 96;

/// A registry of model versions on a local folder or an object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    store: Arc<RegistryStore>,
}

impl Registry {
    /// Opens an existing registry.
    ///
    /// # Errors
    /// [`RegistryError::NotARegistry`] if nothing was ever registered there.
    pub async fn open(url: &str, options: &ObjectStoreConfig) -> Result<Self, RegistryError> {
        let registry = Registry {
            store: Arc::new(RegistryStore::connect(url, options, Missing::Refuse)?),
        };
        registry.store.check_marker().await?;
        Ok(registry)
    }

    /// Opens a registry, or makes an empty one where there is none.
    ///
    /// # Errors
    /// [`RegistryError::NoConditionalPut`] if the store cannot do what the registry rests on.
    pub async fn open_or_create(
        url: &str,
        options: &ObjectStoreConfig,
    ) -> Result<Self, RegistryError> {
        let store = RegistryStore::connect(url, options, Missing::Create)?;
        store.create_marker().await?;
        Ok(Registry {
            store: Arc::new(store),
        })
    }

    /// A registry on a store that does `PutMode::Create` and `PutMode::Update` itself.
    ///
    /// # Errors
    /// As [`Registry::open_or_create`].
    pub async fn on_store(
        store: Arc<dyn ObjectStore>,
        prefix: ObjectPath,
    ) -> Result<Self, RegistryError> {
        let store = RegistryStore(Storage::from_parts("store", store, prefix));
        store.create_marker().await?;
        Ok(Registry {
            store: Arc::new(store),
        })
    }

    /// The registry's address, for people.
    pub fn url(&self) -> &str {
        &self.store.0.url
    }

    /// The object store and the prefix below which the registry lives (leases lie there too).
    pub fn object_store(&self) -> (Arc<dyn ObjectStore>, ObjectPath) {
        (
            Arc::clone(self.store.objects()),
            self.store.0.prefix.clone(),
        )
    }

    /// The pointer; `None` before the first decision.
    pub async fn pointer(&self) -> Result<Option<Pointer>, RegistryError> {
        Ok(self.store.read_pointer().await?.map(|held| held.pointer))
    }

    /// The version that serves.
    ///
    /// # Errors
    /// [`RegistryError::NothingPromoted`] if there is none yet.
    pub async fn current(&self) -> Result<VersionRecord, RegistryError> {
        let pointer = self.pointer().await?;
        match pointer.and_then(|p| p.version) {
            Some(number) => match self.version(number).await {
                Err(RegistryError::NoSuchVersion { .. }) => Err(RegistryError::Corrupt {
                    path: self.store.version_path(number).to_string(),
                    reason: format!("it is gone, and it serves; {DELETED}"),
                }),
                found => found,
            },
            None => Err(RegistryError::NothingPromoted {
                url: self.url().into(),
            }),
        }
    }

    /// One version.
    ///
    /// # Errors
    /// [`RegistryError::NoSuchVersion`] tells the newest one.
    pub async fn version(&self, number: u64) -> Result<VersionRecord, RegistryError> {
        let path = self.store.version_path(number);
        match self.store.get_json::<VersionRecord>(&path).await? {
            Some(record) if record.version == number => Ok(record),
            Some(record) => Err(RegistryError::Corrupt {
                path: path.to_string(),
                reason: format!("it says that it is version {}", record.version),
            }),
            None => Err(RegistryError::NoSuchVersion {
                version: number,
                newest: self.store.version_numbers().await?.last().copied(),
            }),
        }
    }

    /// The version that `choice` means.
    ///
    /// # Errors
    /// As [`Registry::current`] and [`Registry::version`].
    pub async fn resolve(&self, choice: VersionChoice) -> Result<VersionRecord, RegistryError> {
        match choice {
            VersionChoice::Current => self.current().await,
            VersionChoice::Number(number) => self.version(number).await,
        }
    }

    /// Every version, oldest first.
    pub async fn versions(&self) -> Result<Vec<VersionRecord>, RegistryError> {
        let numbers = self.store.version_numbers().await?;
        futures::stream::iter(numbers)
            .map(|number| async move {
                match self.version(number).await {
                    // Pruned since the listing.
                    Err(RegistryError::NoSuchVersion { .. }) => Ok(None),
                    found => found.map(Some),
                }
            })
            .buffered(REQUESTS)
            .try_filter_map(|found| async { Ok(found) })
            .try_collect()
            .await
    }

    /// Every decision, oldest first: sequence numbers 1, 2, 3, ... without a gap.
    ///
    /// # Errors
    /// [`RegistryError::Corrupt`] if an entry is missing.
    pub async fn history(&self) -> Result<Vec<HistoryEntry>, RegistryError> {
        let Some(pointer) = self.pointer().await? else {
            return Ok(Vec::new());
        };
        let copies = 1..pointer.entry.sequence;
        let mut entries: Vec<HistoryEntry> = futures::stream::iter(copies)
            .map(|sequence| self.entry(sequence))
            .buffered(REQUESTS)
            .try_collect()
            .await?;
        entries.push(pointer.entry);
        Ok(entries)
    }

    /// The copy of a history entry.
    async fn entry(&self, sequence: u64) -> Result<HistoryEntry, RegistryError> {
        let path = self.store.history_path(sequence);
        let entry = self.store.get_json(&path).await?;
        entry.ok_or_else(|| RegistryError::Corrupt {
            path: path.to_string(),
            reason: format!("the history entry is missing; {DELETED}"),
        })
    }

    /// Stores a bundle directory as a new version. Does not change what serves.
    ///
    /// Every file is hashed on its way and compared with the manifest. Registering twice with the
    /// same `run` gives the version that the first call made.
    ///
    /// # Errors
    /// [`RegistryError::BadBundle`] if the directory is not what its manifest says.
    pub async fn register(
        &self,
        registration: &Registration<'_>,
    ) -> Result<VersionRecord, RegistryError> {
        if let Some(run) = registration.run
            && let Some(existing) = self.version_of_run(run).await?
        {
            return Ok(existing);
        }
        let record = self.store.upload(registration).await?;
        self.store.create_version(record).await
    }

    /// The version that a run of the retraining job registered, if it did.
    pub async fn version_of_run(&self, run: &str) -> Result<Option<VersionRecord>, RegistryError> {
        let versions = self.versions().await?;
        Ok(versions.into_iter().find(|v| v.run.as_deref() == Some(run)))
    }

    /// Records a decision, and moves the pointer if it says so.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if somebody moved the pointer since `decision.generation`;
    /// [`RegistryError::Fenced`] if `decision.token` is not the newest.
    pub async fn decide(&self, decision: Decision) -> Result<Pointer, RegistryError> {
        let version = self.version(decision.version).await?;
        let nonce = record::nonce();
        loop {
            let held = self.store.read_pointer().await?;
            let before = held.as_ref().map(|h| &h.pointer);
            if let Some(pointer) = before {
                if pointer.entry.nonce == nonce {
                    return Ok(pointer.clone());
                }
                if let Some(token) = decision.token
                    && token < pointer.fence
                {
                    return Err(RegistryError::Fenced {
                        ours: token,
                        newest: pointer.fence,
                    });
                }
                if let Some(generation) = decision.generation
                    && generation != pointer.generation
                {
                    return Err(RegistryError::Conflict {
                        decided_on: generation,
                        now: pointer.generation,
                        version: pointer.version,
                        by: self.last_move(pointer).await?,
                    });
                }
            }
            let next = record::after(before, &decision, &version, &nonce);
            if self.swap(held, &next).await? {
                return Ok(next);
            }
        }
    }

    /// Tells every holder of a lease older than `token` that its time is over; see
    /// [`RegistryError::Fenced`].
    ///
    /// # Errors
    /// [`RegistryError::Fenced`] if a newer token is there already.
    pub async fn raise_fence(&self, token: u64) -> Result<(), RegistryError> {
        loop {
            let Some(held) = self.store.read_pointer().await? else {
                return Err(RegistryError::NothingPromoted {
                    url: self.url().into(),
                });
            };
            if held.pointer.fence > token {
                return Err(RegistryError::Fenced {
                    ours: token,
                    newest: held.pointer.fence,
                });
            }
            if held.pointer.fence == token {
                return Ok(());
            }
            let next = Pointer {
                fence: token,
                ..held.pointer.clone()
            };
            if self.swap(Some(held), &next).await? {
                return Ok(());
            }
        }
    }

    /// Makes a version of the past serve again: `to`, or the one that served before the current
    /// one.
    ///
    /// # Errors
    /// [`RegistryError::NothingToRollBackTo`] if nothing else ever served.
    pub async fn roll_back(
        &self,
        to: Option<u64>,
        who: &str,
        why: &str,
    ) -> Result<Pointer, RegistryError> {
        let pointer = self.pointer().await?;
        let Some(pointer) = pointer.filter(|p| p.version.is_some()) else {
            return Err(RegistryError::NothingPromoted {
                url: self.url().into(),
            });
        };
        let version = match to {
            Some(version) => version,
            None => self.previous(&pointer).await?,
        };
        self.decide(Decision {
            generation: Some(pointer.generation),
            ..Decision::by_hand(Action::RolledBack, version, who, why)
        })
        .await
    }

    /// What served before what serves now: walking back over rollbacks, so that two rollbacks in a
    /// row go back two versions instead of to and fro.
    async fn previous(&self, pointer: &Pointer) -> Result<u64, RegistryError> {
        let mut served: Vec<u64> = Vec::new();
        for entry in self.history().await? {
            if entry.sequence > pointer.entry.sequence {
                break;
            }
            match entry.action {
                Action::Promoted => served.push(entry.version),
                Action::RolledBack => match served.iter().rposition(|v| *v == entry.version) {
                    Some(position) => served.truncate(position + 1),
                    None => served.push(entry.version),
                },
                _ => {}
            }
        }
        served.dedup();
        match served.as_slice() {
            [.., previous, _] => Ok(*previous),
            _ => Err(RegistryError::NothingToRollBackTo),
        }
    }

    /// The newest entry that moved the pointer.
    async fn last_move(&self, pointer: &Pointer) -> Result<String, RegistryError> {
        if pointer.entry.action.moves() {
            return Ok(pointer.entry.who.clone());
        }
        let newest_first = (1..pointer.entry.sequence).rev();
        let mut entries = futures::stream::iter(newest_first)
            .map(|sequence| self.entry(sequence))
            .buffered(REQUESTS);
        while let Some(entry) = entries.try_next().await? {
            if entry.action.moves() {
                return Ok(entry.who);
            }
        }
        Ok("nobody".into())
    }

    /// Replaces the pointer if it still is `held`, keeping the history whole on both sides of the
    /// swap.
    async fn swap(&self, held: Option<PointerRead>, next: &Pointer) -> Result<bool, RegistryError> {
        if let Some(held) = &held {
            self.store.copy_entry(&held.pointer.entry).await?;
        }
        let moved_entry =
            held.as_ref().map(|h| h.pointer.entry.sequence) != Some(next.entry.sequence);
        match self.store.compare_and_set(held, next).await? {
            SwapOutcome::Done => {
                if moved_entry {
                    self.store.copy_entry(&next.entry).await?;
                }
                Ok(true)
            }
            SwapOutcome::Lost => Ok(false),
        }
    }
}

impl RegistryStore {
    /// Gives `record` the next free number.
    async fn create_version(
        &self,
        mut record: VersionRecord,
    ) -> Result<VersionRecord, RegistryError> {
        let mut number = self.version_numbers().await?.last().copied().unwrap_or(0) + 1;
        loop {
            record.version = number;
            let path = self.version_path(number);
            if self.put_json(&path, &record, PutMode::Create).await? {
                return Ok(record);
            }
            // Taken: by somebody else, or by ourselves if the answer to an earlier attempt was
            // lost.
            let there = self.get_json::<VersionRecord>(&path).await?;
            if there.is_some_and(|v| v.nonce == record.nonce) {
                return Ok(record);
            }
            number += 1;
        }
    }

    /// Makes sure that `history/` holds a copy of `entry`.
    async fn copy_entry(&self, entry: &HistoryEntry) -> Result<(), RegistryError> {
        let path = self.history_path(entry.sequence);
        if self.put_json(&path, entry, PutMode::Create).await? {
            return Ok(());
        }
        let there: Option<HistoryEntry> = self.get_json(&path).await?;
        if there.as_ref() == Some(entry) {
            return Ok(());
        }
        Err(RegistryError::Corrupt {
            path: path.to_string(),
            reason: "it is not the entry that the pointer holds".into(),
        })
    }
}
