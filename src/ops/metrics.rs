//! Every metric there is, in one table: names, kinds, labels, help. `docs/metrics.md` is made from
//! it.

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// What a metric measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution over these upper bounds.
    Histogram(&'static [f64]),
}

/// A row of the table that `docs/metrics.md` is made from.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name: base units, `_total` for counters.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// Labels; each has few values.
    pub labels: &'static str,
    /// What it means.
    pub help: &'static str,
}

const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];
const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

macro_rules! table {
    ($($name:literal $kind:expr, [$labels:literal] $help:literal;)*) => {
        &[$(Metric { name: $name, kind: $kind, labels: $labels, help: $help },)*]
    };
}

/// Every metric, by the step it belongs to.
pub const METRICS: &[Metric] = {
    use MetricKind::{Counter, Gauge, Histogram};
    table! {
        // process
        "tagstream_build_info" Gauge, ["version, revision"]
            "1 for the build that runs; `revision` is empty where it is not known.";
        // source
        "tagstream_messages_total" Counter, ["topic"] "Messages read.";
        "tagstream_partition_lag_messages" Gauge, ["topic, partition"] "Messages between the \
            log's end and what is committed, of the partitions assigned here.";
        "tagstream_rebalances_total" Counter, ["topic, kind"] "Changes of the assignment; `kind` \
            is `assign`, `revoke` or `lost`.";
        "tagstream_source_paused" Gauge, ["topic"] "Partitions assigned here whose reading is \
            paused: bytes or places are used up, by all or by their own waiting messages.";
        "tagstream_source_errors_total" Counter, ["topic"] "Errors of the consumer that it went \
            on after.";
        "tagstream_offset_commit_failures_total" Counter, ["topic"] "Offset commits that failed; \
            files are not affected, lag figures are.";
        "tagstream_trace_spans_total" Counter, ["result"] "Spans of images for the collector of \
            traces; `result` is `sent`, `failed` (it did not take them) or `lost` (more waited \
            than `trace.queue`). Only in builds with the feature `otlp`.";
        // fetch and decode
        "tagstream_dead_letters_total" Counter, ["topic, kind"] "Messages that yielded no row.";
        "tagstream_damaged_images_total" Counter, [""] "Damaged images that were decoded all the \
            same, as `decode.damaged = \"accept\"` allows.";
        "tagstream_jpegs_decoded_total" Counter, ["reader"] "JPEGs decoded; `reader` is `own` \
            (plain ones much larger than the model's input, unless `decode.jpeg` says otherwise), \
            `libjpeg_turbo` (other plain ones) or `helper` (all others, in another process).";
        // batch and inference
        "tagstream_outages" Gauge, [""] "Hosts, buckets and folders that are down: their messages \
            wait; `/health/readyz` names them.";
        "tagstream_outages_total" Counter, [""] "Times that one was found down.";
        "tagstream_messages_waiting" Gauge, ["fault"] "Messages that wait; `fault` is `far_side` \
            (for a host, bucket or folder that is down) or `own` (for what this process lacks).";
        "tagstream_own_faults_total" Counter, ["resource"] "Messages that could not be fetched for \
            want of something here; none of them became a dead letter.";
        "tagstream_batch_queue_images" Gauge, [""] "Images that are being filled or wait to run.";
        "tagstream_batch_claims_waiting" Gauge, [""] "Images that wait for a place in a batch.";
        "tagstream_batch_wait_seconds" Histogram(SECONDS), [""] "From a batch's first image to \
            its run.";
        "tagstream_batch_images" Histogram(COUNTS), [""] "Images that a worker takes at once.";
        "tagstream_batch_failures_total" Counter, [""] "Runs of the model that failed and were \
            repeated image by image.";
        "tagstream_inference_seconds" Histogram(SECONDS), ["provider"] "One batch through encoder \
            and head, all its runs and answers included.";
        "tagstream_inference_images_total" Counter, ["result"] "Images that went through the \
            model; `result` is `ok` or `error`.";
        // model
        "tagstream_model_info" Gauge, ["model_version, provider"] "1 for the model that serves, 0 \
            for those it replaced.";
        "tagstream_model_load_seconds" Gauge, [""] "Time to open, try and warm the model that was \
            loaded last.";
        "tagstream_model_swaps_total" Counter, ["result"] "Exchanges of the model; `result` is \
            `done` or `refused`.";
        "tagstream_model_versions_refused_total" Counter, [""] "Versions of the registry's \
            pointer that were not taken.";
        "tagstream_registry_decision_timestamp_seconds" Gauge, ["action"] "Unix time of the \
            registry's newest decision, where the stage follows it; `action` is `promoted`, \
            `rolled_back`, `held` or `rejected`, and the largest of them is the newest.";
        "tagstream_notifications_total" Counter, ["event, result"] "News for `notify.webhook`; \
            `event` is `refused` or `stopped`, `result` is `sent` or `failed`.";
        "tagstream_tags_total" Counter, ["category"] "Tags given; `category` is one of the first \
            `model.metric_categories` of the model, or `(others)`.";
        "tagstream_scores_total" Counter, ["category, score"] "Scores given, one for each image \
            and category; `score` is the lower end of the tenth that it lies in.";
        "tagstream_embeddings_total" Counter, ["tenth"] "Images by how like the model's training \
            images their embedding is; a tenth of those lies in each `tenth`, from 1, the least \
            like, to 10. Of models whose bundle has embeddings.json.";
        // sinks
        "tagstream_rows_total" Counter, ["table"] "Rows in committed files.";
        "tagstream_files_total" Counter, ["table"] "Files committed.";
        "tagstream_file_bytes_total" Counter, ["table"] "Bytes of committed files.";
        "tagstream_files_cut_total" Counter, ["table, reason"] "Files ended; `reason` is `size`, \
            `age`, `layout`, `pressure` or `flush`.";
        "tagstream_overtaken_total" Counter, ["table"] "Files that another owner of the partition \
            had written first.";
        "tagstream_store_retries_total" Counter, ["table"] "Puts of files that were repeated \
            because the store failed.";
        "tagstream_partitions_taken_alone" Gauge, ["table"] "Partitions whose messages are taken \
            one at a time, because processes died where they lie.";
        "tagstream_messages_shortened_total" Counter, ["topic"] "Predictions and dead letters sent \
            shortened, because their topic does not take them whole.";
        "tagstream_producer_queue_full_total" Counter, [""] "Waits for room in the producer's \
            queue.";
        "tagstream_last_commit_timestamp_seconds" Gauge, ["table"] "Unix time of the last \
            committed file.";
        "tagstream_row_budget_bytes" Gauge, ["table"] "The part of the memory budget that \
            messages and rows may take.";
        "tagstream_row_budget_used_bytes" Gauge, ["table"] "What of it is taken.";
        "tagstream_http_connections_refused_total" Counter, [""] "Connections to the HTTP port \
            that were closed unread, because their address opened too many a second.";
        // stores
        "tagstream_store_requests_total" Counter, ["store, result"] "Requests to object stores, \
            each try by itself; `store` is `tables`, `registry` (and its lease) or `images`, \
            `result` is `answered`, or `failed` (no answer, 408, 429, 5xx, a conflict of \
            conditional puts): such a request is sent again as long as the limits of its store \
            allow.";
    }
};

