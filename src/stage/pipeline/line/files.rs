//! What follows when a file is committed.

use super::{Driver, FileDone, LineError};
use crate::stage::row_maker::RowMaker;
use crate::stage::sink::files::Committed;
use crate::stage::sink::hint::CommitHint;
use crate::stage::source::{OffsetCommit, SourceCommand};
use std::sync::atomic::Ordering;
use tagstream_core::failpoint;
use tokio::time::Instant;

impl<M: RowMaker> Driver<M> {
    /// What follows when a file is committed, by us or by another.
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
