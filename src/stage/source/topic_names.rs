//! The topics that a stage reads images from: names, and patterns of names; and whether those that
//! it writes to are there.

use super::asking::{Asker, PATIENCE};
use super::client::metadata_of;
use super::{ClientSettings, Covering, SourceError};
use rdkafka::client::Client;
use rdkafka::producer::{BaseProducer, Producer};
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tagstream_core::config::{ConfigError, KafkaConfig, SourceConfig};

/// The topics of images, as they are configured.
#[derive(Debug, Clone)]
pub struct ImageTopics {
    names: Vec<Arc<str>>,
    patterns: Vec<Regex>,
}

impl ImageTopics {
    /// Those of a configuration.
    ///
    /// # Errors
    /// [`ConfigError`] for a pattern that is none.
    pub fn of(source: &SourceConfig) -> Result<Self, ConfigError> {
        let mut topics = ImageTopics {
            names: Vec::new(),
            patterns: Vec::new(),
        };
        for (key, text) in source.image_topics() {
            if !text.starts_with('^') {
                topics.names.push(text.into());
                continue;
            }
            let pattern = Regex::new(text).map_err(|e| ConfigError::BadValue {
                key: format!("source.{key}"),
                reason: format!("has a pattern that is none: {e}"),
            })?;
            topics.patterns.push(pattern);
        }
        Ok(topics)
    }

    /// Those that are named.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// Whether topics may be added while the stage runs.
    pub fn may_grow(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// Whether `topic` is one of them.
    pub fn takes(&self, topic: &str) -> bool {
        self.names.iter().any(|name| **name == *topic)
            || self.patterns.iter().any(|pattern| pattern.is_match(topic))
    }

    /// Those that there are: the named ones, and of the brokers' those that a pattern takes,
    /// without `written`, which a stage does not read. Blocks.
    ///
    /// # Errors
    /// [`SourceError::Unreachable`] if the brokers do not answer, [`SourceError::NoTopicLike`] if
    /// there is none.
    pub fn found(
        &self,
        kafka: &KafkaConfig,
        written: &[Arc<str>],
    ) -> Result<BTreeSet<Arc<str>>, SourceError> {
        let mut found: BTreeSet<Arc<str>> = self.names.iter().cloned().collect();
        if self.may_grow() {
            let all = all_topics(kafka)?.into_iter();
            let is_written = |topic: &str| written.iter().any(|name| **name == *topic);
            // What begins with two underscores is the brokers' own.
            let taken = all.filter(|t| !t.starts_with("__") && !is_written(t) && self.takes(t));
            found.extend(taken.map(Arc::from));
        }
        if found.is_empty() {
            let patterns: Vec<&str> = self.patterns.iter().map(Regex::as_str).collect();
            return Err(SourceError::NoTopicLike {
                brokers: kafka.brokers.clone(),
                pattern: patterns.join(", "),
            });
        }
        Ok(found)
    }
}

/// Checks that `topics` can be written to: they are there, or the brokers create what a producer
/// asks for. Blocks.
///
/// # Errors
/// [`SourceError::NoTopic`] names the first that is missing.
pub fn require_topics(kafka: &KafkaConfig, topics: &[Arc<str>]) -> Result<(), SourceError> {
    for_a_moment(kafka, |client, asker| {
        for topic in topics {
            metadata_of(client, asker, topic, "Write")?;
        }
        Ok(())
    })
}

/// The names of all topics that the brokers tell us of. Blocks.
fn all_topics(kafka: &KafkaConfig) -> Result<Vec<String>, SourceError> {
    let metadata = for_a_moment(kafka, |client, asker| {
        asker.ask(|within| client.fetch_metadata(None, within))
    })?;
    let topics = metadata.topics().iter();
    Ok(topics.map(|topic| topic.name().to_owned()).collect())
}

/// Asks the brokers something by a client that lives for that moment: without the id that an
/// idempotent producer would ask for, and what needs it.
fn for_a_moment<T>(
    kafka: &KafkaConfig,
    question: impl FnOnce(&Client<Covering>, &Asker<'_>) -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    let mut settings = ClientSettings::of(kafka);
    settings.set("enable.gapless.guarantee", "false");
    let producer: BaseProducer<Covering> = settings.create()?;
    let asker = Asker {
        brokers: &kafka.brokers,
        troubles: producer.context().troubles(),
        listen: &|| producer.poll(Duration::ZERO),
        patience: PATIENCE,
    };
    question(producer.client(), &asker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_are_told_apart_and_what_is_no_pattern_is_named() {
        let mut source = SourceConfig {
            topics: ["plain", "^camera-[a-z]+$"].map(String::from).to_vec(),
            ..SourceConfig::default()
        };
        let topics = ImageTopics::of(&source).unwrap();
        for (topic, taken) in [
            ("plain", true),
            ("camera-north", true),
            ("camera-1", false),
            ("images", false),
        ] {
            assert_eq!(topics.takes(topic), taken, "{topic}");
        }
        assert!(topics.may_grow());
        source.topics = vec!["^camera-(".into()];
        let refused = ImageTopics::of(&source).unwrap_err().to_string();
        assert!(refused.contains("source.topics"), "{refused}");
        source.topics.clear();
        let one = ImageTopics::of(&source).unwrap();
        assert_eq!((one.names().len(), one.may_grow()), (1, false));
    }
}
