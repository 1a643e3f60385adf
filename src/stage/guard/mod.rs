//! The guard against crash loops: whatever ends the process (an abort in a native library, the
//! memory limit, what nobody thought of), no message ends it for ever.
//!
//! Each partition has a [`record`] of its lives beside its chain, replaced only by compare-and-set.
//! A life writes it when it begins and when it ends in order; on the way only while something is
//! wrong. docs/exactly-once.md tells the whole.

pub mod record;

use crate::stage::sink::chain::WriterId;
use chrono::Utc;
use object_store::path::Path;
use record::{FORMAT, LivesRecord, TrialStep};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tagstream_core::events::Offset;
use tagstream_core::storage::store::TableStore;
use tagstream_core::storage::swap::{SwapError, SwapOutcome};

/// How long one change of a record may take.
const CHANGE: Duration = Duration::from_secs(10);
/// How long lives may take to say that they end in order.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a record was not changed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The record.
        path: String,
        /// What the store said.
        source: object_store::Error,
    },
    /// It could not be replaced.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// A newer build wrote it.
    #[error("{path} has format {format}, written by a newer build")]
    Newer {
        /// The record.
        path: String,
        /// Its format.
        format: u32,
    },
    /// The store did not answer in time.
    #[error("{path}: no answer within {} s", CHANGE.as_secs())]
    Silent {
        /// The record.
        path: String,
    },
}

/// The guard of one partition in one life.
#[derive(Debug)]
pub struct LifeGuard {
    store: TableStore,
    path: Path,
    writer: WriterId,
}

impl LifeGuard {
    /// Begins a life at `head`.
    ///
    /// # Errors
    /// [`GuardError`]; the life may go on all the same, unguarded.
    pub async fn begin(
        store: &TableStore,
        path: Path,
        writer: &WriterId,
        head: Offset,
    ) -> Result<(Self, LivesRecord), GuardError> {
        let guard = LifeGuard {
            store: store.clone(),
            path,
            writer: writer.clone(),
        };
        let record = guard
            .change(|old| Some(LivesRecord::begin(old, head, writer, Utc::now())))
            .await?;
        Ok((guard, record.unwrap_or_default()))
    }

    /// Changes the record, unless another life has begun meanwhile.
    async fn change_own(&self, change: impl Fn(&mut LivesRecord)) -> Result<(), GuardError> {
        self.change(|old| {
            let mut record = old.filter(|record| record.is_life_of(&self.writer))?;
            change(&mut record);
            Some(record)
        })
        .await
        .map(drop)
    }

    /// Replaces the record by what `change` makes of it; `None`: leaves it.
    async fn change(
        &self,
        change: impl Fn(Option<LivesRecord>) -> Option<LivesRecord>,
    ) -> Result<Option<LivesRecord>, GuardError> {
        let changed = tokio::time::timeout(CHANGE, self.swap(&change)).await;
        changed.unwrap_or_else(|_| {
            Err(GuardError::Silent {
                path: self.path.to_string(),
            })
        })
    }

    async fn swap(
        &self,
        change: &impl Fn(Option<LivesRecord>) -> Option<LivesRecord>,
    ) -> Result<Option<LivesRecord>, GuardError> {
        loop {
            let path = || self.path.to_string();
            let read = self.store.read_to_swap(&self.path).await;
            let read = read.map_err(|source| GuardError::Read {
                path: path(),
                source,
            })?;
            // What cannot be read is nothing to go by: it is replaced.
            let old = read
                .as_ref()
                .and_then(|read| serde_json::from_slice::<LivesRecord>(&read.bytes).ok());
            if let Some(format) = old.as_ref().map(|o| o.format).filter(|f| *f > FORMAT) {
                let path = path();
                return Err(GuardError::Newer { path, format });
            }
            let Some(new) = change(old.clone()) else {
                return Ok(None);
            };
            if old.as_ref() == Some(&new) {
                return Ok(Some(new));
            }
            let bytes = serde_json::to_vec(&new).expect("a record is plain data");
            let swapped = self.store.compare_and_set(&self.path, read, bytes.into());
            if swapped.await? == SwapOutcome::Done {
                return Ok(Some(new));
            }
        }
    }

    /// A step of a message that is worked on alone begins. Returns once that is kept.
    async fn reached(&self, offset: Offset, step: TrialStep) {
        let kept = self.change_own(|record| record.reached(offset, step)).await;
        self.tell(kept);
    }

    /// The place was passed at which lives ended.
    pub async fn survived(&self) {
        let kept = self.change_own(LivesRecord::survived).await;
        self.tell(kept);
    }

    /// The life ends in order.
    async fn end(&self) {
        let kept = self.change_own(LivesRecord::end).await;
        self.tell(kept);
    }

    fn tell(&self, kept: Result<(), GuardError>) {
        if let Err(error) = kept {
            tracing::warn!(%error, "the record of a partition's lives cannot be kept");
        }
    }

    /// Works on the message at `offset`, alone: whatever ends the process meanwhile is kept.
    pub async fn alone<T>(
        self: Arc<Self>,
        offset: Offset,
        is_suspect: bool,
        work: impl Future<Output = T>,
    ) -> T {
        self.reached(offset, TrialStep::Fetch).await;
        let trial = Trial {
            guard: Arc::clone(&self),
            offset,
            is_suspect,
        };
        let done = TRIAL.scope(trial, work).await;
        let kept = self.change_own(LivesRecord::passed).await;
        self.tell(kept);
        done
    }
}

#[derive(Debug, Clone)]
struct Trial {
    guard: Arc<LifeGuard>,
    offset: Offset,
    is_suspect: bool,
}

tokio::task_local! {
    static TRIAL: Trial;
}

/// The message that this task works on begins `step`. Only kept for one that is worked on alone and
/// under which a process has died before: each time costs a write.
pub async fn reached(step: TrialStep) {
    if let Ok(trial) = TRIAL.try_with(Trial::clone)
        && trial.is_suspect
    {
        trial.guard.reached(trial.offset, step).await;
    }
}

/// The lives of a process that have not ended. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct OpenLives(Arc<Mutex<BTreeMap<String, Arc<LifeGuard>>>>);

impl OpenLives {
    /// Takes note of a life.
    pub fn add(&self, guard: &Arc<LifeGuard>) {
        let mut open = self.0.lock().expect("no panic while locked");
        open.insert(guard.path.to_string(), Arc::clone(guard));
    }

    /// Says that the lives of `guards` end in order.
    pub async fn end(&self, guards: &[Arc<LifeGuard>]) {
        self.forget(guards);
        self.end_in_time(guards.to_vec()).await;
    }

    /// Says of all lives that they end in order, as far as the store answers soon.
    pub async fn end_all(&self) {
        let open = std::mem::take(&mut *self.0.lock().expect("no panic while locked"));
        self.end_in_time(open.into_values().collect()).await;
    }

    async fn end_in_time(&self, guards: Vec<Arc<LifeGuard>>) {
        let ends = guards.iter().map(|guard| guard.end());
        let all = futures::future::join_all(ends);
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("the store did not take in time that partitions are left in order");
        }
    }

    /// Forgets the lives of `guards` without a word, as when what ends them may be a message.
    pub fn forget(&self, guards: &[Arc<LifeGuard>]) {
        let mut open = self.0.lock().expect("no panic while locked");
        open.retain(|_, other| !guards.iter().any(|guard| Arc::ptr_eq(guard, other)));
    }
}
