//! Whether a log still holds what a chain was read from, and if not, since which offset.
//!
//! A record's offset and its leader's epoch name it, and everything before it, for good (see
//! [`LogLineage`]). So one look at the last message read tells whether the log is the same, and a
//! binary search over single messages where it was cut.

use super::{Logs, SourceError};
use crate::stage::sink::broken::{BrokenChain, Resumed};
use crate::stage::sink::lineage::LogLineage;
use crate::stage::sink::log_facts::LogFacts;
use tagstream_core::events::{Offset, PartitionId};

/// `resumed`, and whether the log of `partition` still holds what its chain was read from, as far
/// as that can be known; beside it what the log said last. Blocks.
///
/// `log` was asked before the chain was walked, and whoever had the partition before may have put
/// files meanwhile, of messages that were written meanwhile. So a chain that seems to be ahead of
/// the log is compared with what the log says now.
///
/// # Errors
/// [`SourceError::Unreachable`] if the brokers do not answer.
pub fn compared(
    logs: &dyn Logs,
    partition: &PartitionId,
    mut log: LogFacts,
    mut resumed: Resumed,
) -> Result<(LogFacts, Resumed), SourceError> {
    if resumed.chain.end > log.high {
        log = logs.facts(partition)?;
        if let Some(BrokenChain::AheadOfLog { high, .. }) = &mut resumed.broken {
            *high = log.high;
            if resumed.chain.end <= log.high {
                resumed.broken = None;
            }
        }
    }
    let may_be_the_same = match &resumed.broken {
        None | Some(BrokenChain::OffsetMoved { .. } | BrokenChain::Truncated { .. }) => true,
        Some(BrokenChain::AheadOfLog { same_topic, .. }) => *same_topic,
        Some(
            BrokenChain::Recreated { .. }
            | BrokenChain::Overtaken { .. }
            | BrokenChain::FilesGone { .. },
        ) => false,
    };
    if may_be_the_same {
        let (read, end) = (&resumed.chain.lineage, resumed.chain.end);
        if let Some(cut) = cut(logs, partition, &log, read, end)? {
            resumed.broken = Some(BrokenChain::Truncated {
                at: cut.at,
                known: cut.known,
                high: log.high,
            });
        }
    }
    Ok((log, resumed))
}

/// Where a log was cut.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    /// From here on it no longer holds what was read.
    at: Offset,
    /// Whether it is known to hold everything before.
    known: bool,
}

/// Where `partition` was cut after `read` was read from it, up to `end`; `None` if it was not, or
/// where that cannot be known.
fn cut(
    logs: &dyn Logs,
    partition: &PartitionId,
    log: &LogFacts,
    read: &LogLineage,
    end: Offset,
) -> Result<Option<Cut>, SourceError> {
    if end <= log.low || is_whole(logs, partition, log, read, end)? {
        return Ok(None);
    }
    let Some(known) = read.known_from() else {
        return Ok(None);
    };
    // Before `same` the log is what was read, from `other` on it is not.
    let (mut same, mut other) = (log.low.max(known), end.min(log.high));
    while same < other {
        let middle = Offset(same.0 + (other.0 - same.0) / 2);
        match logs.first_from(partition, middle)? {
            Some(record)
                if record.offset < other
                    && read.leader_epoch_at(record.offset) == record.leader_epoch =>
            {
                same = record.offset.next();
            }
            // Another record, or none: what was read there is gone.
            _ => other = middle,
        }
    }
    Ok(Some(Cut {
        at: same,
        known: same > known || known <= log.low,
    }))
}

