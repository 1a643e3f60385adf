//! Why a record gives no row.

use crate::stage::fetch::{FetchError, Resource};
use crate::stage::row_maker::MakeError;
use tagstream_core::events::DeadLetterKind;
use tagstream_core::failpoint::Injected;

/// Why a record gives no row.
pub(super) enum NoRow {
    DeadLetter(DeadLetterKind, String),
    Left,
    /// This process lacked something: the image is to be had again.
    Lacking(Resource, String),
    Fatal(MakeError),
}

impl From<FetchError> for NoRow {
    fn from(error: FetchError) -> Self {
        match &error {
            FetchError::Left { .. } => NoRow::Left,
            FetchError::Own { .. } => NoRow::Fatal(MakeError::Lacking(error.to_string())),
            _ => NoRow::DeadLetter(error.kind(), error.to_string()),
        }
    }
}

impl From<Injected> for NoRow {
    fn from(error: Injected) -> Self {
        NoRow::Fatal(error.into())
    }
}
