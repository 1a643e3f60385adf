//! The HTTP port: health, metrics, information.
//!
//! | path | answers |
//! |---|---|
//! | `/health/livez` | 200 while every loop moved within its limit, else 503; the body names the loops |
//! | `/health/readyz` | 200 while every condition holds (assigned, model warm, broker and sink reachable, ...) and the process is not shutting down; the body says why one does not |
//! | `/metrics` | Prometheus text |
//! | `/info` | version, model, provider in use, assignment, configuration hash |

use super::connections::{Bounded, ConnectionLimits};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::process::priority;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// How requests begin that are heard however many connections their address opens.
const ALWAYS: [&str; 5] = [
    "GET /health/",
    "GET /metrics",
    "GET /info",
    "HEAD /health/",
    "HEAD /metrics",
];

/// How long ago each loop moved.
pub type Ages = BTreeMap<String, Duration>;
/// What must hold before work is sent here; `Some` says why it does not.
pub type Conditions = BTreeMap<Cow<'static, str>, Option<String>>;

/// What the port shows; the functions are asked at every request.
#[derive(Clone)]
pub struct View {
    /// How long ago each loop moved, by its name.
    pub loops: Arc<dyn Fn() -> Ages + Send + Sync>,
    /// `http.liveness_limit_ms`.
    pub liveness_limit: Duration,
    /// Conditions; the first to break on shutdown is that it does not shut down.
    pub conditions: Arc<dyn Fn() -> Conditions + Send + Sync>,
    /// What `/health/readyz` tells beside the conditions; it makes nobody unready.
    pub details: Arc<dyn Fn() -> Value + Send + Sync>,
    /// What `/metrics` is rendered from.
    pub metrics: PrometheusHandle,
    /// The body of `/info`.
    pub info: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// The running server; it ends when this is dropped.
///
/// It has a thread of its own, which gives way to those that work: whoever reaches the port can ask
/// as often as it likes, and a probe is answered also when the work keeps every other thread.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Dropped to end the thread.
    _end: oneshot::Sender<()>,
}

/// Why the port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{bind}` (http.bind): {source}")]
pub struct BindError {
    bind: String,
    source: std::io::Error,
}

impl BindError {
    /// Whether another process, or another part of this one, has the port.
    pub fn is_taken(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::AddrInUse
    }
}

impl Server {
    /// Listens on `bind` (`host:port`; port 0: any).
    ///
    /// # Errors
    /// [`BindError`] names the address.
    pub async fn start(
        bind: &str,
        limits: ConnectionLimits,
        view: View,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError {
            bind: bind.to_owned(),
            source,
        };
        let listener = TcpListener::bind(bind).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = listener.into_std().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || {
                priority::lower();
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(listener, limits, view) => {}
                        _ = ended => {}
                    }
                });
            })
            .map_err(failed)?;
        tracing::info!(%address, "health, metrics and information are served");
        Ok(Server { address, _end: end })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Answers until the listener fails, which it says.
async fn serve(listener: std::net::TcpListener, limits: ConnectionLimits, view: View) {
    let served = async {
        let listener = Bounded::new(listener, limits, &ALWAYS)?;
        axum::serve(listener, routes(view)).await
    };
    if let Err(error) = served.await {
        tracing::error!(%error, "the HTTP port has failed");
    }
}

fn routes(view: View) -> Router {
    Router::new()
        .route("/health/livez", get(livez))
        .route("/health/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/info", get(info))
        .with_state(view)
}

fn verdict(good: bool, body: Value) -> (StatusCode, Json<Value>) {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body))
}

async fn livez(State(view): State<View>) -> impl IntoResponse {
    let ages = (view.loops)();
    let alive = ages.values().all(|age| *age <= view.liveness_limit);
    let loops: BTreeMap<_, _> = ages
        .into_iter()
        .map(|(name, age)| (name, age.as_secs_f64()))
        .collect();
    verdict(
        alive,
        json!({"alive": alive, "seconds_since_loops_moved": loops}),
    )
}

