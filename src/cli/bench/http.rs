//! `tagstream bench --http`: the model over HTTP (`tagstream serve`, a process of its own) beside
//! the bare model, on the same pictures. Client and server share the machine.
//!
//! Every repetition measures the parts alone, a flood of requests (twice as many clients as fill
//! the batches), and the parts again. Then latency: one client alone, and requests that begin
//! evenly at a share of the flood's rate, counted from when they were to begin.

use super::ceiling::{self, Ceiling, Side};
use super::host::Host;
use super::pictures::Pictures;
use super::report::{Spread, median};
use super::{BenchArgs, publish};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tagstream_core::build;
use tagstream_core::config::{ObjectStoreConfig, Provider};
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::{Action, Decision, Registration, Registry};
use tagstream_model::tagger::Tagger;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// How long the model may take to be ready.
const READY: Duration = Duration::from_secs(300);

/// What is measured.
pub(super) struct Subjects<'a> {
    pub args: &'a BenchArgs,
    pub bundle: &'a Bundle,
    pub tagger: &'a Tagger,
    pub pictures: &'a Pictures,
    pub scratch: &'a Path,
    pub bench: &'a ceiling::Bench<'a>,
    pub batch: usize,
}

/// The server; ended when it is dropped.
struct Served {
    child: Child,
    url: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long requests took, milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    p50_ms: f64,
    p99_ms: f64,
}

impl Latency {
    fn of(mut seconds: Vec<f64>) -> anyhow::Result<Self> {
        ensure!(
            !seconds.is_empty(),
            "no request was answered: --seconds is too short"
        );
        seconds.sort_by(f64::total_cmp);
        // The nearest rank.
        let at = |share: f64| {
            let rank = (share * seconds.len() as f64).ceil() as usize;
            seconds[rank.clamp(1, seconds.len()) - 1] * 1e3
        };
        Ok(Latency {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
        })
    }
}

/// One run of many clients.
#[derive(Debug, Clone, Copy, Serialize)]
struct Flood {
    images_per_second: f64,
    #[serde(flatten)]
    latency: Latency,
}

/// Measures, prints, and writes what was asked for.
pub(super) fn run(subjects: &Subjects<'_>) -> anyhow::Result<()> {
    let args = subjects.args;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let clients = subjects.tagger.workers() * subjects.batch.max(4) * 2;
    let mut served = runtime.block_on(serve(subjects, clients))?;
    let client = Arc::new(Client::new(&served, subjects.pictures)?);
    runtime.block_on(client.ready(&mut served))?;
    let seconds = Duration::from_secs_f64(args.seconds);
    // What is slow once: connections, the shapes of batches.
    flood(
        &runtime,
        &client,
        clients,
        seconds.min(Duration::from_secs(2)),
    )?;
    let (mut ceilings, mut floods) = (Vec::new(), Vec::new());
    for repetition in 1..=args.repeat {
        let before = subjects
            .bench
            .measure(subjects.batch, seconds / 2, Side::Before)?;
        let run = flood(&runtime, &client, clients, seconds)?;
        let after = subjects
            .bench
            .measure(subjects.batch, seconds / 2, Side::After)?;
        let around = before.mean(&after);
        eprintln!(
            "repetition {repetition}: over HTTP {:.1}/s, model alone {:.1}/s",
            run.images_per_second, around.model
        );
        ceilings.push(around);
        floods.push(run);
    }
    let alone = flood(&runtime, &client, 1, seconds)?.latency;
    let rate = median(floods.iter().map(|f| f.images_per_second)).middle * args.latency_load;
    let paced = match rate > 0.0 {
        true => Some(runtime.block_on(paced(&client, rate, seconds))?),
        false => None,
    };
    let report = Figures {
        subjects,
        clients,
        ceilings,
        floods,
        alone,
        paced: paced.map(|latency| (rate, latency)),
    };
    publish(args, &report.json(), || report.print())
}

