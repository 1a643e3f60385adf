//! Messages that are taken one at a time, because lives ended where they lie; and what is held
//! meanwhile, so that nothing else of this line is in the making.

use super::Driver;
use crate::stage::budget::Reservation;
use crate::stage::guard::LifeGuard;
use crate::stage::guard::record::Pace;
use crate::stage::pipeline::LineError;
use crate::stage::pipeline::owned::Owned;
use crate::stage::row_maker::RowMaker;
use crate::stage::source::{Generation, Place, SourceMessage};
use std::collections::VecDeque;
use std::sync::Arc;
use tagstream_core::events::PartitionId;
use tokio::time::Instant;

/// As many are taken alone before those that are held are let go.
const ALONE_IN_A_ROW: usize = 8;

/// A message that is read and not in the making.
pub(super) struct Pending {
    pub generation: Generation,
    pub message: SourceMessage,
    pub reservation: Reservation,
    pub place: Place,
}

/// The line's messages that wait for each other.
#[derive(Default)]
pub(super) struct Queues {
    /// To be taken alone.
    waiting: VecDeque<Pending>,
    /// All others, meanwhile.
    held: VecDeque<Pending>,
    /// Messages in the making.
    making: usize,
    /// The partition whose message is worked on alone.
    under_way: Option<PartitionId>,
    in_a_row: usize,
}

impl<M: RowMaker> Driver<M> {
    /// Takes a message that the ledger has admitted.
    pub(super) fn take(&mut self, pending: Pending) {
        let watch = self
            .owned
            .get(&pending.message.partition)
            .and_then(|owned| owned.watch.as_ref());
        if watch.is_some_and(|watch| watch.is_taken_alone(pending.message.offset)) {
            self.queues.waiting.push_back(pending);
        } else if self.queues.waiting.is_empty() && self.queues.under_way.is_none() {
            self.queues.making += 1;
            self.make(pending, None);
        } else {
            self.queues.held.push_back(pending);
        }
    }

    /// Takes note of a message that is no longer in the making.
    pub(super) fn made(&mut self, partition: &PartitionId, alone: bool) {
        self.queues.making -= 1;
        if alone && self.queues.under_way.as_ref() == Some(partition) {
            self.queues.under_way = None;
        }
    }

    /// Starts what may start now.
    pub(super) fn pump(&mut self) {
        self.pass_places();
        while self.queues.under_way.is_none() {
            if self.queues.waiting.is_empty() || self.queues.in_a_row >= ALONE_IN_A_ROW {
                self.queues.in_a_row = 0;
                self.queues.making += self.queues.held.len();
                for pending in std::mem::take(&mut self.queues.held) {
                    self.make(pending, None);
                }
            }
            if self.queues.making > 0 {
                return;
            }
            let Some(pending) = self.queues.waiting.pop_front() else {
                return;
            };
            let partition = pending.message.partition.clone();
            let watch = self.owned.get(&partition).and_then(|o| o.watch.as_ref());
            let guard = watch.map(|watch| Arc::clone(&watch.guard));
            self.queues.in_a_row += 1;
            self.queues.making += 1;
            self.queues.under_way = Some(partition);
            self.make(pending, guard);
        }
    }

    /// Goes back to the normal pace where the place was passed at which lives ended.
    fn pass_places(&mut self) {
        let now = Instant::now();
        let alone = self.owned.values().filter_map(|owned| owned.watch.as_ref());
        let alone = alone.filter(|watch| watch.pace == Pace::Alone).count();
        metrics::gauge!("tagstream_partitions_taken_alone", "table" => self.table())
            .set(alone as f64);
        let queues = &self.queues;
        let rules = self.line.settings.rules;
        for (partition, owned) in &mut self.owned {
            let Some(watch) = &mut owned.watch else {
                continue;
            };
            let here = |pending: &Pending| pending.message.partition == *partition;
            let passed = match watch.pace {
                Pace::Normal => false,
                Pace::Careful => now >= watch.careful_until,
                Pace::Alone => {
                    (owned.ledger.next() >= watch.zone_end || owned.read_to_end)
                        && queues.under_way.as_ref() != Some(partition)
                        && !queues.waiting.iter().any(here)
                }
            };
            if passed {
                tracing::info!(%partition, "the place was passed where processes died; at the \
                    normal pace again");
                watch.pace = Pace::Normal;
                owned.ledger.set_max_age(rules.max_age);
                let guard = Arc::clone(&watch.guard);
                // Nothing waits for it.
                tokio::spawn(async move { guard.survived().await });
            }
        }
    }

    /// Forgets the messages of a partition that is given up.
    pub(super) fn drop_pending(&mut self, partition: &PartitionId) {
        let others = |pending: &Pending| pending.message.partition != *partition;
        self.queues.waiting.retain(others);
        self.queues.held.retain(others);
    }

    /// Lives that end by what a message may have caused do not end in order.
    pub(super) fn note_fault(&self, outcome: &Result<(), LineError>) {
        let fault = outcome.as_ref().err();
        if fault.is_some_and(LineError::may_be_a_message_s_fault) {
            let partitions: Vec<PartitionId> = self.owned.keys().cloned().collect();
            self.line.settings.lives.forget(&self.guards(&partitions));
        }
    }

    /// The guards of `partitions`, to be told of their ends.
    pub(super) fn guards(&self, partitions: &[PartitionId]) -> Vec<Arc<LifeGuard>> {
        let owned = partitions.iter().filter_map(|p| self.owned.get(p));
        let watches = owned.filter_map(|o: &Owned<M::Row>| o.watch.as_ref());
        watches.map(|watch| Arc::clone(&watch.guard)).collect()
    }
}
