//! The ledger of one partition: what was read, what is finished, and where the next file ends. No
//! IO, no clock of its own.
//!
//! Rows leave inference out of order; the ledger puts them back. Only the contiguous finished
//! beginning can become a file. A file ends by size, by age (also when the topic is idle), by a
//! change of the columns' layout, or early when memory is short.

use super::budget::Reservation;
use super::sink::lineage::LogLineage;
use super::sink::outgoing::Outgoing;
use super::sink::producer::Ack;
use super::sink::table::TableRow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::PredictionsOrder;
use tagstream_core::events::{Offset, OffsetRange};
use tokio::time::Instant;

/// When a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutRules {
    /// At this many bytes of rows.
    pub max_bytes: u64,
    /// When its first row has waited this long. Counted from the row, not from the message: with a
    /// backlog messages wait for the model longer than any file may, and every row would end a
    /// file.
    pub max_age: Duration,
}

/// Why a file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutReason {
    /// It reached its size.
    Size,
    /// Its first row waited long enough.
    Age,
    /// The next row's columns have another layout.
    Layout,
    /// Memory was short.
    Pressure,
    /// The stage stops, gives the partition back or has read everything.
    Flush,
}

impl CutReason {
    /// The reason's name, as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            CutReason::Size => "size",
            CutReason::Age => "age",
            CutReason::Layout => "layout",
            CutReason::Pressure => "pressure",
            CutReason::Flush => "flush",
        }
    }
}

/// What became of a message.
#[derive(Debug)]
pub struct Finished<R> {
    /// Its rows, of one layout; none for a dead letter or a tombstone, which still takes its place
    /// in a range. All of them lie in one file: a message is never parted.
    pub rows: Vec<R>,
    /// Messages for the predictions topic.
    pub predictions: Vec<Outgoing>,
    /// Messages for the dead-letter topic.
    pub dead_letters: Vec<Outgoing>,
    /// The bytes that the rows hold, given back when their file is committed.
    pub reservation: Option<Reservation>,
}

#[derive(Debug)]
enum State<R> {
    Making,
    /// Left for the next reader: neither it nor what comes after it can become a file here.
    Left,
    Done(Done<R>),
}

#[derive(Debug)]
struct Done<R> {
    finished: Finished<R>,
    bytes: u64,
    predictions: Vec<Ack>,
    dead_letters: Vec<Ack>,
    /// When everything before it was finished, too.
    ready: Option<Instant>,
}

#[derive(Debug)]
struct Entry<R> {
    offset: Offset,
    leader_epoch: Option<i32>,
    state: State<R>,
}

/// Everything that becomes one file.
#[derive(Debug)]
pub struct Cut<R: TableRow> {
    /// The offsets it covers.
    pub range: OffsetRange,
    /// Why it ended.
    pub reason: CutReason,
    /// Which log its messages were read from.
    pub lineage: LogLineage,
    /// Its rows, by offset; may be empty.
    pub rows: Vec<R>,
    /// The rows' layout; `None` without rows.
    pub layout: Option<Arc<R::Layout>>,
    /// Outstanding acknowledgements of the predictions topic.
    pub predictions: Vec<Ack>,
    /// Outstanding acknowledgements of the dead-letter topic.
    pub dead_letters: Vec<Ack>,
    /// The memory it holds.
    pub reservations: Vec<Reservation>,
}

impl<R: TableRow> Cut<R> {
    /// Drops the rows that another writer's file covers; `false` if nothing is left.
    pub fn drop_covered(&mut self, to: Offset) -> bool {
        self.rows.retain(|row| row.offset() >= to);
        if self.rows.is_empty() {
            self.layout = None;
        }
        self.lineage.drop_before(to);
        self.range.start = to.min(self.range.end);
        !self.range.is_empty()
    }
}

/// What the next file would take if it were cut now. Kept up entry by entry: it is asked for
/// whenever anything happens, and a file may be of a hundred thousand rows.
#[derive(Debug)]
struct Extent<L> {
    /// Entries.
    count: usize,
    /// Their bytes.
    bytes: u64,
    /// Their rows' layout, if there are rows among them.
    layout: Option<Arc<L>>,
    /// Why no further entry belongs to it.
    end: Option<CutReason>,
}

impl<L> Default for Extent<L> {
    fn default() -> Self {
        Extent {
            count: 0,
            bytes: 0,
            layout: None,
            end: None,
        }
    }
}

