//! The stage's HTTP port.

use metrics_exporter_prometheus::PrometheusHandle;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tagstream::ops;
use tagstream::ops::connections::ConnectionLimits;
use tagstream::ops::http::{Ages, Conditions, Server, View};
use tagstream::stage::fetch::OpenOutage;
use tagstream::stage::infer::Engine;
use tagstream::stage::pipeline::{Control, StageStatus};
use tagstream_core::build;
use tagstream_core::config::StageConfig;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often a port that was taken is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What the port shows of a process: its lines, and the model once there is one.
#[derive(Clone)]
pub(super) struct Shown {
    /// The images line; `None` where only labels are read.
    pub images: Option<Arc<StageStatus>>,
    /// The labels line.
    pub labels: Option<Arc<StageStatus>>,
    /// Set when the model is loaded and warm.
    pub engine: Arc<OnceLock<Engine>>,
    /// What the process is told.
    pub control: watch::Receiver<Control>,
}

/// The HTTP port, or the wait for it; it closes when this is dropped.
pub(super) enum Port {
    /// No port is configured.
    None,
    /// Served.
    Open(#[expect(dead_code, reason = "it serves until it is dropped")] Server),
    /// Another process has it.
    Taken(JoinHandle<()>),
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Port::Taken(waiting) = self {
            waiting.abort();
        }
    }
}

/// Opens the port, if one is configured, before there is a model: whoever asks hears that the stage
/// starts. A port that another process has must not keep messages from being read: it is tried
/// again.
pub(super) async fn start(config: &StageConfig, shown: &Shown) -> anyhow::Result<Port> {
    let Some(metrics) = ops::metrics::install() else {
        anyhow::bail!("another recorder of metrics is installed in this process");
    };
    ops::build_info::publish();
    ops::first_values::publish(config, shown.images.is_some(), shown.labels.is_some());
    if config.http.bind.is_empty() {
        return Ok(Port::None);
    }
    let (bind, view) = (config.http.bind.clone(), view(config, shown, metrics));
    let limits = ConnectionLimits {
        most: config.http.max_connections,
        a_second: config.http.connections_per_second,
        idle: Duration::from_millis(config.http.idle_timeout_ms),
    };
    match Server::start(&bind, limits, view.clone()).await {
        Ok(server) => Ok(Port::Open(server)),
        Err(error) if error.is_taken() => {
            tracing::warn!(
                "{error}. The stage runs without its pages and tries again every {} s; a second \
                 stage on this machine needs an http.bind of its own (127.0.0.1:0 takes any free \
                 port and logs which)",
                TRY_AGAIN.as_secs()
            );
            Ok(Port::Taken(tokio::spawn(serve_when_free(
                bind, limits, view,
            ))))
        }
        Err(error) => Err(error.into()),
    }
}

async fn serve_when_free(bind: String, limits: ConnectionLimits, view: View) {
    loop {
        tokio::time::sleep(TRY_AGAIN).await;
        match Server::start(&bind, limits, view.clone()).await {
            Ok(_server) => return std::future::pending().await,
            Err(error) if error.is_taken() => {}
            Err(error) => return tracing::error!("{error}"),
        }
    }
}

/// What the HTTP port shows of the stage.
fn view(config: &StageConfig, shown: &Shown, metrics: PrometheusHandle) -> View {
    let of = |look: fn(&Shown) -> Ages, shown: Shown| move || look(&shown);
    let config_hash = config.hash();
    let (for_conditions, for_details, for_info) = (shown.clone(), shown.clone(), shown.clone());
    View {
        loops: Arc::new(of(loops, shown.clone())),
        liveness_limit: Duration::from_millis(config.http.liveness_limit_ms),
        conditions: Arc::new(move || conditions(&for_conditions)),
        details: Arc::new(move || details(&for_details)),
        metrics,
        info: Arc::new(move || info(&for_info, &config_hash)),
    }
}

impl Shown {
    /// The lines, each with what its loops and conditions are called.
    fn lines(&self) -> impl Iterator<Item = (&'static str, &StageStatus)> {
        let images = self.images.as_deref().map(|status| ("", status));
        let labels = self.labels.as_deref().map(|status| ("labels_", status));
        images.into_iter().chain(labels)
    }
}

/// How long ago each loop moved. A loop that has not begun yet, because a store or a broker keeps
/// it waiting, is no loop that hangs: starting again would bring neither back.
fn loops(shown: &Shown) -> Ages {
    let mut ages = match shown.engine.get() {
        Some(engine) => engine.heartbeats().ages(Instant::now()),
        None => Ages::new(),
    };
    let now = chrono::Utc::now().timestamp_millis();
    for (line, status) in shown.lines() {
        for (name, beat) in [
            ("stage", &status.beat_ms),
            ("source", &status.source_beat_ms),
        ] {
            let moved = beat.load(Ordering::Relaxed);
            if moved > 0 {
                let age = now.saturating_sub(moved).max(0);
                ages.insert(format!("{line}{name}"), Duration::from_millis(age as u64));
            }
        }
        if let Some(decoders) = status.decoders.get() {
            ages.insert(format!("{line}decoders"), decoders.stuck_for());
        }
    }
    ages
}

fn conditions(shown: &Shown) -> Conditions {
    let mut conditions = Conditions::new();
    for (line, status) in shown.lines() {
        for (name, broken) in status.conditions() {
            conditions.insert(format!("{line}{name}").into(), broken);
        }
    }
    if shown.images.is_some() {
        let lacking = shown.images.as_deref().and_then(StageStatus::shortage);
        conditions.insert("nothing_lacking".into(), lacking);
        let warm = shown.engine.get().is_some();
        let cold = (!warm).then(|| "the model is being loaded".to_owned());
        conditions.insert("model_warm".into(), cold);
    }
    let runs = *shown.control.borrow() == Control::Run;
    let ends = (!runs).then(|| "the process was told to end".to_owned());
    conditions.insert("not_shutting_down".into(), ends);
    conditions
}

/// Outages that `/health/readyz` names.
const SHOWN_OUTAGES: usize = 20;

/// What is told beside the conditions: others than this process are down.
fn details(shown: &Shown) -> serde_json::Value {
    let outages = shown.images.as_deref().map(StageStatus::outages);
    let outages = outages.unwrap_or_default();
    let told = |outage: &OpenOutage| {
        serde_json::json!({
            "place": outage.place,
            "seconds": outage.lasted.as_secs(),
            "messages_waiting": outage.waiting,
            "given_up": outage.given_up,
            "reason": outage.reason,
        })
    };
    let told: Vec<_> = outages.iter().take(SHOWN_OUTAGES).map(told).collect();
    serde_json::json!({"outages": told})
}

fn info(shown: &Shown, config_hash: &str) -> serde_json::Value {
    let partitions = shown.lines().flat_map(|(_, status)| status.partitions());
    let assignment: Vec<_> = partitions
        .map(|(partition, end)| serde_json::json!({"partition": partition.to_string(), "end": end}))
        .collect();
    let mut info = serde_json::json!({
        "version": build::VERSION,
        "revision": build::revision(),
        "assignment": assignment,
        "config_hash": config_hash,
    });
    if let Some(engine) = shown.engine.get() {
        let model = engine.model();
        info["model_version"] = model.id().into();
        info["categories"] = serde_json::json!(model.categories());
        info["provider"] = engine.device().provider().into();
        info["device"] = engine.device().to_string().into();
    }
    info
}
