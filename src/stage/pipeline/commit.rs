//! One file on its way: acknowledgements, encoding, the put.

use super::LineError;
use crate::stage::budget::Budget;
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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
    /// Bounds what files that are made at once take.
    pub bounds: FileBounds,
}

/// Files encoded at once: they take processors.
const ENCODERS: usize = 2;
/// Files put at once: they wait for the store. With thousands of partitions whose files end in one
/// minute, and a store that answers in 80 ms, two at a time would fall behind.
const PUTS: usize = 64;
/// The largest files that are held encoded at once; of smaller ones as many as take as much. Part
/// of the constant above the budget.
const LARGEST: u64 = 2;
/// What a file takes beside its rows.
const FRAME: u64 = 64 << 10;

/// What bounds the making of a line's files: encoding by processors and memory, putting by count.
#[derive(Debug, Clone)]
pub(super) struct FileBounds {
    encoders: Arc<Semaphore>,
    encoded: Budget,
    puts: Arc<Semaphore>,
}

impl FileBounds {
    /// The bounds of files that end at so many bytes.
    pub(super) fn new(max_bytes: u64) -> Self {
        FileBounds {
            encoders: Arc::new(Semaphore::new(ENCODERS)),
            encoded: Budget::new(LARGEST * (max_bytes + FRAME)),
            puts: Arc::new(Semaphore::new(PUTS)),
        }
    }
}

async fn permit(of: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(of).acquire_owned().await.expect("never closed")
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
            let bytes: u64 = cut.rows.iter().map(TableRow::bytes).sum();
            let mut held = self.bounds.encoded.reserve(bytes + FRAME).await;
            let encoding = permit(&self.bounds.encoders).await;
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
            drop(encoding);
            let (file, count) = (encoded?, rows.len() as u64);
            held.shrink(file.size());
            cut.rows = rows;
            let putting = permit(&self.bounds.puts).await;
            let last_start = self.chain.end;
            let outcome = self
                .sink
                .commit(&self.partition, &mut self.chain, &file, &self.fence)
                .await?;
            drop((putting, held));
            if let Committed::Covered { to } = outcome {
                tracing::warn!(
                    partition = %self.partition, %range, %to,
                    "another writer committed this range first; its rows stand, ours are dropped"
                );
                let table = self.sink.table().to_owned();
                metrics::counter!("tagstream_overtaken_total", "table" => table).increment(1);
                let covered = cut.rows.iter().filter(|row| row.offset() < to);
                covered.for_each(|row| row.settled(None));
                if cut.drop_covered(to) {
                    continue;
                }
            }
            let landed = outcome == Committed::Landed;
            // Its folder is known since it was put there.
            if landed && let Ok(path) = self.sink.path_of(&self.partition, &file).await {
                cut.rows.iter().for_each(|row| row.settled(Some(&path)));
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::ledger::{CutReason, CutRules, Finished, Ledger};
    use crate::stage::sink::predictions::PredictionRow;
    use crate::stage::sink::predictions::tests::{layout, row};
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
        PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    };
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::time::Duration;
    use tagstream_core::config::{FileFormat, PredictionsOrder};
    use tagstream_core::events::Offset;
    use tagstream_core::storage::names::Epoch;
    use tagstream_core::storage::store::TableStore;
    use tokio::time::Instant;

    /// A store in which a put takes a while: what is under way is counted.
    #[derive(Debug, Default)]
    struct Slow {
        inner: InMemory,
        wanted: usize,
        puts: AtomicUsize,
        most_puts: AtomicUsize,
        bytes: AtomicU64,
        most_bytes: AtomicU64,
    }

    impl std::fmt::Display for Slow {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "slow {}", self.inner)
        }
    }

    #[async_trait]
    impl ObjectStore for Slow {
        async fn put_opts(
            &self,
            location: &Path,
            payload: PutPayload,
            options: PutOptions,
        ) -> Result<PutResult> {
            let length = payload.content_length() as u64;
            let puts = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_puts.fetch_max(puts, Ordering::SeqCst);
            let bytes = self.bytes.fetch_add(length, Ordering::SeqCst) + length;
            self.most_bytes.fetch_max(bytes, Ordering::SeqCst);
            // Until as many are under way as are waited for, or it is clear that they never are.
            for _ in 0..3000 {
                if self.most_puts.load(Ordering::SeqCst) >= self.wanted {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.puts.fetch_sub(1, Ordering::SeqCst);
            self.bytes.fetch_sub(length, Ordering::SeqCst);
            self.inner.put_opts(location, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            location: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(location, options).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.inner.get_opts(location, options).await
        }

        fn delete_stream(
            &self,
            locations: BoxStream<'static, Result<Path>>,
        ) -> BoxStream<'static, Result<Path>> {
            self.inner.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    /// The files of so many partitions, of `rows` rows each, all at once.
    async fn commit_all(
        partitions: i32,
        rows: i64,
        bounds: FileBounds,
        wanted: usize,
    ) -> Arc<Slow> {
        let slow = Arc::new(Slow {
            wanted,
            ..Slow::default()
        });
        let store = TableStore::from_parts("slow:", slow.clone(), Path::default());
        let sink = FileSink::<PredictionRow>::new(store, "t", FileFormat::Parquet);
        let layout = layout(false);
        let rules = CutRules {
            max_bytes: u64::MAX,
            max_age: Duration::MAX,
        };
        let jobs = (0..partitions).map(|partition| {
            let mut ledger = Ledger::new(Offset(0), rules, PredictionsOrder::Offset);
            for offset in 0..rows {
                assert!(ledger.admit(Offset(offset), Some(0)));
                let finished = Finished {
                    rows: vec![row(offset, &layout)],
                    predictions: Vec::new(),
                    dead_letters: Vec::new(),
                    reservation: None,
                };
                ledger.finish(Offset(offset), finished);
            }
            ledger.publish(Instant::now(), |_| Ack::acknowledged());
            FileJob {
                sink: sink.clone(),
                partition: PartitionId::new("images", partition),
                generation: Generation(1),
                writer: WriterId("w".into()),
                fence: Fence::default(),
                chain: Chain::new(Epoch(0), Offset(0)),
                cut: ledger.cut(CutReason::Flush).unwrap(),
                layout: Arc::clone(&layout),
                bounds: bounds.clone(),
            }
        });
        let done = futures::future::join_all(jobs.map(FileJob::run)).await;
        for file in done {
            assert_eq!(file.unwrap().outcome, Committed::Landed);
        }
        slow
    }

    /// Two at a time, files of one minute were the end at 1,460 partitions.
    #[tokio::test]
    async fn files_are_put_side_by_side_and_bounded() {
        let slow = commit_all(300, 1, FileBounds::new(128 << 20), 32).await;
        let most = slow.most_puts.load(Ordering::SeqCst);
        assert!((32..=PUTS).contains(&most), "{most} at once");
    }

    #[tokio::test]
    async fn what_is_encoded_is_bounded_by_bytes() {
        let largest = 300 << 10;
        let slow = commit_all(60, 200, FileBounds::new(largest), 8).await;
        let most = slow.most_bytes.load(Ordering::SeqCst);
        let bound = LARGEST * (largest + FRAME);
        assert!(most <= bound, "{most} bytes, {bound} are allowed");
        let puts = slow.most_puts.load(Ordering::SeqCst);
        assert!(puts > ENCODERS, "{puts} small files at once");
    }
}
