//! `tagstream demo`, cut short: what the job can see, and what it cannot.

mod bench_http;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use tagstream::labelling::store::read_labels;
use tagstream::retrain::config::RetrainConfig;
use tagstream::retrain::job::Inputs;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::storage::store::TableStore;
use tagstream_model::registry::Registry;
use tagstream_model::runtime;

/// The demonstration with pictures and training time far too few for a better model: the judge lets
/// none pass.
fn short_demonstration(out: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagstream"));
    if let Ok(runtime) = runtime::Runtime::load() {
        command.env("ORT_DYLIB_PATH", runtime.library());
    }
    command
        .args(["demo", "--images", "400", "--max-minutes", "0.001", "--out"])
        .arg(out)
        .arg("--clip")
        .arg(root.join("models/demo-clip"))
        // A user's own settings must not reach the demonstration.
        .env("TAGSTREAM_KAFKA__BROKERS", "127.0.0.1:1")
        .env("TAGSTREAM_REGISTRY", "/nowhere")
        // No program of the system is needed: small ones have no kill(1).
        .env("PATH", "/nowhere")
        .env_remove("DISPLAY")
        .env_remove("WAYLAND_DISPLAY")
        .stdin(Stdio::null());
    command
}

/// Where the pages are, once it is said.
fn pages_of(child: &mut Child) -> String {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (send, said) = channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut all = Vec::new();
    loop {
        let line = said.recv_timeout(Duration::from_secs(300));
        let line = line.unwrap_or_else(|_| panic!("nothing says where to look: {all:#?}"));
        if let Some(url) = line.trim().strip_prefix("open ") {
            // What it says later is read by nobody.
            std::thread::spawn(move || said.iter().for_each(drop));
            return url.to_owned();
        }
        all.push(line);
    }
}

/// Ended with the test, however it ends: its children go with it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn it_ends_on_pages_that_show_a_running_stage_and_ask_for_labels() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo-out");
    let mut command = short_demonstration(&out);
    let child = command
        .args(["--serve", "--port", "0"])
        .stderr(Stdio::piped())
        .spawn();
    let mut child = Ended(child.unwrap());
    let url = pages_of(&mut child.0);
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let page = |path: &str| {
        let url = format!("{url}{path}");
        runtime.block_on(async {
            let client = tagstream::tls::http_client().build().unwrap();
            let answer = client.get(url).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    };
    for path in ["", "review", "models", "search"] {
        let (status, text) = page(path);
        assert_eq!(status, 200, "{path}: {text}");
    }
    let models = page("models").1;
    assert!(models.contains("href=\"/models/2\""), "{models}");
    let started = Instant::now();
    while page("v2/health/ready").0 != 200 {
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "no model answers"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    // Pictures come while somebody looks.
    let started = Instant::now();
    while !page("").1.contains("pale-20261123-") {
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "nothing new comes"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    // What it says to do next can be done.
    let config = out.join("retrain-more.toml");
    let config = tagstream_core::config::load::<RetrainConfig>(Some(&config), &[]).unwrap();
    assert_eq!(config.config.labels.min_new_labels, 10);
    let pid = child.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = child.0.wait().unwrap();
    assert!(!status.success(), "the candidate was not promoted");
    let log = std::fs::read_to_string(out.join("stage-kept.log")).unwrap();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn the_job_never_sees_the_second_half_nor_what_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo-out");
    let output = short_demonstration(&out).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("was not promoted"), "{said}");

    // The labels that were sent: a tenth, about the first half only.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = ObjectStoreConfig::default();
    let store = TableStore::open_for_reading(out.to_str().unwrap(), &options).unwrap();
    let table = runtime.block_on(read_labels(&store, "labels")).unwrap();
    let halves = ["first", "second"].map(|half| {
        let list = out.join("truth").join(half).join("labels.csv");
        let rows = std::fs::read_to_string(list).unwrap();
        let ids = rows.lines().skip(1).map(|l| l.split(',').next().unwrap());
        let mut ids: Vec<String> = ids.map(str::to_owned).collect();
        ids.dedup();
        assert_eq!(ids.len(), 200);
        ids
    });
    let labelled: Vec<&str> = table.images().map(|(id, _)| id).collect();
    assert!(labelled.len() > 190);
    for id in &labelled {
        assert!(halves[0].iter().any(|known| known == id), "{id}");
        assert!(!halves[1].iter().any(|unseen| unseen == id), "{id}");
    }
    let known = table.known().count() as f64 / (200.0 * 50.0);
    assert!((known - 0.1).abs() < 0.02, "{known}");

    // What the candidate says that it was trained on is exactly this.
    let registry = out.join("registry");
    let registry = Registry::open(registry.to_str().unwrap(), &options);
    let candidate = runtime
        .block_on(async { registry.await.unwrap().version(2).await })
        .unwrap();
    let inputs = Inputs::new(table, Vec::new(), 1);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert!(report.to_string().contains(&inputs.snapshot));
    assert!(candidate.attachments.contains_key("labels.csv.gz"));

    // And its rules forbid it to read anything but the first half's pictures, the truth least of
    // all.
    let config =
        tagstream_core::config::load::<RetrainConfig>(Some(&out.join("retrain.toml")), &[])
            .unwrap()
            .config;
    let first = out.canonicalize().unwrap().join("pictures/first");
    let allowed: Vec<PathBuf> = config
        .fetch
        .allow_path_prefixes
        .iter()
        .map(Into::into)
        .collect();
    assert_eq!(allowed, [first]);
    assert_eq!(config.fetch.allow_schemes, ["file"]);
    assert!(!out.join("pictures/first/labels.csv").exists());
}
