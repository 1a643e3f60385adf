//! What is not the message's fault: hosts that are down, and what the stage itself lacks.

use crate::child::{Launch, Stage};
use crate::common::get;
use crate::common::web_server::{Answer, WebServer};
use crate::harness::{STUCK, StandIn, World};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tagstream::stage::pipeline;
use tagstream::stage::pipeline::{Control, PipelineError, RunOptions, StageStatus};
use tagstream_core::events::DeadLetterKind;
use tokio::sync::watch;

fn world(name: &str, partitions: i32) -> World {
    let mut world = World::new(name, partitions);
    world.config.fetch.allow_schemes = vec!["file".into(), "http".into(), "s3".into()];
    world.config.fetch.allow_private_addresses = true;
    world.config.fetch.allow_hosts = vec!["127.0.0.1".into(), "bucket".into()];
    world.config.fetch.retry_delay_ms = 5;
    world
}

impl World {
    fn png(&self) -> Vec<u8> {
        std::fs::read(self.picture(0)).unwrap()
    }

    /// Writes messages that name `uris`, to one partition.
    fn name(&self, partition: i32, uris: impl IntoIterator<Item = String>) {
        let values = uris.into_iter().enumerate().map(|(i, uri)| {
            let id = format!("image-{partition}-{i}");
            let value = serde_json::json!({"image_id": id, "uri": uri}).to_string();
            (partition, Some(value))
        });
        self.produce_raw(values);
    }

    fn kinds(&self) -> Vec<String> {
        let letters = self.read_topic(&self.config.output.dead_letter_topic);
        letters
            .into_iter()
            .map(|(_, _, h)| h["error.kind"].clone())
            .collect()
    }
}

/// A port where nobody listens, for a while.
fn closed_port() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn urls(address: SocketAddr, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |i| format!("http://{address}/{i}.png"))
}

/// A server that has these images.
async fn serve(address: SocketAddr, count: usize, png: &[u8]) -> WebServer {
    let answers = (0..count).map(|i| (format!("/{i}.png"), Answer::ok("image/png", png)));
    WebServer::start("127.0.0.1", address.port(), answers.collect()).await
}

/// A stage in this process.
struct Running {
    status: Arc<StageStatus>,
    control: watch::Sender<Control>,
    task: tokio::task::JoinHandle<Result<(), PipelineError>>,
}

impl World {
    fn run(&self, until_drained: bool) -> Running {
        let status = Arc::new(StageStatus::default());
        let (control, told) = watch::channel(Control::Run);
        let (config, shown) = (self.config.clone(), Arc::clone(&status));
        let options = RunOptions {
            until_drained,
            ..RunOptions::default()
        };
        let task = tokio::spawn(async move {
            pipeline::run(&config, Arc::new(StandIn::new(0)), &options, shown, told).await
        });
        Running {
            status,
            control,
            task,
        }
    }
}

