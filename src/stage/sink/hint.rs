//! What is committed to Kafka beside an offset.

use tagstream_core::events::Offset;
use tagstream_core::storage::names::Epoch;

/// The metadata that we commit beside an offset: the file that ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitHint {
    /// The file's chain.
    pub epoch: Epoch,
    /// The file's start.
    pub start: Offset,
}

impl CommitHint {
    /// As Kafka keeps it.
    pub fn to_metadata(self) -> String {
        format!("tagstream/{}/{}", self.epoch, self.start)
    }

    /// Reads it back; `None` for what we did not write.
    pub fn from_metadata(metadata: &str) -> Option<Self> {
        let (epoch, start) = metadata.strip_prefix("tagstream/")?.split_once('/')?;
        Some(CommitHint {
            epoch: Epoch(epoch.parse().ok()?),
            start: Offset(start.parse().ok()?),
        })
    }
}
