//! The pages that an operator and a scheduler look at, from a running process.

use crate::child::{Launch, Stage};
use crate::common::get;
use crate::harness::{STUCK, World};
use serde_json::Value;
use std::time::{Duration, Instant};

pub(crate) async fn page(address: &str, path: &str) -> (u16, String) {
    let answer = get(&format!("http://{address}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Waits until `/health/readyz` answers `status` and says that `condition` is `holds`.
pub(crate) async fn wait_ready(
    stage: &mut Stage,
    address: &str,
    status: u16,
    condition: &str,
    holds: bool,
) {
    let started = Instant::now();
    loop {
        let (found, text) = page(address, "/health/readyz").await;
        let body: Value = serde_json::from_str(&text).unwrap();
        if found == status && body["conditions"][condition] == Value::Bool(holds) {
            assert_eq!(body["ready"], Value::Bool(status == 200));
            return;
        }
        assert!(
            started.elapsed() < STUCK && stage.is_running(),
            "{found} {text}\n{}",
            stage.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_tell_how_it_is() {
    let mut world = World::new("pages", 2);
    // A folder wherever the other tests keep their tables: it can be taken away.
    let tables = world.folder.path().join("tables");
    world.config.output.url = tables.to_str().unwrap().into();
    world.config.object_store.s3.clear();
    world.config.http.sink_check_ms = 50;
    world.config.source.statistics_interval_ms = 100;
    let broken = world.produce(0, 100);
    let launch = Launch {
        for_ever: true,
        http: true,
        ..Launch::default()
    };
    let mut stage = world.launch("pages", &launch);
    let address = stage.address();
    wait_ready(&mut stage, &address, 200, "assigned", true).await;
    let rows = 100 - broken;
    let started = Instant::now();
    while world.rows().len() < rows {
        assert!(started.elapsed() < STUCK, "{}", stage.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let (status, text) = page(&address, "/health/livez").await;
    let live: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &live["alive"]), (200, &Value::Bool(true)));
    for name in ["source", "stage"] {
        let age = live["seconds_since_loops_moved"][name].as_f64();
        assert!(age.is_some_and(|a| a >= 0.0), "{name}: {text}");
    }

    let (_, text) = page(&address, "/info").await;
    let info: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["revision"].is_string(), "{text}");
    assert_eq!(info["provider"], "cpu");
    let assignment = info["assignment"].as_array().unwrap();
    assert_eq!(assignment.len(), 2, "{text}");
    assert!(assignment.iter().all(|a| a["end"] == 50), "{text}");

    let (_, text) = page(&address, "/metrics").await;
    let topic = &world.config.source.images_topic;
    for line in [
        format!("tagstream_messages_total{{topic=\"{topic}\"}} 100"),
        format!("tagstream_rows_total{{table=\"predictions\"}} {rows}"),
        format!("tagstream_dead_letters_total{{topic=\"{topic}\",kind=\"bad_message\"}} {broken}"),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }

    // The store goes away: a file stands where the folder was.
    let aside = world.folder.path().join("tables-aside");
    std::fs::rename(&tables, &aside).unwrap();
    std::fs::write(&tables, "").unwrap();
    wait_ready(&mut stage, &address, 503, "sink_reachable", false).await;
    std::fs::remove_file(&tables).unwrap();
    std::fs::rename(&aside, &tables).unwrap();
    wait_ready(&mut stage, &address, 200, "sink_reachable", true).await;
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
}

/// Stands in every place where a secret can stand.
const SECRET: &str = "hunter2";

#[tokio::test(flavor = "multi_thread")]
async fn no_page_and_no_log_holds_a_secret() {
    let mut world = World::new("secrets", 1);
    world.config.output.url = world.folder.path().join("tables").to_str().unwrap().into();
    world.config.log.filter = "debug".into();
    world.config.fetch.allow_schemes = ["file", "http", "https", "s3", "data"]
        .map(String::from)
        .to_vec();
    world.config.fetch.allow_private_addresses = true;
    world.config.fetch.allow_buckets = vec!["*".into()];
    world.config.fetch.retries = 1;
    world.config.fetch.outage_wait_ms = 0;
    let password = ("sasl.password".to_string(), SECRET.to_string().into());
    world.config.kafka.properties = [password].into();
    // Nobody listens at this port: the store is asked, with its secret, and does not answer.
    world.config.object_store.s3 = [
        ("endpoint", "http://127.0.0.1:9"),
        ("allow_http", "true"),
        ("region", "us-east-1"),
        ("access_key_id", "somebody"),
        ("secret_access_key", SECRET),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string().into()))
    .into();
    let uris = [
        format!("https://somebody:{SECRET}@example.org/a.png"),
        format!("http://127.0.0.1:9/a.png?X-Amz-Signature={SECRET}"),
        format!("http://127.0.0.1:9/a.png#{SECRET}"),
        format!("file:///nowhere/a.png?token={SECRET}"),
        format!("s3://bucket/a.png?token={SECRET}"),
        "s3://bucket/a.png".to_string(),
        format!("data:image/png;base64,{SECRET}"),
        format!("somebody:{SECRET}@example.org/a.png"),
    ];
    let values = uris.iter().enumerate().map(|(i, uri)| {
        let message = serde_json::json!({"image_id": format!("image-{i}"), "uri": uri});
        (0, Some(message.to_string()))
    });
    world.produce_raw(values);
    let launch = Launch {
        for_ever: true,
        http: true,
        ..Launch::default()
    };
    let mut stage = world.launch("secrets", &launch);
    let address = stage.address();
    stage.says("dead letter", uris.len());
    let mut shown = Vec::new();
    for path in ["/info", "/metrics", "/health/livez", "/health/readyz"] {
        let (_, text) = page(&address, path).await;
        shown.push((path, text));
    }
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
    shown.push(("the log", stage.log()));
    for (name, text) in shown {
        let line = text.lines().find(|line| line.contains(SECRET));
        assert_eq!(line, None, "in {name}");
    }
}
