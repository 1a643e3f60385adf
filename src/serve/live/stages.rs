//! Stages as their own pages tell of them, asked again and again.

use super::exposition::{Exposition, Histogram};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tagstream_core::redact::redact_place;
use tokio::sync::watch;
use url::Url;

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(3);
/// Largest answer, bytes.
const LARGEST: usize = 4 << 20;
/// How far back figures are kept.
const KEPT: Duration = Duration::from_secs(300);
/// Over what time a rate is told.
const RATE_OVER: Duration = Duration::from_secs(10);
/// Over what time latencies are told.
const LATENCY_OVER: Duration = Duration::from_secs(60);
/// Points of a curve.
const CURVE: usize = 100;

/// How a stage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StageState {
    /// It was not asked yet.
    Unasked,
    /// It works.
    Ready,
    /// It says what keeps it from working.
    NotReady(Vec<String>),
    /// It does not answer.
    Silent(String),
}

/// A median, and what one of a hundred exceeds; seconds or images.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spread {
    /// Half lie below.
    pub p50: Option<f64>,
    /// 99 of 100 lie below.
    pub p99: Option<f64>,
}

impl Spread {
    fn of(histogram: &Histogram) -> Self {
        Spread {
            p50: histogram.quantile(0.5),
            p99: histogram.quantile(0.99),
        }
    }
}

/// What was last heard of one stage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StageView {
    /// Its address, for people.
    pub name: String,
    /// How it is.
    pub state: StageState,
    /// The model that it says it runs.
    pub model: String,
    /// Where it computes.
    pub provider: String,
    /// Its build.
    pub version: String,
    /// Images tagged a second, over the last seconds.
    pub images_a_second: Option<f64>,
    /// The same over the last minutes, oldest first.
    pub curve: Vec<f64>,
    /// One batch through the model, seconds.
    pub inference: Spread,
    /// From a batch's first image to its run, seconds.
    pub waiting: Spread,
    /// Images in a batch.
    pub batch: Spread,
    /// Messages behind, by topic and partition.
    pub lags: BTreeMap<(String, i32), f64>,
    /// Dead letters since the process began, by kind.
    pub dead_letters: BTreeMap<String, f64>,
    /// Bytes of the budget that are taken, and the budget.
    pub memory: (f64, f64),
    /// Hosts, buckets and folders that are down.
    pub outages: Vec<String>,
}

impl StageView {
    fn unasked(url: &Url) -> Self {
        StageView {
            name: shown(url),
            state: StageState::Unasked,
            model: String::new(),
            provider: String::new(),
            version: String::new(),
            images_a_second: None,
            curve: Vec::new(),
            inference: Spread::default(),
            waiting: Spread::default(),
            batch: Spread::default(),
            lags: BTreeMap::new(),
            dead_letters: BTreeMap::new(),
            memory: (0.0, 0.0),
            outages: Vec::new(),
        }
    }
}

/// What is kept of one reading.
#[derive(Debug, Clone)]
struct Point {
    at: Instant,
    images: f64,
    inference: Histogram,
    waiting: Histogram,
    batch: Histogram,
}

/// One stage that is asked.
struct Watched {
    url: Url,
    points: VecDeque<Point>,
    view: StageView,
}

/// Asks all stages every `interval`, and hands on what they say, for as long as anybody may look.
pub(crate) async fn watch_stages(
    client: reqwest::Client,
    urls: Vec<Url>,
    interval: Duration,
    views: watch::Sender<Vec<StageView>>,
) {
    let mut stages: Vec<Watched> = urls.into_iter().map(Watched::new).collect();
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !views.is_closed() {
        ticks.tick().await;
        futures::future::join_all(stages.iter_mut().map(|stage| stage.ask(&client))).await;
        let all = stages.iter().map(|stage| stage.view.clone()).collect();
        views.send_replace(all);
    }
}

/// The views before any stage was asked.
pub(crate) fn unasked(urls: &[Url]) -> Vec<StageView> {
    urls.iter().map(StageView::unasked).collect()
}

impl Watched {
    fn new(url: Url) -> Self {
        Watched {
            view: StageView::unasked(&url),
            points: VecDeque::new(),
            url,
        }
    }

