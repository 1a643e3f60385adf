//! What of a registry can go: versions that nobody needs, and blobs that nobody names.
//!
//! Versions go before their blobs, so that a crash in between leaves blobs without a name, which
//! the next pruning finds, and never a version without its files. Two leases are held meanwhile:
//! the one of the retraining job, and one that whoever adds or promotes a version by hand takes
//! ([`Registry::changing`]). A build that does not know the second one may move the pointer all the
//! same: so the pointer is read again when the versions are gone and their blobs are not, and a
//! version that has come to serve in between is put back.

use super::record::{Pointer, VersionRecord};
use super::{HistoryEntry, REQUESTS, Registry, RegistryError};
use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{Error as StoreError, ObjectMeta, ObjectStoreExt, PutMode};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};
use tagstream_core::storage::lease::{Lease, LeaseError};

/// The lease of whoever changes a registry by hand.
const CHANGES: &str = "changes";
/// The lease of the retraining job.
const RETRAIN: &str = "retrain";
/// How long a lease is held that nobody renews.
const TIME_TO_LIVE: Duration = Duration::from_secs(60);
/// How long a change by hand waits for another.
const PATIENCE: Duration = Duration::from_secs(90);
/// Objects removed between two looks at the leases.
const CHUNK: usize = 512;
/// Blobs without a name that are younger may be of a version that is being registered by a build
/// that takes no lease.
const YOUNG: TimeDelta = TimeDelta::days(1);

/// Why a version stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Spared {
    /// It is among the newest.
    Newest,
    /// It serves.
    Serves,
    /// It served: a rollback may lead to it, and rows name it.
    Served,
    /// A version that stays was made from it.
    Ancestor,
    /// It is the newest that keeps a file which the next retraining reads.
    Keeps,
    /// Somebody asked for it.
    Asked,
}

/// What a pruning takes and leaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pruning {
    /// Versions that stay, and why.
    pub kept: BTreeMap<u64, Spared>,
    /// Versions that go.
    pub removed: Vec<u64>,
    /// Blobs that go, and their bytes.
    pub blobs: usize,
    /// See `blobs`.
    pub bytes: u64,
}

/// A change of a registry by hand, under its lease.
#[derive(Debug)]
pub struct Changing(Lease);

impl Changing {
    /// Gives the lease back. If that fails it ends by itself.
    pub async fn done(self) {
        if let Err(error) = self.0.release().await {
            tracing::warn!("the lease was not given back: {error}");
        }
    }
}

impl Registry {
    /// Keeps others from changing the registry by hand, and from pruning it, until the change is
    /// done; waits for them a while.
    ///
    /// # Errors
    /// [`RegistryError::Lease`] tells who is at it.
    pub async fn changing(&self, who: &str) -> Result<Changing, RegistryError> {
        Ok(Changing(self.lease(CHANGES, who).await?))
    }

