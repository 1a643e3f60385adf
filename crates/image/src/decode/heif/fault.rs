//! What can be wrong with a HEIF file.

/// Why it is not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It contradicts itself, or ends early.
    Damaged(&'static str),
    /// It is sound, and of a kind that is not read here.
    Unsupported(String),
    /// The decoder was given no more memory.
    Memory,
}

/// Something that should follow is not there.
pub(super) const ENDS_EARLY: Fault = Fault::Damaged("it ends early");