    async fn ask(&mut self, client: &reqwest::Client) {
        let metrics = match get(client, &self.url, "metrics").await {
            Ok(text) => Exposition::parse(&text),
            Err(reason) => {
                self.view.state = StageState::Silent(reason);
                self.view.images_a_second = None;
                return;
            }
        };
        self.take(&metrics, Instant::now());
        if let Ok(text) = get(client, &self.url, "info").await
            && let Ok(info) = serde_json::from_str::<Value>(&text)
        {
            self.view.model = text_of(&info["model_version"]);
            self.view.provider = text_of(&info["device"]);
            self.view.version = text_of(&info["version"]);
        }
        match get(client, &self.url, "health/readyz").await {
            Ok(text) => {
                let ready = serde_json::from_str::<Value>(&text).unwrap_or_default();
                (self.view.state, self.view.outages) = readiness(&ready);
            }
            Err(reason) => self.view.state = StageState::Silent(reason),
        }
    }

    /// Takes a reading in.
    fn take(&mut self, metrics: &Exposition, now: Instant) {
        let tagged = metrics.by("tagstream_inference_images_total", "result");
        let point = Point {
            at: now,
            images: tagged.get("ok").copied().unwrap_or_default(),
            inference: metrics.histogram("tagstream_inference_seconds"),
            waiting: metrics.histogram("tagstream_batch_wait_seconds"),
            batch: metrics.histogram("tagstream_batch_images"),
        };
        // A counter that falls is a process that began anew.
        if self
            .points
            .back()
            .is_some_and(|last| last.images > point.images)
        {
            self.points.clear();
        }
        self.points.push_back(point);
        while self.points.front().is_some_and(|p| now - p.at > KEPT) {
            self.points.pop_front();
        }
        let view = &mut self.view;
        let last = self.points.back().expect("one was just put there");
        let before = |over| {
            self.points
                .iter()
                .find(|p| now - p.at <= over)
                .unwrap_or(last)
        };
        view.images_a_second = rate(before(RATE_OVER), last);
        view.curve = curve(&self.points);
        let earlier = before(LATENCY_OVER);
        view.inference = Spread::of(&last.inference.since(&earlier.inference));
        view.waiting = Spread::of(&last.waiting.since(&earlier.waiting));
        view.batch = Spread::of(&last.batch.since(&earlier.batch));
        view.lags = metrics
            .of("tagstream_partition_lag_messages")
            .filter_map(|(labels, lag)| {
                let partition = labels.get("partition").parse().ok()?;
                Some(((labels.get("topic").to_owned(), partition), lag))
            })
            .collect();
        view.dead_letters = metrics.by("tagstream_dead_letters_total", "kind");
        view.memory = (
            metrics.sum("tagstream_row_budget_used_bytes"),
            metrics.sum("tagstream_row_budget_bytes"),
        );
    }
}

fn rate(from: &Point, to: &Point) -> Option<f64> {
    let seconds = (to.at - from.at).as_secs_f64();
    (seconds > 0.0).then(|| (to.images - from.images) / seconds)
}

/// Rates over equal parts of the time that is kept.
fn curve(points: &VecDeque<Point>) -> Vec<f64> {
    let step = points.len().div_ceil(CURVE).max(1);
    let few: Vec<&Point> = points.iter().step_by(step).chain(points.back()).collect();
    few.windows(2)
        .filter_map(|pair| rate(pair[0], pair[1]))
        .collect()
}