    async fn lease(&self, name: &str, who: &str) -> Result<Lease, RegistryError> {
        let (objects, prefix) = self.object_store();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let objects = std::sync::Arc::clone(&objects);
            match Lease::acquire(objects, &prefix, name, who, TIME_TO_LIVE).await {
                Err(LeaseError::Held { .. }) if name == CHANGES && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                taken => return Ok(taken?),
            }
        }
    }

    /// What [`Registry::prune`] would do. Changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn would_prune(&self, keep: usize, asked: &[u64]) -> Result<Pruning, RegistryError> {
        let plan = self.plan(keep, asked).await?;
        let stays = |version: &&VersionRecord| plan.kept.contains_key(&version.version);
        let goes: HashSet<u64> = plan.removed.iter().map(|v| v.version).collect();
        let removed = blobs_of(plan.versions.iter().filter(|v| goes.contains(&v.version)));
        let named = blobs_of(plan.versions.iter().filter(stays));
        let blobs = self.unnamed_blobs(&named, &removed).await?;
        Ok(plan.told(&blobs))
    }

    /// Removes all versions but the newest `keep`, those `asked` for, and whatever serves, served,
    /// is an ancestor of one that stays, or keeps what the next retraining reads; then the blobs
    /// that no version names any more.
    ///
    /// # Errors
    /// [`RegistryError::Lease`] if a retraining is running; what was removed before another error
    /// stays removed, and the registry is whole.
    pub async fn prune(
        &self,
        keep: usize,
        asked: &[u64],
        who: &str,
    ) -> Result<Pruning, RegistryError> {
        let mut leases = vec![self.lease(RETRAIN, who).await?];
        let pruned = match self.lease(CHANGES, who).await {
            Ok(lease) => {
                leases.push(lease);
                self.prune_under(&mut leases, keep, asked).await
            }
            Err(error) => Err(error),
        };
        for lease in leases {
            Changing(lease).done().await;
        }
        pruned
    }

    async fn prune_under(
        &self,
        leases: &mut [Lease],
        keep: usize,
        asked: &[u64],
    ) -> Result<Pruning, RegistryError> {
        let mut plan = self.plan(keep, asked).await?;
        let gone = plan
            .removed
            .iter()
            .map(|v| self.store.version_path(v.version));
        self.remove(leases, gone.collect()).await?;
        // By a build that takes no lease.
        let pointer = self.pointer().await?;
        let serving = served(pointer.as_ref(), &self.history().await?);
        let (back, removed): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.removed)
            .into_iter()
            .partition(|version| serving.contains(&version.version));
        for version in back {
            let path = self.store.version_path(version.version);
            self.store
                .put_json(&path, &version, PutMode::Create)
                .await?;
            plan.kept.insert(version.version, Spared::Serves);
        }
        plan.removed = removed;
        let named = blobs_of(&self.versions().await?);
        let blobs = self.unnamed_blobs(&named, &blobs_of(&plan.removed)).await?;
        let paths = blobs.iter().map(|blob| blob.location.clone());
        self.remove(leases, paths.collect()).await?;
        Ok(plan.told(&blobs))
    }

    async fn plan(&self, keep: usize, asked: &[u64]) -> Result<Plan, RegistryError> {
        let pointer = self.pointer().await?;
        let (versions, history) = futures::try_join!(self.versions(), self.history())?;
        for &number in asked {
            if versions.iter().all(|version| version.version != number) {
                return Err(RegistryError::NoSuchVersion {
                    version: number,
                    newest: versions.last().map(|version| version.version),
                });
            }
        }
        let kept = spared(&versions, pointer.as_ref(), &history, keep, asked);
        let goes = |version: &&VersionRecord| !kept.contains_key(&version.version);
        Ok(Plan {
            removed: versions.iter().filter(goes).cloned().collect(),
            kept,
            versions,
        })
    }

    /// Blobs that are in none of `named`, but for young ones that no version that goes has named.
    async fn unnamed_blobs(
        &self,
        named: &HashSet<String>,
        removed: &HashSet<String>,
    ) -> Result<Vec<ObjectMeta>, RegistryError> {
        let folder = self.store.path(&["blobs"]);
        let listed = self.store.objects().list(Some(&folder));
        let mut blobs: Vec<ObjectMeta> = listed
            .try_collect()
            .await
            .map_err(RegistryError::store(format!("listing {folder}")))?;
        let now = Utc::now();
        blobs.retain(|blob| {
            let name = blob.location.filename().unwrap_or_default();
            !named.contains(name) && (removed.contains(name) || is_old(blob.last_modified, now))
        });
        Ok(blobs)
    }

    /// Removes objects, as long as the leases are ours.
    async fn remove(
        &self,
        leases: &mut [Lease],
        paths: Vec<ObjectPath>,
    ) -> Result<(), RegistryError> {
        for chunk in paths.chunks(CHUNK) {
            for lease in leases.iter_mut() {
                lease.renew().await?;
            }
            let removing = futures::stream::iter(chunk)
                .map(|path| async move {
                    match self.store.objects().delete(path).await {
                        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
                        Err(error) => Err(RegistryError::store(format!("deleting {path}"))(error)),
                    }
                })
                .buffer_unordered(REQUESTS);
            removing.try_collect::<Vec<()>>().await?;
        }
        Ok(())
    }
}

