//! One retraining at a time for each registry: a lease on the object store, with a fencing token.
//!
//! ```text
//! <prefix>/leases/<name>/<token, 10 digits>-<beat, 10 digits>.json
//! ```
//!
//! Every object is put create-if-absent and never changed. The highest token owns the lease; its
//! highest beat says until when. Taking a free or expired lease creates `<token + 1>-0`, so of two
//! that try exactly one succeeds. Renewing creates the next beat. A holder that pauses beyond its
//! time finds a higher token when it looks.
//!
//! Clocks only decide when a lease may be taken over, never whether two holders can both change the
//! pointer: the new holder writes its token into the registry's pointer, and decisions with an
//! older token fail there (`Registry::raise_fence` in crates/model/src/registry/mod.rs).

use super::conformance::{Nonconformance, proves_create};
use crate::failpoint;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Why a lease was not got or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody holds it.
    #[error(
        "{holder} holds the lease until {} (token {token}); wait for it or stop it",
        .expires.format("%Y-%m-%d %H:%M:%SZ")
    )]
    Held {
        /// Who.
        holder: String,
        /// Until when, unless renewed.
        expires: DateTime<Utc>,
        /// Its token.
        token: u64,
    },
    /// It was ours, and somebody took it over.
    #[error("the lease was lost: our token {ours} is older than {newest}")]
    Lost {
        /// Our token.
        ours: u64,
        /// The newest.
        newest: u64,
    },
    /// The store takes a second put where a first one lies, or has no conditional put.
    #[error(
        "lease: the store does not do conditional puts ({reason}); two retrainings could both hold \
         the lease there, so it is refused"
    )]
    NoConditionalPut {
        /// What happened.
        reason: String,
    },
    /// The store failed.
    #[error("lease: {doing}: {source}")]
    Store {
        /// What we were doing.
        doing: String,
        /// What the store said.
        source: StoreError,
    },
}

/// Beside the beats; it is none, having no token in its name.
const PROBE: &str = "conditional-put-probe";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Beat {
    holder: String,
    expires: DateTime<Utc>,
    released: bool,
    nonce: String,
}

#[derive(Debug)]
struct Beats {
    objects: Arc<dyn ObjectStore>,
    folder: ObjectPath,
}

/// A lease that is held. Renew it with [`Lease::keep`]; give it back with [`Lease::release`].
#[derive(Debug)]
pub struct Lease {
    beats: Arc<Beats>,
    holder: String,
    time_to_live: Duration,
    token: u64,
    beat: u64,
    lost: Arc<AtomicBool>,
}

fn failed(doing: impl Into<String>) -> impl FnOnce(StoreError) -> LeaseError {
    let doing = doing.into();
    move |source| LeaseError::Store { doing, source }
}

/// The refusal that names who was faster; his beat may be gone by now.
fn held(beat: Option<Beat>, token: u64) -> LeaseError {
    LeaseError::Held {
        holder: beat
            .as_ref()
            .map_or_else(|| "somebody".into(), |b| b.holder.clone()),
        expires: beat.map_or_else(Utc::now, |b| b.expires),
        token,
    }
}

impl Beats {
    fn path(&self, token: u64, beat: u64) -> ObjectPath {
        self.folder
            .clone()
            .join(format!("{token:010}-{beat:010}.json").as_str())
    }