/// What `/health/readyz` says: how the stage is, and what is down.
fn readiness(body: &Value) -> (StageState, Vec<String>) {
    let outages = body["outages"].as_array().map_or(&[][..], Vec::as_slice);
    let outages = outages.iter().map(|outage| {
        let waiting = outage["messages_waiting"].as_u64().unwrap_or_default();
        format!("{}: {waiting} messages wait", text_of(&outage["place"]))
    });
    let outages = outages.collect();
    if body["ready"] == Value::Bool(true) {
        return (StageState::Ready, outages);
    }
    let details = body["details"].as_object();
    let reasons = details.into_iter().flatten();
    let reasons = reasons.map(|(name, why)| format!("{name}: {}", text_of(why)));
    (StageState::NotReady(reasons.collect()), outages)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn shown(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// The text of a page, whatever its status (a stage that is not ready answers 503).
async fn get(client: &reqwest::Client, url: &Url, path: &str) -> Result<String, String> {
    let base = url.as_str().trim_end_matches('/');
    let asked = client
        .get(format!("{base}/{path}"))
        .timeout(ANSWER)
        .send()
        .await;
    let mut answer = asked.map_err(|error| {
        let reason = match (error.is_timeout(), error.is_connect()) {
            (true, _) => "no answer in time",
            (_, true) => "nobody listens there",
            _ => "the answer is no HTTP",
        };
        format!("{}: {reason}", redact_place(url.as_str()))
    })?;
    let mut body = Vec::new();
    while let Some(part) = answer
        .chunk()
        .await
        .map_err(|_| "the answer broke off".to_owned())?
    {
        if body.len() + part.len() > LARGEST {
            return Err("the answer is larger than 4 MiB".into());
        }
        body.extend_from_slice(&part);
    }
    if !answer.status().is_success() && answer.status().as_u16() != 503 {
        return Err(format!("it answers {}", answer.status()));
    }
    String::from_utf8(body).map_err(|_| "the answer is no text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched() -> Watched {
        Watched::new(Url::parse("http://127.0.0.1:9464/").unwrap())
    }

    fn reading(images: u64) -> Exposition {
        Exposition::parse(&format!(
            "tagstream_inference_images_total{{result=\"ok\"}} {images}\n\
             tagstream_inference_images_total{{result=\"error\"}} 9000\n\
             tagstream_partition_lag_messages{{topic=\"images\",partition=\"1\"}} 7\n\
             tagstream_row_budget_bytes{{table=\"predictions\"}} 100\n\
             tagstream_row_budget_used_bytes{{table=\"predictions\"}} 25\n"
        ))
    }

    #[test]
    fn rates_follow_counters_and_begin_anew_with_the_process() {
        let mut stage = watched();
        let start = Instant::now();
        stage.take(&reading(0), start);
        assert_eq!(stage.view.images_a_second, None, "nothing to compare with");
        for second in 1..=30u64 {
            stage.take(&reading(20 * second), start + Duration::from_secs(second));
        }
        assert_eq!(stage.view.images_a_second, Some(20.0));
        assert_eq!(stage.view.curve, vec![20.0; 30]);
        assert_eq!(stage.view.lags[&("images".to_owned(), 1)], 7.0);
        assert_eq!(stage.view.memory, (25.0, 100.0));
        stage.take(&reading(3), start + Duration::from_secs(31));
        assert_eq!(stage.view.images_a_second, None, "not a negative rate");
        assert!(stage.view.curve.is_empty());
    }

    #[test]
    fn a_curve_has_a_bounded_number_of_points() {
        let mut stage = watched();
        let start = Instant::now();
        for tenth in 0..2_000u64 {
            stage.take(&reading(tenth), start + Duration::from_millis(100 * tenth));
        }
        assert!(
            stage.view.curve.len() <= CURVE + 1,
            "{}",
            stage.view.curve.len()
        );
        assert!(
            stage
                .view
                .curve
                .iter()
                .all(|rate| (rate - 10.0).abs() < 1e-6)
        );
    }

    #[test]
    fn what_keeps_a_stage_from_working_is_told() {
        let body = serde_json::json!({
            "ready": false,
            "details": {"assigned": "it waits for the group"},
            "outages": [{"place": "http://a", "messages_waiting": 3}],
        });
        let (state, outages) = readiness(&body);
        let reasons = vec!["assigned: it waits for the group".to_owned()];
        assert_eq!(state, StageState::NotReady(reasons));
        assert_eq!(outages, ["http://a: 3 messages wait"]);
        assert_eq!(readiness(&Value::Null).0, StageState::NotReady(Vec::new()));
    }

    #[tokio::test]
    async fn who_does_not_answer_is_said_not_to() {
        let mut stage = Watched::new(Url::parse("http://127.0.0.1:9/").unwrap());
        let client = tagstream_core::tls::http_client().build().unwrap();
        stage.ask(&client).await;
        let StageState::Silent(reason) = &stage.view.state else {
            panic!("{:?}", stage.view.state);
        };
        assert!(reason.contains("nobody listens"), "{reason}");
    }
}
