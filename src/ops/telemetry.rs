//! Logs: text for people on a terminal, JSON for machines otherwise; and a brake for warnings that
//! could come with every message.

use std::io;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tagstream_core::config::{LogConfig, LogFormat};
use tracing_subscriber::{EnvFilter, fmt};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` is not a filter.
    #[error("configuration: `log.filter` = `{filter}` is not a level or filter: {reason}")]
    Filter {
        /// What was configured.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Sets the process's log up; a second call changes nothing. Lines go to stderr, stdout belongs to
/// `--json`.
///
/// # Errors
/// [`TelemetryError`] names the filter.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = filter(&config.filter)?;
    let text = match config.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let lines = fmt().with_env_filter(filter).with_writer(io::stderr);
    // An error says that there is a subscriber already: a test's, or an embedding program's.
    let _ = if text {
        lines.with_ansi(io::stderr().is_terminal()).try_init()
    } else {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init()
    };
    Ok(())
}

/// Whether [`init`] would take the configuration.
///
/// # Errors
/// [`TelemetryError`] names the filter.
pub fn check(config: &LogConfig) -> Result<(), TelemetryError> {
    filter(&config.filter).map(drop)
}

/// The configured filter. ONNX Runtime speaks at every step of a session's making: only its
/// warnings are let through, unless the filter says otherwise.
fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let with_ort = if text.contains("ort=") {
        text.to_owned()
    } else {
        format!("{text},ort=warn")
    };
    EnvFilter::builder()
        .parse(with_ort)
        .map_err(|e| TelemetryError::Filter {
            filter: text.to_owned(),
            reason: e.to_string(),
        })
}

/// Lets one warning through per interval and counts the rest.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tagstream::ops::telemetry::RateLimit;
///
/// let limit = RateLimit::new(Duration::from_secs(10));
/// if let Some(suppressed) = limit.pass(Instant::now()) {
///     tracing::warn!(suppressed, "an image could not be fetched");
/// }
/// ```
#[derive(Debug)]
pub struct RateLimit {
    start: Instant,
    interval: Duration,
    /// Milliseconds since `start` at which the next may pass.
    next_ms: AtomicU64,
    suppressed: AtomicU64,
}

impl RateLimit {
    /// One per `interval`.
    pub fn new(interval: Duration) -> Self {
        RateLimit {
            start: Instant::now(),
            interval,
            next_ms: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// `Some` if a warning may be written at `now`, with the number of those that were not since
    /// the last.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let now_ms = now.saturating_duration_since(self.start).as_millis() as u64;
        let next = self.next_ms.load(Ordering::Relaxed);
        let after = now_ms + self.interval.as_millis() as u64;
        let won = now_ms >= next
            && self
                .next_ms
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if won {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_passes_per_interval_and_the_rest_are_counted() {
        let limit = RateLimit::new(Duration::from_secs(10));
        let at = |seconds| limit.start + Duration::from_secs(seconds);
        assert_eq!(limit.pass(at(0)), Some(0));
        for second in 1..10 {
            assert_eq!(limit.pass(at(second)), None);
        }
        assert_eq!(limit.pass(at(10)), Some(9));
        assert_eq!(limit.pass(at(11)), None);
    }

    #[test]
    fn a_bad_filter_is_named() {
        let error = filter("tagstream=loud").unwrap_err().to_string();
        assert!(
            error.contains("log.filter") && error.contains("tagstream=loud"),
            "{error}"
        );
        assert!(filter("info").unwrap().to_string().contains("ort=warn"));
        assert!(
            !filter("info,ort=debug")
                .unwrap()
                .to_string()
                .contains("ort=warn")
        );
    }
}
