//! The right to fetch, in shares: a silent host, or the partition that names it, takes only a part
//! of what there is.
//!
//! | who | has at most |
//! |---|---|
//! | a partition | what is configured; half as much again is kept for the others, in even parts |
//! | a host or bucket | three quarters of what is configured, or what is configured for it |
//! | all hosts together that have never answered, or are down | half, and of each partition its part |

use super::outage::Place;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tagstream_core::events::PartitionId;
use tokio::sync::oneshot;

/// Seats for images that are being fetched. Clones share them.
#[derive(Debug, Clone)]
pub struct Seats {
    shared: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// For one partition alone.
    base: usize,
    /// Most of one host; `None`: no bound.
    per_place: Option<usize>,
    partitions: usize,
    taken: usize,
    doubtful: usize,
    lanes: BTreeMap<PartitionId, Lane>,
    places: HashMap<String, usize>,
    waiting: VecDeque<Candidate>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Lane {
    taken: usize,
    doubtful: usize,
}

#[derive(Debug)]
struct Candidate {
    partition: PartitionId,
    place: Option<Arc<Place>>,
    answer: oneshot::Sender<Seat>,
}

/// One seat, given back on drop.
#[derive(Debug)]
pub struct Seat {
    table: Arc<Mutex<Table>>,
    partition: PartitionId,
    place: Option<String>,
    doubtful: bool,
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seats {
    /// `base` seats for a partition, and at most `per_place` for a host or bucket.
    pub fn new(base: usize, per_place: Option<usize>) -> Self {
        Seats {
            shared: Arc::new(Mutex::new(Table {
                base: base.max(1),
                per_place: per_place.map(|most| most.clamp(1, base.max(1))),
                partitions: 1,
                taken: 0,
                doubtful: 0,
                lanes: BTreeMap::new(),
                places: HashMap::new(),
                waiting: VecDeque::new(),
            })),
        }
    }

    /// Takes note of how many partitions there are to share among.
    pub fn share_among(&self, partitions: usize) {
        lock(&self.shared).partitions = partitions.max(1);
        Table::serve(&self.shared);
    }

    /// Waits for a seat.
    pub(super) async fn take(&self, partition: &PartitionId, place: Option<&Arc<Place>>) -> Seat {
        let (answer, seat) = oneshot::channel();
        lock(&self.shared).waiting.push_back(Candidate {
            partition: partition.clone(),
            place: place.cloned(),
            answer,
        });
        Table::serve(&self.shared);
        seat.await.expect("every candidate is answered")
    }
}

impl Table {
    /// What is kept for each partition.
    fn part(&self) -> usize {
        self.base / 2 / self.partitions
    }

    fn total(&self) -> usize {
        match self.partitions {
            1 => self.base,
            _ => self.base + self.base / 2,
        }
    }

    fn may_sit(&self, partition: &PartitionId, place: Option<&Place>) -> bool {
        let lane = self.lanes.get(partition).copied().unwrap_or_default();
        let (part, total) = (self.part(), self.total());
        if let (Some(place), Some(most)) = (place, self.per_place)
            && self.places.get(&place.name).is_some_and(|n| *n >= most)
        {
            return false;
        }
        let has_room = if lane.taken < part {
            self.taken < total
        } else {
            // What others have, or is kept for them.
            let known: usize = self
                .lanes
                .iter()
                .filter(|(p, _)| *p != partition)
                .map(|(_, lane)| lane.taken.max(part))
                .sum();
            let others = self.lanes.keys().filter(|p| *p != partition).count();
            let unseen = self.partitions.saturating_sub(1 + others) * part;
            known + unseen + lane.taken < total
        };
        let doubtful = place.is_some_and(Place::is_doubtful);
        has_room && (!doubtful || self.doubtful < (self.base / 2).max(1) || lane.doubtful < part)
    }

    /// Gives seats to those who wait, in order, as far as their shares allow.
    fn serve(shared: &Arc<Mutex<Table>>) {
        let mut table = lock(shared);
        let mut at = 0;
        while let Some(candidate) = table.waiting.get(at) {
            let gone = candidate.answer.is_closed();
            if !gone && !table.may_sit(&candidate.partition, candidate.place.as_deref()) {
                at += 1;
                continue;
            }
            let Some(candidate) = table.waiting.remove(at) else {
                return;
            };
            if gone {
                continue;
            }
            let seat = table.sit(shared, &candidate);
            if let Err(seat) = candidate.answer.send(seat) {
                // Whoever waited left at this moment. Its seat must not be given back under the
                // lock that giving back takes.
                table.stand_up(&seat.partition, seat.place.as_deref(), seat.doubtful);
                std::mem::forget(seat);
            }
        }
    }