/// The ledger of one partition.
#[derive(Debug)]
pub struct Ledger<R: TableRow> {
    rules: CutRules,
    /// First offset of the next file.
    start: Offset,
    /// First offset not yet admitted, nor known to hold no message.
    next: Offset,
    /// When it became known that nothing lies between the last message and `next`.
    silent_since: Option<Instant>,
    entries: VecDeque<Entry<R>>,
    /// How many entries at the front are done and handed to the topics.
    ready: usize,
    ready_bytes: u64,
    extent: Extent<R::Layout>,
    making: usize,
    /// Finished messages whose predictions go out before others are finished.
    unsent: Vec<Offset>,
    order: PredictionsOrder,
}

impl<R: TableRow> Ledger<R> {
    /// A ledger whose first file starts at `start`, and whose predictions go out in that order.
    pub fn new(start: Offset, rules: CutRules, order: PredictionsOrder) -> Self {
        Ledger {
            rules,
            order,
            unsent: Vec::new(),
            start,
            next: start,
            silent_since: None,
            entries: VecDeque::new(),
            ready: 0,
            ready_bytes: 0,
            extent: Extent::default(),
            making: 0,
        }
    }

    /// Files end by this age from now on.
    pub fn set_max_age(&mut self, max_age: Duration) {
        self.rules.max_age = max_age;
    }

    /// First offset of the next file.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// First offset not yet admitted, nor known to hold no message.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Messages admitted and not finished.
    pub fn making(&self) -> usize {
        self.making
    }

    /// Whether everything that was read is in files.
    pub fn is_empty(&self) -> bool {
        self.next == self.start
    }

    /// Bytes of rows that could be cut now.
    pub fn ready_bytes(&self) -> u64 {
        self.ready_bytes
    }

    /// Whether a file with messages could be cut now.
    pub fn has_rows_ready(&self) -> bool {
        self.ready > 0
    }

    /// Whether anything could be cut now.
    pub fn has_ready(&self) -> bool {
        self.ready > 0 || self.is_silent()
    }

    /// Whether offsets that hold no message are all that is not in files.
    fn is_silent(&self) -> bool {
        self.entries.is_empty() && self.start < self.next
    }

    /// Takes note of a message that was read. `false` if it is covered already (by a file, or
    /// because it was read before): it must not be worked on. Offsets may skip: transaction markers
    /// and compaction leave holes in a log.
    pub fn admit(&mut self, offset: Offset, leader_epoch: Option<i32>) -> bool {
        if offset < self.next {
            return false;
        }
        self.entries.push_back(Entry {
            offset,
            leader_epoch,
            state: State::Making,
        });
        self.next = offset.next();
        self.silent_since = None;
        self.making += 1;
        true
    }

    /// Takes note that no message lies before `position` that was not admitted: markers of
    /// transactions, aborted messages, what compaction removed. The file that ends the log covers
    /// them, or retention would delete offsets that no file holds.
    pub fn reach(&mut self, position: Offset, now: Instant) {
        if position > self.next {
            self.next = position;
            self.silent_since.get_or_insert(now);
        }
    }

    /// Takes note of what became of a message. What nobody waits for any more is dropped.
    pub fn finish(&mut self, offset: Offset, finished: Finished<R>) {
        let Ok(index) = self.entries.binary_search_by_key(&offset, |e| e.offset) else {
            return;
        };
        let entry = &mut self.entries[index];
        if matches!(entry.state, State::Making) {
            let bytes = finished.rows.iter().map(TableRow::bytes).sum();
            entry.state = State::Done(Done {
                finished,
                bytes,
                predictions: Vec::new(),
                dead_letters: Vec::new(),
                ready: None,
            });
            self.making -= 1;
            if self.order == PredictionsOrder::Ready {
                self.unsent.push(offset);
            }
        }
    }

    /// Takes note of a message that is left for the next reader.
    pub fn leave(&mut self, offset: Offset) {
        let Ok(index) = self.entries.binary_search_by_key(&offset, |e| e.offset) else {
            return;
        };
        let entry = &mut self.entries[index];
        if matches!(entry.state, State::Making) {
            entry.state = State::Left;
            self.making -= 1;
        }
    }

    /// Whether nothing more can become ready, because the next message was left.
    pub fn is_blocked(&self) -> bool {
        let next = self.entries.get(self.ready);
        next.is_some_and(|entry| matches!(entry.state, State::Left))
    }

    /// Hands messages for the topics to `send`, in the partition's order, as far as everything
    /// before them is finished; predictions, if so ordered, as soon as they are there. What is
    /// handed out in the partition's order could become a file from `now` on.
    pub fn publish(&mut self, now: Instant, mut send: impl FnMut(Outgoing) -> Ack) {
        for offset in std::mem::take(&mut self.unsent) {
            let entry = self.entries.binary_search_by_key(&offset, |e| e.offset);
            if let Some(Entry {
                state: State::Done(done),
                ..
            }) = entry.ok().and_then(|index| self.entries.get_mut(index))
            {
                let predictions = done.finished.predictions.drain(..).map(&mut send);
                done.predictions.extend(predictions);
            }
        }
        while let Some(Entry {
            state: State::Done(done),
            ..
        }) = self.entries.get_mut(self.ready)
        {
            let finished = &mut done.finished;
            let predictions = finished.predictions.drain(..).map(&mut send);
            done.predictions.extend(predictions);
            done.dead_letters = finished.dead_letters.drain(..).map(&mut send).collect();
            done.ready = Some(now);
            self.ready_bytes += done.bytes;
            self.ready += 1;
        }
        self.extend();
    }

