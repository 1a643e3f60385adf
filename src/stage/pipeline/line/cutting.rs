//! Files cut out of ledgers.

use super::{Driver, Task};
use crate::stage::ledger::CutReason;
use crate::stage::pipeline::commit::FileJob;
use crate::stage::row_maker::RowMaker;
use crate::stage::sink::hint::CommitHint;
use crate::stage::source::{OffsetCommit, SourceCommand};
use tagstream_core::events::PartitionId;
use tagstream_core::failpoint;

/// With its partitions, the part of the budget that a file cut for want of memory has at least.
const LEAST_UNDER_PRESSURE: u64 = 16;

impl<M: RowMaker> Driver<M> {
    /// Cuts the largest file early: rows are the only memory that waits for something other than
    /// work. What would bring next to nothing stays: where messages of one partition hold memory
    /// because they wait for a host, those of others still become files of some size.
    pub(super) fn cut_largest_under_pressure(&mut self) {
        let least =
            self.line.budget.bytes() / (LEAST_UNDER_PRESSURE * self.owned.len().max(1) as u64);
        let free = self.owned.iter().filter(|(_, o)| {
            o.chain.is_some() && o.ledger.has_rows_ready() && o.ledger.ready_bytes() >= least
        });
        let largest = free
            .max_by_key(|(_, o)| o.ledger.ready_bytes())
            .map(|(p, _)| p.clone());
        if let Some(partition) = largest {
            self.cut(&partition, CutReason::Pressure);
        }
    }

    pub(super) fn cut(&mut self, partition: &PartitionId, reason: CutReason) {
        let Some(owned) = self.owned.get_mut(partition) else {
            return;
        };
        let Some(chain) = owned.chain.take() else {
            return;
        };
        let Some(cut) = owned.ledger.cut(reason) else {
            owned.chain = Some(chain);
            return;
        };
        let table = self.line.sink.table().to_owned();
        metrics::counter!(
            "tagstream_files_cut_total", "table" => table, "reason" => reason.as_str()
        )
        .increment(1);
        if failpoint::is_on("sabotage.commit.early") {
            let hint = CommitHint {
                epoch: chain.epoch,
                start: chain.end,
            };
            self.source.command(SourceCommand::Commit(OffsetCommit {
                partition: partition.clone(),
                offset: cut.range.end,
                hint: Some(hint),
                leader_epoch: None,
            }));
        }
        let job = FileJob {
            sink: self.line.sink.clone(),
            partition: partition.clone(),
            generation: owned.generation,
            writer: owned.writer.clone(),
            fence: owned.fence.clone(),
            chain,
            cut,
            layout: self.line.maker.layout(),
            bounds: self.bounds.clone(),
        };
        self.tasks
            .spawn(async move { job.run().await.map(Task::File) });
    }
}
