//! What can be wrong with label files.

use std::path::{Path, PathBuf};
use tagstream_core::image_id::SameId;

/// Why labels could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Not CSV.
    #[error("{}", no_table(.0))]
    Csv(#[from] csv::Error),
    /// Not JSON, or not JSON of this form.
    #[error("not a {form} file: {source}")]
    Json {
        /// The form expected.
        form: &'static str,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A table has no such column.
    #[error(
        "line 1: there is no column `{column}`; found: {found}{}",
        remedy(column)
    )]
    NoColumn {
        /// The column.
        column: &'static str,
        /// The beginning of what is there instead.
        found: String,
    },
    /// A line or record says something that cannot be.
    #[error("{place}: {reason}")]
    Record {
        /// Which line or record.
        place: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// Two pictures would have one name.
    #[error(transparent)]
    SameId(#[from] SameId),
    /// A form that is read only.
    #[error("this form is read and not written; written are {0}")]
    NotWritten(String),
    /// Nothing is left to work with.
    #[error("it {0}")]
    Empty(String),
}

impl LabelsError {
    /// The error with the file in which it is.
    pub fn at(self, path: &Path) -> LabelFileError {
        LabelFileError {
            path: path.to_path_buf(),
            error: self,
        }
    }
}

/// A label file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", .path.display())]
pub struct LabelFileError {
    /// The file, or the folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: LabelsError,
}

/// A fault of CSV by its line, and what would be read.
fn no_table(error: &csv::Error) -> String {
    let line = error.position().map_or(0, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => format!(
            "line {line}: field {} is not UTF-8; tables in UTF-8 and UTF-16 are read",
            err.field() + 1
        ),
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("line {line}: it has {len} fields, and those before it have {expected_len}"),
        _ => error.to_string(),
    }
}

/// What to do where a column is missing: an import may be told another's name.
fn remedy(column: &str) -> &'static str {
    match column {
        "image_id" => ". `labels import` takes another by --id-column NAME",
        "label" => ". `labels import` takes another by --label-column NAME",
        "state" => {
            ". `labels import` reads every row as a presence if --label-column names the labels"
        }
        _ => "",
    }
}

pub(super) fn record(place: impl Into<String>, reason: impl Into<String>) -> LabelsError {
    LabelsError::Record {
        place: place.into(),
        reason: reason.into(),
    }
}

/// The error of a line, counted from 1.
pub(super) fn line(number: u64, reason: impl Into<String>) -> LabelsError {
    record(format!("line {number}"), reason)
}
