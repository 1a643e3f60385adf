//! The exactly-once file sink: rows in, committed files out, one create-if-absent put each.

pub use super::fence::Fence;

use super::begun::FirstOffset;
use super::broken::Resumed;
use super::chain::{
    Chain, ChainError, ChainOutcome, FileFacts, Proposal, PutAnswer, Seal, WriterId,
};
use super::floor::Notes;
use super::footer::{FileFooter, FooterError, read_facts};
use super::hint::TableTag;
use super::lineage::LogLineage;
use super::log_facts::LogFacts;
use super::place::{Decide, Places, folder_of};
use super::table::TableRow;
use super::walk::{ResumeError, Walk};
use super::{arrow_ipc, parquet};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use std::marker::PhantomData;
use std::time::Duration;
use tagstream_core::config::{FileFormat, VectorEncoding};
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::failpoint;
use tagstream_core::failpoint::Injected;
use tagstream_core::storage::names::Folder;
use tagstream_core::storage::store::{Put, StoreError, TableStore};
use tokio::time::Instant;

/// How long a failing store is tried again before the stage gives up (and is started again by
/// whoever watches it).
const PATIENCE: Duration = Duration::from_secs(300);

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
    /// The partition's folder is not known.
    #[error(transparent)]
    Folder(#[from] ResumeError),
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
    /// The chain went on without this process, for so long that it has begun to expire.
    #[error(
        "{partition}: this process knew the chain up to offset {end}, and that has expired: it \
         was frozen, or cut off from the store; started again, it goes on where the files end"
    )]
    Outlived {
        /// The partition.
        partition: PartitionId,
        /// The chain's end, as it was known.
        end: Offset,
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

    /// Bytes of the encoded file.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// The exactly-once file sink of one table.
#[derive(Debug)]
pub struct FileSink<R> {
    store: TableStore,
    table: String,
    format: FileFormat,
    vectors: VectorEncoding,
    patience: Duration,
    places: Places,
    rows: PhantomData<fn(R)>,
}

impl<R> Clone for FileSink<R> {
    fn clone(&self) -> Self {
        FileSink {
            store: self.store.clone(),
            table: self.table.clone(),
            format: self.format,
            vectors: self.vectors,
            patience: self.patience,
            places: self.places.clone(),
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
            vectors: VectorEncoding::Plain,
            patience: PATIENCE,
            places: Places::default(),
            rows: PhantomData,
        }
    }

    /// Gives up on a failing store after `patience` instead of five minutes.
    pub fn with_patience(self, patience: Duration) -> Self {
        FileSink { patience, ..self }
    }

    /// Encodes vectors in Parquet files so.
    pub fn with_vector_encoding(self, vectors: VectorEncoding) -> Self {
        FileSink { vectors, ..self }
    }

    /// Where the table's files are put.
    pub fn store(&self) -> &TableStore {
        &self.store
    }

    /// The table, as commits name it.
    pub fn tag(&self) -> TableTag {
        TableTag::of(&self.store, &self.table)
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Where `partition` lies.
    pub(super) async fn folder(&self, partition: &PartitionId) -> Result<Folder, ResumeError> {
        self.places.of(&self.store, &self.table, partition).await
    }

    /// Where a file lies, or is to.
    pub(in crate::stage) async fn path_of(
        &self,
        partition: &PartitionId,
        file: &EncodedFile,
    ) -> Result<String, ResumeError> {
        let proposal = &file.proposal;
        let folder = self.folder(partition).await?;
        let path = folder.file(proposal.epoch, proposal.range.start, self.format);
        Ok(path.to_string())
    }

    /// The format of its files.
    pub(super) fn format(&self) -> FileFormat {
        self.format
    }

    pub(super) fn walk<'a>(
        &'a self,
        folder: &'a Folder,
        partition: &'a PartitionId,
        writer: &'a WriterId,
    ) -> Walk<'a> {
        Walk {
            store: &self.store,
            place: folder,
            tag: self.tag(),
            format: self.format,
            schema_version: R::SCHEMA_VERSION,
            partition,
            writer,
        }
    }

    /// Where `partition` goes on, and whether the log can continue the files.
    ///
    /// # Errors
    /// [`ResumeError`]; input that does not fit the files names the command that helps.
    pub async fn resume(
        &self,
        partition: &PartitionId,
        writer: &WriterId,
        log: &LogFacts,
        start: &FirstOffset,
    ) -> Result<Resumed, ResumeError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            match self.resume_once(partition, writer, log, start).await {
                Err(error) if error.is_transient() && started.elapsed() + pause < self.patience => {
                    tracing::warn!(%partition, %error, "cannot read the chain; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                result => return result,
            }
        }
    }

    async fn resume_once(
        &self,
        partition: &PartitionId,
        writer: &WriterId,
        log: &LogFacts,
        start: &FirstOffset,
    ) -> Result<Resumed, ResumeError> {
        let folder = self.folder(partition).await?;
        self.store.sweep(folder.path()).await;
        let walk = self.walk(&folder, partition, writer);
        walk.resume(log, start).await
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
        let folder = folder_of(&self.store, &self.table, partition, Decide::No).await?;
        let walk = self.walk(&folder, partition, &nobody);
        walk.reached(log).await
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
                parquet::encode(layout, rows, &entries, self.vectors).map_err(|e| e.to_string())
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
        let folder = self.folder(partition).await?;
        let path = folder.file(proposal.epoch, proposal.range.start, self.format);
        let started = Instant::now();
        let mut pause = Duration::from_millis(100);
        loop {
            if fence.is_dead() {
                return Ok(Committed::Fenced);
            }
            failpoint::pass("put.before").await?;
            if fence.is_stale() {
                self.look_again(partition, &folder, chain).await?;
                fence.saw_chain();
            }
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
                ChainOutcome::Landed => {
                    fence.saw_chain();
                    return Ok(Committed::Landed);
                }
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

    /// Refuses to put where what is written at the chain's end may have expired.
    async fn look_again(
        &self,
        partition: &PartitionId,
        folder: &Folder,
        chain: &Chain,
    ) -> Result<(), SinkError> {
        let notes = Notes::read(&self.store, folder)
            .await
            .map_err(ResumeError::from)?;
        let ours = (chain.epoch, chain.end);
        if notes.newest() > Some(chain.epoch) || notes.floor > Some(ours) {
            return Err(SinkError::Outlived {
                partition: partition.clone(),
                end: chain.end,
            });
        }
        Ok(())
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
