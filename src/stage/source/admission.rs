//! Who may have a message in the making: bytes for it and its row, and one of a bounded number of
//! places, in shares for partitions.
//!
//! One partition alone may take everything. Among several, three quarters of the bytes and all of
//! the places go to whoever comes first; the last quarter of the bytes, and half as many places
//! more, are kept in even parts for each. So a partition whose messages wait for a host that is
//! down does not keep others from working.

use super::SourceMessage;
use crate::stage::budget::{Budget, Reservation, Tally};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tagstream_core::events::PartitionId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The part of the bytes that is kept for all partitions.
const KEPT_BYTES: u64 = 4;

/// How many rows a message may become.
type Counting = Arc<dyn Fn(&SourceMessage) -> u64 + Send + Sync>;

/// The right to have a message in the making. Clones share it.
#[derive(Clone)]
pub struct Admission {
    budget: Budget,
    base: usize,
    row_bytes: u64,
    rows_in: Option<Counting>,
    lanes: Arc<Mutex<Lanes>>,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Admission");
        shown.field("budget", &self.budget).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Lanes {
    /// Room for everybody's places; it grows with the partitions.
    places: Arc<Semaphore>,
    room: usize,
    partitions: usize,
    of: BTreeMap<PartitionId, Lane>,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    bytes: Tally,
    places: Arc<AtomicU64>,
}

/// What keeps a message out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Whether bytes are short, or places.
    pub memory: bool,
    /// Whether only its partition has too much already: others may come in.
    pub only_here: bool,
}