fn builder() -> PrometheusBuilder {
    METRICS
        .iter()
        .fold(PrometheusBuilder::new(), |builder, metric| {
            match metric.kind {
                MetricKind::Histogram(bounds) => builder
                    .set_buckets_for_metric(Matcher::Full(metric.name.into()), bounds)
                    .expect("the table's histograms have bounds"),
                _ => builder,
            }
        })
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            MetricKind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
}

/// A recorder with the table's buckets, not installed anywhere.
pub fn recorder() -> PrometheusRecorder {
    builder().build_recorder()
}

static INSTALLED: std::sync::OnceLock<Option<PrometheusHandle>> = std::sync::OnceLock::new();

/// Installs the process's recorder, once; `None` if there was another one before.
pub fn install() -> Option<PrometheusHandle> {
    let install = || {
        let handle = builder().install_recorder().ok()?;
        describe();
        Some(handle)
    };
    INSTALLED.get_or_init(install).clone()
}

/// The text of `docs/metrics.md`.
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\nServed at `/metrics` (`http.bind`). Made from the table in \
         `src/ops/metrics.rs`; a test fails when this \
         page is stale\n(`UPDATE_DOCS=1 cargo test --lib ops::metrics` writes it).\n\n| name | \
         kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = match metric.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = metric
            .labels
            .split(", ")
            .filter(|l| !l.is_empty())
            .map(|l| format!("`{l}`"))
            .collect();
        text.push_str(&format!(
            "| `{}` | {kind} | {} | {} |\n",
            metric.name,
            labels.join(", "),
            metric.help
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::path::Path;

    #[test]
    fn the_reference_page_is_fresh() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, reference()).unwrap();
        }
        let page = fs::read_to_string(&path).unwrap();
        assert_eq!(
            page,
            reference(),
            "run UPDATE_DOCS=1 cargo test --lib ops::metrics"
        );
    }

    /// The labels named in a call's arguments: `"label" => value`.
    fn labels(arguments: &str) -> BTreeSet<String> {
        let before_arrow = arguments.split("=>").filter_map(|part| {
            let quoted = part.trim_end().strip_suffix('"')?;
            quoted.rsplit('"').next()
        });
        let arrows = arguments.matches("=>").count();
        before_arrow.take(arrows).map(str::to_owned).collect()
    }

    /// The text up to the parenthesis that closes a call.
    fn arguments(text: &str) -> &str {
        let mut depth = 1;
        let end = text.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        &text[..end.unwrap_or(text.len())]
    }

    /// Names and labels in `counter!`, `gauge!` and `histogram!` calls below `folder`.
    fn used(folder: &Path, names: &mut BTreeMap<String, BTreeSet<String>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                used(&path, names);
            } else if path.extension().is_some_and(|e| e == "rs")
                && !path.ends_with("ops/metrics.rs")
            {
                let text = fs::read_to_string(&path).unwrap();
                for mark in ["counter!(", "gauge!(", "histogram!("] {
                    for (at, _) in text.match_indices(mark) {
                        let rest = text[at + mark.len()..].trim_start();
                        if let Some(name) = rest.strip_prefix('"').and_then(|r| r.split('"').next())
                        {
                            let labels = labels(arguments(rest));
                            let before = names.insert(name.to_owned(), labels.clone());
                            assert!(
                                before.is_none_or(|b| b == labels),
                                "{name} has other labels elsewhere"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn code_and_table_have_the_same_metrics() {
        let mut in_code = BTreeMap::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in [
            "src",
            "crates/core/src",
            "crates/model/src",
            "crates/train/src",
        ] {
            used(&root.join(folder), &mut in_code);
        }
        let in_table: BTreeMap<String, BTreeSet<String>> = METRICS
            .iter()
            .map(|m| {
                let labels = m.labels.split(", ").filter(|l| !l.is_empty());
                (m.name.to_owned(), labels.map(str::to_owned).collect())
            })
            .collect();
        assert_eq!(in_code, in_table);
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in METRICS {
            assert!(metric.name.starts_with("tagstream_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{}",
                metric.name
            );
        }
    }

    /// What a message can choose (an image's name, a URI, a host) is no label: whoever sends
    /// messages could otherwise make as many series as there are messages.
    #[test]
    fn no_label_has_values_that_a_message_can_choose() {
        // Configured, or from closed lists; `model_version` and `partition` grow with promotions
        // and topics only, `category` up to a key.
        let few = [
            "action",
            "category",
            "event",
            "fault",
            "kind",
            "model_version",
            "operation",
            "partition",
            "provider",
            "reader",
            "reason",
            "resource",
            "result",
            "revision",
            "score",
            "store",
            "table",
            "tenth",
            "topic",
            "version",
        ];
        for metric in METRICS {
            for label in metric.labels.split(", ").filter(|l| !l.is_empty()) {
                assert!(
                    few.contains(&label),
                    "{} has the label {label}",
                    metric.name
                );
            }
        }
    }

    #[test]
    fn histograms_have_their_bounds() {
        let recorder = recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("tagstream_batch_images").record(3.0);
        });
        let text = recorder.handle().render();
        assert!(
            text.contains("tagstream_batch_images_bucket{le=\"4\"} 1"),
            "{text}"
        );
    }
}
