//! Traces of images.

use super::{Flaw, Secret, authorization_flaw, is_web_address, settings};

settings! {
    /// Traces of images, in a build with the feature `otlp`.
    TraceConfig {
        /// Address of an OpenTelemetry collector (`http://collector:4318`), which is sent a span
        /// for every image that is sampled, as OTLP in Protobuf over HTTP, at `/v1/traces` below
        /// it. Empty: nothing is traced.
        endpoint: String = String::new(),
        /// What the requests' `Authorization` says, as `Bearer ...`; empty: nothing.
        authorization: Secret = Secret::default(),
        /// Share of images that are traced, 0 to 1, of those whose message has no `traceparent`
        /// among its headers. Where there is one, its sender has decided.
        sample_ratio: f64 = 0.01,
        /// What the spans' service is called.
        service_name: String = "tagstream".into(),
        /// Spans that may wait to be sent, about 1 KiB each; more are dropped and counted
        /// (`tagstream_trace_spans_total`). All images of a file end together.
        queue: usize = 8_192,
        /// Time for one request, all tries together. A stage that ends waits for it.
        timeout_ms: u64 = 10_000,
    }
}

impl TraceConfig {
    /// What cannot be although every type is right.
    pub fn flaws(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        if !self.endpoint.is_empty() && !is_web_address(&self.endpoint) {
            let reason = "is no `http` or `https` address of a collector";
            flaws.push(Flaw::new("trace.endpoint", reason));
        }
        flaws.extend(authorization_flaw(
            "trace.authorization",
            &self.authorization,
        ));
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            let reason = "must be a share, from 0 to 1";
            flaws.push(Flaw::new("trace.sample_ratio", reason));
        }
        if self.service_name.is_empty() {
            let reason = "is empty: collectors tell services apart by it";
            flaws.push(Flaw::new("trace.service_name", reason));
        }
        for (is_zero, key) in [
            (self.queue == 0, "trace.queue"),
            (self.timeout_ms == 0, "trace.timeout_ms"),
        ] {
            if is_zero {
                flaws.push(Flaw::new(key, "must be at least 1"));
            }
        }
        flaws
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_traced_to_is_refused() {
        let config = TraceConfig {
            endpoint: "collector:4318".into(),
            authorization: Secret::from("Bearer hunter2\n".to_owned()),
            sample_ratio: f64::NAN,
            service_name: String::new(),
            queue: 0,
            timeout_ms: 0,
        };
        let flaws = config.flaws();
        let keys = flaws.iter().map(|flaw| flaw.key.as_str());
        assert_eq!(
            keys.collect::<Vec<_>>(),
            [
                "trace.endpoint",
                "trace.authorization",
                "trace.sample_ratio",
                "trace.service_name",
                "trace.queue",
                "trace.timeout_ms",
            ]
        );
        assert!(!format!("{config:?} {flaws:?}").contains("hunter2"));
        assert!(TraceConfig::default().flaws().is_empty());
    }
}
