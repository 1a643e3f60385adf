//! Why a file of categories cannot be used.

use std::path::PathBuf;

/// Why a file of categories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CategoryListError {
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is not what it should be.
    #[error("{} line {line}: {flaw}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        flaw: String,
    },
    /// A cell is not what it should be.
    #[error("{} line {line}, column `{column}`, `{value}`: {flaw}", .path.display())]
    Cell {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The column's name.
        column: String,
        /// What stands there.
        value: String,
        /// What is wrong, and what to do about it.
        flaw: String,
    },
    /// No line names a category.
    #[error("{} names no category", .0.display())]
    Empty(PathBuf),
}

/// Names as a message lists them.
pub(super) fn join_names<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}