    /// Takes what has become ready into the next file, as far as it belongs there.
    fn extend(&mut self) {
        let extent = &mut self.extent;
        while extent.end.is_none() && extent.count < self.ready {
            let State::Done(done) = &self.entries[extent.count].state else {
                unreachable!("only finished entries are ready");
            };
            if let Some(row) = done.finished.rows.first() {
                match &extent.layout {
                    Some(l) if !Arc::ptr_eq(l, row.layout()) && l != row.layout() => {
                        extent.end = Some(CutReason::Layout);
                        return;
                    }
                    Some(_) => {}
                    None => extent.layout = Some(Arc::clone(row.layout())),
                }
            }
            extent.count += 1;
            extent.bytes += done.bytes;
            if extent.bytes >= self.rules.max_bytes {
                extent.end = Some(CutReason::Size);
            }
        }
    }

    /// As [`Ledger::extend`], from the beginning: what was at the front has gone.
    fn extend_anew(&mut self) {
        self.extent = Extent::default();
        self.extend();
    }

    /// Whether a file should end now, and why.
    pub fn due(&self, now: Instant) -> Option<CutReason> {
        let deadline = self.deadline()?;
        if self.extent.end == Some(CutReason::Layout) {
            Some(CutReason::Layout)
        } else if self.ready_bytes >= self.rules.max_bytes {
            Some(CutReason::Size)
        } else if now >= deadline {
            Some(CutReason::Age)
        } else {
            None
        }
    }

    /// When [`Ledger::due`] will say `Age`; `None` while there is nothing that could become a file.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_silent() {
            return Some(self.silent_since? + self.rules.max_age);
        }
        let State::Done(first) = &self.entries.front()?.state else {
            return None;
        };
        Some(first.ready? + self.rules.max_age)
    }

    /// Takes the next file out of the ledger.
    pub fn cut(&mut self, reason: CutReason) -> Option<Cut<R>> {
        let count = self.extent.count;
        // What is known to be silent behind the last message goes with it.
        let end = match self.entries.get(count) {
            None => self.next,
            Some(_) => self.entries.get(count.checked_sub(1)?)?.offset.next(),
        };
        if end == self.start {
            return None;
        }
        let mut cut = Cut {
            range: OffsetRange {
                start: self.start,
                end,
            },
            reason,
            lineage: LogLineage::default(),
            rows: Vec::with_capacity(count),
            layout: None,
            predictions: Vec::new(),
            dead_letters: Vec::new(),
            reservations: Vec::with_capacity(count),
        };
        for entry in self.entries.drain(..count) {
            cut.lineage.read(entry.offset, entry.leader_epoch);
            let State::Done(done) = entry.state else {
                unreachable!("only finished entries are ready");
            };
            self.ready_bytes -= done.bytes;
            if let Some(row) = done.finished.rows.first() {
                cut.layout = Some(Arc::clone(row.layout()));
            }
            cut.rows.extend(done.finished.rows);
            cut.predictions.extend(done.predictions);
            cut.dead_letters.extend(done.dead_letters);
            cut.reservations.extend(done.finished.reservation);
        }
        self.ready -= count;
        self.extend_anew();
        self.start = cut.range.end;
        Some(cut)
    }

    /// Whether a message before `to` was read from another log than `read` tells.
    pub fn disagrees(&self, read: &LogLineage, to: Offset) -> bool {
        let mut covered = self.entries.iter().take_while(|e| e.offset < to);
        covered.any(|e| read.is_of_another_log(e.offset, e.leader_epoch))
    }

    /// Everything before `to` is committed (by us or by another): what lies before it is dropped,
    /// finished or not.
    pub fn advance(&mut self, to: Offset) {
        while self.entries.front().is_some_and(|e| e.offset < to) {
            match self.entries.pop_front().map(|e| e.state) {
                Some(State::Done(done)) if self.ready > 0 => {
                    self.ready -= 1;
                    self.ready_bytes -= done.bytes;
                }
                Some(State::Making) => self.making -= 1,
                _ => {}
            }
        }
        self.extend_anew();
        self.start = self.start.max(to);
        self.next = self.next.max(to);
    }
}

#[cfg(test)]
mod tests;
