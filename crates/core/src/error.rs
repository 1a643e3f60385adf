//! Exit codes, shared by every command, and the error that carries one.
//!
//! Each room of the library has an error enum of its own (`thiserror`), whose variants name the
//! thing that went wrong; the binary turns them into `anyhow` and, through [`Exit`], into the
//! process's exit code.

use std::io::Write;

/// What a finished process tells its caller. The numbers are a contract (see `tagstream --help`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success; for `retrain`: a new model was promoted.
    Success = 0,
    /// Any failure that no other code names.
    Failure = 1,
    /// Wrong arguments or configuration: repeating the call cannot help.
    Usage = 2,
    /// `retrain`: the candidate was judged worse and rejected.
    Rejected = 3,
    /// A temporary failure (a broker, a store or a lease was not available): repeating the call may
    /// help.
    Temporary = 75,
    /// `retrain`: nothing to do, or the candidate was held.
    NothingToDo = 99,
}

impl Exit {
    /// Ends the process with this code, at once. Destructors of libraries do not run: ONNX Runtime
    /// and librdkafka have threads of their own, and one that still works while its library is torn
    /// down crashes a process that has done everything right.
    pub fn end_process(self) -> ! {
        // What cannot be written now could not be written a moment later.
        let _ = std::io::stdout().flush();
        let _ = std::io::stderr().flush();
        // SAFETY: `_exit` takes a number and does not return; it runs no code of this process.
        unsafe { libc::_exit(self as i32) }
    }
}

/// An error together with the exit code it should end the process with.
///
/// Attach it with `anyhow::Error::new(WithExit { .. })` or [`usage`]; the binary looks for it in
/// the chain.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct WithExit {
    /// The code the process ends with.
    pub exit: Exit,
    /// What went wrong and what to do about it.
    pub message: String,
}

/// A usage or configuration error (exit code 2) with the message given.
pub fn usage(message: impl Into<String>) -> WithExit {
    WithExit {
        exit: Exit::Usage,
        message: message.into(),
    }
}
