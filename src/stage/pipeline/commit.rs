//! One file on its way: acknowledgements, encoding, the put.

use super::LineError;
use crate::stage::ledger::Cut;
use crate::stage::sink::chain::{Chain, WriterId};
use crate::stage::sink::files::{Committed, Fence, FileSink};
use crate::stage::sink::producer::Ack;
use crate::stage::sink::table::TableRow;
use crate::stage::source::Generation;
use std::sync::Arc;
use tagstream_core::events::PartitionId;
use tagstream_core::failpoint;
use tagstream_core::process::blocking;
use tokio::sync::Semaphore;

/// What a file came to.
pub(super) struct FileDone {
    pub partition: PartitionId,
    pub generation: Generation,
    /// The chain, moved to where the next file starts.
    pub chain: Chain,
    /// The start of the file that now ends at the chain's end.
    pub last_start: tagstream_core::events::Offset,
    pub outcome: Committed,
    pub rows: u64,
    pub bytes: u64,
}

/// Everything that turns a cut into a file.
pub(super) struct FileJob<R: TableRow> {
    pub sink: FileSink<R>,
    pub partition: PartitionId,
    pub generation: Generation,
    pub writer: WriterId,
    pub fence: Fence,
    pub chain: Chain,
    pub cut: Cut<R>,
    /// The layout of a file without rows.
    pub layout: Arc<R::Layout>,
    /// Bounds how many files are held encoded at once.
    pub encoders: Arc<Semaphore>,
}

async fn acknowledged(acks: Vec<Ack>) -> Result<(), LineError> {
    for ack in acks {
        ack.wait().await?;
    }
    Ok(())
}

impl<R: TableRow> FileJob<R> {
    /// Order for a range: the acknowledgements of both topics, then the put. The offset commit
    /// follows when the caller hears of it.
    pub(super) async fn run(mut self) -> Result<FileDone, LineError> {
        failpoint::pass("predictions.ack.before").await?;
        acknowledged(std::mem::take(&mut self.cut.predictions)).await?;
        failpoint::pass("predictions.ack.after").await?;
        failpoint::pass("dead_letter.ack.before").await?;
        acknowledged(std::mem::take(&mut self.cut.dead_letters)).await?;
        failpoint::pass("dead_letter.ack.after").await?;
        let mut cut = self.cut;
        loop {
            let permit = Arc::clone(&self.encoders)
                .acquire_owned()
                .await
                .expect("never closed");
            let layout = cut
                .layout
                .clone()
                .unwrap_or_else(|| Arc::clone(&self.layout));
            let (sink, partition, chain, writer) = (
                self.sink.clone(),
                self.partition.clone(),
                self.chain.clone(),
                self.writer.clone(),
            );
            let (rows, range) = (std::mem::take(&mut cut.rows), cut.range);
            let read = cut.lineage.clone();
            let (rows, encoded) = blocking::run(move || {
                let encoded =
                    sink.encode(&partition, &chain, (range, &read), &writer, &layout, &rows);
                (rows, encoded)
            })
            .await
            .map_err(LineError::Panicked)?;
            let (file, count) = (encoded?, rows.len() as u64);
            cut.rows = rows;
            let last_start = self.chain.end;
            let outcome = self
                .sink
                .commit(&self.partition, &mut self.chain, &file, &self.fence)
                .await?;
            drop(permit);
            if let Committed::Covered { to } = outcome {
                tracing::warn!(
                    partition = %self.partition, %range, %to,
                    "another writer committed this range first; its rows stand, ours are dropped"
                );
                let table = self.sink.table().to_owned();
                metrics::counter!("tagstream_overtaken_total", "table" => table).increment(1);
                if cut.drop_covered(to) {
                    continue;
                }
            }
            let landed = outcome == Committed::Landed;
            return Ok(FileDone {
                partition: self.partition,
                generation: self.generation,
                chain: self.chain,
                last_start,
                rows: if landed { count } else { 0 },
                bytes: if landed { file.size() } else { 0 },
                outcome,
            });
        }
    }
}
