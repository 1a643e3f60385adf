//! Traces: a span an image, from its message to the committed file or the dead letter, told to an
//! OpenTelemetry collector.
//!
//! A message's `traceparent` (W3C) is continued, and the prediction's message names the image's
//! span in its own. In a build without the feature `otlp` nothing is traced, and a configuration
//! that asks for it is refused.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod exporter;
#[cfg(feature = "otlp")]
mod span;

#[cfg(not(feature = "otlp"))]
pub use absent::{NoImageTrace as ImageTrace, NoTraces as Traces};
#[cfg(feature = "otlp")]
pub use exporter::Traces;
#[cfg(feature = "otlp")]
pub use span::ImageTrace;

use bytes::Bytes;
use tagstream_core::config::{Flaw, TraceConfig};

/// Headers of a message.
pub(in crate::stage) type HeaderList = Vec<(String, Option<Bytes>)>;

/// A step that an image has behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceStep {
    /// Its bytes are here.
    Fetched,
    /// Its pixels are in a batch.
    Decoded,
    /// The model has answered.
    Inferred,
}

impl TraceStep {
    /// What the span's event is called.
    pub fn as_str(self) -> &'static str {
        match self {
            TraceStep::Fetched => "fetched",
            TraceStep::Decoded => "decoded",
            TraceStep::Inferred => "inferred",
        }
    }
}

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The build sends no traces.
    #[error("configuration: `{}` {}", .0.key, .0.reason)]
    NotBuilt(Flaw),
    /// There is no client for the collector.
    #[error("no client for the collector of `trace.endpoint` can be made: {0}")]
    Client(String),
}

/// What this build has against the configuration.
pub fn flaw(config: &TraceConfig) -> Option<Flaw> {
    missing(config, cfg!(feature = "otlp"))
}

fn missing(config: &TraceConfig, is_built: bool) -> Option<Flaw> {
    if is_built || config.endpoint.is_empty() {
        return None;
    }
    let reason = "is set, and this build sends no traces: build it with `cargo build --features \
                  otlp`, or leave it empty";
    Some(Flaw::new("trace.endpoint", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_traces_refuses_to_be_asked_for_them() {
        let mut config = TraceConfig::default();
        assert!(missing(&config, false).is_none());
        config.endpoint = "http://collector:4318".into();
        assert!(missing(&config, true).is_none());
        let flaw = missing(&config, false).unwrap();
        let error = TraceError::NotBuilt(flaw).to_string();
        assert!(
            error.contains("`trace.endpoint` is set") && error.contains("--features otlp"),
            "{error}"
        );
        assert_eq!(
            cfg!(feature = "otlp"),
            super::flaw(&config).is_none(),
            "what the build has"
        );
    }
}
