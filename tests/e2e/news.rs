//! The stage tells people that it has ended, and never waits long for that.

use crate::child::Launch;
use crate::common::hook::Hook;
use crate::harness::World;
use std::net::TcpListener;
use tagstream_core::config::Secret;

const FOR_EVER: Launch<'static> = Launch {
    model: None,
    failpoints: "",
    for_ever: true,
    http: false,
    memory_kib: 0,
    group: None,
    environment: &[],
};

#[test]
fn an_end_is_told_with_its_exit_code_and_reason() {
    let (mut world, hook) = (World::new("news", 1), Hook::start());
    world.config.notify.webhook = Secret::from(hook.url());
    world.produce(0, 20);
    let mut stage = world.launch("news", &FOR_EVER);
    stage.says("file committed", 1);
    assert!(hook.told().is_empty(), "{:?}", hook.told());
    stage.signal("TERM");
    assert!(stage.wait().success(), "{}", stage.log());
    let told = hook.told();
    assert_eq!(told.len(), 1, "{told:?}");
    let (news, log) = (&told[0], stage.log());
    assert_eq!(
        (&news["event"], &news["command"]),
        (&"stopped".into(), &"run".into())
    );
    assert_eq!(
        (&news["exit_code"], &news["format_version"]),
        (&0.into(), &1.into())
    );
    assert!(!log.contains("hunter2"), "{log}");

    // Nobody listens: librdkafka's patience ends, and so does the stage.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    world.config.kafka.brokers = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let mut stage = world.launch("no-broker", &FOR_EVER);
    assert_eq!(stage.wait().code(), Some(75), "{}", stage.log());
    let told = hook.told();
    assert_eq!(
        (told.len(), &told[1]["exit_code"]),
        (2, &75.into()),
        "{told:?}"
    );
    let why = told[1]["why"].as_str().unwrap();
    assert!(why.contains(&world.config.kafka.brokers), "{why}");
}

#[test]
fn a_webhook_that_says_nothing_keeps_no_stage_from_its_end() {
    let mut world = World::new("mute", 1);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hunter2", silent.local_addr().unwrap());
    world.config.notify.webhook = Secret::from(url);
    world.config.notify.timeout_ms = 300;
    world.produce(0, 10);
    let mut stage = world.launch("mute", &Launch::default());
    assert!(stage.wait().success(), "{}", stage.log());
    let log = stage.log();
    assert!(log.contains("did not answer within 300 ms"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}
