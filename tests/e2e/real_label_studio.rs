//! A real Label Studio (`scripts/label_studio.sh`): it imports what `labels suggest` writes, asks
//! the model, sends its webhook, and its export is imported.

use crate::harness::{STUCK, World, bootstrap, create_topic, not_tested, unique};
use crate::label_studio::SUGGEST;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tagstream::serve::Pages;
use tagstream::serve::config::ServeConfig;
use tagstream_core::config::ObjectStoreConfig;
use tagstream_core::events::LabelEvent;
use tagstream_model::registry::{Action, Decision, Registration, Registry};
use tagstream_train::labels::LabelTable;

/// The key that `scripts/label_studio.sh` gives the one user.
const KEY: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "label-studio-label-studio";

/// Label Studio, on a copy of the data that the script has prepared.
struct Studio {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Drop for Studio {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Studio {
    async fn start(folder: &Path) -> Option<Studio> {
        let (Ok(program), Ok(data)) = (
            std::env::var("TAGSTREAM_LABEL_STUDIO"),
            std::env::var("TAGSTREAM_LABEL_STUDIO_DATA"),
        ) else {
            not_tested("a real Label Studio: none is named (scripts/label_studio.sh)");
            return None;
        };
        let own = folder.join("label-studio");
        let copied = Command::new("cp").arg("-r").arg(data).arg(&own).status();
        assert!(copied.unwrap().success());
        // Free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(program)
            .args(["start", "--no-browser", "--data-dir"])
            .arg(own)
            .args(["-p", &port.to_string()])
            .envs([
                ("COLLECT_ANALYTICS", "false"),
                ("LATEST_VERSION_CHECK", "false"),
                ("SENTRY_DSN", ""),
                // It calls what listens on this machine.
                ("SSRF_PROTECTION_ENABLED", "false"),
                ("ML_BLOCK_LOCAL_IP", "false"),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut studio = Studio {
            child: child.unwrap(),
            url: format!("http://127.0.0.1:{port}"),
            client: tagstream::tls::http_client().build().unwrap(),
        };
        let started = Instant::now();
        while studio.ask("GET", "/version", None).await.is_none() {
            assert!(started.elapsed() < 10 * STUCK, "it never answers");
            assert!(studio.child.try_wait().unwrap().is_none(), "it ended");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Some(studio)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<(u16, Value)> {
        let method = method.parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = request.header("authorization", format!("Token {KEY}"));
        let request = match body {
            Some(body) => request
                .header("content-type", "application/json")
                .body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }

    /// What it answers, which must be good.
    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let body = Some(&body).filter(|body| !body.is_null());
        let (status, answer) = self.ask(method, path, body).await.unwrap();
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }
}

/// A model that serves, and pages that answer Label Studio.
async fn pages(world: &World) -> (Pages, ServeConfig) {
    let folder = world.folder.path();
    let url = folder.join("registry").to_str().unwrap().to_owned();
    let registry = Registry::open_or_create(&url, &ObjectStoreConfig::default())
        .await
        .unwrap();
    let registration = Registration {
        bundle: &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-model"),
        attachments: &[],
        who: "tester",
        why: "begin",
        run: None,
    };
    registry.register(&registration).await.unwrap();
    registry
        .decide(Decision::by_hand(Action::Promoted, 1, "tester", "begin"))
        .await
        .unwrap();
    let tokens = folder.join("tokens");
    std::fs::write(&tokens, format!("act label-studio {TOKEN}\n")).unwrap();
    let mut config = ServeConfig::default();
    config.serve.bind = "127.0.0.1:0".into();
    config.access.token_file = tokens.to_str().unwrap().into();
    config.registry.url = url;
    config.kafka.brokers = bootstrap();
    config.topics.labels = world.config.labels.topic.clone();
    config.label_studio.state = folder.join("studio").to_str().unwrap().into();
    config.inference.enabled = true;
    config.fetch = world.config.fetch.clone();
    config.decode = world.config.decode.clone();
    (Pages::start(&config).await.unwrap(), config)
}

/// What is known by the topic, once the last event on it is the `count`th.
async fn known(world: &World, count: usize) -> LabelTable {
    let started = Instant::now();
    loop {
        let messages = world.read_topic(&world.config.labels.topic);
        let events = messages.iter();
        let events = events.map(|(_, value, _)| LabelEvent::from_json(value.as_bytes()).unwrap());
        let mut events: Vec<LabelEvent> = events.collect();
        assert!(events.len() <= count, "{events:?}");
        if events.len() == count {
            events.sort_by_key(|event| event.event_time);
            return LabelTable::of_events(&events);
        }
        assert!(started.elapsed() < STUCK, "no notice came: {events:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn tagstream(arguments: &[&str], world: &World) {
    let output = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(arguments)
        .envs(world.credentials())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn label_studio_takes_the_tasks_asks_the_model_and_tells_of_labels() {
    let mut world = World::new("real-studio", 2);
    let Some(studio) = Studio::start(world.folder.path()).await else {
        return;
    };
    world.config.labels.topic = unique("studio-labels");
    create_topic(&world.config.labels.topic, 2);
    world.produce(0, 12);
    world.drain().await.unwrap();
    let tasks = world.folder.path().join("tasks.json");
    let tables = world.config.output.url.clone();
    let out = tasks.to_str().unwrap();
    tagstream(&[&SUGGEST[..], &[&tables, "--out", out]].concat(), &world);
    let (pages, config) = pages(&world).await;
    let backend = format!("http://{}/label-studio", pages.address());

    let label_config = std::fs::read_to_string(tasks.with_extension("xml")).unwrap();
    let project = json!({"title": "what is it?", "label_config": label_config});
    let project = studio.call("POST", "/api/projects", project).await["id"].clone();
    let import: Value = serde_json::from_slice(&std::fs::read(&tasks).unwrap()).unwrap();
    let path = format!("/api/projects/{project}/import");
    let imported = studio.call("POST", &path, import.clone()).await;
    let of_learning = import.as_array().unwrap().iter();
    let of_learning = of_learning
        .filter(|task| task["data"]["purpose"] == "learning")
        .count();
    assert_eq!(imported["task_count"], 6);
    assert_eq!(imported["prediction_count"], of_learning);
    println!("imported {imported}");

    asks_the_model(&studio, &project, &backend).await;
    let hook = json!({
        "project": project, "url": format!("{backend}/webhook"), "send_payload": true,
        "send_for_all_actions": false,
        "actions": ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED"],
        "headers": {"Authorization": format!("Bearer {TOKEN}")},
    });
    studio.call("POST", "/api/webhooks/", hook).await;
    labels(&studio, &project, &world).await;
    assert!(
        Path::new(&config.label_studio.state)
            .join("pictures")
            .is_dir()
    );
}

/// Adds the backend and has all tasks predicted by it.
async fn asks_the_model(studio: &Studio, project: &Value, backend: &str) {
    let health = || async {
        let answer = studio.client.get(format!("{backend}/health"));
        let answer = answer
            .header("authorization", format!("Bearer {TOKEN}"))
            .send()
            .await;
        answer.unwrap().status().as_u16()
    };
    let started = Instant::now();
    while health().await != 200 {
        assert!(started.elapsed() < STUCK, "the model is never ready");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ml = json!({
        "project": project, "url": backend, "title": "tagstream", "auth_method": "BASIC_AUTH",
        "basic_auth_user": "anybody", "basic_auth_pass": TOKEN,
    });
    let added = studio.call("POST", "/api/ml", ml).await;
    assert_eq!(added["readable_state"], "Connected", "{added}");
    let version = added["model_version"].as_str().unwrap().to_owned();
    let path = format!("/api/dm/actions?id=retrieve_tasks_predictions&project={project}");
    let all = json!({"selectedItems": {"all": true, "excluded": []}, "project": project});
    let retrieved = studio.call("POST", &path, all).await;
    let path = format!("/api/tasks?project={project}&fields=all");
    let tasks = studio.call("GET", &path, Value::Null).await;
    for task in tasks["tasks"].as_array().unwrap() {
        let predictions = task["predictions"].as_array().unwrap().iter();
        let own = predictions
            .filter(|p| p["model_version"] == version.as_str())
            .count();
        assert!(own >= 1, "{task}");
    }
    println!("predicted by {version}: {retrieved}");
}

/// Labels a picture, thinks again, takes it back, and labels it once more.
async fn labels(studio: &Studio, project: &Value, world: &World) {
    let path = format!("/api/tasks?project={project}&fields=all");
    let tasks = studio.call("GET", &path, Value::Null).await;
    let task = &tasks["tasks"][0];
    let picture = task["data"]["image_id"].as_str().unwrap();
    let says = |present: &str, absent: &str| {
        let choices = |control: &str, name: &str| {
            let value = json!({"choices": [name]});
            json!({"type": "choices", "from_name": control, "to_name": "image", "value": value})
        };
        json!({"result": [choices("present", present), choices("absent", absent)]})
    };
    let annotations = format!("/api/tasks/{}/annotations/", task["id"]);
    let states = |table: &LabelTable| -> Vec<String> {
        let known = table.known();
        known
            .map(|(image, name, state)| format!("{image} {name} {state:?}"))
            .collect()
    };
    let first = studio
        .call("POST", &annotations, says("red", "green"))
        .await;
    let wanted = [
        format!("{picture} green Absent"),
        format!("{picture} red Present"),
    ];
    assert_eq!(states(&known(world, 1).await), wanted);
    let one = format!("/api/annotations/{}/", first["id"]);
    studio.call("PATCH", &one, says("green", "blue")).await;
    let wanted = [
        format!("{picture} blue Absent"),
        format!("{picture} green Present"),
    ];
    assert_eq!(states(&known(world, 2).await), wanted);
    studio.call("DELETE", &one, Value::Null).await;
    assert_eq!(states(&known(world, 3).await), [""; 0]);
    studio.call("POST", &annotations, says("red", "blue")).await;
    let by_notices = known(world, 4).await;

    // The export says the same as the notices did.
    let path = format!("/api/projects/{project}/export?exportType=JSON");
    let export = studio.call("GET", &path, Value::Null).await;
    let file = world.folder.path().join("export.json");
    let events = world.folder.path().join("events.jsonl");
    std::fs::write(&file, export.to_string()).unwrap();
    let (file, out) = (file.to_str().unwrap(), events.to_str().unwrap());
    tagstream(
        &[
            "labels",
            "import",
            file,
            "--form",
            "label-studio",
            "--out",
            out,
        ],
        world,
    );
    let events = std::fs::read_to_string(&events).unwrap();
    let events = events
        .lines()
        .map(|line| LabelEvent::from_json(line.as_bytes()).unwrap());
    let events: Vec<LabelEvent> = events.collect();
    let by_export = LabelTable::of_events(&events);
    assert_eq!(states(&by_export), states(&by_notices));
    println!(
        "labels by notices and by the export: {}",
        states(&by_export).join(", ")
    );
}