    fn sit(&mut self, shared: &Arc<Mutex<Table>>, candidate: &Candidate) -> Seat {
        let doubtful = candidate.place.as_deref().is_some_and(Place::is_doubtful);
        let name = candidate.place.as_ref().map(|p| p.name.clone());
        self.taken += 1;
        self.doubtful += usize::from(doubtful);
        let lane = self.lanes.entry(candidate.partition.clone()).or_default();
        lane.taken += 1;
        lane.doubtful += usize::from(doubtful);
        if let Some(name) = &name {
            *self.places.entry(name.clone()).or_default() += 1;
        }
        Seat {
            table: Arc::clone(shared),
            partition: candidate.partition.clone(),
            place: name,
            doubtful,
        }
    }

    fn stand_up(&mut self, partition: &PartitionId, place: Option<&str>, doubtful: bool) {
        self.taken -= 1;
        self.doubtful -= usize::from(doubtful);
        if let Some(lane) = self.lanes.get_mut(partition) {
            lane.taken -= 1;
            lane.doubtful -= usize::from(doubtful);
            if lane.taken == 0 {
                self.lanes.remove(partition);
            }
        }
        if let Some(name) = place
            && let Some(taken) = self.places.get_mut(name)
        {
            *taken -= 1;
            if *taken == 0 {
                self.places.remove(name);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.table).stand_up(&self.partition, self.place.as_deref(), self.doubtful);
        Table::serve(&self.table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::fetch::outage::Outages;
    use futures::FutureExt;
    use std::time::Duration;

    struct Room {
        seats: Seats,
        outages: Outages,
    }

    impl Room {
        fn new(base: usize, partitions: usize) -> Self {
            let seats = Seats::new(base, Some(base * 3 / 4));
            seats.share_among(partitions);
            Room {
                seats,
                outages: Outages::new(Duration::from_secs(60)),
            }
        }

        /// Seats that one partition gets at once for one host, of `most` wanted.
        fn fill(&self, partition: i32, host: &str, answers: bool, most: usize) -> Vec<Seat> {
            let partition = PartitionId::new("images", partition);
            let place = self.outages.place(host, true);
            if answers {
                place.answered(None);
            }
            let one = |_| {
                let seat = self.seats.take(&partition, Some(&place));
                seat.now_or_never()
            };
            (0..most).map_while(one).collect()
        }
    }

    #[test]
    fn a_host_leaves_seats_for_others_in_the_same_partition() {
        let room = Room::new(16, 1);
        let silent = room.fill(0, "known", true, 100);
        assert_eq!(silent.len(), 12);
        assert_eq!(room.fill(0, "other", true, 100).len(), 4);
        drop(silent);
        assert_eq!(room.fill(0, "known", true, 100).len(), 12);
    }

    #[test]
    fn hosts_that_never_answered_share_a_half() {
        let room = Room::new(16, 1);
        let mut silent = Vec::new();
        for host in 0..100 {
            silent.extend(room.fill(0, &format!("silent-{host}"), false, 100));
        }
        assert_eq!(silent.len(), 8);
        assert_eq!(room.fill(0, "good", true, 100).len(), 8);
    }

    #[test]
    fn a_partition_leaves_to_each_other_its_part_even_for_unknown_hosts() {
        let room = Room::new(16, 4);
        let mut busy = Vec::new();
        for host in 0..100 {
            busy.extend(room.fill(0, &format!("good-{host}"), true, 100));
            busy.extend(room.fill(0, &format!("silent-{host}"), false, 100));
        }
        assert_eq!(busy.len(), 24 - 3 * 2);
        let others: Vec<usize> = (1..4)
            .map(|p| {
                let seats = room.fill(p, "never-seen", false, 100);
                let count = seats.len();
                busy.extend(seats);
                count
            })
            .collect();
        assert_eq!(others, [2, 2, 2]);
    }

    #[test]
    fn one_partition_alone_has_what_is_configured() {
        for partitions in [1, 2, 100] {
            let room = Room::new(16, partitions);
            let mut seats = room.fill(0, "a", true, 100);
            seats.extend(room.fill(0, "b", true, 100));
            seats.extend(room.fill(0, "c", true, 100));
            assert!(seats.len() >= 16, "{partitions}: {}", seats.len());
        }
    }

    #[tokio::test]
    async fn whoever_leaves_while_waiting_takes_nothing_along() {
        let room = Room::new(1, 1);
        let partition = PartitionId::new("images", 0);
        let held = room.fill(0, "a", true, 1);
        let waits = tokio::spawn({
            let (seats, partition) = (room.seats.clone(), partition.clone());
            async move { seats.take(&partition, None).await }
        });
        tokio::task::yield_now().await;
        waits.abort();
        let _ = waits.await;
        drop(held);
        assert_eq!(room.fill(0, "a", true, 5).len(), 1);
    }
}
