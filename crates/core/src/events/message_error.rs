//! What can be wrong with a message.

/// Why a message could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No bytes, or nothing but blanks.
    #[error("the message is empty")]
    Empty,
    /// The bytes are not UTF-8.
    #[error("the message is not UTF-8 (first bad byte at {position})")]
    NotUtf8 {
        /// Position of the first byte that is not UTF-8.
        position: usize,
    },
    /// Not JSON, or not the JSON of this message type.
    #[error("the message is not a valid {what}: {reason}")]
    NotValid {
        /// The message type expected.
        what: &'static str,
        /// What the JSON parser or the type said.
        reason: String,
    },
    /// A field that must be there is not, or is null.
    #[error("the message has no `{field}` (looked for at {place})")]
    Missing {
        /// The field's name.
        field: &'static str,
        /// Where it was looked for.
        place: String,
    },
    /// A field that says what it cannot say.
    #[error("the message's `{field}` {reason}")]
    Field {
        /// The field's name.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field that must say something is empty.
    #[error("the message's `{field}` is empty")]
    EmptyField {
        /// The field's name.
        field: &'static str,
    },
    /// A time that some reader of the tables could not read.
    #[error(
        "the message's {of} is {time}, which not every reader of a table takes: give one from \
             {first} on and before {end}"
    )]
    TimeOutOfRange {
        /// Which of its times.
        of: &'static str,
        /// The time.
        time: String,
        /// The first that can be.
        first: &'static str,
        /// The first that cannot be any more.
        end: &'static str,
    },
}
