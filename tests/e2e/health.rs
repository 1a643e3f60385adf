//! What a stage says of itself while something around it is broken: probes, signals, the port.

use crate::child::{Launch, Stage};
use crate::common::get;
use crate::harness::{STUCK, World, is_real_broker, not_tested};
use crate::pages::{page, wait_ready};
use crate::relay::Relay;
use serde_json::Value;
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

const SERVED: Launch<'static> = Launch {
    model: None,
    failpoints: "",
    for_ever: true,
    http: true,
    memory_kib: 0,
    group: None,
    environment: &[],
};

/// Looks until `found` finds something, or the stage has ended or is stuck.
async fn until<T>(stage: &mut Stage, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        let stuck = started.elapsed() > STUCK || !stage.is_running();
        assert!(!stuck, "{}", stage.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Two on one machine: the second reads all the same, and has the port when the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_process_has_ends_no_stage() {
    let mut world = World::new("port", 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    world.config.http.bind = address.clone();
    let broken = world.produce(0, 20);
    let mut stage = world.launch("port", &SERVED);
    stage.says("file committed", 1);
    until(&mut stage, async || {
        (world.rows().len() == 20 - broken).then_some(())
    })
    .await;
    assert!(stage.log().contains("http.bind"), "{}", stage.log());
    drop(taken);
    until(&mut stage, async || {
        get(&format!("http://{address}/metrics")).await.ok()
    })
    .await;
    wait_ready(&mut stage, &address, 200, "assigned", true).await;
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
}

/// Who waits for a store that says nothing has nothing to finish.
#[tokio::test(flavor = "multi_thread")]
async fn a_stage_whose_store_hangs_at_the_start_tells_so_and_heeds_sigterm() {
    let mut world = World::new("hanging", 1);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    world.config.output.url = "s3://bucket/tables".into();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    world.config.object_store.s3 = [
        ("endpoint", endpoint.as_str()),
        ("allow_http", "true"),
        ("region", "us-east-1"),
        ("access_key_id", "somebody"),
        ("secret_access_key", "something"),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string().into()))
    .into();
    let mut stage = world.launch("hanging", &SERVED);
    let address = stage.address();
    let (_asked, _) = tokio::task::spawn_blocking(move || {
        let asked = silent.accept().unwrap();
        (asked, silent)
    })
    .await
    .unwrap();
    wait_ready(&mut stage, &address, 503, "sink_reachable", false).await;
    let (status, text) = page(&address, "/health/livez").await;
    assert_eq!(status, 200, "{text}");
    let (_, text) = page(&address, "/health/readyz").await;
    let body: Value = serde_json::from_str(&text).unwrap();
    assert!(body["details"]["assigned"].is_string(), "{text}");
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
    assert!(stage.log().contains("told to end before anything was read"));
}

/// A broker that accepts connections and says nothing keeps no loop of ours from moving: starting
/// again would not thaw it.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_at_a_commit_makes_the_stage_unready_and_not_dead() {
    let (mut world, relay) = (World::new("frozen", 1), Relay::start());
    world.config.kafka.brokers = relay.address();
    world.config.http.liveness_limit_ms = 3_000;
    world.config.http.broker_check_ms = 200;
    let broken = world.produce(0, 20);
    relay.freeze_at_commit();
    let mut stage = world.launch("frozen", &SERVED);
    let address = stage.address();
    until(&mut stage, async || relay.is_frozen().then_some(())).await;
    let frozen = Instant::now();
    wait_ready(&mut stage, &address, 503, "broker_reachable", false).await;
    let limit = Duration::from_millis(world.config.http.liveness_limit_ms);
    until(&mut stage, async || {
        let (status, text) = page(&address, "/health/livez").await;
        assert_eq!(status, 200, "{text}");
        (frozen.elapsed() > 3 * limit).then_some(())
    })
    .await;
    relay.come_back();
    wait_ready(&mut stage, &address, 200, "broker_reachable", true).await;
    let more = world.produce(20, 20);
    until(&mut stage, async || {
        (world.rows().len() == 40 - broken - more).then_some(())
    })
    .await;
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_broker_is_told_with_its_cause_until_it_is_over() {
    let (mut world, relay) = (World::new("outage", 1), Relay::start());
    world.config.kafka.brokers = relay.address();
    world.config.http.broker_check_ms = 200;
    let mut stage = world.launch("outage", &SERVED);
    let address = stage.address();
    wait_ready(&mut stage, &address, 200, "broker_reachable", true).await;
    relay.vanish();
    wait_ready(&mut stage, &address, 503, "broker_reachable", false).await;
    let (_, text) = page(&address, "/health/readyz").await;
    let body: Value = serde_json::from_str(&text).unwrap();
    let detail = body["details"]["broker_reachable"].as_str().unwrap();
    assert!(detail.contains(&relay.address()), "{detail}");
    let (status, text) = page(&address, "/health/livez").await;
    assert_eq!(status, 200, "{text}");
    relay.come_back();
    wait_ready(&mut stage, &address, 200, "broker_reachable", true).await;
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
}

/// The commonest mistake with brokers in containers.
#[test]
fn an_advertised_address_that_is_no_good_here_is_named_by_run_and_doctor() {
    let (mut world, (relay, astray)) = (World::new("astray", 1), Relay::sending_astray());
    world.config.kafka.brokers = relay.address();
    let mut stage = world.launch(
        "astray",
        &Launch {
            for_ever: true,
            ..Launch::default()
        },
    );
    assert_eq!(stage.wait().code(), Some(75), "{}", stage.log());
    let log = stage.log();
    let told = |line: &str| line.contains(&astray) && line.contains("advertised.listeners");
    assert!(told(log.lines().last().unwrap()), "{log}");
    let doctor = Command::new(env!("CARGO_BIN_EXE_tagstream"))
        .args(["doctor", "--demo-clip", "/nowhere", "--config"])
        .arg(world.folder.path().join("astray.toml"))
        .output()
        .unwrap();
    assert_eq!(doctor.status.code(), Some(1));
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("  broker  "));
    assert!(line.is_some_and(told), "{text}");
}

/// What a launch with these properties says before it ends; it ends long before the patience with
/// brokers that are down.
fn said_of(name: &str, brokers: Option<String>, properties: &[(&str, &str)]) -> (i32, String) {
    let mut world = World::new(name, 1);
    if let Some(brokers) = brokers {
        world.config.kafka.brokers = brokers;
    }
    let properties = properties
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string().into()));
    world.config.kafka.properties = properties.collect();
    let mut stage = world.launch(
        name,
        &Launch {
            for_ever: true,
            ..Launch::default()
        },
    );
    let code = stage.wait().code().unwrap();
    (code, stage.log())
}

