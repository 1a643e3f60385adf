//! What the stage shows of itself while it runs: for health checks, pages and progress bars.

use super::dead_letter_news::DeadLetterNews;
use crate::stage::fetch::{OpenOutage, Outages};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use tagstream_core::events::{DeadLetterKind, Offset, PartitionId};
use tagstream_image::decoders::Decoders;

/// What must hold before work is sent here. Whatever else a part reports comes on top.
const MUST_HOLD: [&str; 3] = [
    StageStatus::ASSIGNED,
    StageStatus::BROKER_REACHABLE,
    StageStatus::SINK_REACHABLE,
];

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
    /// Unix milliseconds when the stage's loop last moved; 0 before it has begun.
    pub beat_ms: AtomicI64,
    /// Unix milliseconds when the polling thread last moved; 0 before it has started.
    pub source_beat_ms: AtomicI64,
    /// Unix milliseconds of the last commit.
    pub last_commit_ms: AtomicI64,
    /// What decodes images, once it is there.
    pub decoders: OnceLock<Decoders>,
    begun: AtomicBool,
    conditions: Mutex<BTreeMap<&'static str, Option<String>>>,
    dead_letters: Mutex<BTreeMap<DeadLetterKind, u64>>,
    news: Mutex<DeadLetterNews>,
    partitions: Mutex<BTreeMap<PartitionId, Offset>>,
    outages: OnceLock<Arc<Outages>>,
}

impl StageStatus {
    /// The condition that partitions were assigned at least once.
    pub const ASSIGNED: &'static str = "assigned";
    /// The condition that the brokers answer, leaders and coordinator included.
    pub const BROKER_REACHABLE: &'static str = "broker_reachable";
    /// The condition that the store took the last request that tried it.
    pub const SINK_REACHABLE: &'static str = "sink_reachable";
    /// The condition that images can be decoded; said only where it was found broken.
    pub const DECODERS_START: &'static str = "decoders_start";

    /// The condition that the schema registry tells the schemas of messages; said only where it was
    /// found broken.
    pub const SCHEMAS_KNOWN: &'static str = "schemas_known";

    /// Says that a condition holds (`None`), or why it does not. Returns whether that is news.
    pub fn report(&self, condition: &'static str, broken: Option<String>) -> bool {
        let mut conditions = self.conditions.lock().expect("no panic while locked");
        let before = conditions.insert(condition, broken.clone());
        before.is_none_or(|before| before.is_some() != broken.is_some())
    }

    /// Every condition, with the reason of those that do not hold.
    pub fn conditions(&self) -> BTreeMap<&'static str, Option<String>> {
        let reported = self.conditions.lock().expect("no panic while locked");
        let unseen = |name| (name, Some("not known yet".to_owned()));
        let mut conditions = BTreeMap::from(MUST_HOLD.map(unseen));
        conditions.extend(
            reported
                .iter()
                .map(|(name, broken)| (*name, broken.clone())),
        );
        conditions
    }

    /// Whether the line reads, or has read: until then there is nothing to finish.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.beat();
    }

    pub(super) fn beat(&self) {
        self.beat_ms
            .store(chrono::Utc::now().timestamp_millis(), Ordering::Relaxed);
    }

    /// Counts a dead letter. Returns how many to tell of, this one included, if it is time to.
    pub(super) fn dead_letter(&self, kind: DeadLetterKind) -> Option<u64> {
        let mut all = self.dead_letters.lock().expect("no panic while locked");
        *all.entry(kind).or_default() += 1;
        drop(all);
        let mut news = self.news.lock().expect("no panic while locked");
        news.count(kind, Instant::now())
    }

    /// Tells of dead letters that nobody was told of, of kinds that were not told of since
    /// `before`.
    pub(super) fn tell_dead_letters(&self, before: Instant) {
        let rest = {
            let mut news = self.news.lock().expect("no panic while locked");
            news.rest(before)
        };
        for (kind, count) in rest {
            tracing::warn!(%kind, count, "more messages became dead letters");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_has_looked_at_does_not_hold_and_only_changes_are_news() {
        let status = StageStatus::default();
        assert!(status.conditions().values().all(Option::is_some));
        assert!(status.report("fetching", Some("a host is away".into())));
        assert!(!status.report("fetching", Some("two hosts are away".into())));
        for name in MUST_HOLD {
            assert!(status.report(name, None));
        }
        let broken: Vec<_> = status.conditions().into_iter().collect();
        let away = Some("two hosts are away".to_owned());
        assert_eq!(broken.iter().filter(|(_, why)| why.is_some()).count(), 1);
        assert!(broken.contains(&("fetching", away)));
        assert!(status.report("fetching", None));
    }
}
