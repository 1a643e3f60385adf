//! When a run that reads to the end is done: everything that was in the topic at its start is in
//! files, whoever wrote them.
//!
//! What a line owns tells only half of it: the group may have given the other partitions to a
//! process that lives, hangs or was killed a moment ago (its session has not ended yet), or nothing
//! at all to this one. Files tell the truth.

use super::{Driver, LineError, Logs, Owned, RowMaker, Task};
use crate::stage::sink::files::FileSink;
use crate::stage::sink::log_facts::LogFacts;
use crate::stage::sink::table::TableRow;
use crate::stage::source::{Generation, SourceError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::events::{Offset, PartitionId};
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
    /// Whether the last look at the ends of logs was begun, and whether it still goes on.
    ends_asked: bool,
    asking: bool,
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
        if !self.assigned_once || !self.owned.values().all(|o| o.end >= o.log_end) {
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
            return self.ends_are_covered();
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

    /// Whether markers at the ends of logs are in files, too: retention may have emptied a log
    /// before the next run. Asks for one last look; what is written meanwhile is not waited for.
    fn ends_are_covered(&mut self) -> bool {
        if std::mem::replace(&mut self.drained.ends_asked, true) {
            return !self.drained.asking;
        }
        self.drained.asking = true;
        let of =
            |(p, o): (&PartitionId, &Owned<M::Row>)| (p.clone(), o.generation, o.ledger.next());
        let ends: Vec<_> = self.owned.iter().map(of).collect();
        let logs = Arc::clone(&self.line.logs);
        self.tasks.spawn(async move {
            let look = move || {
                let look = |(partition, generation, from): (PartitionId, Generation, Offset)| {
                    let silence = logs.silence(&partition, from)?;
                    Ok((partition, generation, silence.until))
                };
                ends.into_iter()
                    .map(look)
                    .collect::<Result<Vec<_>, SourceError>>()
            };
            match blocking::run(look).await.map_err(LineError::Panicked)? {
                Ok(ends) => Ok(Task::Ends(ends)),
                // Everything that was asked for is in files; markers can wait for the next run.
                Err(error) if error.is_temporary() => Ok(Task::Ends(Vec::new())),
                Err(error) => Err(error.into()),
            }
        });
        false
    }

    /// The last look is over.
    pub(super) fn ends_told(&mut self, ends: Vec<(PartitionId, Generation, Offset)>) {
        self.drained.asking = false;
        for (partition, generation, until) in ends {
            self.reached(&partition, generation, until);
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.log_end = owned.log_end.max(until);
            }
        }
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
    let (logs, partition) = (Arc::clone(logs), partition.clone());
    let asked = blocking::run(move || logs.silence(&partition, end)).await;
    let silent = asked.map_err(LineError::Panicked)??;
    Ok(silent.until >= log.high)
}