#[test]
fn tls_to_a_plaintext_listener_is_told_as_that() {
    let (code, log) = said_of("tls", None, &[("security.protocol", "ssl")]);
    assert!(
        log.contains("the listener closes the connection or answers without"),
        "{log}"
    );
    assert!(code == 75 || code == 2, "{code}");
    assert!(!log.contains("transport failure"), "{log}");
}

#[test]
fn plaintext_to_a_tls_listener_is_told_as_that() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // So does a listener that waits for a TLS handshake and gets something else.
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.unwrap().read(&mut [0; 4]);
        }
    });
    let (code, log) = said_of("plain", Some(address), &[]);
    assert_eq!(code, 75);
    assert!(log.contains("a listener that wants TLS does so"), "{log}");
}

#[test]
fn a_login_to_a_listener_without_logins_is_told_as_that() {
    if !is_real_broker() {
        return not_tested("SASL to a listener without: an embedded broker knows no logins");
    }
    let properties = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "somebody"),
        ("sasl.password", "something"),
    ];
    let (code, log) = said_of("login", None, &properties);
    assert_eq!(code, 2, "{log}");
    assert!(
        log.contains("does not take this way of logging in"),
        "{log}"
    );
}

/// One sentence when it is found, one at the end; no line of the client library for every try.
#[test]
fn a_wrong_address_is_told_in_a_sentence_and_an_error_once() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (code, log) = said_of("wrong", Some(closed.to_string()), &[]);
    assert_eq!(code, 75);
    let told: Vec<_> = log
        .lines()
        .filter(|l| l.contains(&closed.to_string()))
        .collect();
    assert!(told.len() <= 2, "{told:#?}");
    assert!(
        told.last().unwrap().contains("refuses connections"),
        "{told:#?}"
    );
    assert_eq!(
        log.matches("no answer from the brokers").count(),
        1,
        "{log}"
    );
    assert!(!log.contains(".cargo"), "{log}");
}

/// A restart on a topic that is read to its end: nothing is read or committed, and an alert on lag
/// must not go blind.
#[tokio::test(flavor = "multi_thread")]
async fn lag_is_shown_after_a_restart_on_an_idle_topic() {
    let mut world = World::new("idle", 2);
    world.config.source.statistics_interval_ms = 100;
    world.produce(0, 20);
    world.drain().await.unwrap();
    let mut stage = world.launch("idle", &SERVED);
    let address = stage.address();
    let topic = world.config.source.images_topic.clone();
    until(&mut stage, async || {
        let (_, text) = page(&address, "/metrics").await;
        let shown = |partition: i32| {
            let labels = format!("{{topic=\"{topic}\",partition=\"{partition}\"}} 0");
            text.contains(&format!("tagstream_partition_lag_messages{labels}"))
        };
        (shown(0) && shown(1)).then_some(())
    })
    .await;
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
}

/// An embedded broker lets a group's next member wait for a session after the last one has left.
#[test]
fn a_second_run_on_an_embedded_broker_starts_soon_after_the_first() {
    if is_real_broker() {
        return not_tested("two runs after each other on an embedded broker");
    }
    let mut world = World::new("again", 1);
    world.config.kafka.session_timeout_ms = 45_000;
    for (name, first) in [("once", 0), ("again", 10)] {
        world.produce(first, 10);
        let mut stage = world.launch(name, &Launch::default());
        assert!(stage.wait().success(), "{}", stage.log());
        assert!(
            !stage.log().contains("no partitions yet"),
            "{}",
            stage.log()
        );
    }
}

/// A machine without certificates of authorities: what needs none goes on, the rest is refused with
/// what to do.
#[test]
fn without_authorities_only_what_asks_over_tls_is_refused() {
    let mut world = World::new("authorities", 1);
    let without = Launch {
        environment: &[("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")],
        ..Launch::default()
    };
    let broken = world.produce(0, 10);
    world.config.fetch.allow_schemes = vec!["file".into(), "http".into()];
    let mut stage = world.launch("plain", &without);
    assert!(stage.wait().success(), "{}", stage.log());
    assert_eq!(world.rows().len(), 10 - broken);

    world.config.fetch.allow_schemes.push("https".into());
    let mut stage = world.launch("tls", &without);
    assert_eq!(stage.wait().code(), Some(2), "{}", stage.log());
    assert!(stage.log().contains("ca-certificates"), "{}", stage.log());
}
