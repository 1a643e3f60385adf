//! What was read and is not admitted yet: a queue for each partition, and which partitions are to
//! be paused for it.
//!
//! Back-pressure that passes within a second is waited for without polling: a pause throws away
//! what was fetched ahead. Where everything is short all partitions are paused; where only one has
//! too much in the making (its messages wait for a host that is down), only that one, and the
//! others go on.

use super::Short;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use tagstream_core::events::PartitionId;

/// Back-pressure shorter than this pauses nothing.
pub(super) const PAUSE_AFTER: Duration = Duration::from_secs(1);
/// A partition that was paused less than this ago is paused at once when it is short again.
const RECENTLY: Duration = Duration::from_secs(30);

/// Messages (or ends of partitions) that wait for admission, in order within a partition.
#[derive(Debug)]
pub(super) struct Held<T> {
    lanes: BTreeMap<PartitionId, Lane<T>>,
}

#[derive(Debug)]
struct Lane<T> {
    queue: VecDeque<T>,
    short: Option<(Instant, Short)>,
    /// When it was paused or taken up again last.
    last_pause: Option<Instant>,
    is_paused: bool,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held {
            lanes: BTreeMap::new(),
        }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            queue: VecDeque::new(),
            short: None,
            last_pause: None,
            is_paused: false,
        }
    }
}

impl<T> Lane<T> {
    fn grace(&self, now: Instant) -> Duration {
        match self.last_pause {
            Some(at) if now - at < RECENTLY => Duration::ZERO,
            _ => PAUSE_AFTER,
        }
    }
}

/// What is to be paused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Paused {
    /// Everything.
    All,
    /// These.
    Only(BTreeSet<PartitionId>),
}

impl<T> Held<T> {
    /// Takes what was read of `partition`.
    pub(super) fn push(&mut self, partition: PartitionId, item: T) {
        self.lanes
            .entry(partition)
            .or_default()
            .queue
            .push_back(item);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.values().all(|lane| lane.queue.is_empty())
    }

    /// Passes on what `admit` takes, a partition after the other; what it does not take, and why,
    /// it gives back. Returns whether bytes were short.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        mut admit: impl FnMut(&PartitionId, T) -> Result<(), (T, Short)>,
    ) -> bool {
        let mut memory = false;
        for (partition, lane) in &mut self.lanes {
            while let Some(item) = lane.queue.pop_front() {
                match admit(partition, item) {
                    Ok(()) => lane.short = None,
                    Err((item, short)) => {
                        lane.queue.push_front(item);
                        let since = lane.short.map_or(now, |(since, _)| since);
                        lane.short = Some((since, short));
                        memory |= short.memory;
                        break;
                    }
                }
            }
        }
        memory
    }

    /// Whether to try admission again before polling.
    pub(super) fn must_wait(&self, now: Instant) -> bool {
        self.lanes.values().any(|lane| {
            let short = lane.short.filter(|_| !lane.is_paused);
            short.is_some_and(|(since, _)| now - since < lane.grace(now))
        })
    }

    /// What is to be paused now. A partition that was paused stays so until `has_room` says that
    /// taking it up is worth the while.
    pub(super) fn to_pause(&self, now: Instant, has_room: impl Fn(&PartitionId) -> bool) -> Paused {
        let is_long = |lane: &Lane<T>, short: &(Instant, Short)| now - short.0 >= lane.grace(now);
        let all = self.lanes.values().any(|lane| {
            let short = lane.short.as_ref().filter(|(_, s)| !s.only_here);
            short.is_some_and(|(since, _)| now - *since >= PAUSE_AFTER)
        });
        if all {
            return Paused::All;
        }
        let only = self
            .lanes
            .iter()
            .filter(|(partition, lane)| match &lane.short {
                Some(short) => lane.is_paused || is_long(lane, short),
                None => lane.is_paused && !has_room(partition),
            });
        Paused::Only(only.map(|(partition, _)| partition.clone()).collect())
    }

    /// Takes note that `partition` is paused, or is so no longer.
    pub(super) fn note(&mut self, now: Instant, partition: &PartitionId, paused: bool) {
        let lane = self.lanes.entry(partition.clone()).or_default();
        lane.is_paused = paused;
        lane.last_pause = Some(now);
    }

    /// Keeps what is known of these partitions only.
    pub(super) fn retain(&mut self, keep: impl Fn(&PartitionId) -> bool) {
        self.lanes.retain(|partition, _| keep(partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Short = Short {
        memory: false,
        only_here: true,
    };
    const EVERYWHERE: Short = Short {
        memory: true,
        only_here: false,
    };

    fn id(partition: i32) -> PartitionId {
        PartitionId::new("images", partition)
    }

    fn only(partitions: &[i32]) -> Paused {
        Paused::Only(partitions.iter().map(|p| id(*p)).collect())
    }

    /// Admits all but what is of `short`.
    fn admit(held: &mut Held<i32>, now: Instant, short: Option<(i32, Short)>) -> Vec<i32> {
        let mut admitted = Vec::new();
        held.admit(now, |partition, item| match short {
            Some((p, why)) if *partition == id(p) => Err((item, why)),
            _ => {
                admitted.push(item);
                Ok(())
            }
        });
        admitted
    }

    #[test]
    fn a_partition_that_is_short_by_itself_is_paused_alone_and_later_at_once() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.push(id(0), 1);
        held.push(id(0), 2);
        held.push(id(1), 10);
        assert_eq!(admit(&mut held, start, Some((0, HERE))), [10]);
        assert!(held.must_wait(start), "it may pass");
        assert_eq!(held.to_pause(start, |_| true), only(&[]));
        let later = start + PAUSE_AFTER;
        assert!(!held.must_wait(later));
        assert_eq!(held.to_pause(later, |_| true), only(&[0]));
        held.note(later, &id(0), true);
        // Others are read and admitted meanwhile.
        held.push(id(1), 11);
        assert_eq!(admit(&mut held, later, Some((0, HERE))), [11]);
        assert!(!held.must_wait(later));

        assert_eq!(admit(&mut held, later, None), [1, 2]);
        assert_eq!(held.to_pause(later, |_| false), only(&[0]), "not worth it");
        assert_eq!(held.to_pause(later, |_| true), only(&[]));
        held.note(later, &id(0), false);
        held.push(id(0), 3);
        assert!(admit(&mut held, later, Some((0, HERE))).is_empty());
        assert!(!held.must_wait(later), "others do not wait for it again");
        assert_eq!(held.to_pause(later, |_| true), only(&[0]));
    }

    #[test]
    fn what_is_short_everywhere_pauses_everything() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.push(id(0), 1);
        assert!(held.admit(start, |_, item| Err((item, EVERYWHERE))));
        assert!(held.must_wait(start));
        assert_eq!(held.to_pause(start + PAUSE_AFTER, |_| true), Paused::All);
        assert_eq!(admit(&mut held, start + PAUSE_AFTER, None), [1]);
        assert!(held.is_empty());
        assert_eq!(held.to_pause(start + PAUSE_AFTER, |_| true), only(&[]));
    }
}