impl Running {
    /// Waits until `holds`.
    async fn until(&self, what: &str, holds: impl Fn(&StageStatus) -> bool) {
        let started = Instant::now();
        while !holds(&self.status) {
            let shown = (self.status.outages(), self.status.shortage());
            assert!(
                started.elapsed() < STUCK && !self.task.is_finished(),
                "never {what}: {shown:?} {:?}",
                self.status.dead_letters()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(self) -> Result<(), PipelineError> {
        let ended = tokio::time::timeout(STUCK, self.task).await;
        ended.expect("the stage is stuck").unwrap()
    }

    async fn drain(self) -> Result<(), PipelineError> {
        self.control.send_replace(Control::Drain);
        self.end().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_a_host_that_is_down_wait_and_become_rows() {
    let world = world("outage", 2);
    let address = closed_port();
    world.name(0, urls(address, 400));
    let stage = world.run(true);
    stage
        .until("down", |s| s.outages().iter().any(|o| o.waiting > 200))
        .await;
    let outage = stage.status.outages().remove(0);
    assert_eq!(outage.place, format!("http://{address}"));
    assert!(outage.reason.contains("onnect"), "{outage:?}");
    let _server = serve(address, 400, &world.png()).await;
    let status = Arc::clone(&stage.status);
    stage.end().await.unwrap();
    assert!(
        status.dead_letters().is_empty(),
        "{:?}",
        status.dead_letters()
    );
    assert_eq!(status.outages(), []);
    world.assert_exactly_once(&[400, 0], 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_that_outlasts_its_time_gives_dead_letters_of_its_kind() {
    let mut world = world("outlasted", 1);
    world.config.fetch.outage_wait_ms = 300;
    world.name(0, urls(closed_port(), 300));
    let status = world.drain().await.unwrap();
    assert_eq!(
        status.dead_letters(),
        [(DeadLetterKind::Outage, 300)].into()
    );
    world.assert_exactly_once(&[300], 0);
    assert_eq!(world.kinds(), vec!["outage"; 300]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_its_host_fails_to_give_is_no_outage() {
    let world = world("bad-image", 1);
    let png = world.png();
    let broken = Answer::status("500 Internal Server Error", "");
    let answers = (0..20).map(|i| match i {
        3 => ("/3.png".to_owned(), broken.clone()),
        _ => (format!("/{i}.png"), Answer::ok("image/png", &png)),
    });
    let server = WebServer::start("127.0.0.1", 0, answers.collect()).await;
    world.name(0, urls(server.address, 20));
    let status = world.drain().await.unwrap();
    assert_eq!(
        status.dead_letters(),
        [(DeadLetterKind::FetchFailed, 1)].into()
    );
    world.assert_exactly_once(&[20], 19);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_fewer_requests_gets_fewer_and_gives_all() {
    let world = world("throttled", 1);
    let busy = Answer::status("429 Too Many Requests", "Retry-After: 1\r\n");
    let good = Answer::ok("image/png", world.png());
    let answer = |i: usize| match i % 4 {
        0 => Answer::Then(1, Box::new(busy.clone()), Box::new(good.clone())),
        _ => good.clone(),
    };
    let answers: HashMap<_, _> = (0..12).map(|i| (format!("/{i}.png"), answer(i))).collect();
    let server = WebServer::start("127.0.0.1", 0, answers).await;
    world.name(0, urls(server.address, 12));
    let status = world.drain().await.unwrap();
    assert!(
        status.dead_letters().is_empty(),
        "{:?}",
        status.dead_letters()
    );
    world.assert_exactly_once(&[12], 12);
}

/// A silent host takes its own partition's files with it, and nobody else's; and when the stage
/// stops, what waits is left to the next run.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_host_does_not_delay_other_partitions_nor_the_end() {
    let mut world = world("silent", 2);
    world.config.fetch.concurrency = 8;
    world.config.fetch.timeout_ms = 30_000;
    world.config.shutdown.drain_timeout_ms = 50_000;
    let silence = (0..400).map(|i| (format!("/{i}.png"), Answer::Silence));
    let silent = WebServer::start("127.0.0.1", 0, silence.collect()).await;
    let good = serve(closed_port(), 40, &world.png()).await;
    world.name(0, urls(silent.address, 400));
    let stage = world.run(false);
    while silent.requests() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let local = format!("file://{}", world.picture(1).display());
    world.name(
        1,
        urls(good.address, 40).chain((0..10).map(|_| local.clone())),
    );
    let rows = |s: &StageStatus| s.rows.load(std::sync::atomic::Ordering::Relaxed);
    stage
        .until("rows of the other partition", |s| rows(s) == 50)
        .await;
    // The silent host's first deadline has not passed: its seats were not waited for.
    assert_eq!(stage.status.outages(), []);
    assert!(silent.requests() <= 8, "{}", silent.requests());
    stage.task.abort();

    // The next stage finds the host down, says so, and ends without waiting for it.
    world.config.fetch.timeout_ms = 300;
    let stage = world.run(false);
    stage
        .until("down", |s| s.outages().iter().any(|o| o.waiting > 20))
        .await;
    let status = Arc::clone(&stage.status);
    stage.drain().await.unwrap();
    assert!(
        status.dead_letters().is_empty(),
        "{:?}",
        status.dead_letters()
    );
    assert_eq!(world.rows().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_moves_to_another_member_of_the_group() {
    let mut world = world("moved", 4);
    world.config.kafka.session_timeout_ms = 10_000;
    let address = closed_port();
    for partition in 0..4 {
        world.name(partition, urls(address, 100));
    }
    let first = world.run(false);
    first
        .until("down", |s| s.outages().iter().any(|o| o.waiting > 100))
        .await;
    let second = world.run(false);
    second
        .until("given partitions", |s| s.partitions().len() == 2)
        .await;
    second
        .until("down there", |s| !s.outages().is_empty())
        .await;
    assert_eq!(first.status.partitions().len(), 2);
    let _server = serve(address, 100, &world.png()).await;
    first.until("all rows", |_| world.rows().len() == 400).await;
    first.drain().await.unwrap();
    second.drain().await.unwrap();
    world.assert_exactly_once(&[100; 4], 400);
    assert_eq!(world.kinds(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_a_store_refuses_burn_nothing() {
    let mut world = world("rotated", 1);
    world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
    let body = "<?xml version=\"1.0\"?><Error><Code>InvalidAccessKeyId</Code></Error>";
    let refusal = Answer::Raw(
        format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    );
    let answers = (0..50).map(|i| (format!("/bucket/{i}.png"), refusal.clone()));
    let server = WebServer::start("127.0.0.1", 0, answers.collect()).await;
    world.config.object_store.s3 = [
        ("endpoint", server.url("")),
        ("allow_http", "true".into()),
        ("region", "us-east-1".into()),
        ("access_key_id", "somebody".into()),
        ("secret_access_key", "rotated".into()),
    ]
    .map(|(key, value)| (key.to_owned(), value.into()))
    .into();
    world.config.fetch.outage_wait_ms = 500;
    world.name(0, (0..50).map(|i| format!("s3://bucket/{i}.png")));
    let stage = world.run(false);
    stage.until("told", |s| s.shortage().is_some()).await;
    let told = stage.status.shortage().unwrap();
    assert!(
        told.contains("credentials") && told.contains("[object_store]"),
        "{told}"
    );
    stage.drain().await.unwrap();
    // Somebody waits for a run that reads to the end: it ends, without having given up anything.
    let error = world.drain().await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert!(error.to_string().contains("credentials"), "{error}");
    assert_eq!(world.kinds(), Vec::<String>::new());
    assert_eq!(world.rows().len(), 0);
}

/// Descriptors that a process has.
fn descriptors(stage: &Stage) -> usize {
    let folder = format!("/proc/{}/fd", stage.id());
    std::fs::read_dir(folder).unwrap().count()
}

/// The lowest number that no descriptor of a process has. The limit counts numbers: the next
/// descriptor gets this one.
fn first_free(stage: &Stage) -> u64 {
    let folder = format!("/proc/{}/fd", stage.id());
    let entries = std::fs::read_dir(folder).unwrap();
    let numbers: BTreeSet<u64> = entries
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    (0..).find(|number| !numbers.contains(number)).unwrap()
}

/// Lets a process open nothing more, or many.
fn limit_descriptors(stage: &Stage, none: bool) {
    let limit = libc::rlimit {
        rlim_cur: if none { first_free(stage) } else { 1_024 },
        rlim_max: 1_024,
    };
    let old = std::ptr::null_mut();
    // SAFETY: the limit is read before the call returns, and nothing is written.
    let done = unsafe { libc::prlimit(stage.id() as i32, libc::RLIMIT_NOFILE, &limit, old) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_without_descriptors_waits_is_not_ready_and_burns_nothing() {
    let mut world = world("descriptors", 1);
    world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
    world.config.object_store.s3.clear();
    let launch = Launch {
        for_ever: true,
        http: true,
        ..Launch::default()
    };
    let broken = world.produce(0, 20);
    let mut stage = world.launch("descriptors", &launch);
    let address = stage.address();
    stage.says("file committed", 1);
    // Somebody opens connections and says nothing: they do not take all descriptors.
    let before = descriptors(&stage);
    let mut idle = Vec::new();
    for _ in 0..220 {
        idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    let page = async |path: &str| {
        let answer = get(&format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(page("/health/livez").await.0, 200);
    assert!(descriptors(&stage) < 220, "{}", descriptors(&stage));
    drop(idle);
    let started = Instant::now();
    while descriptors(&stage) > before + 4 {
        assert!(started.elapsed() < STUCK, "{}", descriptors(&stage));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let client = reqwest::Client::new();
    let ready = async || {
        let url = format!("http://{address}/health/readyz");
        let answer = client.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    // This connection is kept open.
    ready().await;
    // What was open for a moment when the limit was set leaves room: it is set again.
    let mut named = 20;
    loop {
        limit_descriptors(&stage, true);
        if world.rows().len() >= named - broken {
            let files = (0..25).map(|_| format!("file://{}", world.picture(1).display()));
            world.name(0, files);
            named += 25;
        }
        let (status, text) = ready().await;
        if status == 503 && text.contains("descriptors for") {
            break;
        }
        assert!(
            started.elapsed() < STUCK,
            "{status} {text}\n{}",
            stage.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    limit_descriptors(&stage, false);
    while world.rows().len() < named - broken {
        assert!(started.elapsed() < STUCK, "{}", stage.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while ready().await.0 != 200 {
        assert!(started.elapsed() < STUCK, "{}", stage.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
    world.assert_exactly_once(&[named as i64], named - broken);
    assert_eq!(world.kinds(), vec!["bad_message"; broken]);
    let log = stage.log();
    assert_eq!(log.matches("this process cannot fetch").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_to_the_end_says_that_an_outage_cost_it_messages() {
    let mut world = world("said", 1);
    world.config.fetch.outage_wait_ms = 300;
    world.name(0, urls(closed_port(), 30));
    let mut stage = world.start("said", "");
    assert_eq!(stage.wait().code(), Some(1), "{}", stage.log());
    let log = stage.log();
    for text in [
        "its messages wait for it",
        "until it answers",
        "30 messages",
    ] {
        assert!(log.contains(text), "{text} is not in\n{log}");
    }
    world.assert_exactly_once(&[30], 0);
    // They are dealt with: another run has nothing to say.
    world.start("again", "").finish();
}
