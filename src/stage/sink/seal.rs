//! How an operator ends a chain, so that the next epoch goes on elsewhere.

use super::chain::{Chain, FileFacts, Proposal, Seal, WriterId};
use super::files::{FileSink, SinkError};
use super::footer::{FooterError, read_facts};
use super::table::TableRow;
use super::walk::{LogFacts, ResumeError};
use tagstream_core::config::StartAt;
use tagstream_core::events::{Offset, OffsetRange, PartitionId};
use tagstream_core::storage::names::Epoch;
use tagstream_core::storage::store::{Put, StoreError};

impl<R: TableRow> FileSink<R> {
    /// Ends the chain of `partition` that ends at `expected_end`, so that the next epoch goes on at
    /// `seal.origin`, whoever still writes. Does nothing if that chain was ended before.
    ///
    /// # Errors
    /// [`RepairError`] if the chain ends elsewhere, or the store fails.
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
        let chain = match walk.walk(log, StartAt::Earliest).await {
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
        let range = OffsetRange {
            start: chain.end,
            end: chain.end,
        };
        let proposal = Proposal {
            epoch: chain.epoch,
            range,
            writer: writer.clone(),
        };
        let facts = FileFacts {
            range,
            writer: writer.clone(),
            seal: Some(seal.clone()),
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
}
