//! From spans to the collector: a bounded queue, batches, OTLP in Protobuf over HTTP.
//!
//! The SDK's batches are made on a thread of its own; requests run on the stage's runtime, with the
//! HTTP client that everything else uses. That a collector is away stops nothing: it is counted,
//! and said once until it answers again.

use super::{ImageTrace, TraceError};
use crate::stage::source::SourceMessage;
use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
    SpanExporter, SpanProcessor,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tagstream_core::build;
use tagstream_core::config::TraceConfig;
use tagstream_core::process::blocking;
use tagstream_core::tls::http_client;
use tokio::runtime::Handle;

/// Bytes of a collector's answer that are read.
const MOST_ANSWER: usize = 1 << 20;

/// Makes the spans of images.
#[derive(Clone, Default)]
pub struct Traces(Option<Started>);

#[derive(Clone)]
struct Started {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    timeout: Duration,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Traces({})", if self.0.is_some() { "on" } else { "off" })
    }
}

impl Traces {
    /// Makes what the configuration says; requests run on the runtime that this is called in.
    ///
    /// # Errors
    /// [`TraceError::Client`].
    pub fn start(config: &TraceConfig) -> Result<Self, TraceError> {
        if config.endpoint.is_empty() {
            return Ok(Traces::default());
        }
        let timeout = Duration::from_millis(config.timeout_ms);
        let below = config.endpoint.trim_end_matches('/');
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Client::new(config, timeout)?)
            .with_endpoint(match below.ends_with("/v1/traces") {
                true => below.to_owned(),
                false => format!("{below}/v1/traces"),
            })
            .with_timeout(timeout)
            .build()
            .map_err(|error| TraceError::Client(error.to_string()))?;
        let waiting = Arc::new(AtomicUsize::new(0));
        let told = Told {
            exporter,
            waiting: Arc::clone(&waiting),
            away: AtomicBool::new(false),
        };
        // What waits is bounded before it: the SDK would not say how much it drops.
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(config.queue)
            .build();
        let batches = BatchSpanProcessor::builder(told)
            .with_batch_config(batches)
            .build();
        let bounded = Bounded {
            batches,
            waiting,
            most: config.queue,
        };
        let of_this_process = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", build::VERSION))
            .build();
        let ratio = Sampler::TraceIdRatioBased(config.sample_ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(bounded)
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(of_this_process)
            .build();
        Ok(Traces(Some(Started {
            tracer: provider.tracer("tagstream"),
            provider,
            timeout,
        })))
    }

    /// Begins the span of a message's record.
    pub fn image(&self, message: &SourceMessage, record: u32) -> ImageTrace {
        match &self.0 {
            Some(started) => ImageTrace::begin(&started.tracer, message, record),
            None => ImageTrace::default(),
        }
    }

    /// Sends what waits, and ends.
    pub async fn finish(&self) {
        let Some(Started {
            provider, timeout, ..
        }) = self.0.clone()
        else {
            return;
        };
        // One request may be on its way.
        let ended = blocking::run(move || provider.shutdown_with_timeout(2 * timeout)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

fn count(result: &'static str, spans: usize) {
    metrics::counter!("tagstream_trace_spans_total", "result" => result).increment(spans as u64);
}

/// Spans on their way into batches, up to a bound.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            count("lost", 1);
        } else {
            self.batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// An exporter that tells what became of batches.
#[derive(Debug)]
struct Told {
    exporter: opentelemetry_otlp::SpanExporter,
    waiting: Arc<AtomicUsize>,
    away: AtomicBool,
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        match &outcome {
            Ok(()) => {
                count("sent", spans);
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the collector of traces answers again");
                }
            }
            Err(error) => {
                count("failed", spans);
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "traces cannot be sent; images go on, their spans are \
                        dropped until the collector answers (trace.endpoint)");
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The stage's HTTP client, for a thread that has no runtime.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

impl Client {
    fn new(config: &TraceConfig, timeout: Duration) -> Result<Self, TraceError> {
        use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
        let unusable = |reason: String| TraceError::Client(reason);
        let mut headers = HeaderMap::new();
        let authorization = config.authorization.expose();
        if !authorization.is_empty() {
            let value = HeaderValue::from_str(authorization);
            let mut value = value.map_err(|_| {
                unusable("`trace.authorization` holds what no header can".to_owned())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = http_client()
            .default_headers(headers)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| unusable(error.without_url().to_string()))?;
        Ok(Client {
            client,
            runtime: Handle::current(),
        })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = client.execute(request).await.map_err(plain)?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let mut body = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(plain)? {
                if body.len() + piece.len() > MOST_ANSWER {
                    return Err("the collector's answer is longer than 1 MiB".to_owned());
                }
                body.extend_from_slice(&piece);
            }
            Ok((status, headers, body))
        });
        let (status, headers, body) = sent.await??;
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// What the client says, with its causes and without the address.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(deeper) = cause {
        said = format!("{said}: {deeper}");
        cause = deeper.source();
    }
    said
}