/// Starts the server, with a registry in which the model serves.
async fn serve(subjects: &Subjects<'_>, clients: usize) -> anyhow::Result<Served> {
    let url = subjects.scratch.join("registry");
    let url = url.to_str().context("the folder's name is no UTF-8")?;
    let registry = Registry::open_or_create(url, &ObjectStoreConfig::default()).await?;
    let registration = Registration {
        bundle: subjects.bundle.root(),
        attachments: &[],
        who: "bench",
        why: "to be measured",
        run: None,
    };
    let version = registry.register(&registration).await?.version;
    let decision = Decision::by_hand(Action::Promoted, version, "bench", "to be measured");
    registry.decide(decision).await?;
    // Free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let provider = match subjects.args.provider.into() {
        Provider::Cuda => "cuda",
        Provider::Tensorrt => "tensorrt",
        Provider::Cpu | Provider::Auto => "cpu",
    };
    let config = format!(
        r#"[serve]
bind = "127.0.0.1:{port}"
max_connections = {connections}
connections_per_second = 0

[access]
requests_a_minute = {most}

[registry]
url = {url:?}

[inference]
enabled = true
provider = "{provider}"
workers = 0
most_waiting = {waiting}
"#,
        connections = 4 * clients + 64,
        waiting = 4 * clients + 64,
        most = u32::MAX,
    );
    let path = subjects.scratch.join("serve.toml");
    std::fs::write(&path, config)?;
    let log = std::fs::File::create(subjects.scratch.join("serve.log"))?;
    let child = Command::new(std::env::current_exe()?)
        .args(["serve", "--config"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting `tagstream serve`")?;
    Ok(Served {
        child,
        url: format!("http://127.0.0.1:{port}"),
    })
}

/// Asks for tags of the pictures, one after the other.
struct Client {
    http: reqwest::Client,
    url: String,
    pictures: Vec<Bytes>,
    next: AtomicUsize,
}

impl Client {
    fn new(served: &Served, pictures: &Pictures) -> anyhow::Result<Self> {
        let pictures = pictures.all.iter();
        Ok(Client {
            http: tagstream_core::tls::http_client().build()?,
            url: served.url.clone(),
            pictures: pictures
                .map(|picture| picture.bytes.clone().into())
                .collect(),
            next: AtomicUsize::new(0),
        })
    }

    async fn ready(&self, served: &mut Served) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            let answer = self
                .http
                .get(format!("{}/v2/health/ready", self.url))
                .send()
                .await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = served.child.try_wait()? {
                bail!("`tagstream serve` ended with {status}; --out keeps its log (serve.log)");
            }
            ensure!(
                started.elapsed() < READY,
                "the model was not ready in {READY:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Tags one picture.
    async fn tag(&self) -> anyhow::Result<()> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.pictures.len();
        let request = self.http.post(format!("{}/v1/tag", self.url));
        let request = request.header("content-type", "application/octet-stream");
        let answer = request.body(self.pictures[at].clone()).send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        ensure!(
            status.is_success(),
            "{status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }
}

/// So many clients, each of which asks again when it is answered. What is on its way at the end
/// counts neither as an image nor as time.
fn flood(
    runtime: &Runtime,
    client: &Arc<Client>,
    clients: usize,
    time: Duration,
) -> anyhow::Result<Flood> {
    runtime.block_on(async {
        let started = Instant::now();
        let mut all = JoinSet::new();
        for _ in 0..clients {
            let client = Arc::clone(client);
            all.spawn(async move {
                let mut took = Vec::new();
                loop {
                    let begun = Instant::now();
                    client.tag().await?;
                    if started.elapsed() > time {
                        return anyhow::Ok(took);
                    }
                    took.push(begun.elapsed().as_secs_f64());
                }
            });
        }
        let mut took = Vec::new();
        while let Some(one) = all.join_next().await {
            took.extend(one??);
        }
        Ok(Flood {
            images_per_second: took.len() as f64 / time.as_secs_f64(),
            latency: Latency::of(took)?,
        })
    })
}

/// Requests that begin evenly, whether or not earlier ones are answered.
async fn paced(client: &Arc<Client>, rate: f64, time: Duration) -> anyhow::Result<Latency> {
    let count = (rate * time.as_secs_f64()).ceil().max(1.0) as u32;
    let started = tokio::time::Instant::now();
    let mut all = JoinSet::new();
    for number in 0..count {
        let due = started + Duration::from_secs_f64(f64::from(number) / rate);
        let client = Arc::clone(client);
        tokio::time::sleep_until(due).await;
        all.spawn(async move {
            client.tag().await?;
            anyhow::Ok(due.elapsed().as_secs_f64())
        });
    }
    let mut took = Vec::new();
    while let Some(one) = all.join_next().await {
        took.push(one??);
    }
    Latency::of(took)
}

/// Everything that was measured.
struct Figures<'a> {
    subjects: &'a Subjects<'a>,
    clients: usize,
    ceilings: Vec<Ceiling>,
    floods: Vec<Flood>,
    alone: Latency,
    /// The rate, and what it came to.
    paced: Option<(f64, Latency)>,
}

impl Figures<'_> {
    fn over(&self, ceiling: impl Fn(&Ceiling) -> f64) -> Spread {
        let pairs = self.floods.iter().zip(&self.ceilings);
        median(pairs.map(|(flood, c)| flood.images_per_second / ceiling(c)))
    }

    fn of(&self, figure: impl Fn(&Flood) -> f64) -> Spread {
        median(self.floods.iter().map(figure))
    }

    fn json(&self) -> Value {
        let Subjects {
            args,
            bundle,
            tagger,
            pictures,
            ..
        } = self.subjects;
        let model = tagger.model();
        json!({
            "case": args.case,
            "kind": "http",
            "time": chrono::Utc::now().to_rfc3339(),
            "version": build::VERSION,
            "revision": build::revision(),
            "command": super::host::command(),
            "host": Host::this(),
            "model": {
                "id": bundle.id(),
                "device": model.device.to_string(),
                "input": [model.shape.height, model.shape.width],
                "categories": model.categories(),
                "workers": tagger.workers(),
            },
            "pictures": {
                "source": pictures.source,
                "count": pictures.all.len(),
                "mean_bytes": pictures.mean_bytes(),
                "mean_megapixels": pictures.mean_megapixels(),
            },
            "ceiling": {
                "model_batch": self.subjects.batch,
                "model_images_per_second": median(self.ceilings.iter().map(|c| c.model)),
                "shared_images_per_second": median(self.ceilings.iter().map(Ceiling::shared)),
                "repetitions": self.ceilings,
            },
            "http": {
                "clients": self.clients,
                "images_per_second": self.of(|f| f.images_per_second),
                "p50_ms": self.of(|f| f.latency.p50_ms),
                "p99_ms": self.of(|f| f.latency.p99_ms),
                "repetitions": self.floods,
            },
            "http_over_model": self.over(|c| c.model),
            "http_over_shared_ceiling": self.over(Ceiling::shared),
            "alone": self.alone,
            "paced": self.paced.map(|(rate, latency)| json!({
                "share": args.latency_load, "images_per_second": rate, "latency": latency,
            })),
        })
    }

    fn print(&self) {
        let rate = |s: Spread| format!("{:.1} ({:.1} to {:.1})", s.middle, s.least, s.most);
        let share = |s: Spread| format!("{:.3} ({:.3} to {:.3})", s.middle, s.least, s.most);
        let latency = |l: &Latency| format!("p50 {:.1} ms, p99 {:.1} ms", l.p50_ms, l.p99_ms);
        let line = |name: &str, value: String| eprintln!("  {name:<46} {value}");
        eprintln!();
        line(
            "model alone, images/s",
            rate(median(self.ceilings.iter().map(|c| c.model))),
        );
        line(
            &format!("over HTTP, {} clients, images/s", self.clients),
            rate(self.of(|f| f.images_per_second)),
        );
        line("over HTTP / model alone", share(self.over(|c| c.model)));
        line(
            "over HTTP / model and decoding",
            share(self.over(Ceiling::shared)),
        );
        let (p50, p99) = (self.of(|f| f.latency.p50_ms), self.of(|f| f.latency.p99_ms));
        line(
            "latency, flooded",
            format!("p50 {:.1} ms, p99 {:.1} ms", p50.middle, p99.middle),
        );
        line("latency, one client", latency(&self.alone));
        if let Some((rate, paced)) = &self.paced {
            line(&format!("latency, {rate:.1} images/s"), latency(paced));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred = (1..=100).rev().map(|i| f64::from(i) / 1e3).collect();
        let latency = Latency::of(hundred).unwrap();
        assert!((latency.p50_ms - 50.0).abs() < 1e-9 && (latency.p99_ms - 99.0).abs() < 1e-9);
        let one = Latency::of(vec![0.007]).unwrap();
        assert!((one.p50_ms - 7.0).abs() < 1e-9 && (one.p99_ms - 7.0).abs() < 1e-9);
        assert!(Latency::of(Vec::new()).is_err());
    }
}
