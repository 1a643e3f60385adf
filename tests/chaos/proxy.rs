//! A proxy in front of the S3 server that misbehaves on request: errors, lost answers, hangs,
//! slowness.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the proxy does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S3Fault {
    /// Refuses with 503 before the server sees it.
    Refuse,
    /// Lets the server do it, then answers 500: the caller cannot know.
    LoseAnswer,
    /// Lets the server do it, then breaks the connection off.
    BreakOff,
    /// Holds the request back for a while, then does it: the put of a slow writer arrives late.
    Late,
    /// Refuses as S3 does when it is asked too often.
    SlowDown,
    /// Takes the request and never answers, nor does it: the caller's time-out has to end it.
    Silent,
    /// Does it at once, and the answer's body comes in drops.
    Trickle,
}

impl S3Fault {
    pub const ALL: [S3Fault; 7] = [
        S3Fault::Refuse,
        S3Fault::LoseAnswer,
        S3Fault::BreakOff,
        S3Fault::Late,
        S3Fault::SlowDown,
        S3Fault::Silent,
        S3Fault::Trickle,
    ];
}

/// The fault in force and the share of requests it hits.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub fault: S3Fault,
    pub share: f64,
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    plan: Mutex<Option<Plan>>,
    dice: Mutex<StdRng>,
    hits: AtomicU64,
}

/// A running proxy; it stops with the runtime.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
    pub endpoint: String,
}

impl Proxy {
    /// Starts on a free loopback port in front of `upstream` (`http://host:port`).
    pub async fn start(upstream: String, seed: u64) -> anyhow::Result<Proxy> {
        let shared = Arc::new(Shared {
            upstream,
            client: tagstream::tls::http_client().no_proxy().build()?,
            plan: Mutex::new(None),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            hits: AtomicU64::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let router = Router::new()
            .fallback(forward)
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Proxy { shared, endpoint })
    }

    /// Puts a plan in force, or none.
    pub fn set(&self, plan: Option<Plan>) {
        *self.shared.plan.lock().unwrap() = plan;
    }

    /// How many requests have been hit so far.
    pub fn hits(&self) -> u64 {
        self.shared.hits.load(Ordering::Relaxed)
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    let fault = {
        let plan = *shared.plan.lock().unwrap();
        plan.filter(|p| shared.dice.lock().unwrap().random_bool(p.share))
            .map(|p| p.fault)
    };
    if fault.is_some() {
        shared.hits.fetch_add(1, Ordering::Relaxed);
    }
    match fault {
        Some(S3Fault::Refuse) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(S3Fault::SlowDown) => {
            let body = "<Error><Code>SlowDown</Code><Message>\
                        Please reduce your request rate.</Message></Error>";
            return (StatusCode::SERVICE_UNAVAILABLE, body).into_response();
        }
        Some(S3Fault::Silent) => std::future::pending().await,
        Some(S3Fault::Late) => tokio::time::sleep(Duration::from_millis(2_500)).await,
        _ => {}
    }
    let answer = match pass_on(&shared, request).await {
        Ok(answer) => answer,
        Err(error) => {
            return (StatusCode::BAD_GATEWAY, error.to_string()).into_response();
        }
    };
    match fault {
        Some(S3Fault::LoseAnswer) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some(S3Fault::BreakOff) => {
            let broken = futures::stream::once(async {
                Err::<Bytes, _>(std::io::Error::other("connection broken off"))
            });
            Response::new(Body::from_stream(broken))
        }
        Some(S3Fault::Trickle) => trickle(answer).await,
        _ => answer,
    }
}

/// The same answer in sixteen drops over more than a second.
async fn trickle(answer: Response) -> Response {
    let (parts, body) = answer.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, 256 << 20).await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let size = bytes.len().div_ceil(16).max(1);
    let drops: Vec<Bytes> = bytes
        .chunks(size)
        .map(|c| Bytes::copy_from_slice(c))
        .collect();
    let drops = futures::stream::iter(drops).then(|drop| async {
        tokio::time::sleep(Duration::from_millis(80)).await;
        Ok::<_, std::convert::Infallible>(drop)
    });
    Response::from_parts(parts, Body::from_stream(drops))
}

async fn pass_on(shared: &Shared, request: Request<Body>) -> anyhow::Result<Response> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let body = axum::body::to_bytes(body, 256 << 20).await?;
    // The signature covers the Host header, so the headers go on unchanged.
    let answer = shared
        .client
        .request(parts.method, format!("{}{path}", shared.upstream))
        .headers(parts.headers)
        .body(body)
        .send()
        .await?;
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" {
            response = response.header(name, value);
        }
    }
    Ok(response.body(Body::from(answer.bytes().await?))?)
}