    /// All (token, beat), ascending.
    async fn list(&self) -> Result<Vec<(u64, u64)>, LeaseError> {
        let listed: Vec<_> = self
            .objects
            .list(Some(&self.folder))
            .try_collect()
            .await
            .map_err(failed(format!("listing {}", self.folder)))?;
        let parse = |name: &str| {
            let (token, beat) = name.strip_suffix(".json")?.split_once('-')?;
            Some((token.parse().ok()?, beat.parse().ok()?))
        };
        let mut all: Vec<(u64, u64)> = listed
            .iter()
            .filter_map(|meta| parse(meta.location.filename()?))
            .collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Proves that of two that create a token one is refused.
    async fn prove(&self) -> Result<(), LeaseError> {
        let probe = self.folder.clone().join(PROBE);
        match proves_create(&*self.objects, &probe).await {
            Ok(()) => Ok(()),
            Err(Nonconformance::Failed(source)) => Err(failed(format!("writing {probe}"))(source)),
            Err(unfit) => Err(LeaseError::NoConditionalPut {
                reason: unfit.to_string(),
            }),
        }
    }

    async fn read(&self, token: u64, beat: u64) -> Result<Option<Beat>, LeaseError> {
        let path = self.path(token, beat);
        let bytes = match self.objects.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(failed(format!("reading {path}")))?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Creates a beat; `false` if somebody else did.
    async fn create(&self, token: u64, beat: u64, content: &Beat) -> Result<bool, LeaseError> {
        let path = self.path(token, beat);
        let bytes = serde_json::to_vec(content).expect("a beat is plain data");
        failpoint::pass_store("lease.before")
            .await
            .map_err(failed(format!("writing {path}")))?;
        let put = self
            .objects
            .put_opts(
                &path,
                PutPayload::from(bytes),
                PutOptions::from(PutMode::Create),
            )
            .await;
        failpoint::pass_store("lease.after")
            .await
            .map_err(failed(format!("writing {path}")))?;
        let Err(error) = put else {
            return Ok(true);
        };
        // The answer to a put that landed may have been lost.
        if self
            .read(token, beat)
            .await?
            .is_some_and(|b| b.nonce == content.nonce)
        {
            return Ok(true);
        }
        match error {
            StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => Ok(false),
            source => Err(failed(format!("writing {path}"))(source)),
        }
    }
}

impl Lease {
    /// Takes the lease `name` below `prefix`, if it is free or its time is over.
    ///
    /// # Errors
    /// [`LeaseError::Held`] tells who has it; [`LeaseError::NoConditionalPut`] that the store
    /// cannot keep two from having it.
    pub async fn acquire(
        objects: Arc<dyn ObjectStore>,
        prefix: &ObjectPath,
        name: &str,
        holder: &str,
        time_to_live: Duration,
    ) -> Result<Lease, LeaseError> {
        let folder = prefix.clone().join("leases").join(name);
        let beats = Arc::new(Beats { objects, folder });
        beats.prove().await?;
        let all = beats.list().await?;
        let mut token = 1;
        if let Some(&(newest, beat)) = all.last() {
            // A beat that cannot be read belongs to nobody who could renew it.
            if let Some(b) = beats.read(newest, beat).await?
                && !b.released
                && b.expires > Utc::now()
            {
                return Err(LeaseError::Held {
                    holder: b.holder,
                    expires: b.expires,
                    token: newest,
                });
            }
            token = newest + 1;
        }
        let mut lease = Lease {
            beats,
            holder: holder.into(),
            time_to_live,
            token,
            beat: 0,
            lost: Arc::new(AtomicBool::new(false)),
        };
        let first = lease.content(false);
        if !lease.beats.create(token, 0, &first).await? {
            let winner = lease.beats.read(token, 0).await?;
            return Err(held(winner, token));
        }
        lease.beat = 1;
        // What we listed may be old: others may have come since, and tidied our token's first
        // object away. Then the lease is theirs, and ours was never one.
        if let Some(held) = lease.held_by_newer().await? {
            let stray = lease.beats.path(token, 0);
            let _ = lease.beats.objects.delete(&stray).await;
            return Err(held);
        }
        // Tidying: what lies below our token decides nothing any more. Failing to delete it does no
        // harm.
        for (old, beat) in all {
            let path = lease.beats.path(old, beat);
            let _ = lease.beats.objects.delete(&path).await;
        }
        Ok(lease)
    }

    /// Who holds the lease, if there is a newer token than ours.
    async fn held_by_newer(&self) -> Result<Option<LeaseError>, LeaseError> {
        let Some(&(newest, beat)) = self.beats.list().await?.last() else {
            return Ok(None);
        };
        if newest <= self.token {
            return Ok(None);
        }
        let holder = self.beats.read(newest, beat).await?;
        Ok(Some(held(holder, newest)))
    }

    fn content(&self, released: bool) -> Beat {
        let seconds = TimeDelta::from_std(self.time_to_live).unwrap_or(TimeDelta::MAX);
        Beat {
            holder: self.holder.clone(),
            expires: Utc::now()
                .checked_add_signed(seconds)
                .unwrap_or(DateTime::<Utc>::MAX_UTC),
            released,
            nonce: format!("{:032x}", rand::random::<u128>()),
        }
    }

    /// The fencing token.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether somebody was seen to have taken the lease over.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    /// A flag that becomes true when the lease is lost; for work that runs beside [`Lease::keep`].
    pub fn lost_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lost)
    }

    /// Makes the lease last for another while.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] if there is a newer token.
    pub async fn renew(&mut self) -> Result<(), LeaseError> {
        self.put_beat(false).await
    }

    async fn put_beat(&mut self, released: bool) -> Result<(), LeaseError> {
        let all = self.beats.list().await?;
        let newest = all.last().map_or(self.token, |(token, _)| *token);
        if newest > self.token {
            self.lost.store(true, Ordering::SeqCst);
            return Err(LeaseError::Lost {
                ours: self.token,
                newest,
            });
        }
        let content = self.content(released);
        if !self.beats.create(self.token, self.beat, &content).await? {
            self.lost.store(true, Ordering::SeqCst);
            return Err(LeaseError::Lost {
                ours: self.token,
                newest: self.token,
            });
        }
        // The beat before is of no use now; failing to delete it does no harm. Beat 0 stays as long
        // as its token is the newest: it is what keeps others from creating the token again.
        if self.beat > 1 {
            let before = self.beats.path(self.token, self.beat - 1);
            let _ = self.beats.objects.delete(&before).await;
        }
        self.beat += 1;
        Ok(())
    }

