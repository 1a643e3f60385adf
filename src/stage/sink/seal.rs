//! How an operator ends a chain, so that the next epoch goes on elsewhere.

use super::begun::FirstOffset;
use super::chain::{Chain, FileFacts, Proposal, Seal, WriterId};
use super::files::{FileSink, SinkError};
use super::footer::{FooterError, read_facts};
use super::log_facts::LogFacts;
use super::repair::unread;
use super::table::TableRow;
use super::walk::{ResumeError, Walk};
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::names::Epoch;
use tagstream_core::storage::store::{Put, StoreError};

impl<R: TableRow> FileSink<R> {
    /// Ends the chain of `partition` that ends at `expected_end`, so that the next epoch goes on at
    /// `seal.origin`, whoever still writes. Does nothing if that chain was ended before.
    ///
    /// # Errors
    /// [`RepairError`] if the chain ends elsewhere, if messages would be read twice or the log has
    /// no such origin, or if the store fails.
    pub async fn seal(
        &self,
        partition: &PartitionId,
        writer: &WriterId,
        log: &LogFacts,
        expected_end: Offset,
        seal: Seal,
        layout: &R::Layout,
    ) -> Result<Sealed, RepairError> {
        let folder = self.folder(partition).await?;
        let walk = self.walk(&folder, partition, writer);
        let chain = match walk.walk(log, &FirstOffset::Earliest).await {
            Ok(walked) => walked.chain,
            // What an operator ends here is what is known to have been written.
            Err(ResumeError::Lost { lost, .. }) => Chain::new(lost.epoch, lost.end),
            Err(error) => return Err(error.into()),
        };
        // The flag may still stand on the command line after it has done its work.
        for epoch in (0..chain.epoch.0).map(Epoch) {
            let path = folder.file(epoch, expected_end, self.format());
            let facts = read_facts(self.store(), &path, self.format()).await?;
            if facts.is_some_and(|f| f.seal.is_some()) {
                return Ok(Sealed::Before);
            }
        }
        if chain.end != expected_end {
            return Err(RepairError::OtherEnd {
                partition: partition.clone(),
                expected: expected_end,
                found: chain.end,
            });
        }
        walk.check_origin(log, chain.epoch, chain.end, &seal)
            .await?;
        let range = OffsetRange {
            start: chain.end,
            end: chain.end,
        };
        let proposal = Proposal {
            epoch: chain.epoch,
            range,
            writer: writer.clone(),
            lineage: chain.lineage.clone(),
        };
        let facts = FileFacts {
            range,
            writer: writer.clone(),
            seal: Some(seal.clone()),
            lineage: chain.lineage.clone(),
        };
        let bytes = self.encoded(partition, &proposal, facts, layout, &[])?;
        let path = folder.file(chain.epoch, chain.end, self.format());
        match self.store().put_if_absent(&path, bytes).await? {
            Put::Created => {
                walk.begin(chain.epoch.next(), &seal).await?;
                Ok(Sealed::Now)
            }
            Put::Exists => match read_facts(self.store(), &path, self.format()).await? {
                Some(FileFacts {
                    seal: Some(seal), ..
                }) => {
                    walk.begin(chain.epoch.next(), &seal).await?;
                    Ok(Sealed::Before)
                }
                facts => Err(RepairError::OtherEnd {
                    partition: partition.clone(),
                    expected: expected_end,
                    found: facts.map_or(chain.end, |f| f.range.end),
                }),
            },
        }
    }
}

/// What [`FileSink::seal`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// The chain was ended now.
    Now,
    /// It had been ended before; nothing was changed.
    Before,
}

/// Why a chain was not ended.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The chain could not be walked.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// The file could not be made.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The winner of the put could not be read.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain does not end where the operator believes.
    #[error(
        "{partition}: the files end at offset {found}, not at {expected}; nothing was changed. \
         Start without the flag and read what it says now"
    )]
    OtherEnd {
        /// The partition.
        partition: PartitionId,
        /// The end named on the command line.
        expected: Offset,
        /// The end found.
        found: Offset,
    },
    /// Messages that are in files would be read again.
    #[error(
        "{partition}: an epoch that begins at {origin} would put messages into the table twice: \
         those of this topic before offset {unread} are in files; nothing was changed. \
         To read messages again, write to a new table"
    )]
    Twice {
        /// The partition.
        partition: PartitionId,
        /// The origin asked for.
        origin: Offset,
        /// The first offset that is in no file.
        unread: Offset,
    },
    /// The log has no such offset.
    #[error(
        "{partition}: an epoch cannot begin at {origin}, for the log reaches from {low} to {high}; \
         nothing was changed"
    )]
    NotInLog {
        /// The partition.
        partition: PartitionId,
        /// The origin asked for.
        origin: Offset,
        /// The log's beginning.
        low: Offset,
        /// The log's end.
        high: Offset,
    },
}

impl Walk<'_> {
    /// Checks where the epoch after `epoch`, which ends at `end`, may begin: no message may come
    /// into the table twice. What counts is the topic, not its name.
    ///
    /// # Errors
    /// [`RepairError`].
    pub(super) async fn check_origin(
        &self,
        log: &LogFacts,
        epoch: Epoch,
        end: Offset,
        seal: &Seal,
    ) -> Result<(), RepairError> {
        let (partition, origin) = (self.partition.clone(), seal.origin);
        // What is known to have been written may end before the log: the next start tells the gap.
        if (origin < log.low && origin != end) || origin > log.high {
            return Err(RepairError::NotInLog {
                partition,
                origin,
                low: log.low,
                high: log.high,
            });
        }
        let mut epochs = Vec::new();
        for earlier in (0..=epoch.0).map(Epoch) {
            let Some(begun) = self.origin_of(earlier).await? else {
                // Somebody deleted it: what is known of the last one counts.
                epochs.extend((earlier == epoch).then_some((None, end)));
                continue;
            };
            if begun.identity.contradicts(&log.identity) {
                continue;
            }
            let ends = match earlier == epoch {
                true => end,
                // The seal stands at the chain's end.
                false => match self.starts(earlier, None).await?.last() {
                    Some(end) => *end,
                    None => continue,
                },
            };
            // A topic whose id nobody tells, and whose log is shorter than its files: another.
            if ends > log.high && !begun.identity.is_surely(&log.identity) {
                continue;
            }
            epochs.push((begun.truncated_at, ends));
        }
        let unread = unread(epochs, seal.truncated_at, log.high);
        if origin < unread {
            return Err(RepairError::Twice {
                partition,
                origin,
                unread,
            });
        }
        Ok(())
    }
}
