//! What `tagstream config validate` checks beyond keys, types and values: whatever needs no
//! network.
//!
//! A check is a function over a configuration that has passed the checks of its values. It belongs
//! into one of the three lists; where the flaws stand is found by whoever calls it, from the key:
//! that of a property is `kafka.properties.` and its name, that of an option `object_store.s3.` and
//! its.

use std::collections::BTreeMap;
use std::path::Path;
use tagstream::ops::telemetry;
use tagstream::ops::telemetry::TelemetryError;
use tagstream::retrain::config::RetrainConfig;
use tagstream::serve::config::ServeConfig;
use tagstream::stage::fetch::Fetcher;
use tagstream::stage::source::check_properties;
use tagstream::stage::trace;
use tagstream_core::address::Address;
use tagstream_core::config::{
    ConfigError, FetchConfig, Flaw, LogConfig, ObjectStoreConfig, Secret, StageConfig, address_flaw,
};
use tagstream_model::bundle::Bundle;
use tagstream_model::registry::Location;

/// Finds what is wrong with one part of a configuration.
pub(crate) type Check<T> = fn(&T) -> Vec<Flaw>;

/// The checks of the stage's configuration.
pub(crate) const STAGE: &[Check<StageConfig>] = &[
    model_path,
    |config| properties(&config.kafka.properties),
    |config| fetching(&config.fetch, &config.object_store),
    |config| logging(&config.log),
    |config| trace::flaw(&config.trace).into_iter().collect(),
];

/// The checks of the retraining job's configuration.
pub(crate) const RETRAINING: &[Check<RetrainConfig>] = &[
    folders,
    |config| fetching(&config.fetch, &config.object_store),
    |config| logging(&config.log),
];

/// The checks of the pages' configuration.
pub(crate) const PAGES: &[Check<ServeConfig>] = &[
    |config| properties(&config.kafka.properties),
    |config| fetching(&config.fetch, &config.object_store),
    |config| logging(&config.log),
];

/// Whether `model.path` names a model, as far as this machine can tell.
pub(crate) fn model_path(config: &StageConfig) -> Vec<Flaw> {
    let path = &config.model.path;
    let flaw = |reason: String| vec![Flaw::new("model.path", reason)];
    if path.is_empty() || Bundle::is_at(Path::new(path)) {
        return Vec::new();
    }
    let address = Location::parse(path).url;
    match Address::parse(&address) {
        Err(error) => flaw(error.to_string()),
        Ok(Address::Bucket { .. }) => Vec::new(),
        Ok(Address::Folder(folder)) if !folder.exists() => flaw(format!(
            "names {}, which does not exist; make a model with `tagstream init`, or name a bundle \
             directory or registry-url[@version]",
            folder.display()
        )),
        Ok(Address::Folder(_)) if Location::is_registry(path) => Vec::new(),
        Ok(Address::Folder(folder)) => flaw(format!(
            "names {}, which is neither a bundle directory (bundle.json) nor a registry \
             (registry.json)",
            folder.display()
        )),
    }
}

/// Whether the folders are there that the job reads; it creates none of them.
fn folders(config: &RetrainConfig) -> Vec<Flaw> {
    let registry = "make it with `tagstream registry add BUNDLE --promote`";
    let tables = "it is there once the stage has written labels";
    [
        ("registry.url", &config.registry.url, registry),
        ("labels.url", &config.labels.url, tables),
    ]
    .into_iter()
    .filter_map(|(key, address, remedy)| match Address::parse(address) {
        Ok(Address::Folder(folder)) if !folder.is_dir() => {
            let reason = format!("names {}, which is no folder; {remedy}", folder.display());
            Some(Flaw::new(key, reason))
        }
        _ => address_flaw(key, address),
    })
    .collect()
}

/// What librdkafka has against properties; the values are in no message.
pub(crate) fn properties(properties: &BTreeMap<String, Secret>) -> Vec<Flaw> {
    let flaw = |(name, value): (&String, &Secret)| {
        let one = BTreeMap::from([(name.clone(), value.clone())]);
        let refusal = check_properties(&one).err()?.to_string();
        // A flaw is told behind its key.
        let named = format!("`kafka.properties.\"{name}\"` ");
        let reason = refusal.strip_prefix(&named).unwrap_or(&refusal);
        Some(Flaw::new(format!("kafka.properties.{name}"), reason))
    };
    properties.iter().filter_map(flaw).collect()
}

fn fetching(fetch: &FetchConfig, stores: &ObjectStoreConfig) -> Vec<Flaw> {
    match Fetcher::new(fetch, stores) {
        Ok(_) => Vec::new(),
        Err(ConfigError::BadValue { key, reason }) => vec![Flaw::new(key, reason)],
        Err(error) => vec![Flaw::new("fetch", format!("cannot be: {error}"))],
    }
}

fn logging(log: &LogConfig) -> Vec<Flaw> {
    match telemetry::check(log) {
        Ok(()) => Vec::new(),
        Err(TelemetryError::Filter { filter, reason }) => {
            let reason = format!("= `{filter}` is not a level or filter: {reason}");
            vec![Flaw::new("log.filter", reason)]
        }
    }
}