/// A message's place among those in the making.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    lane: Arc<AtomicU64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// Admits as many as `budget` holds, at most `places` of one partition at once in the making;
    /// each takes `row_bytes` beside its own.
    pub fn new(budget: Budget, places: usize, row_bytes: u64) -> Self {
        Admission {
            budget,
            base: places.max(1),
            row_bytes,
            rows_in: None,
            lanes: Arc::new(Mutex::new(Lanes {
                places: Arc::new(Semaphore::new(places.max(1))),
                room: places.max(1),
                partitions: 1,
                of: BTreeMap::new(),
            })),
        }
    }

    /// Asks `rows_in` how many rows a message may become, where that may be more than one.
    pub fn counting(self, rows_in: impl Fn(&SourceMessage) -> u64 + Send + Sync + 'static) -> Self {
        Admission {
            rows_in: Some(Arc::new(rows_in)),
            ..self
        }
    }

    /// Bytes that a message takes, beside one row.
    pub fn bytes_of(&self, message: &SourceMessage) -> u64 {
        let rows = self.rows_in.as_ref().map_or(1, |rows_in| rows_in(message));
        message.bytes() + rows.saturating_sub(1).saturating_mul(self.row_bytes)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shares among these.
    pub fn share_among(&self, partitions: &[PartitionId]) {
        let mut lanes = self.lanes();
        lanes.partitions = partitions.len().max(1);
        lanes.of.retain(|partition, lane| {
            lane.places.load(Ordering::Relaxed) > 0
                || lane.bytes.load(Ordering::Relaxed) > 0
                || partitions.contains(partition)
        });
        let wanted = self.all_places(lanes.partitions);
        if let Some(more) = wanted.checked_sub(lanes.room).filter(|more| *more > 0) {
            lanes.places.add_permits(more);
            lanes.room = wanted;
        }
    }

    /// Places kept for each of so many partitions.
    fn kept_places(&self, partitions: usize) -> usize {
        (self.base / 2 / partitions).max(1)
    }

    fn all_places(&self, partitions: usize) -> usize {
        match partitions {
            1 => self.base,
            _ => self.base + partitions * self.kept_places(partitions),
        }
    }

    /// Lets a message of `bytes` in, or says what is short.
    ///
    /// # Errors
    /// [`Short`].
    pub fn admit(
        &self,
        partition: &PartitionId,
        bytes: u64,
    ) -> Result<(Reservation, Place), Short> {
        let mut lanes = self.lanes();
        let lane = lanes.of.entry(partition.clone()).or_default().clone();
        let bytes = bytes
            .saturating_add(self.row_bytes)
            .min(self.budget.bytes());
        self.within_share(&lanes, partition, &lane, bytes)?;
        let short = |memory| Short {
            memory,
            only_here: false,
        };
        let permit = Arc::clone(&lanes.places).try_acquire_owned();
        let permit = permit.map_err(|_| short(false))?;
        let reservation = self.budget.try_reserve_for(bytes, &lane.bytes);
        let reservation = reservation.ok_or(short(true))?;
        lane.places.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            _permit: permit,
            lane: lane.places,
        };
        Ok((reservation, place))
    }

    /// Whether the others keep their parts if this one takes so much more.
    fn within_share(
        &self,
        lanes: &Lanes,
        partition: &PartitionId,
        lane: &Lane,
        bytes: u64,
    ) -> Result<(), Short> {
        let n = lanes.partitions;
        if n == 1 {
            return Ok(());
        }
        let short = |memory| Short {
            memory,
            only_here: true,
        };
        let others = || lanes.of.iter().filter(|(p, _)| *p != partition);
        let unseen = n.saturating_sub(1 + others().count()) as u64;
        let fits = |of: fn(&Lane) -> &AtomicU64, more: u64, kept: u64, all: u64| {
            let mine = of(lane).load(Ordering::Relaxed);
            if mine + more <= kept {
                return true;
            }
            let taken = |lane: &Lane| of(lane).load(Ordering::Relaxed).max(kept);
            let theirs: u64 = others().map(|(_, lane)| taken(lane)).sum();
            theirs + unseen * kept + mine + more <= all
        };
        let kept = self.kept_places(n) as u64;
        if !fits(|l| &l.places, 1, kept, self.all_places(n) as u64) {
            return Err(short(false));
        }
        let all = self.budget.bytes();
        let holds_nothing = lane.bytes.load(Ordering::Relaxed) == 0;
        // What is larger than any share may pass alone.
        if !holds_nothing && !fits(|l| &l.bytes, bytes, all / KEPT_BYTES / n as u64, all) {
            return Err(short(true));
        }
        Ok(())
    }

    /// Whether a partition that was kept out for a while has room again for more than one message,
    /// so that taking it up again is worth the while.
    pub fn has_room(&self, partition: &PartitionId) -> bool {
        let lanes = self.lanes();
        let lane = lanes.of.get(partition).cloned().unwrap_or_default();
        let n = lanes.partitions;
        let kept = self.kept_places(n) as u64;
        let most = if n == 1 { self.base as u64 } else { kept };
        let places = lane.places.load(Ordering::Relaxed);
        let bytes = (self.row_bytes * most / 2).min(self.budget.bytes() / KEPT_BYTES / n as u64);
        places <= most / 2 || {
            places + most / 2 <= self.base as u64
                && self.within_share(&lanes, partition, &lane, bytes).is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: u64 = 4_096;

    fn partitions(count: i32) -> Vec<PartitionId> {
        (0..count).map(|p| PartitionId::new("images", p)).collect()
    }

    /// As many messages as one partition gets at once, of `most` wanted.
    fn fill(
        admission: &Admission,
        partition: &PartitionId,
        most: usize,
    ) -> Vec<(Reservation, Place)> {
        let one = |_| admission.admit(partition, 0).ok();
        (0..most).map_while(one).collect()
    }

    #[test]
    fn a_partition_that_waits_leaves_places_to_each_other() {
        let admission = Admission::new(Budget::new(1 << 30), 100, ROW);
        let all = partitions(5);
        admission.share_among(&all);
        let mut held = fill(&admission, &all[0], 1_000);
        assert_eq!(held.len(), 110);
        let short = admission.admit(&all[0], 0).unwrap_err();
        assert_eq!((short.memory, short.only_here), (false, true));
        for other in &all[1..] {
            let more = fill(&admission, other, 1_000);
            assert_eq!(more.len(), 10);
            held.extend(more);
        }
        drop(held);
        assert_eq!(fill(&admission, &all[1], 1_000).len(), 110);
    }

    #[test]
    fn a_partition_that_waits_leaves_bytes_to_each_other() {
        let admission = Admission::new(Budget::new(160 * ROW), 10_000, ROW);
        let all = partitions(4);
        admission.share_among(&all);
        let held = fill(&admission, &all[0], 1_000);
        assert_eq!(held.len(), 130);
        let short = admission.admit(&all[0], 0).unwrap_err();
        assert_eq!((short.memory, short.only_here), (true, true));
        let others: Vec<_> = all[1..]
            .iter()
            .map(|p| fill(&admission, p, 1_000))
            .collect();
        assert!(others.iter().all(|o| o.len() == 10));
        let short = admission.admit(&all[1], 0).unwrap_err();
        assert_eq!((short.memory, short.only_here), (true, true));
    }

    #[test]
    fn one_partition_alone_takes_everything_and_so_does_one_huge_message() {
        let admission = Admission::new(Budget::new(100 * ROW), 1_000, ROW);
        let all = partitions(2);
        assert_eq!(fill(&admission, &all[0], 1_000).len(), 100);
        admission.share_among(&all);
        let huge = admission.admit(&all[0], 1 << 40).unwrap();
        assert_eq!(huge.0.bytes(), 100 * ROW);
        assert!(admission.admit(&all[1], 0).is_err());
    }
}
