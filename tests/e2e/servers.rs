//! The servers that tests run on: the embedded broker or a real Apache Kafka, a folder or a bucket
//! of a real S3 server.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tagstream::demo::broker::EmbeddedBroker;
use tagstream_core::config::ObjectStoreConfig;

enum Broker {
    Embedded(EmbeddedBroker),
    Real(String),
}

static BROKER: LazyLock<Broker> = LazyLock::new(|| match std::env::var("TAGSTREAM_TEST_KAFKA") {
    Ok(bootstrap) => Broker::Real(bootstrap),
    Err(_) => Broker::Embedded(EmbeddedBroker::start().expect("the embedded broker starts")),
});

pub(crate) fn bootstrap() -> String {
    match &*BROKER {
        Broker::Embedded(broker) => broker.bootstrap_servers().into(),
        Broker::Real(bootstrap) => bootstrap.clone(),
    }
}

pub(crate) fn is_real_broker() -> bool {
    matches!(&*BROKER, Broker::Real(_))
}

/// How to reach the bucket of the real S3 server that `TAGSTREAM_TEST_S3_*` names
/// (`scripts/s3.sh`): its URL and its options.
pub(crate) fn bucket() -> Option<(String, ObjectStoreConfig)> {
    let of = |name: &str| std::env::var(format!("TAGSTREAM_TEST_S3_{name}"));
    let endpoint = of("ENDPOINT").ok()?;
    let mut options = ObjectStoreConfig::default();
    let mut set = |key: &str, value: String| _ = options.s3.insert(key.into(), value.into());
    set("endpoint", endpoint);
    set("allow_http", "true".into());
    for key in ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"] {
        let value = of(key).unwrap_or_else(|_| panic!("TAGSTREAM_TEST_S3_{key} is missing"));
        set(&key.to_ascii_lowercase(), value);
    }
    let bucket = of("BUCKET").expect("TAGSTREAM_TEST_S3_BUCKET is missing");
    Some((format!("s3://{bucket}"), options))
}

pub(crate) use crate::common::not_tested;

/// Waits for `work` on a thread of its own: callable from inside a runtime, too.
pub(crate) fn blocking<T: Send>(work: impl Future<Output = T> + Send) -> T {
    let wait = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(work)
    };
    std::thread::scope(|scope| scope.spawn(wait).join().unwrap())
}

pub(crate) fn create_topic(name: &str, partitions: i32) {
    match &*BROKER {
        Broker::Embedded(broker) => broker
            .create_topic(name, partitions)
            .expect("the topic is created"),
        // Large messages are let in, as an embedded broker does: what is too large is for the stage
        // to say.
        Broker::Real(_) => create_topic_with(name, partitions, &[("max.message.bytes", "8388608")]),
    }
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap())
        .create()
        .unwrap()
}

/// A topic of a real broker with settings of its own.
pub(crate) fn create_topic_with(name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (k, v)| topic.set(k, v));
    let made = futures::executor::block_on(admin().create_topics([&topic], &AdminOptions::new()));
    made.unwrap()[0].as_ref().expect("the topic is created");
}

/// A name that no other test of this or an earlier run uses.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::SeqCst);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    format!("{name}-{}-{n}-{}", std::process::id(), now.subsec_nanos())
}
