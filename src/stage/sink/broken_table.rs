//! What is said where a part of a chain is gone that `tagstream table expire` did not take.

use super::repair::{Repair, RepairKind, SkipTo};
use tagstream_core::events::{Offset, PartitionId};
use tagstream_core::storage::names::Epoch;

/// A chain without its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostChain {
    /// The chain.
    pub epoch: Epoch,
    /// Where it ended at least.
    pub end: Offset,
    /// What tells of it.
    told_by: Teller,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Teller {
    Files,
    Group,
}

pub(super) const DELETED: &str = "something else than `tagstream table expire` deleted a part of \
     the table (a lifecycle rule of the bucket?). Nothing was written. Bring it back if the store \
     keeps versions";

impl LostChain {
    /// Files are there, their origin is not.
    pub(super) fn by_files(epoch: Epoch, end: Offset) -> Self {
        let told_by = Teller::Files;
        LostChain {
            epoch,
            end,
            told_by,
        }
    }

    /// The group's offset names a file of a chain of which nothing is there.
    pub(super) fn by_group(epoch: Epoch, end: Offset) -> Self {
        let told_by = Teller::Group;
        LostChain {
            epoch,
            end,
            told_by,
        }
    }

    /// The cause and what helps.
    pub(super) fn message(&self, partition: &PartitionId, folder: &str) -> String {
        let LostChain { epoch, end, .. } = self;
        let seen = match self.told_by {
            Teller::Files => format!(
                "{folder} holds files of epoch {epoch} up to offset {end}, but not \
                 `_{epoch}-origin.json`, with which they begin"
            ),
            Teller::Group => format!(
                "the group's offset {end} was committed with a file of epoch {epoch} of this \
                 table, but {folder} holds nothing of that epoch"
            ),
        };
        let repair = Repair {
            partition: partition.clone(),
            end: *end,
            kind: RepairKind::NewEpoch(SkipTo::At(*end)),
        };
        format!(
            "{partition}: {seen}: {DELETED}. To read messages again, write to a new table. To go \
             on from there: {repair}"
        )
    }
}
