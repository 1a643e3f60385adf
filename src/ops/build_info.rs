//! Which build this process is, for whoever collects metrics.

use tagstream_core::build;

/// Sets the gauge `tagstream_build_info`.
pub fn publish() {
    metrics::gauge!(
        "tagstream_build_info", "version" => build::VERSION, "revision" => build::revision()
    )
    .set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_that_runs_is_named() {
        let recorder = crate::ops::metrics::recorder();
        metrics::with_local_recorder(&recorder, publish);
        let text = recorder.handle().render();
        let line = format!(
            "tagstream_build_info{{version=\"{}\",revision=\"",
            build::VERSION
        );
        let found = text
            .lines()
            .any(|l| l.starts_with(&line) && l.ends_with("\"} 1"));
        assert!(found, "{text}");
    }
}
