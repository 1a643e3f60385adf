//! What a person can order where a partition cannot go on by itself. Refusals print these orders,
//! `tagstream run` takes them; both by this type, so that what is printed is what can be done.
//!
//! Every order names the end of the chain that was looked at: it cannot hit another, and does
//! nothing when it is given again.

use super::chain::SealReason;
use std::fmt;
use std::str::FromStr;
use tagstream_core::events::{Offset, PartitionId};

/// Where a new epoch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipTo {
    /// The log's beginning.
    Earliest,
    /// The log's end.
    Latest,
    /// An offset.
    At(Offset),
}

impl fmt::Display for SkipTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SkipTo::Earliest => f.write_str("earliest"),
            SkipTo::Latest => f.write_str("latest"),
            SkipTo::At(offset) => offset.fmt(f),
        }
    }
}

/// The first offset of a log that is in no file of its `epochs`: each with the offset from which on
/// the log had been cut when it began, and its end. `cut` is where it was cut since, `high` where
/// it ends.
pub(super) fn unread(
    epochs: impl IntoIterator<Item = (Option<Offset>, Offset)>,
    cut: Option<Offset>,
    high: Offset,
) -> Offset {
    // What a log lost is no longer in it, and what it has not got yet is in no file.
    let after = |unread: Offset, cut: Option<Offset>| cut.map_or(unread, |at| unread.min(at));
    let read = epochs
        .into_iter()
        .fold(Offset(0), |unread, (cut, end)| after(unread, cut).max(end));
    after(read, cut).min(high)
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairKind {
    /// End the chain; the next epoch begins there.
    NewEpoch(SkipTo),
    /// End the chain, because retention deleted messages behind it; the next epoch begins where the
    /// log does.
    AcceptGap,
    /// Put the group's offset back to the end of the files.
    RestoreOffset,
}

/// An order of an operator for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The partition.
    pub partition: PartitionId,
    /// The chain's end, as the refusal named it.
    pub end: Offset,
    /// What is to be done.
    pub kind: RepairKind,
}

/// An order that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {1}")]
pub struct BadRepair(String, &'static str);

fn partition_at(text: &str) -> Option<(PartitionId, Offset)> {
    let (partition, end) = text.rsplit_once('@')?;
    let (topic, number) = partition.rsplit_once('/')?;
    Some((
        PartitionId::new(topic, number.parse().ok()?),
        Offset(i64::from_str(end).ok().filter(|end| *end >= 0)?),
    ))
}

impl Repair {
    /// Reads `TOPIC/PARTITION@END=earliest|latest|OFFSET`, as `--new-epoch` takes it.
    ///
    /// # Errors
    /// [`BadRepair`].
    pub fn new_epoch(text: &str) -> Result<Self, BadRepair> {
        let parse = || {
            let (left, to) = text.rsplit_once('=')?;
            let (partition, end) = partition_at(left)?;
            let to = match to {
                "earliest" => SkipTo::Earliest,
                "latest" => SkipTo::Latest,
                offset => SkipTo::At(Offset(i64::from_str(offset).ok().filter(|o| *o >= 0)?)),
            };
            let kind = RepairKind::NewEpoch(to);
            Some(Repair {
                partition,
                end,
                kind,
            })
        };
        parse().ok_or_else(|| BadRepair(text.into(), "TOPIC/PARTITION@END=earliest|latest|OFFSET"))
    }

    /// Reads `TOPIC/PARTITION@END`, as `--accept-gap` takes it.
    ///
    /// # Errors
    /// [`BadRepair`].
    pub fn accept_gap(text: &str) -> Result<Self, BadRepair> {
        Self::at_end(text, RepairKind::AcceptGap)
    }

    /// Reads `TOPIC/PARTITION@END`, as `--restore-offset` takes it.
    ///
    /// # Errors
    /// [`BadRepair`].
    pub fn restore_offset(text: &str) -> Result<Self, BadRepair> {
        Self::at_end(text, RepairKind::RestoreOffset)
    }

    fn at_end(text: &str, kind: RepairKind) -> Result<Self, BadRepair> {
        let (partition, end) =
            partition_at(text).ok_or_else(|| BadRepair(text.into(), "TOPIC/PARTITION@END"))?;
        Ok(Repair {
            partition,
            end,
            kind,
        })
    }

    /// Where the next epoch begins and why, if the chain is to be ended.
    pub fn ends_chain(&self) -> Option<(SkipTo, SealReason)> {
        match self.kind {
            RepairKind::NewEpoch(to) => Some((to, SealReason::NewEpoch)),
            RepairKind::AcceptGap => Some((SkipTo::Earliest, SealReason::AcceptedGap)),
            RepairKind::RestoreOffset => None,
        }
    }
}

/// The command, as refusals print it.
impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (partition, end) = (&self.partition, self.end);
        match self.kind {
            RepairKind::NewEpoch(to) => {
                write!(f, "tagstream run --new-epoch {partition}@{end}={to}")
            }
            RepairKind::AcceptGap => write!(f, "tagstream run --accept-gap {partition}@{end}"),
            RepairKind::RestoreOffset => {
                write!(f, "tagstream run --restore-offset {partition}@{end}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_refusals_print_them() {
        let kinds = [
            RepairKind::NewEpoch(SkipTo::Earliest),
            RepairKind::NewEpoch(SkipTo::Latest),
            RepairKind::NewEpoch(SkipTo::At(Offset(70))),
            RepairKind::AcceptGap,
            RepairKind::RestoreOffset,
        ];
        for kind in kinds {
            let repair = Repair {
                partition: PartitionId::new("my/images", 3),
                end: Offset(1000),
                kind,
            };
            let printed = repair.to_string();
            let words: Vec<_> = printed.split(' ').collect();
            let read = match words[2] {
                "--new-epoch" => Repair::new_epoch(words[3]),
                "--accept-gap" => Repair::accept_gap(words[3]),
                "--restore-offset" => Repair::restore_offset(words[3]),
                other => panic!("{other}"),
            };
            assert_eq!(read, Ok(repair), "{printed}");
        }
        for bad in [
            "images@1000=earliest",
            "images/3=earliest",
            "images/3@x=earliest",
            "images/3@-1=earliest",
            "images/3@1=-5",
        ] {
            assert!(Repair::new_epoch(bad).is_err(), "{bad}");
        }
    }
}
