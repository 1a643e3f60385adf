//! The stage's HTTP port.

use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tagstream::ops;
use tagstream::ops::connections::ConnectionLimits;
use tagstream::ops::http::{Conditions, Server, View};
use tagstream::stage::fetch::OpenOutage;
use tagstream::stage::infer::Engine;
use tagstream::stage::pipeline::{Control, StageStatus};
use tagstream_core::build;
use tagstream_core::config::StageConfig;
use tokio::sync::watch;

/// Opens the port, if one is configured; it closes when the server is dropped.
pub(super) async fn start(
    config: &StageConfig,
    engine: &Engine,
    status: &Arc<StageStatus>,
    control: watch::Receiver<Control>,
) -> anyhow::Result<Option<Server>> {
    let Some(metrics) = ops::metrics::install() else {
        anyhow::bail!("another recorder of metrics is installed in this process");
    };
    ops::build_info::publish();
    if config.http.bind.is_empty() {
        return Ok(None);
    }
    let view = view(config, engine, status, metrics, control);
    let limits = ConnectionLimits {
        most: config.http.max_connections,
        idle: Duration::from_millis(config.http.idle_timeout_ms),
    };
    Ok(Some(Server::start(&config.http.bind, limits, view).await?))
}

/// Outages that `/health/readyz` names.
const SHOWN_OUTAGES: usize = 20;

fn shown(outage: &OpenOutage) -> serde_json::Value {
    serde_json::json!({
        "place": outage.place,
        "seconds": outage.lasted.as_secs(),
        "messages_waiting": outage.waiting,
        "given_up": outage.given_up,
        "reason": outage.reason,
    })
}

/// What the HTTP port shows of the stage.
fn view(
    config: &StageConfig,
    engine: &Engine,
    status: &Arc<StageStatus>,
    metrics: PrometheusHandle,
    control: watch::Receiver<Control>,
) -> View {
    let (beats, stage) = (engine.heartbeats().clone(), Arc::clone(status));
    let started = chrono::Utc::now().timestamp_millis();
    let loops = move || {
        let mut ages = beats.ages(Instant::now());
        let last = stage.beat_ms.load(Ordering::Relaxed).max(started);
        let now = chrono::Utc::now().timestamp_millis();
        let age = now - last;
        ages.insert("stage".into(), Duration::from_millis(age.max(0) as u64));
        let polled = stage.source_beat_ms.load(Ordering::Relaxed);
        if polled > 0 {
            let age = now.saturating_sub(polled).max(0);
            ages.insert("source".into(), Duration::from_millis(age as u64));
        }
        ages
    };
    let stage = Arc::clone(status);
    let conditions = move || {
        let assigned = stage.assigned.load(Ordering::Relaxed);
        let running = *control.borrow() == Control::Run;
        Conditions::from([
            ("assigned", assigned),
            ("model_warm", true),
            (
                "sink_reachable",
                stage.sink_reachable.load(Ordering::Relaxed),
            ),
            ("not_shutting_down", running),
            ("nothing_lacking", stage.shortage().is_none()),
        ])
    };
    let stage = Arc::clone(status);
    let details = move || {
        let outages: Vec<_> = stage
            .outages()
            .iter()
            .take(SHOWN_OUTAGES)
            .map(shown)
            .collect();
        serde_json::json!({"lacking": stage.shortage(), "outages": outages})
    };
    let (stage, engine) = (Arc::clone(status), engine.clone());
    let config_hash = config.hash();
    let info = move || {
        let model = engine.model();
        let assignment: Vec<_> = stage
            .partitions()
            .into_iter()
            .map(|(partition, end)| {
                serde_json::json!({"partition": partition.to_string(), "end": end})
            })
            .collect();
        serde_json::json!({
            "version": build::VERSION,
            "revision": build::revision(),
            "model_version": model.id(),
            "categories": model.categories(),
            "provider": engine.device().provider(),
            "device": engine.device().to_string(),
            "assignment": assignment,
            "config_hash": config_hash,
        })
    };
    View {
        loops: Arc::new(loops),
        liveness_limit: Duration::from_millis(config.http.liveness_limit_ms),
        conditions: Arc::new(conditions),
        details: Arc::new(details),
        metrics,
        info: Arc::new(info),
    }
}
