//! Files of a line: when one is cut early, and what follows when it is committed.

use super::{Driver, FileDone, FileJob, LineError, Task};
use crate::stage::ledger::CutReason;
use crate::stage::row_maker::RowMaker;
use crate::stage::sink::files::Committed;
use crate::stage::sink::hint::CommitHint;
use crate::stage::source::{OffsetCommit, SourceCommand};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tagstream_core::events::PartitionId;
use tagstream_core::failpoint;
use tokio::time::Instant;

impl<M: RowMaker> Driver<M> {
    /// Cuts the largest file early: rows are the only memory that waits for something other than
    /// work.
    pub(super) fn cut_largest_under_pressure(&mut self) {
        let free = self
            .owned
            .iter()
            .filter(|(_, o)| o.chain.is_some() && o.ledger.has_rows_ready());
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
            encoders: Arc::clone(&self.encoders),
        };
        self.tasks
            .spawn(async move { job.run().await.map(Task::File) });
    }

    pub(super) async fn file_done(&mut self, done: FileDone) -> Result<(), LineError> {
        let FileDone {
            partition,
            generation,
            chain,
            last_start,
            outcome,
            rows,
            bytes,
        } = done;
        if outcome == Committed::Landed {
            let status = &self.line.status;
            status.files.fetch_add(1, Ordering::Relaxed);
            status.rows.fetch_add(rows, Ordering::Relaxed);
            status.file_bytes.fetch_add(bytes, Ordering::Relaxed);
            status
                .last_commit_ms
                .store(chrono::Utc::now().timestamp_millis(), Ordering::Relaxed);
            let table = || self.table();
            metrics::counter!("tagstream_rows_total", "table" => table()).increment(rows);
            metrics::counter!("tagstream_files_total", "table" => table()).increment(1);
            metrics::counter!("tagstream_file_bytes_total", "table" => table()).increment(bytes);
            metrics::gauge!("tagstream_last_commit_timestamp_seconds", "table" => table())
                .set(chrono::Utc::now().timestamp() as f64);
            tracing::info!(%partition, start = %last_start, end = %chain.end, rows, bytes, "file \
                committed");
        }
        if let Committed::Sealed(_) = outcome {
            return Err(LineError::Sealed(partition));
        }
        let Some(owned) = self
            .owned
            .get_mut(&partition)
            .filter(|o| o.generation == generation)
        else {
            return Ok(());
        };
        if owned.ledger.disagrees(&chain.lineage, chain.end) {
            return Err(LineError::OtherLog(partition));
        }
        owned.end = chain.end;
        owned.lineage = chain.lineage.clone();
        owned.ledger.advance(chain.end);
        owned
            .ledger
            .publish(Instant::now(), |message| self.line.topics.send(message));
        owned.note_progress();
        self.line.status.owns(&partition, chain.end);
        let hint = CommitHint {
            epoch: chain.epoch,
            start: last_start,
        };
        let commit = OffsetCommit {
            partition,
            offset: chain.end,
            hint: Some(hint),
            leader_epoch: chain.lineage.leader_epoch(),
        };
        owned.committed = Some(commit.clone());
        owned.chain = Some(chain);
        failpoint::pass("offset.commit.before").await?;
        self.source.command(SourceCommand::Commit(commit));
        Ok(())
    }
}
