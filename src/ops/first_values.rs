//! Counters that are there before they count. One that appears with its first event has no value
//! before it, so nothing has increased: a rule that waits for the first refusal would sleep through
//! it.

use super::metrics::{METRICS, MetricKind};
use tagstream_core::config::StageConfig;
use tagstream_core::events::DeadLetterKind;

/// Begins the counters of a stage that reads these topics at 0.
pub fn publish(config: &StageConfig, images: bool, labels: bool) {
    let plain = METRICS.iter().filter(|metric| metric.labels.is_empty());
    for metric in plain.filter(|metric| metric.kind == MetricKind::Counter) {
        metrics::counter!(metric.name).increment(0);
    }
    for result in ["done", "refused"] {
        metrics::counter!("tagstream_model_swaps_total", "result" => result).increment(0);
    }
    let of_images = config.source.image_topics().into_iter();
    // Which topics a pattern takes is not known yet.
    let of_images = of_images
        .map(|(_, topic)| topic)
        .filter(|topic| !topic.starts_with('^'));
    let of_images = of_images.map(|topic| (images, topic, &config.output.table));
    let of_labels = (labels, &*config.labels.topic, &config.labels.table);
    let lines = of_images.chain([of_labels]);
    for (_, topic, table) in lines.filter(|(is_read, ..)| *is_read) {
        let topic = || topic.to_owned();
        metrics::counter!("tagstream_messages_total", "topic" => topic()).increment(0);
        for kind in DeadLetterKind::ALL {
            metrics::counter!(
                "tagstream_dead_letters_total", "topic" => topic(), "kind" => kind.as_str()
            )
            .increment(0);
        }
        metrics::counter!("tagstream_rows_total", "table" => table.clone()).increment(0);
        metrics::counter!("tagstream_store_retries_total", "table" => table.clone()).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_ask_the_increase_of_is_there_at_zero() {
        let recorder = crate::ops::metrics::recorder();
        let config = StageConfig::default();
        metrics::with_local_recorder(&recorder, || publish(&config, true, false));
        let text = recorder.handle().render();
        for series in [
            "tagstream_model_versions_refused_total 0",
            "tagstream_outages_total 0",
            "tagstream_model_swaps_total{result=\"refused\"} 0",
            "tagstream_messages_total{topic=\"images\"} 0",
            "tagstream_dead_letters_total{topic=\"images\",kind=\"not_found\"} 0",
            "tagstream_store_retries_total{table=\"predictions\"} 0",
        ] {
            assert!(text.lines().any(|line| line == series), "{series}\n{text}");
        }
        assert!(!text.contains("topic=\"labels\""), "not read\n{text}");
    }
}
