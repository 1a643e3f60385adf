//! Configurations read: defaults, then a TOML file, then the environment.
//!
//! A deployment gives all its processes one environment, so the stage leaves alone what names a key
//! of the retraining job, and the other way round. A variable that is a key of neither is a
//! mistake, and both say so.

use crate::retrain::config::RetrainConfig;
use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use tagstream_core::config::{ConfigError, StageConfig};

/// What the names of our variables begin with.
const PREFIX: &str = "TAGSTREAM_";
/// What stands between the parts of a key's path. Variables without it are no keys.
const BETWEEN: &str = "__";

/// Reads `path` (defaults alone without one), then the environment, without what is the retraining
/// job's alone.
///
/// # Errors
/// [`ConfigError`] names the file, the key or the variable.
pub fn load_stage(path: Option<&Path>) -> Result<StageConfig, ConfigError> {
    let config: StageConfig = merged(path, &Keys::of::<RetrainConfig>())?;
    config.validate()?;
    Ok(config)
}

impl RetrainConfig {
    /// Reads `path` (defaults alone without one), then the environment, without what is the stage's
    /// alone.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key or the variable.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let config: RetrainConfig = merged(path, &Keys::of::<StageConfig>())?;
        config.validate()?;
        Ok(config)
    }
}

fn merged<T: Default + Serialize + DeserializeOwned>(
    path: Option<&Path>,
    others: &Keys,
) -> Result<T, ConfigError> {
    let own = Keys::of::<T>();
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let unknown: Vec<String> = names
        .filter(|name| key_named_by(name).is_some_and(|key| !own.has(&key) && !others.has(&key)))
        .collect();
    if !unknown.is_empty() {
        return Err(ConfigError::UnknownVariables(unknown));
    }
    let mut figment = Figment::from(Serialized::defaults(T::default()));
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.display().to_string(),
            source,
        })?;
        figment = figment.merge(Toml::string(&text));
    }
    let variables = Env::prefixed(PREFIX)
        .filter(move |path| key_of(path.as_str()).is_some_and(|key| own.has(&key)))
        .split(BETWEEN);
    figment
        .merge(variables)
        .extract()
        .map_err(|e| ConfigError::Invalid(Box::new(e)))
}

/// The key that a variable names.
fn key_named_by(variable: &str) -> Option<String> {
    let (prefix, path) = variable.split_at_checked(PREFIX.len())?;
    prefix
        .eq_ignore_ascii_case(PREFIX)
        .then(|| key_of(path))
        .flatten()
}

/// `fetch.timeout_ms` for `FETCH__TIMEOUT_MS`.
fn key_of(path: &str) -> Option<String> {
    path.contains(BETWEEN)
        .then(|| path.to_ascii_lowercase().replace(BETWEEN, "."))
}

/// The keys of a configuration, as the tree of its defaults.
#[derive(Clone)]
struct Keys(Value);

impl Keys {
    fn of<T: Default + Serialize>() -> Self {
        Keys(serde_json::to_value(T::default()).expect("the defaults are plain data"))
    }

    /// Whether a path names a key, a whole table, or anything in a table that takes any key.
    fn has(&self, path: &str) -> bool {
        let mut at = &self.0;
        for name in path.split('.') {
            match at.as_object() {
                Some(table) if table.is_empty() => return true,
                Some(table) if table.contains_key(name) => at = &table[name],
                _ => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_with_two_underscores_name_keys() {
        let named = |name| key_named_by(name).unwrap_or_default();
        assert_eq!(named("TAGSTREAM_FETCH__TIMEOUT_MS"), "fetch.timeout_ms");
        assert_eq!(
            named("tagstream_object_store__s3__region"),
            "object_store.s3.region"
        );
        for none in [
            "TAGSTREAM_CACHE",
            "TAGSTREAM_RETRAIN_CONFIG",
            "FETCH__TIMEOUT_MS",
        ] {
            assert_eq!(key_named_by(none), None);
        }
    }

    #[test]
    fn keys_are_known_to_their_configuration_and_the_shared_ones_to_both() {
        let (stage, job) = (Keys::of::<StageConfig>(), Keys::of::<RetrainConfig>());
        for (key, of_stage, of_job) in [
            ("kafka.brokers", true, false),
            ("kafka.properties.sasl_password", true, false),
            ("judge.margin", false, true),
            ("fetch.timeout_ms", true, true),
            ("object_store.s3.region", true, true),
            // A section of both, with keys of its own in each.
            ("labels.table", true, true),
            ("labels.enabled", true, false),
            ("labels.min_new_labels", false, true),
            ("judge", false, true),
            ("judge.margins", false, false),
            ("judge.margin.low", false, false),
            ("jury.margin", false, false),
            ("kafka.", false, false),
        ] {
            assert_eq!((stage.has(key), job.has(key)), (of_stage, of_job), "{key}");
        }
    }
}
