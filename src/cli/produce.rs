//! `tagstream produce`: write image references to a topic.

use super::kafka::KafkaArgs;
use super::labels::NamingArgs;
use super::listing::references;
use anyhow::Context;
use clap::Args;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use tagstream::stage::source::Covering;
use tagstream_core::error::{Exit, usage};

/// Arguments of `tagstream produce`.
#[derive(Debug, Args)]
pub(super) struct ProduceArgs {
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Configuration file of the stage, whose `[kafka]` section says how to reach the brokers.
    #[arg(long, env = "TAGSTREAM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Topic to write to.
    #[arg(long)]
    pub topic: String,
    #[command(flatten)]
    pub naming: NamingArgs,
    /// A folder of images, or a file with one path or URI a line.
    #[arg(value_name = "DIR|LIST")]
    pub input: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: ProduceArgs) -> anyhow::Result<Exit> {
    let references = references(&args.input, &args.naming)?;
    if references.is_empty() {
        return Err(usage(format!("{} names no image", args.input.display())).into());
    }
    let mut settings = args.kafka.client(args.config.as_deref())?;
    settings
        .set("enable.idempotence", "true")
        .set_unless_users("message.timeout.ms", "60000");
    let context = Deliveries {
        covering: settings.covering(),
        failures: Default::default(),
    };
    let made = settings.create_with(context);
    let producer: ThreadedProducer<Deliveries> = made.map_err(|e| usage(e.to_string()))?;
    for reference in &references {
        let value = serde_json::to_vec(reference)?;
        let mut record = BaseRecord::to(&args.topic)
            .key(&reference.image_id)
            .payload(&value);
        while let Err((error, back)) = producer.send(record) {
            if error != KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) {
                return Err(error)
                    .with_context(|| format!("writing {} to {}", reference.image_id, args.topic));
            }
            std::thread::sleep(Duration::from_millis(10));
            record = back;
        }
    }
    producer
        .flush(Duration::from_secs(70))
        .context("waiting for the brokers")?;
    let failed = producer
        .context()
        .failures
        .lock()
        .expect("no panic while locked")
        .take();
    if let Some(error) = failed {
        return Err(error).with_context(|| format!("writing to {}", args.topic));
    }
    eprintln!(
        "{} image references written to {}",
        references.len(),
        args.topic
    );
    Ok(Exit::Success)
}

/// Keeps the first failure.
struct Deliveries {
    covering: Covering,
    failures: std::sync::Mutex<Option<KafkaError>>,
}

impl rdkafka::ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.covering.token()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.covering.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        rdkafka::ClientContext::error(&self.covering, error, reason);
    }
}

impl rdkafka::producer::ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.failures
                .lock()
                .expect("no panic while locked")
                .get_or_insert(error.clone());
        }
    }
}
