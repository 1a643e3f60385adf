//! The end of a log, where offsets hold no message: markers of transactions, aborted messages, what
//! compaction removed.
//!
//! They belong into a file like everything else. A chain that ended before them would be overtaken
//! by retention as soon as the log is empty, lag would never be zero, and a run that reads to the
//! end would never see it.

use super::{Driver, Task};
use crate::stage::row_maker::RowMaker;
use crate::stage::source::Generation;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::process::blocking;
use tokio::time::Instant;

/// How often a broker that does not answer is asked again.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl<M: RowMaker> Driver<M> {
    /// Everything that readers may see was read.
    pub(super) fn at_end(
        &mut self,
        generation: Generation,
        partition: PartitionId,
        position: Option<Offset>,
        high: Offset,
    ) {
        if let Some(position) = position {
            self.reached(&partition, generation, position);
        }
        let owned = self.owned.get(&partition);
        let Some(owned) = owned.filter(|o| o.generation == generation) else {
            return;
        };
        let from = owned.ledger.next();
        if from >= high {
            return;
        }
        // A transaction is open, or the log ends with batches that compaction emptied: those are
        // not even passed. A later end is told again; only this one has to be asked for.
        let logs = Arc::clone(&self.line.logs);
        self.tasks.spawn(async move {
            loop {
                let (logs, asked) = (Arc::clone(&logs), partition.clone());
                let answer = blocking::run(move || logs.silence(&asked, from)).await;
                match answer.map_err(super::LineError::Panicked)? {
                    Ok(silence) => {
                        if silence.stable == from {
                            tracing::info!(
                                %partition, stable = %from, %high,
                                "read up to a transaction that is still open"
                            );
                        }
                        return Ok(Task::Silent {
                            partition,
                            generation,
                            until: silence.until,
                        });
                    }
                    Err(error) if error.is_temporary() => {
                        tracing::debug!(%partition, %error, "the log's end is not told");
                        tokio::time::sleep(ASK_EVERY).await;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        });
    }

    /// No message lies before `until` that was not read.
    pub(super) fn reached(
        &mut self,
        partition: &PartitionId,
        generation: Generation,
        until: Offset,
    ) {
        let owned = self.owned.get_mut(partition);
        if let Some(owned) = owned.filter(|o| o.generation == generation) {
            owned.ledger.reach(until, Instant::now());
            owned.note_progress();
        }
    }
}