fn is_whole(
    logs: &dyn Logs,
    partition: &PartitionId,
    log: &LogFacts,
    read: &LogLineage,
    end: Offset,
) -> Result<bool, SourceError> {
    let (Some((last, epoch)), Some(newest)) = (read.last(), read.leader_epoch()) else {
        return Ok(true);
    };
    if end > log.high {
        return Ok(false);
    }
    // Nobody else has led since: a leader does not cut its own log.
    if log.leader_epoch == Some(newest) {
        return Ok(true);
    }
    if last >= log.low
        && let Some(record) = logs.first_from(partition, last)?
    {
        if record.offset == last {
            return Ok(record.leader_epoch.is_none_or(|now| now == epoch));
        }
        // Nothing is written into holes, and leaders only become newer.
        if record.offset < end || record.leader_epoch.is_some_and(|now| now < epoch) {
            return Ok(false);
        }
    }
    // The message is gone: by retention, by compaction, or with the log's end.
    logs.reaches(partition, end, newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::sink::chain::Chain;
    use crate::stage::source::{LogRecord, Silence};
    use tagstream_core::storage::names::Epoch;

    /// A log whose visible records are these.
    struct Log(Vec<(i64, i32)>);

    impl Logs for Log {
        fn facts(&self, _: &PartitionId) -> Result<LogFacts, SourceError> {
            Ok(facts(0, self.0.last().map_or(0, |(offset, _)| offset + 1)))
        }

        fn first_from(
            &self,
            _: &PartitionId,
            from: Offset,
        ) -> Result<Option<LogRecord>, SourceError> {
            let found = self.0.iter().find(|(offset, _)| *offset >= from.0);
            Ok(found.map(|(offset, epoch)| LogRecord {
                offset: Offset(*offset),
                leader_epoch: Some(*epoch),
            }))
        }

        fn reaches(&self, _: &PartitionId, end: Offset, epoch: i32) -> Result<bool, SourceError> {
            let later = self.0.iter().find(|(_, e)| *e > epoch);
            let reached = later
                .or(self.0.last().map(|(o, _)| (o + 1, 0)).as_ref())
                .copied();
            Ok(reached.is_none_or(|(offset, _)| offset >= end.0))
        }

        fn silence(&self, _: &PartitionId, from: Offset) -> Result<Silence, SourceError> {
            unreachable!("asked for silence from {from}")
        }
    }

    fn facts(low: i64, high: i64) -> LogFacts {
        LogFacts {
            low: Offset(low),
            stable: Offset(high),
            high: Offset(high),
            leader_epoch: None,
            committed: None,
            identity: Default::default(),
        }
    }

    fn find(read: &[(i64, i32)], end: i64, log: &[(i64, i32)], low: i64) -> Option<i64> {
        let mut lineage = LogLineage::default();
        for (offset, epoch) in read {
            lineage.read(Offset(*offset), Some(*epoch));
        }
        let facts = facts(low, log.last().map_or(low, |(offset, _)| offset + 1));
        let log = Log(log.iter().filter(|(o, _)| *o >= low).copied().collect());
        let partition = PartitionId::new("images", 0);
        let cut = cut(&log, &partition, &facts, &lineage, Offset(end));
        cut.unwrap().map(|cut| cut.at.0)
    }

    fn run(range: std::ops::Range<i64>, epoch: i32) -> Vec<(i64, i32)> {
        range.map(|offset| (offset, epoch)).collect()
    }

    #[test]
    fn a_log_that_goes_on_under_a_new_leader_is_whole() {
        let read = [run(0..5, 0), run(5..9, 2)].concat();
        let log = [read.clone(), run(9..20, 3)].concat();
        for end in [9, 10] {
            assert_eq!(find(&read, end, &log, 0), None);
        }
        // Retention took most of it, or all that was read; compaction the last message.
        assert_eq!(find(&read, 9, &log, 8), None);
        assert_eq!(find(&read, 9, &log, 9), None);
        let compacted: Vec<_> = log.iter().filter(|(o, _)| o % 3 == 1).copied().collect();
        assert_eq!(find(&read, 9, &compacted, 0), None);
    }

    #[test]
    fn every_cut_is_found_wherever_it_lies_and_whatever_was_written_anew() {
        for changed in [0, 3, 12] {
            let read = [run(0..changed, 0), run(changed..20, 1)].concat();
            for cut in 0..20 {
                for more in [0, 1, 5, 40] {
                    let kept = read.iter().filter(|(o, _)| *o < cut).copied().collect();
                    let log = [kept, run(cut..cut + more, 2)].concat();
                    assert_eq!(
                        find(&read, 20, &log, 0),
                        Some(cut),
                        "{changed} {cut} {more}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_log_that_grew_while_the_chain_was_walked_is_whole() {
        let resumed = |end: i64| {
            let mut chain = Chain::new(Epoch(0), Offset(0));
            (0..end).for_each(|offset| chain.lineage.read(Offset(offset), Some(1)));
            chain.end = Offset(end);
            Resumed {
                chain,
                last_start: None,
                broken: Some(BrokenChain::AheadOfLog {
                    high: Offset(6),
                    same_topic: true,
                }),
            }
        };
        let partition = PartitionId::new("images", 0);
        let compare = |log: &Log, end| {
            let (log, resumed) = compared(log, &partition, facts(0, 6), resumed(end)).unwrap();
            (log.high.0, resumed.broken)
        };
        // Asked when it ended at 6; the files reach to 9, and so does the log now.
        assert_eq!(compare(&Log(run(0..9, 1)), 9), (9, None));
        // It did not grow enough.
        let cut = BrokenChain::Truncated {
            at: Offset(8),
            known: true,
            high: Offset(8),
        };
        assert_eq!(compare(&Log(run(0..8, 1)), 9), (8, Some(cut)));
    }

    #[test]
    fn an_older_leader_that_comes_back_with_what_nobody_had_is_found() {
        // Its records up to 30 were never seen by the leader of epoch 3, whose records are lost.
        let read = [run(0..10, 2), run(10..20, 3)].concat();
        let log = [run(0..30, 2), run(30..35, 4)].concat();
        assert_eq!(find(&read, 20, &log, 0), Some(10));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        assert_eq!(find(&[], 20, &run(0..5, 0), 0), None);
        assert_eq!(find(&run(0..20, 1), 20, &run(30..40, 2), 30), None);
    }
}
