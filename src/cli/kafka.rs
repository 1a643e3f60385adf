//! How every command that speaks to a broker is told of it: `--config FILE` and its variables, and
//! above them `--brokers` and `--property`.

use super::config::{checks, refused};
use clap::Args;
use std::path::Path;
use tagstream::stage::source::ClientSettings;
use tagstream_core::config::{KafkaConfig, Origin, StageConfig};
use tagstream_core::error::usage;

/// The brokers, and how to speak to them.
#[derive(Debug, Args)]
pub(super) struct KafkaArgs {
    /// Brokers, host:port, comma-separated; they stand above those of the configuration.
    #[arg(long, value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// A property of librdkafka, for example --property security.protocol=ssl; it stands above
    /// `[kafka.properties]`. May be repeated. What others may not see belongs into a file or into
    /// TAGSTREAM_KAFKA__PROPERTIES__SASL_PASSWORD.
    #[arg(long = "property", value_name = "KEY=VALUE")]
    pub properties: Vec<String>,
}

impl KafkaArgs {
    /// What a client is told by the configuration at `path` (or variables alone) and by these.
    ///
    /// # Errors
    /// If nothing names brokers, or the configuration is refused.
    pub(super) fn client(&self, path: Option<&Path>) -> anyhow::Result<ClientSettings> {
        let loaded = super::config::load::<StageConfig>(path)?;
        let kafka = &loaded.config.kafka;
        loaded
            .refuse(checks::properties(&kafka.properties))
            .map_err(refused)?;
        // The default is nobody's word.
        let is_named = !matches!(loaded.origins.of("kafka.brokers"), Origin::Unset(_));
        let named = is_named.then_some(kafka.brokers.as_str());
        let Some(brokers) = self.brokers.as_deref().or(named) else {
            let how = "name the brokers: --brokers HOST:PORT, or `kafka.brokers` in --config FILE";
            return Err(usage(how).into());
        };
        let mut settings = ClientSettings::of(&KafkaConfig {
            brokers: brokers.to_owned(),
            ..kafka.clone()
        });
        for (property, number) in self.properties.iter().zip(1..) {
            // What has no `=` may be a value all the same.
            let (key, value) = property
                .split_once('=')
                .ok_or_else(|| usage(format!("--property number {number} is not KEY=VALUE")))?;
            settings.set_users(key, value, format!("--property {key}"));
        }
        Ok(settings)
    }
}
