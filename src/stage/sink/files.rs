//! The exactly-once file sink: rows in, committed files out, one create-if-absent put each.

use super::begun::FirstOffset;
use super::broken::Resumed;
use super::chain::{
    Chain, ChainError, ChainOutcome, FileFacts, Proposal, PutAnswer, Seal, WriterId,
};
use super::footer::{FileFooter, FooterError, read_facts};
use super::lineage::LogLineage;
use super::log_facts::LogFacts;
use super::table::TableRow;
use super::walk::{ResumeError, Walk};
use super::{arrow_ipc, parquet};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tagstream_core::config::FileFormat;
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::failpoint;
use tagstream_core::failpoint::Injected;
use tagstream_core::storage::names::Folder;
use tagstream_core::storage::store::{Put, StoreError, TableStore};
use tokio::time::Instant;

/// How long a failing store is tried again before the stage gives up (and is started again by
/// whoever watches it).
const PATIENCE: Duration = Duration::from_secs(300);

/// Ends the right to put: killed when the partition is taken away. Clones share it.
///
/// The chain alone keeps files disjoint, whatever a late writer does; the fence only saves it the
/// attempt.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<AtomicBool>);

impl Fence {
    /// Takes the right away.
    pub fn kill(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the right was taken away.
    pub fn is_dead(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Why rows could not be committed.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The chain refuses.
    #[error("{partition}: {source}")]
    Chain {
        /// The partition.
        partition: PartitionId,
        /// What is wrong.
        source: ChainError,
    },
    /// The winner of a put could not be read.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// The store failed for good, or for too long.
    #[error("{partition}: cannot commit {range}: {source}")]
    Store {
        /// The partition.
        partition: PartitionId,
        /// The range of the file.
        range: OffsetRange,
        /// What the store said last.
        source: StoreError,
    },
    /// The rows do not have their layout's shape.
    #[error("{partition}: cannot encode {range}: {reason}")]
    Encode {
        /// The partition.
        partition: PartitionId,
        /// The range of the file.
        range: OffsetRange,
        /// What is wrong.
        reason: String,
    },
    /// The store kept saying that the file exists, and that it does not.
    #[error("{partition}: the store never decided whether the file for {range} exists")]
    Undecided {
        /// The partition.
        partition: PartitionId,
        /// The range of the file.
        range: OffsetRange,
    },
    /// A test made it fail.
    #[error(transparent)]
    Injected(#[from] Injected),
}

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is committed.
    Landed,
    /// Another writer was first; everything before `to` is committed by it.
    Covered {
        /// The winner's end.
        to: Offset,
    },
    /// Somebody ended the chain for good.
    Sealed(Seal),
    /// The partition was taken away before the put.
    Fenced,
}

/// A whole file, ready to be put.
#[derive(Debug, Clone)]
pub struct EncodedFile {
    proposal: Proposal,
    bytes: Bytes,
}

impl EncodedFile {
    /// The offsets it holds.
    pub fn range(&self) -> OffsetRange {
        self.proposal.range
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The exactly-once file sink of one table.
#[derive(Debug)]
pub struct FileSink<R> {
    pub(super) store: TableStore,
    pub(super) table: String,
    pub(super) format: FileFormat,
    patience: Duration,
    rows: PhantomData<fn(R)>,
}

impl<R> Clone for FileSink<R> {
    fn clone(&self) -> Self {
        FileSink {
            store: self.store.clone(),
            table: self.table.clone(),
            format: self.format,
            patience: self.patience,
            rows: PhantomData,
        }
    }
}

impl<R: TableRow> FileSink<R> {
    /// The sink of `table` in `store`.
    pub fn new(store: TableStore, table: impl Into<String>, format: FileFormat) -> Self {
        FileSink {
            store,
            table: table.into(),
            format,
            patience: PATIENCE,
            rows: PhantomData,
        }
    }

    /// Gives up on a failing store after `patience` instead of five minutes.
    pub fn with_patience(self, patience: Duration) -> Self {
        FileSink { patience, ..self }
    }

    /// The store.
    pub fn store(&self) -> &TableStore {
        &self.store
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    pub(super) fn walk<'a>(&'a self, partition: &'a PartitionId, writer: &'a WriterId) -> Walk<'a> {
        Walk {
            store: &self.store,
            table: &self.table,
            format: self.format,
            schema_version: R::SCHEMA_VERSION,
            partition,
            writer,
        }
    }

    /// Where `partition` goes on, and whether the log can continue the files.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub async fn resume(
        &self,
        partition: &PartitionId,
        writer: &WriterId,
        log: &LogFacts,
        start: &FirstOffset,
    ) -> Result<Resumed, ResumeError> {
        let folder = Folder::new(self.store.root(), &self.table, partition);
        self.store.sweep(folder.path()).await;
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            match self.walk(partition, writer).resume(log, start).await {
                Err(ResumeError::Footer(FooterError::Store(error)))
                    if error.is_transient() && started.elapsed() + pause < self.patience =>
                {
                    tracing::warn!(%partition, %error, "cannot read the chain; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                result => return result,
            }
        }
    }

    /// Where the files of `partition` end now; `None` if there is no chain yet, or one that was
    /// ended and not begun anew. Writes nothing.
    ///
    /// # Errors
    /// [`ResumeError`].
    pub async fn reached(
        &self,
        partition: &PartitionId,
        log: &LogFacts,
    ) -> Result<Option<Offset>, ResumeError> {
        let nobody = WriterId(String::new());
        self.walk(partition, &nobody).reached(log).await
    }

    /// Encodes the file that continues `chain` with `range`, whose messages are of the log that
    /// `read` tells. Takes the processor for a while: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`SinkError`].
    pub fn encode(
        &self,
        partition: &PartitionId,
        chain: &Chain,
        (range, read): (OffsetRange, &LogLineage),
        writer: &WriterId,
        layout: &R::Layout,
        rows: &[R],
    ) -> Result<EncodedFile, SinkError> {
        let proposal = chain
            .propose(range, writer, read)
            .map_err(|source| SinkError::Chain {
                partition: partition.clone(),
                source,
            })?;
        let facts = FileFacts {
            range,
            writer: writer.clone(),
            seal: None,
            lineage: proposal.lineage.clone(),
        };
        let bytes = self.encoded(partition, &proposal, facts, layout, rows)?;
        Ok(EncodedFile { proposal, bytes })
    }

    pub(super) fn encoded(
        &self,
        partition: &PartitionId,
        proposal: &Proposal,
        facts: FileFacts,
        layout: &R::Layout,
        rows: &[R],
    ) -> Result<Bytes, SinkError> {
        let footer = FileFooter {
            table: self.table.clone(),
            partition: partition.clone(),
            epoch: proposal.epoch,
            facts,
        };
        let entries = footer.entries(layout, rows);
        let encoded = match self.format {
            FileFormat::Parquet => {
                parquet::encode(layout, rows, &entries).map_err(|e| e.to_string())
            }
            FileFormat::Arrow => {
                arrow_ipc::encode(layout, rows, &entries).map_err(|e| e.to_string())
            }
        };
        encoded
            .map(Bytes::from)
            .map_err(|reason| SinkError::Encode {
                partition: partition.clone(),
                range: proposal.range,
                reason,
            })
    }

    /// Puts `file` until the store has decided, and moves `chain` accordingly.
    ///
    /// # Errors
    /// [`SinkError`] if the store fails for good or for too long, or somebody meddled with the
    /// folder.
    pub async fn commit(
        &self,
        partition: &PartitionId,
        chain: &mut Chain,
        file: &EncodedFile,
        fence: &Fence,
    ) -> Result<Committed, SinkError> {
        let proposal = &file.proposal;
        let folder = Folder::new(self.store.root(), &self.table, partition);
        let path = folder.file(proposal.epoch, proposal.range.start, self.format);
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            if fence.is_dead() {
                return Ok(Committed::Fenced);
            }
            failpoint::pass("put.before").await?;
            let (answer, failure) = self.put(&path, file.bytes.clone()).await?;
            failpoint::pass("put.after").await?;
            if let Some(error) = failure.as_ref().filter(|e| !e.is_transient()) {
                tracing::error!(%partition, %error, "the store refused a file");
            }
            let permanent = failure.as_ref().is_some_and(|e| !e.is_transient());
            let step = chain
                .answer(proposal, answer)
                .map_err(|source| SinkError::Chain {
                    partition: partition.clone(),
                    source,
                })?;
            match step {
                ChainOutcome::Landed => return Ok(Committed::Landed),
                ChainOutcome::Covered { to } => return Ok(Committed::Covered { to }),
                ChainOutcome::Sealed(seal) => return Ok(Committed::Sealed(seal)),
                ChainOutcome::Repeat if permanent || started.elapsed() + pause >= self.patience => {
                    let (partition, range) = (partition.clone(), proposal.range);
                    return Err(match failure {
                        Some(source) => SinkError::Store {
                            partition,
                            range,
                            source,
                        },
                        None => SinkError::Undecided { partition, range },
                    });
                }
                ChainOutcome::Repeat => {
                    let table = self.table.clone();
                    metrics::counter!("tagstream_store_retries_total", "table" => table)
                        .increment(1);
                    if let Some(error) = &failure {
                        tracing::warn!(%partition, range = %proposal.range, %error, "cannot put a \
                            file; trying again");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    async fn put(
        &self,
        path: &object_store::path::Path,
        bytes: Bytes,
    ) -> Result<(PutAnswer, Option<StoreError>), SinkError> {
        if failpoint::is_on("sabotage.put.overwrite") {
            let put = self.store.objects().put(path, bytes.into()).await;
            let created = put.map_or(PutAnswer::Unknown, |_| PutAnswer::Created);
            return Ok((created, None));
        }
        match self.store.put_if_absent(path, bytes).await {
            Ok(Put::Created) => Ok((PutAnswer::Created, None)),
            Ok(Put::Exists) => match read_facts(&self.store, path, self.format).await {
                Ok(Some(facts)) => Ok((PutAnswer::Exists(facts), None)),
                Ok(None) => Ok((PutAnswer::Vanished, None)),
                Err(FooterError::Store(error)) => Ok((PutAnswer::Unknown, Some(error))),
                Err(error) => Err(error.into()),
            },
            Err(error) => Ok((PutAnswer::Unknown, Some(error))),
        }
    }
}
