//! Which log a chain was read from, as far as Kafka's leader epochs tell (KIP-101, KIP-320).
//!
//! Every record carries the epoch of the leader that took it, and one leader writes an offset once:
//! an offset with the same epoch is the same record, and everything before it is the same, too. A
//! log that lost its end (an unclean election) and was written anew has other epochs from there on.

use serde::{Deserialize, Serialize};
use tagstream_core::events::Offset;

/// So many changes of the leader are remembered, the newest.
const REMEMBERED: usize = 64;

/// Leader epochs of the records that a chain was read from. Empty where they are not known: files
/// of older versions, messages in the format of before Kafka 0.11.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct LogLineage {
    /// The last message read.
    #[serde(default)]
    last: Option<Offset>,
    /// Leader epochs, ascending, each with the first offset that was read of it.
    #[serde(default)]
    epochs: Vec<(i32, Offset)>,
}

/// A message was read under an older leader than one before it: they are not of one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherLog;

impl LogLineage {
    /// Takes note of the next message read.
    pub fn read(&mut self, offset: Offset, leader_epoch: Option<i32>) {
        let newest = self.epochs.last().map(|(epoch, _)| *epoch);
        match leader_epoch {
            None => self.epochs.clear(),
            Some(epoch) if newest.is_none_or(|newest| newest < epoch) => {
                self.epochs.push((epoch, offset));
                let surplus = self.epochs.len().saturating_sub(REMEMBERED);
                self.epochs.drain(..surplus);
            }
            Some(_) => {}
        }
        self.last = Some(offset);
    }

    /// This lineage, and then `next`.
    ///
    /// # Errors
    /// [`OtherLog`] if they cannot be of one log.
    pub fn then(&self, next: &LogLineage) -> Result<LogLineage, OtherLog> {
        let Some(last) = next.last else {
            return Ok(self.clone());
        };
        let mut joined = self.clone();
        let newest = self.epochs.last().map(|(epoch, _)| *epoch);
        if newest > next.epochs.first().map(|(epoch, _)| *epoch) && !next.epochs.is_empty() {
            return Err(OtherLog);
        }
        if next.epochs.is_empty() {
            joined.epochs.clear();
        }
        for (epoch, first) in &next.epochs {
            joined.read(*first, Some(*epoch));
        }
        joined.last = Some(last);
        Ok(joined)
    }

    /// Forgets what was read before `from`.
    pub fn drop_before(&mut self, from: Offset) {
        let current = self.leader_epoch_at(from);
        self.epochs.retain(|(_, first)| *first >= from);
        if let Some(epoch) = current.filter(|e| self.epochs.first().map(|(e, _)| e) != Some(e)) {
            self.epochs.insert(0, (epoch, from));
        }
        if self.last.is_some_and(|last| last < from) {
            *self = LogLineage::default();
        }
    }

    /// Which leader had taken the record at `offset`; `None` where that is not known.
    pub fn leader_epoch_at(&self, offset: Offset) -> Option<i32> {
        let before = self.epochs.iter().rev().find(|(_, first)| *first <= offset);
        before.map(|(epoch, _)| *epoch)
    }

    /// Whether the record at `offset` is known to be another one than that which was read.
    pub fn is_of_another_log(&self, offset: Offset, leader_epoch: Option<i32>) -> bool {
        matches!(
            (self.leader_epoch_at(offset), leader_epoch),
            (Some(read), Some(now)) if read != now
        )
    }

    /// The last message read, and its leader's epoch.
    pub fn last(&self) -> Option<(Offset, i32)> {
        let last = self.last?;
        Some((last, self.leader_epoch_at(last)?))
    }

    /// The newest leader's epoch.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.epochs.last().map(|(epoch, _)| *epoch)
    }

    /// The first offset whose leader is known.
    pub fn known_from(&self) -> Option<Offset> {
        self.epochs.first().map(|(_, first)| *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(read: &[(i64, i32)]) -> LogLineage {
        let mut lineage = LogLineage::default();
        for (offset, epoch) in read {
            lineage.read(Offset(*offset), Some(*epoch));
        }
        lineage
    }

    #[test]
    fn each_offset_has_the_epoch_that_it_was_read_under() {
        let lineage = of(&[(3, 0), (4, 0), (9, 2), (12, 2)]);
        assert_eq!(lineage.last(), Some((Offset(12), 2)));
        for (offset, epoch) in [(2, None), (3, Some(0)), (8, Some(0)), (9, Some(2))] {
            assert_eq!(lineage.leader_epoch_at(Offset(offset)), epoch, "{offset}");
        }
        let text = serde_json::to_string(&lineage).unwrap();
        assert_eq!(text, r#"{"last":12,"epochs":[[0,3],[2,9]]}"#);
        assert_eq!(serde_json::from_str::<LogLineage>(&text).unwrap(), lineage);
    }

    #[test]
    fn files_follow_each_other_in_one_log_only() {
        let first = of(&[(0, 0), (5, 1)]);
        assert_eq!(
            first.then(&of(&[(6, 1), (7, 4)])),
            Ok(of(&[(0, 0), (5, 1), (6, 1), (7, 4)]))
        );
        assert_eq!(first.then(&LogLineage::default()), Ok(first.clone()));
        assert_eq!(LogLineage::default().then(&first), Ok(first.clone()));
        assert_eq!(first.then(&of(&[(6, 0)])), Err(OtherLog));
        // A message without epoch: nothing is known any more.
        let mut unknown = LogLineage::default();
        unknown.read(Offset(6), None);
        assert_eq!(first.then(&unknown).unwrap().last(), None);
    }

    #[test]
    fn what_another_writer_covered_is_forgotten() {
        let mut lineage = of(&[(0, 0), (5, 1), (9, 1)]);
        lineage.drop_before(Offset(7));
        assert_eq!(lineage, of(&[(7, 1), (9, 1)]));
        lineage.drop_before(Offset(10));
        assert_eq!(lineage, LogLineage::default());
    }

    #[test]
    fn only_the_newest_changes_are_remembered() {
        let many: Vec<_> = (0..200).map(|i| (i64::from(i), i)).collect();
        let lineage = of(&many);
        assert_eq!(lineage.known_from(), Some(Offset(200 - REMEMBERED as i64)));
        assert_eq!(lineage.last(), Some((Offset(199), 199)));
    }
}