fn is_old(modified: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(modified) > YOUNG
}

/// What stays and what goes.
struct Plan {
    versions: Vec<VersionRecord>,
    kept: BTreeMap<u64, Spared>,
    removed: Vec<VersionRecord>,
}

impl Plan {
    fn told(self, blobs: &[ObjectMeta]) -> Pruning {
        Pruning {
            kept: self.kept,
            removed: self.removed.iter().map(|v| v.version).collect(),
            blobs: blobs.len(),
            bytes: blobs.iter().map(|blob| blob.size).sum(),
        }
    }
}

/// The names of all blobs of some versions.
fn blobs_of<'a>(versions: impl IntoIterator<Item = &'a VersionRecord>) -> HashSet<String> {
    let files = versions
        .into_iter()
        .flat_map(|version| version.files.values().chain(version.attachments.values()));
    files.map(|file| file.sha256.clone()).collect()
}

/// Versions that serve or served.
fn served(pointer: Option<&Pointer>, history: &[HistoryEntry]) -> BTreeSet<u64> {
    let moved = history.iter().filter(|entry| entry.action.moves());
    let named = moved.flat_map(|entry| [Some(entry.version), entry.from]);
    let serving = pointer.and_then(|pointer| pointer.version);
    named.flatten().chain(serving).collect()
}

/// Which versions stay, and why.
fn spared(
    versions: &[VersionRecord],
    pointer: Option<&Pointer>,
    history: &[HistoryEntry],
    keep: usize,
    asked: &[u64],
) -> BTreeMap<u64, Spared> {
    let mut kept = BTreeMap::new();
    let serving = pointer.and_then(|pointer| pointer.version);
    kept.extend(serving.map(|version| (version, Spared::Serves)));
    let mut spare = |version: u64, why: Spared| {
        kept.entry(version).or_insert(why);
    };
    for version in served(pointer, history) {
        spare(version, Spared::Served);
    }
    // The newest number is what tells the next one.
    for version in versions.iter().rev().take(keep.max(1)) {
        spare(version.version, Spared::Newest);
    }
    asked
        .iter()
        .for_each(|version| spare(*version, Spared::Asked));
    // The next run compares its labels with the newest that were decided on, and keeps groups as
    // they were settled.
    let decided: HashSet<u64> = history.iter().map(|entry| entry.version).collect();
    for only_decided in [true, false] {
        let mut names: HashSet<&str> = HashSet::new();
        let newest_first = versions.iter().rev();
        for version in newest_first.filter(|v| !only_decided || decided.contains(&v.version)) {
            for name in version.attachments.keys() {
                if names.insert(name) {
                    spare(version.version, Spared::Keeps);
                }
            }
        }
    }
    let mut by_id: HashMap<&str, Vec<&VersionRecord>> = HashMap::new();
    for version in versions {
        by_id.entry(&version.id).or_default().push(version);
    }
    let there: HashMap<u64, &VersionRecord> = versions
        .iter()
        .map(|version| (version.version, version))
        .collect();
    let mut open: Vec<u64> = kept.keys().copied().collect();
    while let Some(version) = open.pop() {
        let parent = there
            .get(&version)
            .and_then(|version| version.parent.as_deref());
        for ancestor in parent.and_then(|id| by_id.get(id)).into_iter().flatten() {
            if let std::collections::btree_map::Entry::Vacant(free) = kept.entry(ancestor.version) {
                free.insert(Spared::Ancestor);
                open.push(ancestor.version);
            }
        }
    }
    kept.retain(|version, _| there.contains_key(version));
    kept
}
