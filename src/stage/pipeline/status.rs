//! What the stage shows of itself while it runs: for health checks, pages and progress bars.

use crate::stage::fetch::{OpenOutage, Outages};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tagstream_core::events::{DeadLetterKind, Offset, PartitionId};

/// Counters and heartbeats of a running stage.
#[derive(Debug, Default)]
pub struct StageStatus {
    /// Messages admitted.
    pub messages: AtomicU64,
    /// Rows in committed files.
    pub rows: AtomicU64,
    /// Files committed.
    pub files: AtomicU64,
    /// Bytes of committed files.
    pub file_bytes: AtomicU64,
    /// Whether partitions were assigned at least once.
    pub assigned: AtomicBool,
    /// Unix milliseconds when the stage's loop last moved.
    pub beat_ms: AtomicI64,
    /// Unix milliseconds when the polling thread last moved; 0 before it has started.
    pub source_beat_ms: AtomicI64,
    /// Whether the store took the last request that tried it.
    pub sink_reachable: AtomicBool,
    /// Unix milliseconds of the last commit.
    pub last_commit_ms: AtomicI64,
    dead_letters: Mutex<BTreeMap<DeadLetterKind, u64>>,
    partitions: Mutex<BTreeMap<PartitionId, Offset>>,
    outages: OnceLock<Arc<Outages>>,
}

impl StageStatus {
    pub(super) fn beat(&self) {
        self.beat_ms
            .store(chrono::Utc::now().timestamp_millis(), Ordering::Relaxed);
    }

    pub(super) fn dead_letter(&self, kind: DeadLetterKind) {
        *self
            .dead_letters
            .lock()
            .expect("no panic while locked")
            .entry(kind)
            .or_default() += 1;
    }

    pub(super) fn owns(&self, partition: &PartitionId, end: Offset) {
        self.partitions
            .lock()
            .expect("no panic while locked")
            .insert(partition.clone(), end);
    }

    pub(super) fn gave_up(&self, partition: &PartitionId) {
        self.partitions
            .lock()
            .expect("no panic while locked")
            .remove(partition);
    }

    /// Shows the outages that fetches meet.
    pub(super) fn shows(&self, outages: Arc<Outages>) {
        // A stage has one fetcher.
        let _ = self.outages.set(outages);
    }

    /// Hosts, buckets and folders that are down: their messages wait, others go on.
    pub fn outages(&self) -> Vec<OpenOutage> {
        self.outages.get().map_or_else(Vec::new, |o| o.open())
    }

    /// What this process lacks so that messages wait, and what to do; `None`: nothing.
    pub fn shortage(&self) -> Option<String> {
        self.outages.get()?.shortage()
    }

    /// Dead letters so far, by kind. Counted when they are made; a restart makes some again.
    pub fn dead_letters(&self) -> BTreeMap<DeadLetterKind, u64> {
        self.dead_letters
            .lock()
            .expect("no panic while locked")
            .clone()
    }

    /// The partitions owned, each with the end of its files.
    pub fn partitions(&self) -> BTreeMap<PartitionId, Offset> {
        self.partitions
            .lock()
            .expect("no panic while locked")
            .clone()
    }
}
