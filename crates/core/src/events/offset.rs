//! Offsets as newtypes and half-open ranges that refuse what cannot be right.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A Kafka offset: the position of one message in one partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The offset after this one.
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number within the topic.
    pub partition: i32,
}

impl PartitionId {
    /// A partition of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        PartitionId {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Where a message came from: the key that makes duplicates recognisable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SourcePosition {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset in that partition.
    pub offset: Offset,
    /// Which of the message's records, from 0.
    #[serde(default, skip_serializing_if = "is_first")]
    pub record: u32,
}

fn is_first(record: &u32) -> bool {
    *record == 0
}

/// A half-open range `[start, end)` of one partition's log.
///
/// ```
/// use tagstream_core::events::{Offset, OffsetRange, RangeError};
///
/// let first = OffsetRange::new(Offset(0), Offset(100))?;
/// assert!(first.contains(Offset(99)) && !first.contains(Offset(100)));
///
/// // The files of a partition are a chain: the next begins where this one ends.
/// let second = OffsetRange::new(Offset(100), Offset(160))?;
/// assert_eq!(first.try_extend(second)?.to_string(), "[0, 160)");
/// let too_far = OffsetRange::new(Offset(101), Offset(160))?;
/// assert!(matches!(first.try_extend(too_far), Err(RangeError::NotContiguous { .. })));
/// # Ok::<(), RangeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset inside.
    pub start: Offset,
    /// First offset after.
    pub end: Offset,
}

/// Why a range was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// `end` lies before `start`.
    #[error("offset range ends before it starts: [{start}, {end})")]
    Backwards {
        /// The start asked for.
        start: Offset,
        /// The end asked for.
        end: Offset,
    },
    /// The next range does not start where this one ends.
    #[error(
        "offset range {next:?} does not continue {this:?}: a chain has neither gap nor overlap"
    )]
    NotContiguous {
        /// The range so far.
        this: OffsetRange,
        /// The range that was to follow.
        next: OffsetRange,
    },
}

impl OffsetRange {
    /// `[start, end)`.
    ///
    /// # Errors
    /// [`RangeError::Backwards`] if `end < start`.
    pub fn new(start: Offset, end: Offset) -> Result<Self, RangeError> {
        if end < start {
            return Err(RangeError::Backwards { start, end });
        }
        Ok(OffsetRange { start, end })
    }

    /// How many offsets lie inside. Not the number of messages: logs may have holes.
    pub fn len(self) -> u64 {
        (self.end.0 - self.start.0) as u64
    }

    /// Whether no offset lies inside.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `offset` lies inside.
    pub fn contains(self, offset: Offset) -> bool {
        self.start <= offset && offset < self.end
    }

    /// The range extended by the one that follows it.
    ///
    /// # Errors
    /// [`RangeError::NotContiguous`] unless `next` starts exactly where this range ends.
    pub fn try_extend(self, next: OffsetRange) -> Result<OffsetRange, RangeError> {
        if next.start != self.end {
            return Err(RangeError::NotContiguous { this: self, next });
        }
        Ok(OffsetRange {
            start: self.start,
            end: next.end,
        })
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end)).unwrap()
    }

    #[test]
    fn a_backwards_range_is_refused() {
        assert!(OffsetRange::new(Offset(3), Offset(2)).is_err());
        assert!(range(3, 3).is_empty());
    }

    #[test]
    fn ranges_are_half_open() {
        let r = range(3, 5);
        assert_eq!(r.len(), 2);
        assert!(r.contains(Offset(3)) && r.contains(Offset(4)));
        assert!(!r.contains(Offset(2)) && !r.contains(Offset(5)));
    }

    #[test]
    fn only_the_exact_continuation_extends() {
        assert_eq!(range(0, 5).try_extend(range(5, 9)).unwrap(), range(0, 9));
        assert!(range(0, 5).try_extend(range(6, 9)).is_err());
        assert!(range(0, 5).try_extend(range(4, 9)).is_err());
    }
}
