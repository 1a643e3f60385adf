//! Work that waits or computes for long, on a thread where no task of the runtime waits for it.

use thiserror::Error;

/// The work has no result: it panicked, or the runtime ended before it began.
#[derive(Debug, Error)]
#[error("work on a thread of its own ended without a result: {0}")]
pub struct NoResult(String);

impl From<tokio::task::JoinError> for NoResult {
    fn from(error: tokio::task::JoinError) -> Self {
        NoResult(error.to_string())
    }
}

impl From<NoResult> for std::io::Error {
    fn from(error: NoResult) -> Self {
        std::io::Error::other(error)
    }
}

/// Runs `work` on a thread for blocking work and waits for its result. Dropped before that, it
/// leaves the work running: it cannot be interrupted.
///
/// # Errors
/// [`NoResult`], with the panic's message where there is one.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        assert_eq!(run(|| 7).await.unwrap(), 7);
        let error = run(|| panic!("out of paper")).await.unwrap_err();
        assert!(error.to_string().contains("out of paper"), "{error}");
    }
}