async fn readyz(State(view): State<View>) -> impl IntoResponse {
    let conditions = (view.conditions)();
    let ready = conditions.values().all(Option::is_none);
    let holds: BTreeMap<_, _> = conditions
        .iter()
        .map(|(n, why)| (n, why.is_none()))
        .collect();
    let details: BTreeMap<_, _> = conditions
        .iter()
        .filter_map(|(name, why)| Some((name, why.as_ref()?)))
        .collect();
    let mut body = json!({"ready": ready, "conditions": holds, "details": details});
    if let (Value::Object(body), Value::Object(more)) = (&mut body, (view.details)()) {
        body.extend(more);
    }
    verdict(ready, body)
}

async fn metrics(State(view): State<View>) -> impl IntoResponse {
    view.metrics.run_upkeep();
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, view.metrics.render())
}

async fn info(State(view): State<View>) -> impl IntoResponse {
    Json((view.info)())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::metrics::recorder;
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    const LIMITS: ConnectionLimits = ConnectionLimits {
        most: 8,
        a_second: 0,
        idle: Duration::from_secs(60),
    };

    fn empty_view() -> View {
        View {
            loops: Arc::new(Ages::new),
            liveness_limit: Duration::ZERO,
            conditions: Arc::new(Conditions::new),
            details: Arc::new(|| Value::Null),
            metrics: recorder().handle(),
            info: Arc::new(|| Value::Null),
        }
    }

    async fn get(server: &Server, path: &str) -> (u16, String) {
        let response = tagstream_core::tls::http_client()
            .build()
            .unwrap()
            .get(format!("http://{}{path}", server.address()))
            .send()
            .await
            .unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    #[tokio::test]
    async fn health_follows_loops_and_conditions() {
        let recorder = recorder();
        let age = Arc::new(AtomicU64::new(1));
        let ready = Arc::new(AtomicBool::new(false));
        let view = View {
            loops: Arc::new({
                let age = Arc::clone(&age);
                move || [("source".into(), Duration::from_secs(age.load(SeqCst)))].into()
            }),
            liveness_limit: Duration::from_secs(60),
            conditions: Arc::new({
                let ready = Arc::clone(&ready);
                move || {
                    let waits = (!ready.load(SeqCst)).then(|| "it waits for the group".into());
                    [("assigned".into(), waits), ("model_warm".into(), None)].into()
                }
            }),
            details: Arc::new(|| json!({"outages": ["a"]})),
            metrics: recorder.handle(),
            info: Arc::new(|| json!({"provider": "cpu"})),
        };
        let server = Server::start("127.0.0.1:0", LIMITS, view).await.unwrap();
        let (status, body) = get(&server, "/health/livez").await;
        assert_eq!(status, 200);
        assert!(body.contains("\"source\":1.0"), "{body}");
        age.store(61, SeqCst);
        let (status, body) = get(&server, "/health/livez").await;
        assert_eq!(status, 503);
        assert!(body.contains("\"alive\":false"), "{body}");

        let (status, body) = get(&server, "/health/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("\"assigned\":false"), "{body}");
        assert!(body.contains("\"outages\":[\"a\"]"), "{body}");
        let detail = "\"details\":{\"assigned\":\"it waits for the group\"}";
        assert!(body.contains(detail), "{body}");
        ready.store(true, SeqCst);
        assert_eq!(get(&server, "/health/readyz").await.0, 200);

        metrics::with_local_recorder(&recorder, || {
            metrics::counter!("tagstream_messages_total", "topic" => "t").increment(3);
        });
        let (_, text) = get(&server, "/metrics").await;
        assert!(
            text.contains("tagstream_messages_total{topic=\"t\"} 3"),
            "{text}"
        );
        assert_eq!(get(&server, "/info").await.1, "{\"provider\":\"cpu\"}");
        assert_eq!(get(&server, "/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bind = taken.local_addr().unwrap().to_string();
        let error = Server::start(&bind, LIMITS, empty_view())
            .await
            .unwrap_err();
        assert!(error.is_taken());
        let error = error.to_string();
        assert!(
            error.contains(&bind) && error.contains("http.bind"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_port_is_free_when_the_server_is_gone() {
        let server = Server::start("127.0.0.1:0", LIMITS, empty_view()).await;
        let bind = server.unwrap().address().to_string();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = Server::start(&bind, LIMITS, empty_view()).await {
            assert!(std::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
