//! When a run that reads to the end is done: everything that was in the topic at its start is in
//! files, whoever wrote them.
//!
//! What a line owns tells only half of it: the group may have given the other partitions to a
//! process that lives, hangs or was killed a moment ago (its session has not ended yet), or nothing
//! at all to this one. Files tell the truth.

use super::{Driver, LineError, Logs, Owned, RowMaker, Task};
use crate::stage::sink::files::FileSink;
use crate::stage::sink::table::TableRow;
use crate::stage::sink::walk::LogFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::events::{OffsetRange, PartitionId};
use tagstream_core::process::blocking;

/// How often the files of partitions that others own are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What everything that is to be read comes to.
#[derive(Debug, Default)]
pub(super) struct Drained {
    /// Partitions that others own and whose files reach the log's end as of the start.
    by_others: BTreeSet<PartitionId>,
    looking: bool,
    told: bool,
}

impl<M: RowMaker> Driver<M> {
    /// Whether everything that is owned was read to its end; trivially true before the first
    /// assignment and without partitions.
    pub(super) fn all_read(&self) -> bool {
        self.owned.values().all(|o| o.read_to_end)
    }

    /// Whether all partitions are in files up to their logs' ends as of the start. Asks for a look
    /// at those of others, where that is all that is missing.
    pub(super) fn is_drained(&mut self) -> bool {
        let Some(ends) = &self.line.settings.until else {
            return false;
        };
        if !self.assigned_once || !self.all_read() || !self.owned.values().all(Owned::is_in_files) {
            return false;
        }
        let missing: BTreeMap<PartitionId, LogFacts> = ends
            .iter()
            .filter(|(p, log)| {
                log.low < log.high
                    && !self.owned.contains_key(*p)
                    && !self.drained.by_others.contains(*p)
            })
            .map(|(p, log)| (p.clone(), log.clone()))
            .collect();
        if missing.is_empty() {
            return true;
        }
        if !self.drained.looking {
            self.drained.looking = true;
            let (sink, logs) = (self.line.sink.clone(), Arc::clone(&self.line.logs));
            let wait = self.drained.told;
            self.tasks.spawn(async move {
                if wait {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Ok(Task::Looked(in_files(&sink, &logs, missing).await?))
            });
        }
        false
    }

    /// Takes note of partitions of others that are in files.
    pub(super) fn looked(&mut self, reached: BTreeSet<PartitionId>) {
        self.drained.looking = false;
        self.drained.by_others.extend(reached);
        if !std::mem::replace(&mut self.drained.told, true) {
            tracing::info!(
                "everything assigned here is in files; looking after the partitions that other \
                 members of the group hold"
            );
        }
    }
}

/// Those of `partitions` whose files hold every message before the log's end.
async fn in_files<R: TableRow>(
    sink: &FileSink<R>,
    logs: &Arc<dyn Logs>,
    partitions: BTreeMap<PartitionId, LogFacts>,
) -> Result<BTreeSet<PartitionId>, LineError> {
    let mut done = BTreeSet::new();
    for (partition, log) in partitions {
        match is_in_files(sink, logs, &partition, &log).await {
            Ok(true) => _ = done.insert(partition),
            Ok(false) => {}
            Err(error) if error.is_temporary() => {
                tracing::warn!(%partition, %error, "cannot see how far a partition is that \
                    another process holds; trying again");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

async fn is_in_files<R: TableRow>(
    sink: &FileSink<R>,
    logs: &Arc<dyn Logs>,
    partition: &PartitionId,
    log: &LogFacts,
) -> Result<bool, LineError> {
    let Some(end) = sink.reached(partition, log).await? else {
        return Ok(false);
    };
    if end >= log.high {
        return Ok(true);
    }
    let rest = OffsetRange {
        start: end,
        end: log.high,
    };
    let (logs, partition) = (Arc::clone(logs), partition.clone());
    let asked = blocking::run(move || logs.has_messages(&partition, rest)).await;
    let has_messages = asked.map_err(LineError::Panicked)??;
    Ok(!has_messages)
}
