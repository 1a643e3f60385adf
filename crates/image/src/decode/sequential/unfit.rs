//! The answer that leaves a file to libjpeg-turbo.

/// The file is of no kind that is read here, or it is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfit;