    /// Renews at a third of the time to live until the lease is lost; never returns otherwise. A
    /// failing store is tried again: as long as nobody took over, the lease is ours.
    pub async fn keep(&mut self) -> LeaseError {
        loop {
            tokio::time::sleep(self.time_to_live / 3).await;
            match self.renew().await {
                Ok(()) => {}
                Err(lost @ LeaseError::Lost { .. }) => return lost,
                Err(error) => tracing::warn!("cannot renew the lease, trying again: {error}"),
            }
        }
    }

    /// Gives the lease back, so that the next run need not wait for its end.
    ///
    /// # Errors
    /// [`LeaseError`]; the lease then ends by itself.
    pub async fn release(mut self) -> Result<(), LeaseError> {
        self.put_beat(true).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn take(
        objects: &Arc<dyn ObjectStore>,
        holder: &str,
        time: Duration,
    ) -> Result<Lease, LeaseError> {
        let prefix = ObjectPath::from("r");
        Lease::acquire(Arc::clone(objects), &prefix, "retrain", holder, time).await
    }

    fn store() -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    #[tokio::test]
    async fn one_holder_at_a_time_and_tokens_only_grow() {
        let objects = store();
        let mut a = take(&objects, "a", MINUTE).await.unwrap();
        assert_eq!(a.token(), 1);
        for _ in 0..3 {
            a.renew().await.unwrap();
            match take(&objects, "b", MINUTE).await {
                Err(LeaseError::Held {
                    holder, token: 1, ..
                }) => assert_eq!(holder, "a"),
                other => panic!("{other:?}"),
            }
        }
        a.release().await.unwrap();
        let b = take(&objects, "b", MINUTE).await.unwrap();
        assert_eq!(b.token(), 2);
    }

    #[tokio::test]
    async fn an_expired_lease_is_taken_over_and_its_holder_finds_out() {
        let objects = store();
        let mut a = take(&objects, "a", Duration::ZERO).await.unwrap();
        let b = take(&objects, "b", MINUTE).await.unwrap();
        assert_eq!(b.token(), 2);
        assert!(matches!(
            a.renew().await,
            Err(LeaseError::Lost { ours: 1, newest: 2 })
        ));
        assert!(a.is_lost() && !b.is_lost());
        assert!(matches!(a.release().await, Err(LeaseError::Lost { .. })));
        assert!(matches!(
            take(&objects, "c", MINUTE).await,
            Err(LeaseError::Held { token: 2, .. })
        ));
    }

    #[tokio::test]
    async fn tidying_never_frees_a_token_that_is_held() {
        let objects = store();
        let mut a = take(&objects, "a", MINUTE).await.unwrap();
        for _ in 0..4 {
            a.renew().await.unwrap();
        }
        let all = a.beats.list().await.unwrap();
        assert_eq!(all, [(1, 0), (1, 4)]);
        let again = a.content(false);
        assert!(!a.beats.create(1, 0, &again).await.unwrap());
    }

    /// A folder that is listed while others work in it may show neither an object that was just
    /// created nor one that was just deleted.
    #[tokio::test]
    async fn who_listed_too_early_is_told_who_holds_it() {
        let objects = store();
        let b = take(&objects, "b", Duration::ZERO).await.unwrap();
        let mut c = take(&objects, "c", MINUTE).await.unwrap();
        assert_eq!((b.token(), c.token()), (1, 2));
        let late = Lease {
            beats: Arc::clone(&c.beats),
            holder: "late".into(),
            time_to_live: MINUTE,
            token: 1,
            beat: 0,
            lost: Arc::default(),
        };
        match late.held_by_newer().await.unwrap() {
            Some(LeaseError::Held { holder, token, .. }) => {
                assert_eq!((holder.as_str(), token), ("c", 2));
            }
            other => panic!("{other:?}"),
        }
        assert!(c.held_by_newer().await.unwrap().is_none());
        c.renew().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_that_try_at_once_one_gets_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let local = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let stores: [Arc<dyn ObjectStore>; 2] = [store(), Arc::new(local)];
        for objects in stores {
            drop(take(&objects, "dead", Duration::ZERO).await.unwrap());
            let tasks: Vec<_> = (0..16)
                .map(|i| {
                    let objects = Arc::clone(&objects);
                    tokio::spawn(async move { take(&objects, &format!("{i}"), MINUTE).await })
                })
                .collect();
            let mut got = Vec::new();
            for task in tasks {
                match task.await.unwrap() {
                    Ok(lease) => got.push(lease.token()),
                    Err(LeaseError::Held { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            assert_eq!(got, [2]);
        }
    }
}
